"""The node's end of the pipe to its worker: start the worker, hand it a message, take the reply, restart it.

The pipe carries frames of JSON or bytes, never pickle:

1. the node sends a job, then the message's objects, then ``go``; an empty frame instead of any of them cancels the job;
2. the worker sends ``ok``, the reply without content, and the reply's object tree;
3. the node names the objects that it wants;
4. the worker sends them one by one.

Any other order ends the worker.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...errors import InputError, WorkerDied
from . import confine

APP = "moonflower.client.live:open_app"
START_LIMIT_S = 300.0
STALL_S = 60
"""Most seconds from the beginning of a frame to its end."""
TICK_S = 0.5


@dataclass(frozen=True)
class WorkerReply:
    """A worker's reply without its content.

    Attributes:
        reply: Flower protobuf of the message.
        tree: Flower protobuf of its object tree.
        seconds: how long the app took.
    """

    reply: bytes = field(repr=False)
    tree: bytes = field(repr=False)
    seconds: float


class Pipe:
    """A warm child process that runs the app.

    Args:
        config: the client config.
        app: ``package.module:function`` that makes the app from the config.
        variables: of which the worker sees those that :mod:`confine` allows.

    Attributes:
        ready: whether the worker has read the data and waits for work, or works.
        isolated: whether the worker has no network.
        busy: whether it is in the middle of a job; to abandon the job, start the worker anew.
    """

    def __init__(self, config: Path, *, app: str = APP, variables: Mapping[str, str] = os.environ) -> None:
        self._config, self._app = config, app
        self._environment = confine.environment(variables)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self.ready, self.isolated, self.busy = False, False, False

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, in place of an earlier one; :meth:`wait` returns when it is ready."""
        self.kill()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STALL_S, 0))
            handle = theirs.fileno()
            module = f"{__package__}.worker"
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-P", "-m", module, str(handle), str(self._config), self._app, str(os.getpid())],
                pass_fds=[handle],
                env=self._environment,
                stdin=subprocess.DEVNULL,
            )
            self._pipe = Connection(ours.detach())

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self.ready, self.busy = False, False

    def wait(self, tick: Callable[[], None]) -> None:
        """Wait until the worker is ready for work.

        Args:
            tick: called now and then during the wait; an exception from it ends the wait.

        Raises:
            InputError: the worker found config or data wrong.
            WorkerDied: the worker ended before it was ready.
        """
        if self.ready:
            return
        reply = json.loads(self._take(time.monotonic() + START_LIMIT_S, tick))
        if "wrong" in reply:
            raise InputError(reply["wrong"], reply["message"], hint=reply["hint"])
        self.ready, self.isolated = True, bool(reply["isolated"])

    def work(
        self, job: Mapping[str, Any], objects: Iterable[bytes], limit_s: float, tick: Callable[[], None]
    ) -> WorkerReply | None:
        """Return the reply to a message; None if the app failed and the worker can go on.

        Args:
            job: what the worker must know besides the objects.
            objects: of the message; if taking them fails, the worker forgets the job.
            limit_s: seconds that it may take.
            tick: as in :meth:`wait`.

        Raises:
            WorkerDied: it ended, or took longer.
        """
        self.busy = True
        self._give(json.dumps(job).encode())
        try:
            for content in objects:
                self._give(content)
            self._give(b"go")
        except WorkerDied:
            raise
        except BaseException:
            self._give(b"")
            self.busy = False
            raise
        deadline = time.monotonic() + limit_s
        head = json.loads(self._take(deadline, tick))
        if not head["ok"]:
            self.busy = False
            return None
        reply, tree = self._take(deadline, tick), self._take(deadline, tick)
        return WorkerReply(reply, tree, float(head["seconds"]))

    def contents(self, wanted: Iterable[str]) -> Iterator[bytes]:
        """Yield the wanted objects of the reply; an empty list ends the job. Iterate to the end."""
        names = list(wanted)
        self._give(json.dumps(names).encode())
        for _ in names:
            yield self._take(time.monotonic() + STALL_S, lambda: None)
        self.busy = False

    def _give(self, frame: bytes) -> None:
        if self._pipe is None:
            raise WorkerDied("worker exit")
        try:
            self._pipe.send_bytes(frame)
        except OSError:
            raise WorkerDied("worker exit") from None

    def _take(self, deadline: float, tick: Callable[[], None]) -> bytes:
        if self._pipe is None:
            raise WorkerDied("worker exit")
        try:
            while not self._pipe.poll(TICK_S):
                if time.monotonic() > deadline:
                    raise WorkerDied("worker timeout")
                tick()
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDied("worker exit") from None
