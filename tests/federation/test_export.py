"""What the log and the database hold of people: nothing that was not meant for them, whoever tries to put it there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from moonflower.cli.audit import audit
from moonflower.cli.member import member
from moonflower.client.learning.torch import TorchLearner
from moonflower.errors import InputError
from moonflower.server.door.gateway import ACTIVATE, _route
from moonflower.server.records.reasons import check_reason
from support import CONFIGS
from support.federation import NAMES, Federation
from support.gateway import Door, run
from typer.testing import CliRunner

PERSON, MAIL, PHONE, ADDRESS = "Erika Canary-Mustermann", "erika@canary.example.org", "0301234567", "203.0.113.77"
SERVER = """
[server]
listen = "127.0.0.1:0"
state = "{state}"
tls_cert = "server.pem"
tls_key = "server.key"
federation = "heart"
[oauth]
issuer = "https://idp.example.org"
audience = "https://fl.example.org/"
"""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """A federation whose rows name people; and what is sent to its door comes from an address."""
    rows = pd.read_csv(CONFIGS / "data/heart.csv.gz")
    rows["patient"] = [f"{PERSON} {at}, {MAIL}, {PHONE}, {ADDRESS}" for at in range(len(rows))]
    rows.to_csv(tmp_path / "heart.csv", index=False)
    data = (f"data.path={tmp_path / 'heart.csv'}", 'data.drop=["fold", "patient"]')
    one = Federation(tmp_path / "state", "training.report_every=1", "training.rounds=2", *data)
    yield one
    one.close()


def visit(door: Door) -> str:
    """Knock at every door with what must not be written down; return the token among it."""
    token = door.token(door.desk, scope="fl:run")

    async def knock() -> None:
        stranger: Any = {"address": ADDRESS}
        await door.ask("GET", f"/api/runs/{MAIL}/log", **stranger)
        await door.ask("POST", f"/api/runs/{PHONE}/stop", **stranger)
        await door.ask("GET", f"/api/runs?name={MAIL}", [(b"authorization", f"Bearer {token}".encode())], **stranger)
        await door.ask("GET", f"/api/runs/{PERSON}", [(b"authorization", b"DPoP " + MAIL.encode())], **stranger)
        await door.ask("GET", f"/{MAIL}", **stranger)
        await door.ask("POST", ACTIVATE, [(b"user-agent", MAIL.encode())], MAIL.encode(), ADDRESS)
        await door.fleet(door.anna, flower=door.bert.flower(), address=ADDRESS)
        await door.desked("GET", "/api/runs", scope=MAIL)
        await door.desked("GET", f"/api/runs/{MAIL}")
        await door.desked("POST", "/api/runs", {"federation": {"name": MAIL}})

    run(knock())
    return token


def row_counts(one: Federation) -> set[int]:
    """Return how many rows each site has, and has for training, and all of them together."""
    parts = one.cast.splits.values()
    whole = {len(split.train) + len(split.validation) + len(split.test) for split in parts}
    train = {len(split.train) for split in parts}
    return whole | train | {sum(whole), sum(train)}


def columns(database: Path) -> dict[str, list[Any]]:
    """Return everything that a database holds, by table and column."""
    with closing(sqlite3.connect(database)) as db:
        tables = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        found: dict[str, list[Any]] = {}
        for table in tables:
            cursor = db.execute(f'select * from "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor:
                for name, value in zip(names, row, strict=True):
                    found.setdefault(f"{table}.{name}", []).append(value)
    return found


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str) and value[:1] in ("{", "["):
        try:
            yield from leaves(json.loads(value))
        except ValueError:
            yield value
    else:
        yield value


def test_personal_data_enters_neither_the_exported_log_nor_the_database(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, train, failed = federation, TorchLearner.train, set[str]()

    def leaking(self: TorchLearner, *arguments: Any) -> Any:
        if not failed:
            failed.add("somebody")
            raise ValueError(f"cannot train on {PERSON}, {MAIL}")
        return train(self, *arguments)

    monkeypatch.setattr(TorchLearner, "train", leaking)
    door = Door(one.folder)
    try:
        token = visit(door)
        accepted = run(door.desked("POST", "/api/runs", one.cast.recipe.as_dict()))
        assert one.carry_out(accepted.json["run"]) == "done"
        run(door.desked("GET", f"/api/runs/{accepted.json['run']}"))
        revoke(one.folder, tmp_path, door.anna.name)
    finally:
        door.state.close()
    assert failed, "nobody stumbled over a row"
    words = [
        PERSON,
        PERSON.split()[1],
        MAIL,
        MAIL.split("@")[1],
        PHONE,
        ADDRESS,
    ]  # the column's name stands in the recipe, which all have signed
    check(one, tmp_path, [*words, token, *token.split(".")])


def revoke(state: Path, tmp_path: Path, name: str) -> None:
    """Revoke a member for reasons that name people, and at last for one that does not."""
    config = tmp_path / "server.toml"
    config.write_text(SERVER.format(state=state))
    for reason in (f"ask {MAIL}", f"call {PHONE}", f"{PERSON}\x1b[0m", "x" * 201, " "):
        error = CliRunner().invoke(member, ["revoke", name, "--reason", reason, "--config", str(config)]).exception
        assert isinstance(error, InputError), reason
        assert error.code == "config.reason"
        assert not any(word in str(error) for word in (MAIL, PHONE, PERSON))
    done = CliRunner().invoke(member, ["revoke", name, "--reason", "left the federation", "--config", str(config)])
    assert done.exit_code == 0, done.exception


def check(one: Federation, tmp_path: Path, forbidden: list[str]) -> None:
    out = tmp_path / "log.jsonl"
    assert CliRunner().invoke(audit, ["export", "--state", str(one.folder), "--out", str(out)]).exit_code == 0
    exported = out.read_text()
    lines = [json.loads(json.loads(line)["entry"]) for line in exported.splitlines()]
    events = {line["event"] for line in lines}
    assert {"refused_member", "envelope_refused", "promoted", "tallies_opened", "member_revoked"} <= events
    assert {line["code"] for line in lines if line["event"] == "envelope_refused"} == {"update.failed"}
    stored = columns(one.folder / "moonflower.db")
    raw = b"".join(file.read_bytes() for file in one.folder.glob("moonflower.db*"))
    for word in forbidden:
        assert word not in exported
        assert word.encode() not in raw
        assert json.dumps(word).strip('"').encode() not in raw
        for where, values in stored.items():
            assert not any(word in str(value) for value in values), where
    counts = row_counts(one)
    assert min(counts) > max(line["index"] for line in lines), "an index could be mistaken for a count"
    found = {value for line in lines for value in leaves(line)}
    assert not {str(count) for count in counts} & {str(value) for value in found if not isinstance(value, float)}
    for where, values in stored.items():
        numbers = {value for item in values for value in leaves(item) if type(value) is int}
        assert not counts & numbers, where


def test_everything_else_about_an_export_holds(federation: Federation, tmp_path: Path) -> None:
    """An export is what ``verify`` reads, with the very root of the database, and is not written over."""
    one, out = federation, tmp_path / "log.jsonl"
    one.queue()
    assert one.carry_out() == "done"
    call = CliRunner().invoke
    assert call(audit, ["export", "--state", str(one.folder), "--out", str(out)]).exit_code == 0
    assert len(out.read_text().splitlines()) == len(one.entries)
    sources = [str(one.folder), str(out)]
    said = [call(audit, ["verify", one_, "--key", str(one.folder / "log.pub"), "--json"]).stdout for one_ in sources]
    assert said[0] == said[1]
    assert json.loads(said[0])["ok"]
    again = call(audit, ["export", "--state", str(one.folder), "--out", str(out)]).exception
    assert isinstance(again, InputError)
    assert again.code == "config.out"


# What a stranger, or an operator, would write there


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (ACTIVATE, ACTIVATE),
        ("/api/runs", "/api/runs"),
        (f"/api/runs/{MAIL}", "/api/runs/…"),
        (f"/api/runs/{PHONE}/{PERSON}", "/api/runs/…"),
    ],
)
def test_the_log_names_the_route_and_not_what_a_stranger_wrote(path: str, logged: str) -> None:
    assert _route(path) == logged


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "  ",
        "x" * 201,
        f"ask {MAIL}",
        "ask erika at\N{FULLWIDTH COMMERCIAL AT}example",
        f"call {PHONE}",
        "record 123456",
        "two\nlines",
        "\x1b[31mred",
        "a\u202ehidden",
    ],
)
def test_a_reason_that_looks_like_personal_data_is_refused(reason: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_reason(reason)
    assert refusal.value.code == "config.reason"
    assert not reason.strip() or reason not in str(refusal.value)


@pytest.mark.parametrize("reason", ["left the federation", "contract 12345 ended", "x" * 200, "Schlüssel verloren"])
def test_a_plain_reason_is_taken(reason: str) -> None:
    assert check_reason(f" {reason} ") == reason


def test_every_member_has_rows_that_could_leak(federation: Federation) -> None:
    assert {*federation.cast.splits} == {*NAMES}
    assert len(row_counts(federation)) >= 8
