"""A dishonest coordinator among real processes: it forks, rewrites, rolls back its log, and wants sums of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from moonflower.federation import processes
from moonflower.federation.remote import await_ready
from moonflower.server.records.verify import verify
from support import PATIENCE_S
from support.commands import called
from support.forking import VICTIM
from support.live import Live, undisturbed
from support.rewrite import rewrite, without_a_refusal

FILES = ("moonflower.db", "moonflower.db-wal", "moonflower.db-shm")


@pytest.fixture(scope="module", autouse=True)
def _witnessed(live: Live) -> None:
    """The federation's members have witnessed a run."""
    if not live.events("run_ended"):
        live.run()


def member_log(live: Live, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return called("member", "log", live.stage.clients[name], *options)


def stop(live: Live) -> None:
    live.kill("server")


def start(live: Live) -> None:
    live.start("server")
    await_ready(lambda: processes.is_up(live.stage, live.processes), "the server", PATIENCE_S)


def refusals(live: Live, since: int) -> set[tuple[str, str]]:
    return {(entry["member"], entry["code"]) for entry in live.events("refused_member", since)}


def test_every_members_checkpoint_is_in_the_servers_log(live: Live, tmp_path: Path) -> None:
    public = (live.state / "log.pub").read_text()
    notes = {}
    for name in live.names:
        said = member_log(live, name)
        assert (said.returncode, said.stderr) == (0, "")
        notes[name] = said.stdout
        (tmp_path / name).write_text(said.stdout)
    assert verify(live.state, public, witnesses=notes).ok
    checked = called(
        "audit", "verify", live.state, *(word for name in live.names for word in ("--witness", tmp_path / name))
    )
    assert checked.returncode == 0
    assert checked.stdout.count("holds an earlier state of this log, or this state") == len(live.names)


def test_one_member_that_is_shown_a_fork_says_so_and_trains_no_more(live: Live, told: Path) -> None:
    since = len(live.log())
    told.write_text(f"fork:0:{VICTIM}")
    try:
        shown = live.run("training.seed=8")
    finally:
        told.unlink()
    assert (shown["status"], shown["code"]) == ("failed", "audit.fork"), "nobody opens anything without it"
    assert refusals(live, since) == {(VICTIM, "audit.fork")}
    assert "the coordinator's log is not the one that this member witnessed" in live.output(VICTIM)
    said = member_log(live, VICTIM, "--json")
    assert said.returncode == 1
    fork = json.loads(said.stdout)["fork"]
    assert fork["held"].splitlines()[0] == fork["shown"].splitlines()[0] == "moonflower/heart"
    again = live.run("training.seed=7", "training.rounds=1")
    assert (again["status"], again["code"]) == ("done", ""), "an honest coordinator goes on with it"


HOSTILE = {
    "split-base": ("envelope_refused", "base.unknown", 1),
    "fork-list": ("opening_refused", "open.list", 3),
}
"""Kind of drill → what the log has of it, how often. The other kinds are in ``tests/federation/test_federation.py``."""
HOSTILE_ROUNDS = f"training.rounds={1 + len(HOSTILE)}"


@pytest.fixture(scope="module")
def hostile(live: Live, told: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run whose coordinator asks for something else in every round but the first, and what the log says of it."""
    since = len(live.log())
    told.write_text("\n".join(f"{kind}:{number}:{VICTIM}" for number, kind in enumerate(HOSTILE, 2)))
    try:
        shown = live.run(HOSTILE_ROUNDS)
    finally:
        told.unlink()
    return shown, live.log()[since:]


def test_members_of_a_hostile_coordinator_make_the_model_of_an_honest_run(live: Live, hostile: Any) -> None:
    shown, _ = hostile
    assert (shown["status"], shown["code"]) == ("done", "")
    assert shown["result"]["model"]["sha256"] == undisturbed(live, HOSTILE_ROUNDS)


@pytest.mark.parametrize(("planned", "kind"), [*enumerate(HOSTILE, 2)])
def test_what_a_hostile_coordinator_asks_for_is_not_done(hostile: Any, planned: int, kind: str) -> None:
    """Members refuse, and the round is repeated."""
    (event, code, times), (_, log) = HOSTILE[kind], hostile
    numbers = [e["number"] for e in log if e["event"] == "round_began" and e["details"]["round"] == planned]
    assert len(numbers) == 2
    assert [e["code"] for e in log if e["event"] == event and e["number"] == numbers[0]] == [code] * times
    assert [e["number"] for e in log if e["event"] == "failed" and e["number"] in numbers] == numbers[:1]


def test_a_history_that_was_rewritten_is_found_by_everybody(live: Live) -> None:
    before = live.log()
    stop(live)
    copies = {name: (live.state / name).read_bytes() for name in FILES if (live.state / name).exists()}
    try:
        rewrite(live.state, without_a_refusal)
        start(live)
        shown = live.run()
        assert (shown["status"], shown["code"]) == ("failed", "audit.fork")
        assert refusals(live, len(before)) == {(name, "audit.fork") for name in live.names}
        assert "audit.fork" in live.output("server")
        live.check_log()  # by itself it looks right
    finally:
        stop(live)
        put_back(live, copies)
        start(live)


def test_a_history_that_was_rolled_back_is_found_and_a_person_decides(live: Live) -> None:
    stop(live)
    copies = {name: (live.state / name).read_bytes() for name in FILES if (live.state / name).exists()}
    models = set((live.state / "models").iterdir())
    start(live)
    assert live.run("training.seed=9", "training.rounds=1")["status"] == "done"
    stop(live)
    put_back(live, copies)
    start(live)
    since, said_before = len(live.log()), len(live.output("server"))
    shown = live.run()
    assert (shown["status"], shown["code"]) == ("failed", "audit.fork")
    warned = live.events("warned", since)
    assert {(entry["member"], entry["code"]) for entry in warned if "member" in entry} == {
        (name, "audit.fork") for name in live.names
    }

    def told() -> bool:
        said = [line for line in live.output("server")[said_before:].splitlines() if "holds another history" in line]
        return all(any(name in line for line in said) for name in live.names)

    await_ready(told, "the server's word", 30)
    for name in live.names:
        said = member_log(live, name, "--forget")
        assert "taken as the first" in said.stderr
    assert live.run("training.rounds=1")["status"] == "done"
    live.check_log()
    assert models <= set((live.state / "models").iterdir())


def put_back(live: Live, copies: dict[str, Any]) -> None:
    for name in FILES:
        (live.state / name).unlink(missing_ok=True)
    for name, data in copies.items():
        (live.state / name).write_bytes(data)
    shutil.rmtree(live.state / "flwr", ignore_errors=True)
