"""The keeper: the small parent process of ``moonflower client``. It starts and restarts the node, and keeps the log.

It checks the config before anything starts. It holds a lock on the state folder, because two nodes with one ledger
could seal a round twice. It uses neither flwr nor torch nor the network, so little can make it fail.

====================  ================================================================
the node ended with   then
====================  ================================================================
0                     done
2                     config or data are wrong: reported, not tried again
77                    refused: tried again after 1 s and after 5 s, then reported
anything else         started again after 1, 2, 4 … 30 s; from 1 s on if it lived a minute
====================  ================================================================
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...configs.roles import ClientConfig, load_config
from ...errors import InputError
from ..keyring import load_keys
from .logfile import LogFile

NODE = (sys.executable, "-P", "-m", f"{__package__}.loop")
LOCK = "lock"
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
REFUSED_PAUSES_S = (1.0, 5.0)
LIVED_S = 60.0
STOP_S = 10.0
WRONG, BROKEN, REFUSED = 2, os.EX_TEMPFAIL, os.EX_NOPERM


@dataclass(frozen=True)
class NodeExit:
    """How a node process ended.

    Attributes:
        status: its exit status; negative for a signal.
        lived_s: how long it ran.
        code, message, hint: from its last words, or "".
    """

    status: int
    lived_s: float
    code: str = ""
    message: str = ""
    hint: str = ""


def keep(config: Path, *, once: bool = False, command: Sequence[str] = NODE) -> int:
    """Keep the node of a config running until SIGTERM or SIGINT; return the exit status.

    Args:
        config: client config.
        once: do not start the node again after it ends.
        command: starts a node; the config and the descriptor for its last words are added.

    Raises:
        InputError: config, keys or data are wrong, or another client uses the state folder.
    """
    settings = load_config(ClientConfig, config)
    state = settings.client.state
    load_keys(state)
    os.umask(0o077)  # for all files that this process and its children write
    stop = threading.Event()
    with locked(state), _signals(stop):
        journal = LogFile(settings.client.log_format, settings.client.member, state)
        try:
            return _Keeper(config, journal, stop, command).run(once)
        finally:
            journal.close()


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the lock of a state folder; the system releases it when this process ends in any way.

    Raises:
        InputError: ``config.state``: another client has the lock, or the folder cannot be written.
    """
    try:
        handle = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError("config.state", f"state folder {state} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise InputError(
            "config.state", f"another client already uses state folder {state}; expected one", hint="stop the other one"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Keeper:
    def __init__(self, config: Path, journal: LogFile, stop: threading.Event, command: Sequence[str]) -> None:
        self._config, self._journal, self._stop, self._command = config, journal, stop, command

    def run(self, once: bool) -> int:
        broken = refused = 0
        while not self._stop.is_set():
            ended = self._one()
            if self._stop.is_set() or ended.status == 0:
                break
            if ended.lived_s > LIVED_S:
                broken = refused = 0
            if ended.status == WRONG:
                raise InputError(ended.code or "config.value", ended.message or "config is wrong", hint=ended.hint)
            if ended.status == REFUSED:
                if once or refused >= len(REFUSED_PAUSES_S):
                    advice = f"; {ended.hint}" if ended.hint else ""
                    self._say(f"ends: {ended.message} ({ended.code}){advice}", logging.ERROR)
                    return REFUSED
                pause, refused = REFUSED_PAUSES_S[refused], refused + 1
            elif once:
                return ended.status if ended.status > 0 else BROKEN
            else:
                pause, broken = PAUSES_S[min(broken, len(PAUSES_S) - 1)], broken + 1
            how = f"by signal {-ended.status}" if ended.status < 0 else f"with status {ended.status}"
            self._say(f"the node ended {how}; starting it again in {pause:.0f} s", logging.WARNING)
            self._stop.wait(pause)
        self._say("stopped")
        return 0

    def _one(self) -> NodeExit:
        """Run one node until it ends, or until the keeper is asked to stop."""
        began = time.monotonic()
        hear, tell = os.pipe()
        with open(hear, "rb") as reason:
            try:
                process = subprocess.Popen(  # noqa: S603  # our own module
                    [*self._command, str(self._config), "--reason", str(tell), "--parent", str(os.getpid())],
                    pass_fds=[tell],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            finally:
                os.close(tell)
            assert process.stderr is not None
            copying = self._journal.follow(process.stderr)
            while process.poll() is None and not self._stop.wait(0.1):
                pass
            if process.poll() is None:
                self._end(process)
            copying.join(2.0)
            lived = time.monotonic() - began
            return NodeExit(process.returncode, lived, **_last_words(reason.read(65536)))

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._say(f"the node did not stop in {STOP_S:.0f} s; killed", logging.WARNING)
            process.kill()
            process.wait()

    def _say(self, message: str, level: int = logging.INFO) -> None:
        self._journal.say(level, message)


def _last_words(data: bytes) -> dict[str, Any]:
    """Return code, message and hint of the last line that a node wrote, if it wrote one."""
    try:
        reason = json.loads(data.splitlines()[-1])
        return {name: str(reason[name]) for name in ("code", "message", "hint")}
    except (ValueError, KeyError, IndexError, TypeError):
        return {}
