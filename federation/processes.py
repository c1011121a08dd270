"""Processes of a federation on this machine: start them, notice when one dies, and end them together."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from ..configs.names import slug
from ..errors import Refused
from .remote import await_ready
from .stage import Stage

logger = logging.getLogger(__name__)
START_S = 60.0
STOP_S = 15.0


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of one of our processes."""
    return [sys.executable, "-m", "moonflower", *map(str, arguments)]


class Processes:
    """Processes that start and end together. Each writes its own log file.

    Args:
        logs: folder of the log files.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, line: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process under a name."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{slug(name)}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we end them, in order
                env=None if environment is None else {**os.environ, **environment},
            )

    def check(self) -> None:
        """Check that all processes are alive.

        Raises:
            Refused: ``run.unreachable``: one ended; the message has the last line of its log.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                log = self._logs / f"{slug(name)}.log"
                lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                last = lines[-1] if lines else "it said nothing"
                ended = f"{name} ended with status {process.returncode}: {last}"
                raise Refused("run.unreachable", ended, hint=str(log))

    def end(self) -> None:
        """End all processes, the newest first. A process that does not end within 15 s is killed."""
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.running.items():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end within %g s and was killed", name, STOP_S)
                process.kill()
                process.wait()
        self.running.clear()


@contextmanager
def raised(stage: Stage) -> Iterator[Processes]:
    """Start issuer, server and clients, and end them at the end of the block."""
    processes = Processes(stage.folder / "logs")
    try:
        processes.start("issuer", command("issuer", stage.issuer))
        processes.start("server", command("server", stage.server))
        for name, config in stage.clients.items():
            processes.start(name, command("client", config))
        await_ready(lambda: is_up(stage, processes), "the server", START_S)
        yield processes
    finally:
        processes.end()


def is_up(stage: Stage, processes: Processes | None = None) -> bool:
    """Return whether issuer and server answer."""
    if processes is not None:
        processes.check()
    trusted = ssl.create_default_context(cafile=stage.folder / "ca.pem")
    try:
        discovery = f"{stage.issuer_url}/.well-known/openid-configuration"
        return all(
            httpx.get(url, verify=trusted, timeout=5.0, trust_env=False).is_success
            for url in (discovery, f"{stage.server_url}/health")
        )
    except httpx.TransportError:
        return False
