"""Names of members in any script: one spelling, one script, safe in paths."""

from __future__ import annotations

import unicodedata

import pytest
from moonflower.configs.names import NAME, nfc, slug
from moonflower.configs.settings import FederationSettings, parse
from moonflower.errors import InputError


@pytest.mark.parametrize(
    "name", ["Zürich", "Győr", "Köln", "São Paulo (2)", "Łódź", "東京 病院", "北京", "서울", "Αθήνα", "Москва"]
)
def test_a_name_is_the_same_however_it_is_typed(name: str) -> None:
    for form in ("NFC", "NFD"):
        assert parse(FederationSettings, {"name": unicodedata.normalize(form, name)}, where="c").name == nfc(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "-a",
        "a" * 65,
        "a\nb",
        "a\x00",
        "a\u202eb",
        "a\u200bb",
        "a\ufeffb",
        "<b>",
        'a"b',
        "a\\b",
        "\u0301a",
        "a/../b\t",
    ],
)
def test_what_could_hide_or_harm_is_no_name(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse(FederationSettings, {"name": name}, where="c")
    assert NAME in str(refusal.value)


@pytest.mark.parametrize("name", ["\u0421leveland", "Zürich\u0391", "a東"])
def test_a_letter_of_another_script_cannot_pass_for_one_of_this(name: str) -> None:
    with pytest.raises(InputError, match=r"mixes letters of .* expected letters of one script"):
        parse(FederationSettings, {"name": name}, where="c")


def test_folders_and_accounts_are_plain() -> None:
    assert [slug(name) for name in ("Zürich", "Győr", "A & B", "..", "東京", "a/b")] == [
        "zurich", "gyor", "a-b", "member", "member", "a-b",
    ]  # fmt: skip
