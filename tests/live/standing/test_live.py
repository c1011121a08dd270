"""Real processes: one server and four clients over TLS with OAuth; then kill, stop, cut off and revoke them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from moonflower import simulate
from moonflower.cli.audit import audit
from moonflower.cli.member import member
from moonflower.federation import processes, up
from moonflower.federation.remote import await_ready
from moonflower.server.records.envelopes import WARNING
from support import CONFIGS, PATIENCE_S
from support.commands import called
from support.live import Live, ended, everywhere, family, named, send, undisturbed
from typer.testing import CliRunner

HUNGARY, DORA = "Hungary", "VA Long Beach"
ROUNDS = "training.rounds=2"


@pytest.fixture(scope="module")
def expected(live: Live) -> str:
    """The model of an undisturbed run of two rounds."""
    return undisturbed(live, ROUNDS)


def check_done(live: Live, shown: dict[str, Any], expected: str) -> None:
    """The run came to its planned end with the very model that a simulation makes, and the log is whole."""
    assert (shown["status"], shown["code"]) == ("done", ""), shown
    assert shown["result"]["model"]["sha256"] == expected
    live.check_log()


def test_an_operator_gets_the_model_of_a_simulation_to_the_bit_from_the_command_line(live: Live, expected: str) -> None:
    def moonflower(*arguments: str) -> subprocess.CompletedProcess[str]:
        return called(*arguments, "--as", live.stage.operator)

    practice = "federation.practice=true"  # as ``up`` has it: these nodes' secrets come from the seed
    settings = [word for one in (*live.overrides, ROUNDS, practice) for word in ("--set", one)]
    line = processes.command("run", str(live.config), *settings, "--json", "--as", str(live.stage.operator))
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    shown = live.remote.show(result["run"])
    assert shown["result"] == result
    check_done(live, shown, expected)
    assert [one["status"] for one in result["rounds"]] == ["promoted"] * 2
    assert result["audit"]["verified"]
    assert result["wire"]["upload_bytes"] < 6000, "envelope, answer, words"
    assert result["overall"]["federated"]["auc"] > 0.5
    listed = json.loads(moonflower("runs", "--json").stdout)["runs"]
    assert (listed[-1]["run"], listed[-1]["status"], listed[-1]["of"]) == (result["run"], "done", 2)
    wrong = moonflower("run", str(live.config), "--set", "federation.name=other")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "expected 'heart'" in wrong.stderr
    beyond = moonflower("run", str(live.config), *settings, "--set", "training.train_timeout_s=61", "--json")
    assert beyond.returncode == 1, "not as the recipe says that all signed"
    assert "training.train_timeout_s: 20.0 in the circle, 61.0 in the run" in beyond.stderr
    gone = moonflower("stop", result["run"])
    assert gone.returncode == 1
    assert "over" in gone.stderr


def test_a_member_has_what_is_its_own_after_a_run_and_nobody_else_does(live: Live, expected: str) -> None:
    """Its own tensors, its own whole model and its intercept; as in a simulation of the same run."""
    with tempfile.TemporaryDirectory() as folder:
        done = simulate(live.config, out=Path(folder) / "o", overrides=(*live.overrides, ROUNDS), baselines=False)
        assert done.result["model"]["sha256"] == expected
    config, out = live.stage.clients[DORA], live.state / "own.safetensors"
    said = called("member", "report", config, "--json")
    assert said.returncode == 0, said.stderr
    found, there = json.loads(said.stdout), next(one for one in done.result["members"] if one["name"] == DORA)
    assert found["version"] == expected
    assert found["federated"] == pytest.approx(there["federated"])
    assert found["personalised"] == pytest.approx(there["personalised"])
    assert found["personalised"]["loss"] != found["federated"]["loss"]
    assert called("member", "model", config, "--out", out).returncode == 0
    data = CONFIGS / "data" / "heart.csv.gz"
    own, file = (called("predict", data, *words).stdout for words in (("--client", config), ("--model", out)))
    assert own == file
    assert own != called("predict", data, "--model", live.state / "models" / f"{expected}.safetensors").stdout


def test_whatever_is_killed_is_started_again_and_nothing_is_lost(live: Live) -> None:
    """In five rounds: a client as it trains and as it opens, a worker, the ServerApp; the server is stopped, too.

    Before that the issuer is away for longer than tokens live. Every other step is in ``test_crash.py``.
    """
    back = threading.Event()

    def restart() -> None:
        live.start("issuer")
        back.set()

    def kill_issuer(_: object) -> None:
        live.kill("issuer")
        threading.Timer(12, restart).start()

    def kill_client(_: object) -> None:
        live.kill(DORA)
        live.start(DORA)

    def kill_worker(_: object) -> None:
        for pid in named(live.processes.running[HUNGARY].pid, "client.node.worker"):
            send(pid, signal.SIGKILL)

    def kill_serverapp(_: object) -> None:
        found = everywhere("flwr-serverapp", live.stage.folder)
        assert found
        for pid in found:
            send(pid, signal.SIGKILL)

    def kill_server(_: object) -> None:
        live.kill("server")
        live.start("server")

    def stop_server(_: object) -> None:
        process = live.processes.running.pop("server")
        process.terminate()
        assert ended(process) == 0
        assert "[info] stopped" in live.output("server")
        live.start("server")

    before = len(live.log())
    each = len(live.names)
    at: dict[tuple[str, int], Any] = {
        ("run_began", 1): kill_issuer,
        ("round_began", 2): kill_client,
        ("answered", each * 5 + 2): kill_client,
    }
    at |= {("set_closed", 2): kill_serverapp, ("round_began", 3): kill_worker}
    at |= {("promoted", 2): kill_server, ("promoted", 4): stop_server}  # a round apart from what is killed before
    shown = live.run("training.rounds=5", at=at)
    check_done(live, shown, undisturbed(live, "training.rounds=5"))
    assert [one["round"] for one in shown["result"]["rounds"]] == [1, 2, 3, 4, 5], "nothing is repeated"
    assert len(live.events("run_resumed", before)) == 3
    assert "worker" in live.output(HUNGARY)
    assert back.is_set()
    assert any("cannot be reached" in live.output(name) for name in live.names)


def test_a_second_run_waits_for_its_turn_and_a_stopped_one_ends(live: Live) -> None:
    from moonflower.errors import Refused

    run = live.submit()
    with pytest.raises(Refused) as refusal:
        live.submit()
    assert refusal.value.code == "run.busy"
    live.remote.stop(run)
    last = list(live.remote.follow(run))[-1]
    assert (last["event"], last["code"]) == ("run_ended", "run.stopped")
    assert isinstance(up.ending(live.remote.show(run)), Exception)


def test_a_server_that_keeps_envelopes_says_so_and_forgets_them(live: Live) -> None:
    assert WARNING.format(hours=1) in live.output("server")
    assert {entry["details"]["what"] for entry in live.events("warned")} == {"retention"}
    number = live.events("promoted")[-1]["number"]
    said = CliRunner().invoke(audit, ["recompute", str(number), "--state", str(live.state)])
    assert "bit for bit" in said.stdout, said.exception
    old = live.state / "envelopes" / "1000" / ("0" * 64)
    old.parent.mkdir()
    old.write_bytes(b"old")
    os.utime(old, (0, 0))
    live.processes.running["server"].terminate()
    assert ended(live.processes.running.pop("server")) == 0
    live.start("server")
    await_ready(lambda: not old.exists(), "the server, whose start deletes what is over,", PATIENCE_S)


def test_who_is_cut_off_or_revoked_is_waited_for_and_nothing_is_repeated(live: Live) -> None:
    """Cut off: its processes are stopped, not ended, so that nobody is told. Revoked: out at once, until let in again.

    A sum is over everybody: only a circle that all others sign lets a member go.
    """
    stopped = family(live.processes.running[DORA].pid)
    card, config = live.state / "dora.card.json", str(live.stage.server)

    def person(*line: object) -> None:
        done = CliRunner().invoke(member, [str(word) for word in line])  # in this process: the run goes on meanwhile
        assert done.exit_code == 0, done.output

    def away() -> list[dict[str, Any]]:
        (run,) = [one for one in live.remote.runs() if one["status"] == "running"]
        found: list[dict[str, Any]] = run["away"]
        return found

    def cut(_: object) -> None:
        for pid in stopped:
            send(pid, signal.SIGSTOP)

    def mend(_: object) -> None:
        for pid in stopped:
            send(pid, signal.SIGCONT)

    def look(entry: object) -> None:
        waited.extend({name: one[name] for name in ("member", "number")} for one in away())
        mend(entry)

    def is_missed() -> bool:
        return any(one["member"] == DORA and one["why"] == "revoked" for one in away())

    def let_in() -> None:
        await_ready(is_missed, "the run's word that it waits for who is shut out", PATIENCE_S)
        assert ended(live.processes.running.pop(DORA)) == 77, "its keeper tries a few times"
        person("add", card, "--config", config)
        live.start(DORA)

    def revoke(_: object) -> None:
        person("revoke", DORA, "--reason", "test", "--config", config)
        waiting.append(pool.submit(let_in))

    waited, waiting, before = list[dict[str, Any]](), list[Future[None]](), len(live.log())
    person("card", live.stage.clients[DORA], "--out", card)
    at = {("promoted", 1): cut, ("waited_for", 1): look, ("promoted", 2): revoke}
    try:
        with ThreadPoolExecutor(1) as pool:
            shown = live.run("training.rounds=3", at=at)
            waiting[0].result(PATIENCE_S)
    finally:
        mend(None)
    check_done(live, shown, undisturbed(live, "training.rounds=3"))
    rounds = shown["result"]["rounds"]
    assert [(one["round"], one["status"]) for one in rounds] == [(n, "promoted") for n in (1, 2, 3)]
    assert [one["member"] for one in waited] == [DORA]
    assert waited[0]["number"] in {one["number"] for one in rounds[1:]}, "the round that went on when it was cut off"
    assert [entry["member"] for entry in live.events("came_back", before)] == [DORA, DORA]
    assert "auth.client_revoked" in {entry["code"] for entry in live.events("refused_member", before)}


def test_the_doctor_finds_all_well(live: Live) -> None:
    stage = live.stage
    for config in (stage.issuer, stage.server, stage.operator, *list(stage.clients.values())[:1]):
        done = called("doctor", config, "--json")
        said = json.loads(done.stdout)
        warned = [one["found"] for one in said["checks"] if one["status"] != "ok"]
        assert [one for one in warned if not one.startswith("the token lives 5 s")] == []  # as short as this test wants
        assert (done.returncode, done.stderr, said["ok"]) == (0, "", True)
        assert "eyJ" not in done.stdout  # how every JWT begins
