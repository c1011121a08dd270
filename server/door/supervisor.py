"""Brings every accepted run to its end: starts its ServerApp, and starts it again if it has died.

A ServerApp identifies itself by holding a lock on a file that names its run. The kernel releases the lock when the
process ends, however it ends, so nothing has to be guessed from heartbeats or process numbers. Runs are carried out
one at a time, in the order in which they were accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from sqlalchemy import Connection

from ...errors import Refused
from ..records import history
from ..records.state import State

logger = logging.getLogger(__name__)
LOCK = "serverapp.lock"
LOOK_S = 0.5
WAIT_S = 30.0
SPARE_BYTES = 1 << 20  # with less free space, a ServerApp probably died of a full disk
START_S = 60.0  # a ServerApp that has not taken the lock after this time counts as dead


class Flower(Protocol):
    """What the supervisor needs of the SuperLink."""

    def start(self, run: str) -> int:
        """Start a ServerApp for a run; returns Flower's id."""

    def is_over(self, flower_run: int) -> bool:
        """Return whether a run is over, according to Flower."""

    def stop(self, flower_run: int) -> None:
        """End a run for Flower."""

    def revive(self) -> None:
        """Start SuperExec again if it has died."""


@contextlib.contextmanager
def carrying(folder: Path, run: str) -> Iterator[None]:
    """Hold the lock that says that this process carries out ``run``.

    Raises:
        Refused: ``run.busy``: another process holds the lock and does not end.
    """
    deadline = time.monotonic() + WAIT_S
    with (folder / LOCK).open("a+") as lock:
        while not _taken(lock):  # the supervisor takes it for a moment, too, when it looks
            if time.monotonic() > deadline:
                raise Refused("run.busy", "another process is carrying out a run on this state folder")
            time.sleep(LOOK_S / 5)
        lock.truncate(0)
        lock.write(json.dumps({"run": run}))
        lock.flush()
        yield


def end_with(server: int | None) -> None:
    """Arrange that this ServerApp ends at once when process ``server`` ends.

    Flower sends one interrupt for this, and a retried request may swallow that. A ServerApp that lives on holds the
    lock, and the next server would wait for it forever.
    """
    if server is None:
        return
    try:
        watched = os.pidfd_open(server)
    except ProcessLookupError:
        os._exit(1)

    def watch() -> None:
        select.select([watched], [], [])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-server", daemon=True).start()


def is_carried(folder: Path) -> bool:
    """Return whether a process holds that lock."""
    with (folder / LOCK).open("a+") as lock:
        return not _taken(lock)


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass
class _Started:
    run: str
    flower_run: int
    since: float
    begun: bool = False


class Supervisor:
    """Watches the runs of a state.

    Args:
        state: the coordinator's records.
        flower: the SuperLink.
        restarts: how often in a row a run is started again without a round that came to an end in between.
    """

    def __init__(self, state: State, flower: Flower, restarts: int) -> None:
        self._state, self._flower, self._restarts = state, flower, restarts
        self._started: _Started | None = None
        self._mourned, self._deaths, self._seen = "", 0, 0
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now: a run was accepted. May be called from the event loop only."""
        self._woken.set()

    async def watch(self) -> None:
        """Look after the runs until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # a full disk, a locked database: the next look may do better
                logger.exception("could not check on the runs; trying again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), LOOK_S)
            self._woken.clear()

    def look(self) -> None:
        """Look once, and start a run that should be running and is not."""
        self._flower.revive()
        carried = is_carried(self._state.folder)
        with self._state.store.read() as db:
            waiting = history.open_runs(db)
        started = self._started
        if started is not None:
            if carried:
                started.begun = True
                return
            late = not started.begun and time.monotonic() - started.since > START_S
            if not (started.begun or late or self._flower.is_over(started.flower_run)):
                return  # it is being started
            self._started = None
            if started.run in waiting:
                self._flower.stop(started.flower_run)
                self._died(started.run)
                return
            self._deaths = 0
        if waiting and not carried:
            logger.info("starting its ServerApp", extra={"run": waiting[0]})
            self._started = _Started(waiting[0], self._flower.start(waiting[0]), time.monotonic())

    def _died(self, run: str) -> None:
        """Count a ServerApp that ended before its run did; give the run up when that happens in a row."""
        if run != self._mourned:
            self._mourned, self._deaths, self._seen = run, 0, 0
        with self._state.store.transaction() as db:
            done = _finished(db, run)
            self._deaths = 1 if done > self._seen else self._deaths + 1
            self._seen = done
            given_up = self._deaths > self._restarts
            if given_up:
                for broken in history.break_off(db, run, "run.crashed"):
                    self._state.log.append(db, "failed", run=run, number=broken.number, code=broken.code)
                history.end_run(db, run, "failed", "run.crashed")
                self._state.log.append(db, "run_ended", run=run, code="run.crashed", status="failed")
        if given_up:
            died = f"its ServerApp died {self._deaths} times in a row; the run is given up"
            logger.error(died, extra={"run": run, "code": "run.crashed"})
            self._deaths = 0
        else:
            full = shutil.disk_usage(self._state.folder).free < SPARE_BYTES
            why = f" because the disk of {self._state.folder} is full" if full else ""
            logger.warning("its ServerApp died%s; another one continues where it stopped", why, extra={"run": run})


def _finished(db: Connection, run: str) -> int:
    """Return how many rounds of a run came to an end."""
    return sum(row["status"] in ("promoted", "kept", "refused") for row in history.rounds(db, run))
