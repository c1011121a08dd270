"""The runs' supervisor: starts what waits, starts again what died, gives up what only dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moonflower.configs import bundle
from moonflower.errors import Refused
from moonflower.server import live
from moonflower.server.door import supervisor as module
from moonflower.server.door.supervisor import Supervisor, carrying, is_carried
from moonflower.server.records import history
from moonflower.server.records.history import Round
from moonflower.server.records.state import State
from support import PATIENCE_S


class Flower:
    """A SuperLink that only takes notes."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[int] = []
        self.over: set[int] = set()

    def start(self, run: str) -> int:
        self.started.append(run)
        return len(self.started)

    def is_over(self, flower_run: int) -> bool:
        return flower_run in self.over

    def stop(self, flower_run: int) -> None:
        self.stopped.append(flower_run)

    def revive(self) -> None:
        pass


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path, "heart")
    yield opened
    opened.close()


def queue(state: State, run: str) -> None:
    with state.store.transaction() as db:
        history.queue_run(db, run, {})


def end(state: State, run: str) -> None:
    with state.store.transaction() as db:
        history.end_run(db, run, "done", "")


def status(state: State, run: str) -> tuple[str, str]:
    with state.store.read() as db:
        row = history.run_row(db, run)
    assert row is not None
    return row.status, row.code


def test_a_waiting_run_is_started_once(state: State) -> None:
    flower, queued = Flower(), "r1"
    watched = Supervisor(state, flower, 2)
    watched.look()
    assert flower.started == []
    queue(state, queued)
    watched.look()
    watched.look()
    with carrying(state.folder, queued):
        watched.look()
    assert flower.started == ["r1"]


def test_runs_go_one_after_the_other(state: State) -> None:
    flower = Flower()
    watched = Supervisor(state, flower, 2)
    queue(state, "r1")
    queue(state, "r2")
    watched.look()
    with carrying(state.folder, "r1"):
        watched.look()
        end(state, "r1")
        watched.look()
        assert flower.started == ["r1"]
    watched.look()
    assert flower.started == ["r1", "r2"]


def test_a_serverapp_that_died_is_started_again_and_its_messages_dropped(state: State) -> None:
    flower = Flower()
    watched = Supervisor(state, flower, 2)
    queue(state, "r1")
    watched.look()
    with carrying(state.folder, "r1"):
        watched.look()
    watched.look()
    watched.look()
    assert flower.started == ["r1", "r1"]
    assert flower.stopped == [1]
    assert status(state, "r1")[0] == "queued"


def test_a_serverapp_that_never_began_is_started_again(state: State) -> None:
    flower = Flower()
    watched = Supervisor(state, flower, 2)
    queue(state, "r1")
    watched.look()
    flower.over.add(1)
    watched.look()
    watched.look()
    assert flower.started == ["r1", "r1"]


def test_a_run_that_only_dies_is_given_up(state: State) -> None:
    flower = Flower()
    watched = Supervisor(state, flower, 2)
    queue(state, "r1")
    for _ in range(8):
        watched.look()
        flower.over.add(len(flower.started))
    assert len(flower.started) == 3
    assert status(state, "r1") == ("failed", "run.crashed")
    assert [entry["code"] for entry in state.log.entries()] == ["run.crashed"]


def test_a_run_that_goes_on_between_deaths_is_not_given_up(state: State) -> None:
    flower = Flower()
    watched = Supervisor(state, flower, 1)
    queue(state, "r1")
    for number in range(1, 6):
        watched.look()
        with state.store.transaction() as db:
            history.write_round(db, "r1", Round(number, number, status="promoted"))
        flower.over.add(len(flower.started))
        watched.look()
    assert status(state, "r1")[0] == "queued"
    assert len(flower.started) >= 5


def test_the_rounds_of_an_earlier_run_do_not_count_against_the_next(state: State) -> None:
    flower = Flower()
    watched = Supervisor(state, flower, 1)

    def dies_after(run: str, number: int) -> None:
        watched.look()
        with state.store.transaction() as db:
            history.write_round(db, run, Round(number, number, status="promoted"))
        flower.over.add(len(flower.started))
        watched.look()

    queue(state, "r1")
    for number in range(1, 6):
        dies_after("r1", number)
    end(state, "r1")
    flower.over.add(len(flower.started))
    queue(state, "r2")
    for number in range(6, 9):
        dies_after("r2", number)
    assert status(state, "r2")[0] == "queued"
    assert flower.started.count("r2") >= 3


HOLD = """
import sys, time
from pathlib import Path
from moonflower.server.door.supervisor import carrying
with carrying(Path(sys.argv[1]), "r1"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_kernel_lets_go_of_a_killed_process(state: State) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(state.folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_carried(state.folder)
        other.kill()
    assert not is_carried(state.folder)


def test_two_processes_do_not_carry_out_runs_at_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.2)
    began = time.monotonic()
    with carrying(state.folder, "r1"), pytest.raises(Refused) as refusal, carrying(state.folder, "r1"):
        pass
    assert refusal.value.code == "run.busy"
    assert time.monotonic() - began < 5


def test_a_serverapp_that_hears_no_signal_ends_with_its_server(tmp_path: Path) -> None:
    """Flower's interrupt can be lost; the lock must not stay with a process whose server is gone."""
    script = (
        "import signal, sys, time; from pathlib import Path;"
        "from moonflower.configs import bundle; from moonflower.server.door import supervisor;"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); supervisor.end_with(bundle.server_process());"
        "lock = supervisor.carrying(Path(sys.argv[1]), 'run'); lock.__enter__();"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(["sleep", "60"]) as server:
        environment = {**os.environ, bundle.SERVER_PROCESS: str(server.pid)}
        line = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as serverapp:
            assert serverapp.stdout is not None
            assert serverapp.stdout.readline() == "held\n"
            assert is_carried(tmp_path)
            server.kill()
            assert serverapp.wait(PATIENCE_S) == 1
    assert not is_carried(tmp_path)
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) as late:
        assert late.wait(PATIENCE_S) == 1, "its server was gone before it began"


def test_the_serverapp_asks_for_that_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def end_with(server: int | None) -> None:
        asked.append(server)
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "end_with", end_with)
    monkeypatch.setenv(bundle.SERVER_PROCESS, "4711")
    with pytest.raises(KeyboardInterrupt):
        live.main(None, None)  # type: ignore[arg-type]
    assert asked == [4711]
