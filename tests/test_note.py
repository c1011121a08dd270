"""Signed notes and checkpoints: published examples, round trips, and every refusal."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Signer,
    Verifier,
    open_checkpoint,
    open_note,
    sign_checkpoint,
)
from moonflower.errors import InputError, Refused

# From the documentation of golang.org/x/mod/sumdb/note, the format's reference implementation.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
# The example of c2sp.org/signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n"
    "— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

SIGNER = Signer("moonflower/heart", bytes(range(32)))
ROOT = bytes(range(100, 132))


def test_published_key_and_note() -> None:
    signer = Signer.parse(PETER_SECRET)
    assert signer.text() == PETER_SECRET
    assert signer.verifier.text() == PETER_KEY
    assert signer.sign(TEXT) == f"{TEXT}\n{PETER}"


@pytest.mark.parametrize(
    ("key", "note", "text"),
    [
        (PETER_KEY, f"{TEXT}\n{PETER}", TEXT),
        (PETER_KEY, f"{TEXT}\n{ENOCH}{PETER}", TEXT),
        (ENOCH_KEY, f"{TEXT}\n{PETER}{ENOCH}", TEXT),
        (EXAMPLE_KEY, EXAMPLE, "This is an example message.\n"),
    ],
)
def test_published_notes_verify(key: str, note: str, text: str) -> None:
    verifier = Verifier.parse(key)
    assert verifier.text() == key
    assert open_note(note, verifier) == text


def test_generated_keys_round_trip_and_keep_their_secret() -> None:
    signer = Signer.generate("moonflower/heart")
    assert Signer.parse(signer.text()) == signer
    assert Verifier.parse(signer.verifier.text()) == signer.verifier
    assert signer != Signer.generate("moonflower/heart")
    assert repr(signer) == "Signer(name='moonflower/heart')"
    assert open_note(signer.sign("hello\n"), signer.verifier) == "hello\n"


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\tb", "a\u2003b", "a\nb"])
def test_names_that_a_note_cannot_hold(name: str) -> None:
    signer = Signer(name, bytes(32))
    for use, text in (
        (Signer.generate, name),
        (Verifier.parse, signer.verifier.text()),
        (Signer.parse, signer.text()),
    ):
        with pytest.raises(InputError) as refusal:
            use(text)
        assert refusal.value.code == "config.key"


@pytest.mark.parametrize(("parse", "text"), [(Verifier.parse, PETER_KEY), (Signer.parse, PETER_SECRET)])
def test_no_other_spelling_of_a_key_is_a_key(parse: Callable[[str], object], text: str) -> None:
    others = [text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :] for at in range(len(text))]
    others += [text[start:] for start in range(1, len(text))] + [text[:end] for end in range(len(text))]
    others += [f"{text}\n", f" {text}", text.upper()]
    for other in others:
        with pytest.raises(InputError) as refusal:
            parse(other)
        assert refusal.value.code == "config.key"


@pytest.mark.parametrize(
    "text",
    [
        # Longer key and unknown type, both with the hash that would belong to them.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_keys_of_another_kind(text: str) -> None:
    with pytest.raises(InputError, match="expected name\\+hash\\+base64 of an Ed25519 key"):
        Verifier.parse(text)


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_checkpoints_round_trip(size: int, root: bytes) -> None:
    signed = sign_checkpoint(SIGNER, size, root)
    assert open_checkpoint(signed.note, SIGNER.verifier) == signed
    assert signed.note.startswith(f"moonflower/heart\n{size}\n{base64.b64encode(root).decode()}\n\n— moonflower/heart ")


def test_a_checkpoint_is_not_signed_over_nonsense() -> None:
    for size, root in ((-1, ROOT), (1, ROOT[:31])):
        with pytest.raises(ValueError, match="expected a size and a root"):
            sign_checkpoint(SIGNER, size, root)
    for text in ("no newline", "a\tb\n", "\ud800\n"):
        with pytest.raises(ValueError, match="ends in a newline"):
            SIGNER.sign(text)


@given(st.data())
def test_a_changed_character_does_not_verify(data: st.DataObject) -> None:
    note = sign_checkpoint(SIGNER, 123, ROOT).note
    at = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[at]))
    _refused(note[:at] + other + note[at + 1 :])


@given(st.text(max_size=300))
def test_junk_raises_only_its_own_error(text: str) -> None:
    _refused(text)
    _refused(f"{text}\n\n— moonflower/heart {text}\n")


ENCODED = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"moonflower/heart\n05\n{ENCODED}\n",
        f"moonflower/heart\n+5\n{ENCODED}\n",
        f"moonflower/heart\n-0\n{ENCODED}\n",
        f"moonflower/heart\n5 \n{ENCODED}\n",
        f"moonflower/heart\n\u0665\n{ENCODED}\n",
        f"moonflower/heart\n{10**19}\n{ENCODED}\n",
        f"moonflower/heart\n\n{ENCODED}\n",
        f"moonflower/heart\n5\n{base64.b64encode(ROOT[:31]).decode()}\n",
        f"moonflower/heart\n5\n{base64.b64encode(ROOT + b'x').decode()}\n",
        f"moonflower/heart\n5\n{ENCODED[:-1]}\n",
        f"moonflower/heart\n5\n{ENCODED[:-2]}B=\n",  # the same bytes, other spare bits
        f"moonflower/heart\n5\n{ROOT.hex()}\n",
        f"moonflower/heart\n5\n{ENCODED}\nextension\n",
        "moonflower/heart\n5\n",
        f"moonflower/liver\n5\n{ENCODED}\n",
        f"\n5\n{ENCODED}\n",
    ],
)
def test_well_signed_texts_that_are_no_checkpoints(text: str) -> None:
    _refused(SIGNER.sign(text))


def test_signatures_by_unknown_keys_are_ignored_but_never_enough() -> None:
    note = sign_checkpoint(SIGNER, 5, ROOT).note
    text, line = note.split("\n\n")
    same_name = Signer("moonflower/heart", bytes(32)).sign(text + "\n").split("\n\n")[1]
    witness = Signer("witness", bytes(32)).sign(text + "\n").split("\n\n")[1]
    later_kind = "— witness/pq " + base64.b64encode(bytes(3000)).decode() + "\n"
    assert open_checkpoint(f"{text}\n\n{witness}{line}{same_name}{later_kind}", SIGNER.verifier).size == 5
    _refused(f"{text}\n\n{witness}{same_name}", "expected one signature by moonflower/heart")
    _refused(f"{text}\n\n{line}{line}", "got 2")


def test_another_key_under_our_name_and_id_does_not_pass() -> None:
    text, line = sign_checkpoint(SIGNER, 5, ROOT).note.split("\n\n")
    forged = base64.b64decode(line.split(" ")[2])[:4] + Signer("x", bytes(32))._key.sign(f"{text}\n".encode())
    _refused(f"{text}\n\n— moonflower/heart {base64.b64encode(forged).decode()}\n", "is not over this text")


def test_notes_are_bounded() -> None:
    note = sign_checkpoint(SIGNER, 5, ROOT).note
    witness = "— w " + base64.b64encode(bytes(68)).decode() + "\n"
    assert open_checkpoint(note + witness * (MAX_SIGNATURES - 1), SIGNER.verifier).size == 5
    _refused(note + witness * MAX_SIGNATURES, "1 to 64 signature lines")
    long = "— w " + base64.b64encode(bytes(MAX_NOTE_BYTES * 3 // 4)).decode() + "\n"
    _refused(note + long, f"at most {MAX_NOTE_BYTES} bytes")
    _refused("—" * (MAX_NOTE_BYTES // 2) + "\n\n" + note, f"at most {MAX_NOTE_BYTES} bytes")


@pytest.mark.parametrize("change", ["\t", "\r", "\x00", "\x7f\x1b", "\ud800"])
def test_control_characters_are_refused(change: str) -> None:
    _refused(sign_checkpoint(SIGNER, 5, ROOT).note + f"— w{change} {base64.b64encode(bytes(68)).decode()}\n")


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "— moonflower/heart\n",
        "- w AAAAAAAA\n",
        "—  AAAAAAAA\n",
        "— w AAAAAA==\n",
        "— w A\n",
        "— a+b AAAAAAAA\n",
    ],
)
def test_malformed_signature_lines_are_refused(tail: str) -> None:
    text, line = sign_checkpoint(SIGNER, 5, ROOT).note.split("\n\n")
    _refused(f"{text}\n\n{tail}" if not tail else f"{text}\n\n{line}{tail}")
    _refused(f"{text}\n\n{line}"[:-1])
    _refused(f"{text}\n\n{line}— w AAAAAAAA")


def _refused(note: str, match: str | None = None) -> None:
    with pytest.raises(Refused, match=match) as refusal:
        open_checkpoint(note, SIGNER.verifier)
    assert refusal.value.code == "audit.signature"
