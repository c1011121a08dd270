"""One exchange with members over a Flower Grid: ask, and take the answers one by one as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..errors import Refused
from ..messages import Body, Refusal

POLL_S = 0.2


class Clock(Protocol):
    """Time as the coordinator sees it; simulate brings its own."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""

    def wait(self, until: float) -> None:
        """Return when something may have come, at ``until`` at the latest."""


class WallClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait(self, until: float) -> None:
        """Sleep one poll interval."""
        time.sleep(max(0.0, min(POLL_S, until - time.monotonic())))


class Exchange:
    """Sends requests to members by name.

    Args:
        grid: Flower's Grid.
        nodes: member → Flower node id.
        clock: deadlines are judged by it.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], clock: Clock) -> None:
        self._grid, self._nodes, self._clock = grid, dict(nodes), clock

    @property
    def members(self) -> tuple[str, ...]:
        """Every member that has a node, sorted."""
        return tuple(sorted(self._nodes))

    def ask(self, route: str, requests: Mapping[str, Body], timeout_s: float) -> Iterator[tuple[str, RecordDict | str]]:
        """Send each member its request; yield (member, reply), or (member, code) where it refused or broke.

        Ends when all have answered or the time is up; whoever did not answer is not yielded.

        Args:
            route: Flower message type, such as ``train.seal``.
            requests: member → request.
            timeout_s: seconds to wait in all.
        """
        deadline = self._clock.now() + timeout_s
        asked = sorted(requests)
        messages = [
            Message(requests[member].to_records(), dst_node_id=self._nodes[member], message_type=route)
            for member in asked
        ]
        waiting = dict(zip(self._grid.push_messages(messages), asked, strict=True))
        del messages
        while waiting and self._clock.now() < deadline:
            came = list(self._grid.pull_messages(list(waiting)))
            for reply in came:
                member = waiting.pop(reply.metadata.reply_to_message_id, None)
                if member is not None:
                    yield member, _content(reply)
            if not came:
                self._clock.wait(deadline)


def _content(reply: Message) -> RecordDict | str:
    if reply.has_error():  # Flower's own: the node or its app broke before it could answer
        return "update.failed"
    records = reply.content
    config = records.config_records.get("message")
    if config is not None and config.get("kind") == Refusal.kind:
        try:
            return Refusal.from_records(records).code
        except Refused as error:
            return error.code
    return records
