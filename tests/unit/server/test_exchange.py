"""Asking members whose nodes come and go: whom it asks again, and for whom it waits, for as long as it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from moonflower.errors import Refused
from moonflower.federation.grid import LocalGrid
from moonflower.protocol.messages import TAKE_SEAT, TELL, Refusal, SeatTaken, TakeSeat, Waits
from moonflower.protocol.records import from_records, to_records
from moonflower.server.exchange import (
    BEHIND,
    INVALID_FAB,
    LONGEST_PAUSE_S,
    POLL_S,
    RESENDS,
    Awaited,
    ConnectedNode,
    Exchange,
)

Reply = Callable[[Message], Message | None]
IDS = {"anna": 1, "bert": 2}
TAKEN = SeatTaken(key="0" * 64, signature="")


def answers(message: Message) -> Message:
    return Message(to_records(TAKEN), reply_to=message)


def is_lost(message: Message) -> None:
    return None


def fails(code: int) -> Reply:
    return lambda message: Message(Error(code=code, reason="canary"), reply_to=message)


@dataclass
class Watching:
    """What looks on, until a moment; it keeps what it saw."""

    until: float
    telling: float = 1e9
    seen: dict[str, list[tuple[bool, int, int]]] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)

    def look(self, awaited: Mapping[str, Awaited], now: float) -> Waits | None:
        for member, one in awaited.items():
            assert one.since <= now
            found = (one.connected, one.returns, one.broke)
            if self.seen.setdefault(member, [found])[-1] != found:
                self.seen[member].append(found)
        if now < self.telling:
            return None
        self.telling = 1e9
        return Waits(run="r", number=0, step="seat", since=dict.fromkeys(awaited, ""), why={}, returns={})

    def came(self, member: str) -> None:
        self.arrived.append(member)


class Grid:
    """A Grid whose nodes do as they are told, and its clock.

    Attributes:
        does: member → what it does with its first message, its second, …; the last one stays.
        later: (time, what happens then).
        sent: (time, member) of every message.
    """

    def __init__(self, **does: list[Reply]) -> None:
        LocalGrid(None, {})  # type: ignore[arg-type]  # Message asks for Flower's TaskIdentity
        self.nodes = {name: ConnectedNode(number, "first") for name, number in IDS.items()}
        self.does: dict[str, list[Reply]] = {"anna": [answers], "bert": [answers], **does}
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.sent: list[tuple[float, str]] = []
        self.replies: dict[str, Message] = {}
        self.refuses, self.time, self.asked_for = 0, 0.0, 0
        self.revoked: frozenset[str] = frozenset()

    def now(self) -> float:
        return self.time

    def wait(self, until: float) -> None:
        self.time = min(self.time + POLL_S, until)
        for due in [one for one in self.later if one[0] <= self.time]:
            self.later.remove(due)
            due[1]()

    def push_messages(self, messages: list[Message]) -> list[str | None]:
        if self.refuses:
            self.refuses -= 1
            return [None]
        (message,) = messages
        identifier = f"m{len(self.sent)}"
        message.metadata.__dict__["_message_id"] = identifier
        member = next(name for name, number in IDS.items() if number == message.metadata.dst_node_id)
        turn = sum(name == member for _, name in self.sent)
        self.sent.append((self.time, member))
        reply = self.does[member][min(turn, len(self.does[member]) - 1)](message)
        if reply is not None:
            self.replies[identifier] = reply
        return [identifier]

    def pull_messages(self, messages: list[str]) -> list[Message]:
        self.asked_for = max(self.asked_for, len(messages))
        return [self.replies.pop(one) for one in messages if one in self.replies]

    def ask(self, *members: str, timeout_s: float = 10.0, telling: float = 1e9) -> dict[str, str]:
        """Ask members and wait so long; return what came of it, "" for an answer."""
        self.watch = Watching(self.time + timeout_s, telling)
        exchange = Exchange(self, IDS, lambda: self.nodes, self, revoked=lambda: self.revoked)  # type: ignore[arg-type]
        found: dict[str, str] = {}
        request = TakeSeat(run="r", roster=[], ciphertext=b"", signature=b"")
        for answer in exchange.ask(TAKE_SEAT, dict.fromkeys(members or IDS, request), self.watch):
            assert answer.member not in found
            found[answer.member] = answer.reply.code if isinstance(answer.reply, Refused) else ""
        return found

    def at(self, time: float, what: Callable[[], None]) -> None:
        self.later.append((time, what))

    def log_in_anew(self, member: str) -> None:
        self.nodes = {**self.nodes, member: ConnectedNode(IDS[member], "second")}


def test_everybody_is_asked_once() -> None:
    grid = Grid()
    assert grid.ask() == {"anna": "", "bert": ""}
    assert [member for _, member in grid.sent] == ["anna", "bert"]


@pytest.mark.parametrize("timeout_s", [3.0, 600.0])
def test_who_does_not_answer_is_waited_for_to_the_end_and_not_named(timeout_s: float) -> None:
    """Everybody is needed, so nothing is ever enough; only who looks on can end it."""
    grid = Grid(bert=[is_lost])
    assert grid.ask(timeout_s=timeout_s) == {"anna": ""}
    assert grid.watch.arrived == ["anna"]
    assert grid.time == pytest.approx(timeout_s, abs=0.3)


def test_who_has_answered_is_told_for_whom_the_others_wait_and_nobody_waits_for_that() -> None:
    told: list[Message] = []

    def take(message: Message) -> None:
        told.append(message)

    grid = Grid(anna=[answers, take], bert=[is_lost])
    assert grid.ask(telling=5.0) == {"anna": ""}
    (message,) = told
    assert message.metadata.message_type == TELL.name
    assert from_records(Waits, message.content).since == {"bert": ""}
    assert [member for time, member in grid.sent if time >= 5.0] == ["anna"]


def test_a_refusal_is_its_code() -> None:
    grid = Grid(bert=[lambda message: Message(to_records(Refusal(code="seal.already")), reply_to=message)])
    assert grid.ask()["bert"] == "seal.already"


def test_a_member_that_comes_late_is_asked_when_it_is_there() -> None:
    grid = Grid()
    node = grid.nodes.pop("bert")
    grid.at(2.0, lambda: grid.nodes.update(bert=node))
    assert grid.ask() == {"anna": "", "bert": ""}
    assert grid.sent == [(0.0, "anna"), (pytest.approx(2.0, abs=0.15), "bert")]
    assert grid.watch.seen["bert"] == [(False, 0, 0), (True, 0, 0)]


def test_a_process_that_was_started_again_is_asked_again() -> None:
    grid = Grid(bert=[is_lost, answers])
    grid.at(1.0, lambda: grid.log_in_anew("bert"))
    assert grid.ask() == {"anna": "", "bert": ""}
    assert grid.sent == [(0.0, "anna"), (0.0, "bert"), (pytest.approx(1.0, abs=0.15), "bert")]


def test_a_node_that_is_away_for_a_while_is_not_asked_twice() -> None:
    """Its process lives on: it still works on the request that it got."""
    grid = Grid(bert=[is_lost])
    node = grid.nodes["bert"]
    grid.at(1.0, lambda: grid.nodes.pop("bert") and None)
    grid.at(2.0, lambda: grid.nodes.update(bert=node))
    grid.at(3.0, lambda: grid.replies.update(m1=late[0]))
    late: list[Message] = []
    grid.does["bert"] = [lambda message: late.append(answers(message))]
    assert grid.ask() == {"anna": "", "bert": ""}
    assert len(grid.sent) == 2


def test_a_late_answer_to_the_first_asking_is_as_good() -> None:
    late: list[Message] = []
    grid = Grid(bert=[lambda message: late.append(answers(message)), is_lost])
    grid.at(1.0, lambda: grid.log_in_anew("bert"))
    grid.at(2.0, lambda: grid.replies.update(m1=late[0]))
    assert grid.ask() == {"anna": "", "bert": ""}
    assert len(grid.sent) == 3


def test_what_comes_after_an_answer_is_ignored() -> None:
    def answers_twice(message: Message) -> Message:
        grid.replies["m1"] = grid.first
        return answers(message)

    grid: Any = Grid(anna=[is_lost])

    def keep(message: Message) -> None:
        grid.first = answers(message)

    grid.does["bert"] = [keep, answers_twice]
    grid.at(1.0, lambda: grid.log_in_anew("bert"))
    assert grid.ask(timeout_s=3.0) == {"bert": ""}


@pytest.mark.parametrize(
    "code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED, ErrorCode.MESSAGE_UNAVAILABLE]
)
def test_a_node_that_breaks_is_asked_again_after_ever_longer_pauses(code: int) -> None:
    """A process that dies is no answer: its member is waited for like one that is away."""
    mended = Grid(bert=[fails(code)] * 5 + [answers])
    assert mended.ask() == {"anna": "", "bert": ""}
    assert mended.watch.seen["bert"][-1] == (True, 0, 5)
    broken = Grid(bert=[fails(code)])
    assert broken.ask(timeout_s=600) == {"anna": ""}
    times = [time for time, member in broken.sent if member == "bert"]
    pauses = [round(after - before) for before, after in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_process_that_comes_back_is_asked_at_once_however_often_it_broke() -> None:
    grid = Grid(bert=[fails(ErrorCode.CLIENT_APP_CRASHED)] * 8 + [answers])
    grid.at(50.0, lambda: grid.log_in_anew("bert"))
    assert grid.ask(timeout_s=600) == {"anna": "", "bert": ""}
    assert grid.time == pytest.approx(50.0, abs=0.3)
    assert grid.watch.seen["bert"][-1] == (True, 1, 0)


def test_a_member_that_cannot_follow_the_logs_growth_is_asked_twice_more() -> None:
    grid = Grid(bert=[lambda message: Message(to_records(Refusal(code=BEHIND)), reply_to=message)])
    assert grid.ask() == {"anna": "", "bert": BEHIND}
    assert [member for _, member in grid.sent].count("bert") == 1 + RESENDS == 3


def test_an_error_about_a_process_that_is_gone_counts_for_nothing() -> None:
    errors: list[Message] = []
    grid = Grid(bert=[lambda message: errors.append(fails(ErrorCode.NODE_UNAVAILABLE)(message) or message), is_lost])
    grid.at(1.0, lambda: grid.log_in_anew("bert"))
    grid.at(2.0, lambda: grid.replies.update(m1=errors[0]))
    assert grid.ask(timeout_s=4.0) == {"anna": ""}
    assert len(grid.sent) == 3


def test_a_node_that_refuses_the_bundle_is_not_asked_again() -> None:
    assert ErrorCode.INVALID_FAB == INVALID_FAB
    grid = Grid(bert=[fails(INVALID_FAB)])
    assert grid.ask() == {"anna": "", "bert": "task.refused"}
    assert len(grid.sent) == 2


def test_a_member_that_is_revoked_is_waited_for_and_not_asked_until_it_is_let_in_again() -> None:
    """A sum is over everybody in the circle: only the circle lets somebody go."""
    grid = Grid(bert=[is_lost, answers])

    def revoke() -> None:
        grid.revoked = frozenset({"bert", "somebody else"})
        grid.log_in_anew("bert")

    def let_in() -> None:
        grid.revoked = frozenset()

    grid.at(1.0, revoke)
    grid.at(5.0, let_in)
    assert grid.ask() == {"anna": "", "bert": ""}
    assert grid.time == pytest.approx(5.0, abs=0.2)
    assert [time for time, member in grid.sent if member == "bert"] == [0.0, pytest.approx(5.0, abs=0.2)]


def test_a_message_that_flower_did_not_take_is_sent_again() -> None:
    grid = Grid()
    grid.refuses = 3
    assert grid.ask() == {"anna": "", "bert": ""}
    assert sorted(member for _, member in grid.sent) == ["anna", "bert"]


def test_the_log_knows_each_request_by_its_messages_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    grid = Grid(bert=[lambda message: Message(to_records(Refusal(code="seal.already")), reply_to=message)])
    grid.ask()
    said = {vars(one)["member"]: (one.getMessage(), vars(one)) for one in caplog.records}
    assert said["anna"][0] == f"{said['anna'][1]['route']} answered after 0.00 s"
    assert said["bert"][1]["code"] == "seal.already"
    assert len({one["request"] for _, one in said.values()}) == 2
