"""``moonflower access``: who may not come in, in the records and in the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from moonflower.cli.access import access
from moonflower.configs.roles import ServerConfig, load_config
from moonflower.errors import InputError
from moonflower.server.records.pseudonyms import Pseudonyms, read_pseudonyms
from moonflower.server.records.state import State
from typer.testing import CliRunner

SERVER = """
[server]
federation = "heart"
state = "state"
tls_cert = "x.pem"
tls_key = "x.key"
{more}
[oauth]
issuer = "https://issuer.example.org"
audience = "https://moonflower.invalid/"
"""


def config(folder: Path, more: str = "") -> Path:
    path = folder / "server.toml"
    path.write_text(SERVER.format(more=more), encoding="utf-8")
    return path


def asked(path: Path, *words: str) -> str:
    done = CliRunner().invoke(access, [*words, "--config", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def entries(path: Path) -> list[dict[str, object]]:
    settings = load_config(ServerConfig, path).server
    state = State(settings.state, settings.federation)
    try:
        return [*state.log.entries()]
    finally:
        state.close()


def test_a_client_and_a_person_are_shut_out_listed_and_let_in_again(tmp_path: Path) -> None:
    path = config(tmp_path)
    asked(path, "deny", "desk-2", "--reason", "key lost")
    asked(path, "deny", "anna", "--subject", "--reason", "left")
    listed = [{"kind": "client", "name": "desk-2"}, {"kind": "subject", "name": "anna"}]
    assert json.loads(asked(path, "list", "--json")) == {"denied": listed}
    assert "anna" in asked(path, "list")
    asked(path, "allow", "anna", "--subject")
    assert json.loads(asked(path, "list", "--json")) == {"denied": listed[:1]}
    told = [(entry["event"], entry["details"]) for entry in entries(path)]
    assert told == [
        ("access_denied", {"kind": "client", "name": "desk-2", "reason": "key lost"}),
        ("access_denied", {"kind": "subject", "name": "anna", "reason": "left"}),
        ("access_allowed", {"kind": "subject", "name": "anna"}),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deny", "", "--reason", "x"), "expected the name of a client, 1 to 256 printable characters"),
        (("deny", "a\nb", "--reason", "x"), "printable characters"),
        (("deny", "desk", "--reason", ""), "reason"),
        (("deny", "bert", "--reason", "x"), "client 'bert' is shut out already"),
        (("allow", "bart"), "client 'bart' is not shut out; did you mean 'bert'?"),
        (("allow", "bert", "--subject"), "subject 'bert' is not shut out"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    path = config(tmp_path)
    asked(path, "deny", "bert", "--reason", "x")
    with pytest.raises(InputError) as refused:
        asked(path, *words)
    assert said in str(refused.value)
    assert json.loads(asked(path, "list", "--json")) == {"denied": [{"kind": "client", "name": "bert"}]}


def test_with_a_key_the_log_has_a_pseudonym_and_the_list_the_name(tmp_path: Path) -> None:
    key = tmp_path / "names.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    path = config(tmp_path, 'pseudonym_key = "names.key"')
    asked(path, "deny", "anna", "--subject", "--reason", "left")
    (entry,) = entries(path)
    assert entry["details"] == {
        "kind": "subject",
        "name": Pseudonyms(b"k" * 32).of("subject", "anna"),
        "reason": "left",
    }
    assert "anna" in asked(path, "list")


@pytest.mark.parametrize(
    ("data", "mode", "said"),
    [(b"k" * 31, 0o600, "has 31 bytes; expected 32 or more"), (b"k" * 32, 0o640, "can be read by others")],
)
def test_a_key_that_protects_nobody_is_refused(tmp_path: Path, data: bytes, mode: int, said: str) -> None:
    key = tmp_path / "names.key"
    key.write_bytes(data)
    key.chmod(mode)
    with pytest.raises(InputError, match=said):
        read_pseudonyms(key)
    with pytest.raises(InputError, match="cannot be read"):
        read_pseudonyms(tmp_path / "none.key")
