"""The feed for a security team: what is in it, where it goes, and what never is in it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moonflower.errors import InputError
from moonflower.server.records.log import EVENTS
from moonflower.server.watch.feed import AT_THE_DOOR, FROM_LOG, Feed
from support.gateway import PULL, Door, doors, run

__all__ = ["doors"]  # a fixture


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_it_names_events_that_there_are() -> None:
    assert FROM_LOG.keys() <= EVENTS.keys()
    assert not FROM_LOG.keys() & AT_THE_DOOR.keys()


def test_entries_of_the_log_are_told_without_documents_and_signatures(tmp_path: Path) -> None:
    feed = Feed(str(tmp_path / "feed.jsonl"), "heart")
    signed = {"circle": "c" * 64, "key": {"kty": "EC", "x": "secret"}, "signature": "s" * 128}
    feed.entry(
        {"index": 7, "time": "2026-12-01T10:00:00.000Z", "event": "circle_signed", "member": "anna", "details": signed}
    )
    feed.entry({"index": 8, "time": "2026-12-01T10:00:01.000Z", "event": "round_began", "details": {}})
    feed.entry({"index": 9, "time": "2026-12-01T10:00:02.000Z", "event": "member_revoked", "member": "bert",
                "details": {"reason": "left\nforged"}})  # fmt: skip
    feed.close()
    first, second = lines(tmp_path / "feed.jsonl")
    assert first == {
        "time": "2026-12-01T10:00:00.000Z", "event": "circle_signed", "severity": "info", "federation": "heart",
        "index": 7, "member": "anna", "circle": "c" * 64,
    }  # fmt: skip
    assert (second["severity"], second["reason"]) == ("warning", "left\nforged"), "one line, whatever a text holds"
    assert (tmp_path / "feed.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_file_may_be_rotated(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    feed = Feed(str(path), "heart")
    feed.door("login", subject="anna")
    path.rename(tmp_path / "feed.1")
    feed.door("logout", subject="anna")
    feed.close()
    assert [one["event"] for file in (tmp_path / "feed.1", path) for one in lines(file)] == ["login", "logout"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_place_that_went_away_keeps_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "feeds"
    folder.mkdir()
    feed = Feed(str(folder / "feed.jsonl"), "heart")
    feed.door("login", subject="anna")
    (folder / "feed.jsonl").unlink()
    folder.rmdir()
    feed.door("logout", subject="anna")
    feed.close()
    assert "lacks an event logout" in caplog.text


def test_it_goes_to_syslog(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(5)
        feed = Feed(f"syslog:127.0.0.1:{heard.getsockname()[1]}", "heart")
        feed.door("refused", code="auth.signature", address="192.0.2.7")
        said = heard.recv(65536)
        feed.close()
    assert said.startswith(b"<36>moonflower: {"), "facility auth, severity warning"
    assert json.loads(said.removeprefix(b"<36>moonflower: ").rstrip(b"\0"))["code"] == "auth.signature"


@pytest.mark.parametrize("place", ["/no/such/folder/feed.jsonl", "syslog:/no/such/socket"])
def test_a_place_that_cannot_be_written_is_refused(place: str) -> None:
    with pytest.raises(InputError, match=r"server.feed = .* cannot be written"):
        Feed(place, "heart")


def test_the_door_tells_of_node_logins_and_refusals_and_never_of_tokens(doors: Callable[..., Door]) -> None:
    door, told = doors(), []
    door.app._feed = lambda event, **about: told.append({"event": event, **about})
    assert run(door.fleet(door.anna, "/v1/fleet/activate-node", door.anna.activate())).status == 200
    junk = door.issuer.token(door.issuer.claims(aud="another"))
    for _ in range(3):
        assert run(door.ask("POST", PULL, [(b"authorization", b"Bearer " + junk.encode())])).status == 401
    assert [one["event"] for one in told] == ["node_login", "refused"], "a flood makes one event a minute"
    assert (told[0]["member"], told[1]["code"], told[1]["address"]) == (door.anna.name, "auth.audience", "192.0.2.7")
    assert junk not in json.dumps(told)
    assert all(one["event"] in AT_THE_DOOR for one in told)
