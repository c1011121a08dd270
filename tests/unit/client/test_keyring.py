"""The member's key files: made once, private, and named when they are wrong."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from moonflower.cli import keys as keys_command
from moonflower.cli import member as member_command
from moonflower.cli import node as node_command
from moonflower.client import keyring
from moonflower.client.keyring import (
    BACK_UP,
    NODE_FILE,
    SEALING_FILE,
    SECRET_FILE,
    WITNESS_FILE,
    identity_of,
    load_keys,
    make_keys,
)
from moonflower.client.secret import NodeSecret
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.crypto.identity import PublicKey, parse_card
from moonflower.errors import InputError
from support import CONFIGS
from support.superlink import client_config

KEYS = [NODE_FILE, SEALING_FILE, WITNESS_FILE]
FILES = [*KEYS, SECRET_FILE]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_keys(tmp_path / "a" / "state")
    finally:
        os.umask(before)
    assert [path.name for path in made] == FILES
    assert [mode(path) for path in made] == [0o600] * 4
    assert mode(tmp_path / "a" / "state") == 0o700
    assert sorted(path.name for path in (tmp_path / "a" / "state").iterdir()) == sorted(FILES)
    keys = load_keys(tmp_path / "a" / "state")
    assert make_keys(tmp_path / "a" / "state", practice=NodeSecret.for_practice(1, "a")) == ()
    again = load_keys(tmp_path / "a" / "state")
    assert (again.pin, again.secret) == (keys.pin, keys.secret)
    assert not keys.secret.practice


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    make_keys(tmp_path)
    node = (tmp_path / NODE_FILE).read_bytes()
    (tmp_path / SEALING_FILE).unlink()
    assert [path.name for path in make_keys(tmp_path)] == [SEALING_FILE]
    assert (tmp_path / NODE_FILE).read_bytes() == node


def test_a_crash_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyring.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        make_keys(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_identity_has_the_card_that_others_pin(tmp_path: Path) -> None:
    config = load_config(ClientConfig, client_config(tmp_path, CONFIGS / "data"))
    keys, card = load_keys(tmp_path / "state"), parse_card(identity_of(config).card.as_dict())
    assert (card.name, card.issuer, card.client_id) == ("Cleveland", config.oauth.issuer, "node")
    assert (card.node.pin, card.approvers) == (keys.pin, ())
    assert card.witness == keys.witness.public_key().public_bytes_raw()
    assert "object at" not in repr(keys)  # nothing of a key in a log


def test_a_card_names_who_may_release(tmp_path: Path) -> None:
    config = client_config(tmp_path, CONFIGS / "data")
    key = PublicKey(ec.generate_private_key(ec.SECP384R1()).public_key())
    approver = f"[[approver]]\nname = \"head of risk\"\nkey = '{json.dumps(key.jwk)}'\n"
    plain = config.read_text()
    config.write_text(plain + approver)
    (named,) = parse_card(identity_of(load_config(ClientConfig, config)).card.as_dict()).approvers
    assert (named.name, named.key.pin) == ("head of risk", key.pin)
    config.write_text(plain + approver.replace('"P-384"', '"P-256"'))
    with pytest.raises(InputError, match="not a public JWK on P-384") as raised:
        identity_of(load_config(ClientConfig, config))
    assert raised.value.code == "config.value"
    config.write_text(plain + approver + approver.replace("risk", "data"))
    with pytest.raises(InputError, match=r"key .* is listed twice"):
        load_config(ClientConfig, config)


@pytest.mark.parametrize("name", KEYS)
def test_a_missing_key_names_the_command(tmp_path: Path, name: str) -> None:
    make_keys(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name) as raised:
        load_keys(tmp_path)
    assert (raised.value.code, raised.value.hint) == ("config.key", "moonflower member card CONFIG")


def test_a_missing_secret_is_to_be_put_back(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / SECRET_FILE).unlink()
    with pytest.raises(InputError, match=r"node\.secret is missing; expected the node secret") as raised:
        load_keys(tmp_path)
    assert raised.value.code == "config.key"
    assert "backup" in raised.value.hint


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o620, 0o700 | 0o011])
@pytest.mark.parametrize("name", [NODE_FILE, SECRET_FILE])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, loose: int, name: str) -> None:
    make_keys(tmp_path)
    (tmp_path / name).chmod(loose)
    with pytest.raises(InputError, match="expected 0600") as raised:
        load_keys(tmp_path)
    assert "chmod 600" in raised.value.hint


PEM = ec.generate_private_key(ec.SECP384R1()).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")
)
OTHER = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SIGNING = ed448.Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("content", [b"", b"secret words", PEM, OTHER, SIGNING, PEM[:200]])
def test_another_key_is_refused_without_its_words(tmp_path: Path, name: str, content: bytes) -> None:
    make_keys(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="PKCS#8") as raised:
        load_keys(tmp_path)
    assert raised.value.code == "config.key"
    assert "secret words" not in str(raised.value)
    assert raised.value.__cause__ is None


TEXT = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()


def test_a_secret_is_read_as_it_was_written(tmp_path: Path) -> None:
    practice = NodeSecret.for_practice(7, "Cleveland")
    make_keys(tmp_path, practice=practice)
    assert load_keys(tmp_path).secret == practice
    (tmp_path / SECRET_FILE).write_text(f'{{"practice":false,"secret":"{TEXT}"}}\n')
    assert load_keys(tmp_path).secret == NodeSecret(bytes(range(32)), practice=False)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "secret words",
        "[]",
        "{}",
        f'{{"secret":"{TEXT}"}}\n',
        f'{{"practice":0,"secret":"{TEXT}"}}\n',
        f'{{"practice":null,"secret":"{TEXT}"}}\n',
        f'{{"practice":"false","secret":"{TEXT}"}}\n',
        f'{{"more":1,"practice":false,"secret":"{TEXT}"}}\n',
        f'{{"practice":false,"secret":"{TEXT}="}}\n',
        f'{{"practice":false,"secret":"{TEXT[:-2]}"}}\n',
        f'{{"practice":false,"secret":"{TEXT[:-1]}9"}}\n',
        f'{{"practice":false,"secret":"{TEXT[:-1]}é"}}\n',
        f'{{"practice":false, "secret":"{TEXT}"}}\n',
        f'{{"practice":false,"secret":"{TEXT}"}}',
        '{"practice":false,"secret":7}\n',
        '{"practice":false,"secret":""}\n',
    ],
)
def test_another_secret_is_refused_without_its_words(tmp_path: Path, content: str) -> None:
    make_keys(tmp_path)
    (tmp_path / SECRET_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="holds no node secret") as raised:
        load_keys(tmp_path)
    assert raised.value.code == "config.key"
    assert "secret words" not in str(raised.value)
    assert TEXT[:8] not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_secret_draws_apart_for_every_purpose() -> None:
    """Frozen: a node that is updated must not deal its rows out anew."""
    secret = NodeSecret.for_practice(7, "Cleveland")
    assert secret.practice
    assert secret.value.hex() == "bfe2a521679d5899572e94341925dd5468ba68029e2fbc1d116bcd20fdd509a5"
    assert secret.keyed("split", b"row").hex() == "f0fa03e9af2a55064503c0b59ebe2ef93b01d0f77d72016eca0a82a77bc7680c"
    others = [secret.keyed("splitr", b"ow"), secret.keyed("split"), NodeSecret.fresh().keyed("split", b"row")]
    assert len({secret.keyed("split", b"row"), *others}) == 4
    assert len({NodeSecret.for_practice(seed, name).value for seed in (7, 8) for name in ("a", "b")}) == 4
    assert repr(secret) == "NodeSecret(practice=True)"
    with pytest.raises(ValueError, match="of 31 bytes; expected 32"):
        NodeSecret(bytes(31), practice=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make_keys(tmp_path / "file" / "state")


# The commands.


def test_a_card_is_printed_and_its_pin_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = client_config(tmp_path, CONFIGS / "data")
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    member_command.card(config)
    said = capsys.readouterr()
    card = parse_card(json.loads(said.out))
    assert (card.name, card.client_id) == ("Cleveland", "node")
    assert said.err.splitlines() == [
        *(f"created {tmp_path / 'state' / name}" for name in FILES),
        BACK_UP,
        f"pin of Cleveland: {card.node.pin}",
    ]
    member_command.card(config, tmp_path / "card.json")
    assert parse_card(json.loads((tmp_path / "card.json").read_text())).node.pin == card.node.pin
    with pytest.raises(InputError, match="card"):
        member_command.card(config, tmp_path / "card.json")


def test_keys_are_made_once_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = client_config(tmp_path, CONFIGS / "data")
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="is missing"):
        keys_command.keys_show(config)
    keys_command.keys_new(config)
    said = capsys.readouterr()
    made = [tmp_path / "oauth.jwk", *(tmp_path / "state" / name for name in FILES)]
    assert said.err.splitlines() == [*(f"created {path}" for path in made), BACK_UP]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    pin, public = said.out.splitlines()
    assert pin == f"pin of Cleveland: {load_keys(tmp_path / 'state').pin}"
    assert json.loads(public.partition(": ")[2])["kty"] == "EC"
    assert '"d"' not in public
    keys_command.keys_show(config)
    assert capsys.readouterr().out == said.out
    with pytest.raises(InputError, match="all keys exist already"):
        keys_command.keys_new(config)


def test_an_operator_has_one_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "operator.toml"
    lines = [
        "[operator]",
        'server = "https://x:1"',
        "[oauth]",
        'issuer = "https://i"',
        'client_id = "d"',
        'key = "d.jwk"',
    ]
    config.write_text("\n".join(lines))
    keys_command.keys_new(config)
    said = capsys.readouterr()
    assert said.err == f"created {tmp_path / 'd.jwk'}\n"
    assert said.out.startswith("public key of OAuth client d: ")


def test_the_client_command_exits_as_its_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moonflower.client.node import keeper

    monkeypatch.setattr(keeper, "keep", lambda config, once: 77 if once else 0)
    node_command.client(tmp_path)
    with pytest.raises(typer.Exit) as raised:
        node_command.client(tmp_path, once=True)
    assert raised.value.exit_code == 77
