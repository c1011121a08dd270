"""One exchange with members over a Flower Grid: ask, and take the answers as they come.

Members' nodes come and go, and members that are away are waited for. A request is sent once its member's node is
connected. It is sent again if the process that got it is gone (its session changed) or Flower reports an error. That
is safe because requests are idempotent: asked twice, a member gives the same answer (``client/ledger/ledger.py``).
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
from ..protocol.messages import TELL, Body, Refusal, Route, Waits
from ..protocol.records import from_records, kind_of, to_records

logger = logging.getLogger(__name__)
POLL_S = 0.1
LOOK_S = 1.0  # longest time between two looks at who is connected
RESENDS = 2  # if a member needs another proof of the log's growth
LONGEST_PAUSE_S = 60.0  # before a member whose process keeps failing is asked again
BEHIND = "audit.behind"
INVALID_FAB = 7  # flwr.common.constant.ErrorCode: the node does not run this bundle (contract test)

Q = TypeVar("Q", bound=Body)
A = TypeVar("A", bound=Body)


class Clock(Protocol):
    """Time as the coordinator sees it; simulate brings its own."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""

    def wait(self, until: float) -> None:
        """Return when something may have come, or at ``until``."""


class Post(Protocol):
    """What an exchange needs of Flower's Grid."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids in order, with "" or None for a message that was not taken."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies to these messages that have arrived, few enough to be held in memory together."""


class Attaching(Protocol):
    """What is attached to every message."""

    def show(self, member: str, records: RecordDict) -> None:
        """Add the attachment to a message for a member."""

    def hear(self, member: str, records: RecordDict) -> None:
        """Take what a member attached to its reply."""


@dataclass(frozen=True)
class Answer(Generic[A]):
    """What came back from a member.

    Attributes:
        member: its name.
        reply: its answer, or why there is none.
    """

    member: str
    reply: A | Refused

    def body(self) -> A:
        """Return what the member answered.

        Raises:
            Refused: the member refused, failed, or answered something else.
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
        """Sleep for one poll interval, or until then if that is sooner."""
        time.sleep(max(0.0, min(POLL_S, until - time.monotonic())))


@dataclass(frozen=True)
class ConnectedNode:
    """A member's node as it is connected now.

    Attributes:
        id: Flower node id.
        session: changes whenever the member's process logs in again. What the process before it was asked is lost.
    """

    id: int
    session: str


@dataclass
class Awaited:
    """A member that has not answered, and the state of the asking.

    Attributes:
        since: when it was first due to be asked, in seconds on the exchange's clock.
        connected: whether its node is connected now.
        shut_out: whether it is revoked. It is waited for until it is added again.
        returns: how often its node logged in again since.
        node: the node that the newest message went to; None if a message is to be sent.
        message: id of the newest message.
        sent: when that was sent.
        behind: how often it needed another proof of the log's growth.
        broke: errors that Flower reported since its node last logged in.
        not_before: when it is asked again after an error.
    """

    since: float
    connected: bool = False
    shut_out: bool = False
    returns: int = 0
    node: ConnectedNode | None = None
    message: str = ""
    sent: float = 0.0
    behind: int = 0
    broke: int = 0
    not_before: float = 0.0
    _session: str | None = None

    def see(self, node: ConnectedNode | None) -> None:
        """Take note of its node as it is now."""
        self.connected = node is not None
        if node is None or node.session == self._session:
            return
        if self._session is not None:
            self.returns += 1
        self._session, self.broke, self.not_before = node.session, 0, 0.0

    def is_due(self, node: ConnectedNode | None, now: float) -> bool:
        """Return whether it is to be asked now, for the first time or again."""
        return node is not None and node != self.node and now >= self.not_before

    def ask_again(self, now: float) -> None:
        """Have it asked again, after a pause that grows with the number of errors."""
        self.node = None
        self.not_before = now + min(POLL_S * 2**self.broke, LONGEST_PAUSE_S) if self.broke else 0.0


class Awaiting(Protocol):
    """What watches the waiting for members."""

    @property
    def until(self) -> float:
        """Return when the waiting ends."""

    def look(self, awaited: Mapping[str, Awaited], now: float) -> Waits | None:
        """Look at who has not answered; return what to tell all others. Any exception ends the waiting."""

    def came(self, member: str) -> None:
        """Take note that a member answered."""


class Exchange:
    """Sends requests to members by name.

    Args:
        grid: Flower's Grid.
        members: all members of the federation, connected or not.
        nodes: returns the nodes that are connected now, by member.
        clock: measures the waiting.
        revoked: returns the revoked members. They are waited for like others, and not asked.
        away_after_s: a member that is waited for is named once it was not connected for longer than this.
    """

    def __init__(
        self,
        grid: Post,
        members: Sequence[str],
        nodes: Callable[[], Mapping[str, ConnectedNode]],
        clock: Clock,
        *,
        revoked: Callable[[], frozenset[str]] = frozenset,
        away_after_s: float = 60.0,
    ) -> None:
        self.members, self.revoked, self.away_after_s = tuple(sorted(members)), revoked, away_after_s
        self._grid, self._nodes, self._clock = grid, nodes, clock

    def now(self) -> float:
        """Return seconds on the exchange's clock."""
        return self._clock.now()

    def ask(
        self,
        route: Route[Q, A],
        requests: Mapping[str, Q],
        watch: Awaiting,
        letters: Attaching | None = None,
    ) -> Iterator[Answer[A]]:
        """Send each member its request; yield answers as they come, refusals among them.

        Ends when all have answered, however long that takes, or when the watch gives up. Members that did not answer
        are not yielded.

        Args:
            route: the kind of exchange.
            requests: member → request.
            watch: watches the waiting.
            letters: what is attached to every message.
        """
        waiting = {member: Awaited(self._clock.now()) for member in sorted(requests)}
        senders: dict[str, str] = {}  # id of a message → member, for every message sent: a late reply counts, too
        while waiting and self._clock.now() < watch.until:
            out = self.revoked()
            connected = {member: node for member, node in self._nodes().items() if member not in out}
            for member, asked in waiting.items():
                node, asked.shut_out = connected.get(member), member in out
                asked.see(node)
                if node is not None and asked.is_due(node, self._clock.now()):
                    asked.message = self._send(route.name, member, requests[member], node, letters)
                    if asked.message:
                        asked.node, senders[asked.message], asked.sent = node, member, self._clock.now()
            if (news := watch.look(waiting, self._clock.now())) is not None:
                for member in requests.keys() & connected.keys() - waiting.keys():
                    self._send(TELL.name, member, news, connected[member], letters)
            came = False
            for reply in self._grid.pull_messages(
                [message for message, member in senders.items() if member in waiting]
            ):
                came = True
                message = reply.metadata.reply_to_message_id
                member = senders.pop(message, "")
                if member not in waiting:
                    continue
                if letters is not None and reply.has_content():
                    letters.hear(member, reply.content)
                answer = _answer(route, reply, waiting[member], message, self._clock.now())
                _tell(route, member, message, self._clock.now() - waiting[member].sent, answer)
                if answer is not None:
                    del waiting[member]
                    watch.came(member)
                    yield Answer(member, answer)
            if waiting and not came:
                self._clock.wait(min(watch.until, self._clock.now() + LOOK_S))
        for member, asked in waiting.items():
            words = "%s: no answer" if asked.message else "%s: not asked, its node is not connected"
            logger.info(words, route.name, extra=_named(route.name, member, asked.message))

    def _send(self, route: str, member: str, request: Body, node: ConnectedNode, letters: Attaching | None) -> str:
        """Return the id of the message that was sent; "" if Flower did not take it."""
        records = to_records(request)
        if letters is not None:
            letters.show(member, records)
        message = Message(records, dst_node_id=node.id, message_type=route)
        return next(iter(self._grid.push_messages([message])), None) or ""


def _tell(route: Route[Q, A], member: str, message: str, took_s: float, answer: A | Refused | None) -> None:
    """Log a reply. The audit log says what it means for the round."""
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


def _answer(route: Route[Q, A], reply: Message, asked: Awaited, message: str, now: float) -> A | Refused | None:
    """Return what a reply says; None if the member is to be asked again, or was asked again already."""
    if not reply.has_error():
        answer = _read(route, reply)
        if not (isinstance(answer, Refused) and answer.code == BEHIND):
            return answer
    elif reply.error.code == INVALID_FAB:
        return Refused("task.refused", "the member's node does not run this bundle")
    if message != asked.message:
        return None  # from a process that is gone; a newer one was asked since
    if reply.has_error():
        asked.broke += 1
    elif asked.behind == RESENDS:
        return Refused(BEHIND, f"the member is still behind after {RESENDS} more proofs of the log's growth")
    else:
        asked.behind += 1
    asked.ask_again(now)
    return None


def _read(route: Route[Q, A], reply: Message) -> A | Refused:
    try:
        if kind_of(reply.content) == Refusal.kind:
            return Refused(from_records(Refusal, reply.content).code, "the member refused")
        return from_records(route.reply, reply.content)
    except Refused as error:
        return error
