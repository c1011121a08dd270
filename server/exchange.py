"""One exchange with members over a Flower Grid: ask, and take the answers one by one as they come.

Members' nodes come and go. A request is sent once its member has a node, and again when the process that got it is
gone (its session changed) or Flower reports that it broke. That is safe because every request is idempotent at the
member: asked twice, it gives the same answer (``client/ledger/ledger.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from flwr.app import Message, RecordDict

from .. import logs
from ..errors import Refused
from ..protocol.messages import Body, Refusal, Route
from ..protocol.records import from_records, kind_of, to_records

logger = logging.getLogger(__name__)
POLL_S = 0.1
RESENDS = 2  # after an error that Flower reports, or where a member needs another proof of the log's growth
BEHIND = "audit.behind"
INVALID_FAB = 7  # flwr.common.constant.ErrorCode: a bundle that the node does not run (contract test)

Q = TypeVar("Q", bound=Body)
A = TypeVar("A", bound=Body)


class Clock(Protocol):
    """Time as the coordinator sees it; simulate brings its own."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""

    def wait(self, until: float) -> None:
        """Return when something may have come, at ``until`` at the latest."""


class Post(Protocol):
    """What an exchange needs of Flower's Grid."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids in order, "" or None for one that was not taken."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies to these messages that are here, few enough to be held together."""


class Attaching(Protocol):
    """What goes along with every message, whatever it is about."""

    def show(self, member: str, records: RecordDict) -> None:
        """Add it to a message for a member."""

    def hear(self, member: str, records: RecordDict) -> None:
        """Take what a member added to its reply."""


@dataclass(frozen=True)
class Answer(Generic[A]):
    """What came back from a member.

    Attributes:
        member: its name.
        reply: what it answered, or why there is no answer.
    """

    member: str
    reply: A | Refused

    def body(self) -> A:
        """Return what the member answered.

        Raises:
            Refused: it refused, broke, or answered something else.
        """
        if isinstance(self.reply, Refused):
            raise self.reply
        return self.reply


class WallClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait(self, until: float) -> None:
        """Sleep one poll interval."""
        time.sleep(max(0.0, min(POLL_S, until - time.monotonic())))


@dataclass(frozen=True)
class ConnectedNode:
    """A member's node as it is connected now.

    Attributes:
        id: Flower node id.
        session: changes whenever the member's process logs in anew; what the one before was asked is lost.
    """

    id: int
    session: str


@dataclass
class _Asked:
    """How far the asking of one member has come.

    Attributes:
        node: that the newest message went to; None when one is to be sent.
        message: id of the newest message.
        since: when it was sent.
        errors: reported by Flower so far.
    """

    node: ConnectedNode | None = None
    message: str = ""
    since: float = 0.0
    errors: int = 0


class Exchange:
    """Sends requests to members by name.

    Args:
        grid: Flower's Grid.
        members: every member of the federation, connected or not.
        nodes: returns the members that are connected now.
        clock: deadlines are judged by it.
        revoked: returns who may no longer take part; nobody waits for them.
        answer_timeout_s: how long members have for requests that need no training or opening.
    """

    def __init__(
        self,
        grid: Post,
        members: Sequence[str],
        nodes: Callable[[], Mapping[str, ConnectedNode]],
        clock: Clock,
        *,
        revoked: Callable[[], frozenset[str]] = frozenset,
        answer_timeout_s: float = 120.0,
    ) -> None:
        self.members, self.revoked, self.answer_timeout_s = tuple(sorted(members)), revoked, answer_timeout_s
        self._grid, self._nodes, self._clock = grid, nodes, clock

    def ask(
        self,
        route: Route[Q, A],
        requests: Mapping[str, Q],
        timeout_s: float,
        letters: Attaching | None = None,
    ) -> Iterator[Answer[A]]:
        """Send each member its request; yield answers as they come, refusals among them.

        Ends when all have answered or the time is up; whoever did not answer is not yielded.

        Args:
            route: the kind of exchange.
            requests: member → request.
            timeout_s: seconds to wait in all.
            letters: what goes along with every message.
        """
        deadline = self._clock.now() + timeout_s
        waiting = {member: _Asked() for member in sorted(requests)}
        senders: dict[str, str] = {}  # id of a message → member, of every message sent: a late reply is as good
        while waiting and self._clock.now() < deadline:
            for member in sorted(self.revoked() & waiting.keys()):
                del waiting[member]
                yield Answer(member, Refused("auth.client_revoked", "the member was revoked"))
            connected = self._nodes()
            for member, asked in waiting.items():
                node = connected.get(member)
                if node is not None and node != asked.node:
                    asked.message = self._send(route.name, member, requests[member], node, letters)
                    if asked.message:
                        asked.node, senders[asked.message], asked.since = node, member, self._clock.now()
            came = False
            for reply in self._grid.pull_messages([one for one, member in senders.items() if member in waiting]):
                came = True
                message = reply.metadata.reply_to_message_id
                member = senders.pop(message, "")
                if member not in waiting:
                    continue
                if letters is not None and reply.has_content():
                    letters.hear(member, reply.content)
                answer = _answer(route, reply, waiting[member], message)
                _tell(route, member, message, self._clock.now() - waiting[member].since, answer)
                if answer is not None:
                    del waiting[member]
                    yield Answer(member, answer)
            if waiting and not came:
                self._clock.wait(deadline)
        for member, asked in waiting.items():
            words = "%s: no answer in time" if asked.message else "%s: not asked, its node is not connected"
            logger.info(words, route.name, extra=_named(route.name, member, asked.message))

    def _send(self, route: str, member: str, request: Body, node: ConnectedNode, letters: Attaching | None) -> str:
        """Return the id of the message that was sent; "" where Flower did not take it."""
        records = to_records(request)
        if letters is not None:
            letters.show(member, records)
        message = Message(records, dst_node_id=node.id, message_type=route)
        return next(iter(self._grid.push_messages([message])), None) or ""


def _tell(route: Route[Q, A], member: str, message: str, took_s: float, answer: A | Refused | None) -> None:
    """Log a reply: what it means for the round, the audit log says."""
    named = _named(route.name, member, message)
    if answer is None:
        logger.info("%s is asked again", route.name, extra=named)
    elif isinstance(answer, Refused):
        logger.info("%s refused", route.name, extra={**named, "code": answer.code})
    else:
        seconds = round(took_s, 3)
        logger.info("%s answered after %.2f s", route.name, took_s, extra={**named, "seconds": seconds})


def _named(route: str, member: str, message: str) -> dict[str, str]:
    return {"route": route, "member": member, "request": logs.message_request(message)}


def _answer(route: Route[Q, A], reply: Message, asked: _Asked, message: str) -> A | Refused | None:
    """Return what a reply says; None where the member is to be asked again, or was already."""
    if not reply.has_error():
        said = _read(route, reply)
        if not (isinstance(said, Refused) and said.code == BEHIND):
            return said
    elif reply.error.code == INVALID_FAB:
        return Refused("task.refused", "the member's node does not run this bundle")
    if message != asked.message:
        return None  # about a process that is gone; a newer one was asked since
    asked.node, asked.errors = None, asked.errors + 1
    if asked.errors <= RESENDS:
        return None
    return Refused("update.failed" if reply.has_error() else BEHIND, "the member was asked again and again")


def _read(route: Route[Q, A], reply: Message) -> A | Refused:
    try:
        if kind_of(reply.content) == Refusal.kind:
            return Refused(from_records(Refusal, reply.content).code, "the member refused")
        return from_records(route.reply, reply.content)
    except Refused as error:
        return error
