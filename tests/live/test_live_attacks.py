"""Real processes under attack, with wrong clocks, wrong keys, a foreign issuer and a full disk."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
from moonflower.client.keyring import make_keys
from moonflower.configs.toml import read_toml
from moonflower.federation import processes
from moonflower.federation.remote import await_ready
from support import PATIENCE_S, SUPPORT
from support.live import Live, ended, undisturbed

ATTACKER = SUPPORT / "attacker.py"
HUNGARY, SWISS, DORA = "Hungary", "Switzerland", "VA Long Beach"
WAIT_S = 8.0  # after which a member that does not come is named
AHEAD_S = 600
ROUNDS = "training.rounds=2"


def check_done(live: Live, shown: dict[str, Any]) -> None:
    assert (shown["status"], shown["code"]) == ("done", ""), shown
    assert shown["result"]["model"]["sha256"] == undisturbed(live)
    live.check_log()


# Wrong nodes


def copied(live: Live, name: str, folder: Path, **oauth: Any) -> Path:
    """Copy a member's client to a folder of its own; returns the config."""
    home = live.stage.clients[name].parent
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("lock", "*.db*", "*.log*"))
    tables = read_toml(folder / "client.toml", "config")
    tables["client"]["ca"] = str(live.stage.folder / "ca.pem")
    tables["oauth"].update(oauth)
    (folder / "client.toml").write_text(tomli_w.dumps(tables))
    return folder / "client.toml"


@dataclass(frozen=True)
class Beset:
    """What came of a federation with four wrong clients: exit statuses, last lines, the log, and a run afterwards."""

    statuses: dict[str, int]
    last: dict[str, str]
    output: str
    log: list[dict[str, Any]]
    shown: dict[str, Any]
    names: tuple[str, ...]

    def noted(self, member: str) -> set[tuple[str, str]]:
        return {(one["event"], one["code"]) for one in self.log if one.get("member") == member and "code" in one}


@pytest.fixture(scope="module")
def beset(tmp_path_factory: pytest.TempPathFactory) -> Beset:
    """A federation of its own: what was opened with all four would not be opened with three (rule 2).

    * ahead: a member whose clock is ten minutes ahead, instead of its good node;
    * swapped: a member's config with a new node key;
    * posing: another member's client_id with keys of one's own;
    * thief: another member's OAuth client and its key, with a node key of one's own.
    """
    folder = tmp_path_factory.mktemp("beset")
    with Live(folder / "up", ROUNDS, server={"away_after_s": WAIT_S}) as live:
        process = live.processes.running.pop(DORA)
        process.terminate()
        assert ended(process) == 0
        swapped = copied(live, SWISS, folder / "swapped")
        (swapped.parent / "state" / "node.key").unlink()
        make_keys(swapped.parent / "state")
        posing = copied(live, SWISS, folder / "posing", client_id=HUNGARY)
        thief = copied(live, SWISS, folder / "thief", client_id=HUNGARY)
        shutil.copy(live.stage.clients[HUNGARY].parent / "oauth.key", thief.parent / "oauth.key")
        wrong = str(live.stage.clients[DORA])
        lines = {"ahead": [sys.executable, str(ATTACKER), "ahead", wrong, str(AHEAD_S)]}
        for name, config in {"swapped": swapped, "posing": posing, "thief": thief}.items():
            lines[name] = processes.command("client", "--once", config)
        before = len(live.log())
        for name, line in lines.items():
            live.processes.start(name, line)
        statuses = {name: ended(live.processes.running.pop(name)) for name in lines}
        shown = live.run(at={("waited_for", 1): lambda entry: live.remote.stop(entry["run"])})
        live.check_log()
        last = {name: live.output(name).splitlines()[-1] for name in lines}
        return Beset(statuses, last, live.output("ahead"), live.log()[before:], shown, live.names)


def test_clients_with_keys_or_names_of_others_end_with_77_and_say_why(beset: Beset) -> None:
    print(beset.last)
    assert beset.statuses == dict.fromkeys(beset.statuses, 77)
    assert "auth.node_mismatch" in beset.last["swapped"]
    assert "auth.client_refused" in beset.last["posing"]
    assert HUNGARY in beset.last["posing"]
    assert "auth.node_mismatch" in beset.last["thief"]
    for member in (SWISS, HUNGARY):  # as whom they came; the good nodes of that name went on
        assert ("refused_member", "auth.node_mismatch") in beset.noted(member)


def test_a_node_whose_clock_is_ahead_is_told_so(beset: Beset) -> None:
    """The issuer refuses it first, so the coordinator only sees that it does not come."""
    assert re.search("not valid yet|clock", beset.last["ahead"]), beset.output
    assert "auth.client_refused" in beset.last["ahead"]
    assert "Traceback" not in beset.output
    assert beset.noted(DORA) == {("waited_for", "circle.away")}


def test_the_others_wait_for_the_one_that_does_not_come_until_somebody_stops_the_run(beset: Beset) -> None:
    assert (beset.shown["status"], beset.shown["code"]) == ("stopped", "run.stopped"), beset.shown
    assert beset.shown["result"]["rounds"] == []


# A full disk


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "moonflower-test", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here; it needs root (CAP_SYS_ADMIN)")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_disk_that_fills_up_costs_no_more_than_time(tmp_path: Path) -> None:
    """The run waits for space, the server stays up and says why, and the last good model is what it was."""
    place = tmp_path / "up" / "small"
    with small_disk(place, "6m"), Live(tmp_path / "up", ROUNDS, server={"state": "small"}) as live:
        server, refused = live.processes.running["server"], []
        trust = ssl.create_default_context(cafile=live.stage.folder / "ca.pem")

        def full(_: object) -> None:
            fill(place)
            url = f"{live.stage.server_url}/v1/fleet/pull-messages"
            refused.append(httpx.post(url, verify=trust, headers={"Authorization": "DPoP junk"}))
            threading.Timer(5.0, (place / "filler").unlink).start()

        shown = live.run(at={("promoted", 1): full})
        assert server.poll() is None
        assert [(reply.status_code, reply.json()["code"]) for reply in refused] == [(401, "auth.malformed")]
        said = live.output("server")
        print(said)
        (line,) = {
            line.partition("its ServerApp died")[2]
            for line in said.splitlines()
            if " is full" in line and "died" in line
        }
        assert line.startswith(f" because the disk of {place} is full")
        assert "Traceback" not in said
        check_done(live, shown)
        assert {entry["code"] for entry in live.events("failed")} <= {"run.interrupted"}

        fill(place)  # again: no run is taken, a server that is killed comes up, and it takes one when there is room
        offer = live.recipe().as_dict()
        reply = live.remote._api._http.post("/api/runs", json=offer)
        assert (reply.status_code, reply.json()["code"]) == (503, "http.unavailable")
        live.kill("server")
        live.start("server")
        await_ready(lambda: processes.is_up(live.stage, live.processes), "the server", PATIENCE_S)
        assert [one["status"] for one in live.remote.runs()] == ["done"]
        (place / "filler").unlink()
        live.remote.stop(live.submit())
        live.check_log()
