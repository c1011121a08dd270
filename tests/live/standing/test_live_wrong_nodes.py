"""Real processes with wrong clocks, wrong keys and the names of others."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from moonflower.client.keyring import make_keys
from moonflower.configs.names import slug
from moonflower.configs.toml import read_toml
from moonflower.federation import processes
from support import SUPPORT
from support.live import Live, ended

ATTACKER = SUPPORT / "attacker.py"
CLEVELAND, HUNGARY, DORA = "Cleveland", "Hungary", "VA Long Beach"
AHEAD_S = 600


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
    """What came of four wrong clients: exit statuses, last lines, the log, and a run afterwards."""

    statuses: dict[str, int]
    last: dict[str, str]
    output: str
    log: list[dict[str, Any]]
    shown: dict[str, Any]

    def noted(self, member: str) -> set[tuple[str, str]]:
        return {(one["event"], one["code"]) for one in self.log if one.get("member") == member and "code" in one}


@pytest.fixture(scope="module")
def beset(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Beset:
    """What comes of wrong clients.

    * ahead: a member whose clock is ten minutes ahead, instead of its good node;
    * swapped: a member's config with a new node key;
    * posing: another member's client_id with keys of one's own;
    * thief: another member's OAuth client and its key, with a node key of one's own.
    """
    folder = tmp_path_factory.mktemp("beset")
    process = live.processes.running.pop(DORA)
    process.terminate()
    assert ended(process) == 0
    swapped = copied(live, CLEVELAND, folder / "swapped")
    (swapped.parent / "state" / "node.key").unlink()
    make_keys(swapped.parent / "state")
    posing = copied(live, CLEVELAND, folder / "posing", client_id=slug(HUNGARY))
    thief = copied(live, CLEVELAND, folder / "thief", client_id=slug(HUNGARY))
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
    live.start(DORA)
    live.check_log()
    last = {name: live.output(name).splitlines()[-1] for name in lines}
    return Beset(statuses, last, live.output("ahead"), live.log()[before:], shown)


def test_clients_with_keys_or_names_of_others_end_with_77_and_say_why(beset: Beset) -> None:
    print(beset.last)
    assert beset.statuses == dict.fromkeys(beset.statuses, 77)
    assert "auth.node_mismatch" in beset.last["swapped"]
    assert "auth.client_refused" in beset.last["posing"]
    assert slug(HUNGARY) in beset.last["posing"]
    assert "auth.node_mismatch" in beset.last["thief"]
    for member in (CLEVELAND, HUNGARY):  # as whom they came; the good nodes of that name went on
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
