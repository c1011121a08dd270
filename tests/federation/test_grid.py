"""LocalGrid's clock: what a member does takes no time, what is late takes as long as it says."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from moonflower.federation.grid import LocalGrid
from moonflower.protocol.messages import Body, Enrol
from moonflower.protocol.records import to_records


def slow_app(message: Message, _context: Any) -> Message:
    time.sleep(0.05)
    return Message(RecordDict(), reply_to=message)


def requests() -> list[Message]:
    asked = Enrol(run="r", circle={}, seed=7, rounds=1, start="", choice=0)
    return [Message(to_records(asked), dst_node_id=node, message_type="query.enrol") for node in (1, 2)]


def ask(grid: LocalGrid) -> list[str]:
    return list(grid.push_messages(requests()))


def test_members_that_work_one_after_the_other_do_not_use_up_each_others_time() -> None:
    grid = LocalGrid(slow_app, {1: "a", 2: "b"})  # type: ignore[arg-type]
    began = grid.now()
    replies = grid.send_and_receive(requests(), timeout=0.04)
    assert len(list(replies)) == 2
    assert grid.now() - began < 0.04


@pytest.mark.parametrize(("delay", "waits"), [(5.0, 5.0), (float("inf"), 7.0)])
def test_a_late_reply_is_waited_for_without_waiting(delay: float, waits: float) -> None:
    def late(member: str, asked: Body) -> float:
        return delay if member == "b" and isinstance(asked, Enrol) else 0.0

    grid = LocalGrid(slow_app, {1: "a", 2: "b"}, late)  # type: ignore[arg-type]
    began, really = grid.now(), time.monotonic()
    ids = ask(grid)
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []
    grid.wait(began + 7.0)
    assert grid.now() - began == pytest.approx(waits, abs=0.5)
    assert len(list(grid.pull_messages(ids))) == (1 if delay == 5.0 else 0)
    assert time.monotonic() - really < 1
