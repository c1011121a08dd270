"""LocalGrid: Flower's Grid interface in one process, for simulate. No SuperLink, no ray, no threads.

Messages wait until they are pulled. Then the ClientApp of their node handles them one at a time, so the coordinator
holds one reply at a time. Members' time is virtual: live members work at the same time, and here they work one after
another, so this clock does not count their work. A reply that a drill delays or drops costs no real waiting.

Flower's ``TaskIdentity`` is set because ``Message`` needs it (contract test).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ..protocol.messages import ROUTES, Body
from ..protocol.records import from_records

RUN_ID = NODE_ID = TASK_ID = 1
Delay = Callable[[str, Body], float]
"""Maps (member, request) to the seconds of virtual time until the reply; ``inf`` if it never comes."""


@dataclass(frozen=True)
class _Waiting:
    message: Message
    ready: float


class LocalGrid(Grid):
    """A Grid of members that live in this process.

    Args:
        app: the ClientApp that all members run.
        members: node id → member name; the name is each node's ``node_config["member"]``.
        delay: delay of each reply; None for no delays.
    """

    def __init__(self, app: ClientApp, members: Mapping[int, str], delay: Delay | None = None) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, NODE_ID, TASK_ID
        self._app, self._members, self._delay = app, dict(members), delay
        self._contexts = {
            node: Context(run_id=RUN_ID, node_id=node, node_config={"member": name}, state=RecordDict(), run_config={})
            for node, name in members.items()
        }
        self._run = Run.create_empty(RUN_ID)
        self._queue: dict[str, _Waiting] = {}
        self._sent, self._skipped = 0, 0.0

    def now(self) -> float:
        """Return seconds: real time without the time in which members worked, plus the time that was skipped."""
        return time.monotonic() + self._skipped

    def wait(self, until: float) -> None:
        """Skip to the next reply that becomes ready, but not past ``until``, in seconds on this clock."""
        now = self.now()  # a reply that was ready and not taken belongs to an exchange that is over
        nearest = min((waiting.ready for waiting in self._queue.values() if waiting.ready > now), default=until)
        self._skipped += max(0.0, min(nearest, until) - now)

    def set_run(self, run: Run) -> None:
        """Set Flower's run record."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's run record."""
        return self._run

    def create_message(self, *_args: Any, **_kwargs: Any) -> Message:
        """Refuse: Flower deprecated this in favour of ``Message``."""
        raise TypeError("create_message is deprecated; construct a Message")

    def get_node_ids(self) -> Iterable[int]:
        """Return all node ids."""
        return list(self._members)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; return their ids in order."""
        ids = []
        for message in messages:
            self._sent += 1
            identifier = f"local-{self._sent}"
            message.metadata.__dict__["_message_id"] = identifier
            member = self._members[message.metadata.dst_node_id]
            delay = self._delay(member, _asked(message)) if self._delay else 0.0
            self._queue[identifier] = _Waiting(message, self.now() + delay)
            ids.append(identifier)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Have the first ready message among ``message_ids`` handled; return its reply, or nothing."""
        for identifier in message_ids:
            waiting = self._queue.get(identifier)
            if waiting is not None and waiting.ready <= self.now():
                del self._queue[identifier]
                began = time.monotonic()
                reply = self._app(waiting.message, self._contexts[waiting.message.metadata.dst_node_id])
                self._skipped -= time.monotonic() - began
                return [reply]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push messages and return the replies that come within ``timeout`` seconds; None waits for all."""
        ids, replies = list(self.push_messages(messages)), []
        deadline = self.now() + (float("inf") if timeout is None else timeout)
        while ids and self.now() < deadline:
            came = list(self.pull_messages(ids))
            replies += came
            ids = [i for i in ids if i in self._queue]
            if not came:
                self.wait(deadline)
        return replies


def play(app: ServerApp, grid: LocalGrid) -> None:
    """Let a ServerApp carry out its run on a grid."""
    app(grid, Context(run_id=RUN_ID, node_id=NODE_ID, node_config={}, state=RecordDict(), run_config={}))


def _asked(message: Message) -> Body:
    asked: Body = from_records(ROUTES[message.metadata.message_type].request, message.content)
    return asked
