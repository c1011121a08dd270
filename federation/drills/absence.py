"""A member's node that goes away on purpose: once for a while, or again and again because its process dies.

``away`` disconnects the node for ten minutes when it is asked for its update, in this round and in the next. ``flap``
makes its process die three times on each request of the round; each time it comes back after five seconds. Time is
virtual, so nobody really waits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ...protocol.messages import Body, RoundRequest, Seal
from ...protocol.purposes import UPDATE
from ...server.exchange import ConnectedNode
from .kinds import Drill

AWAY_S, DOWN_S = 600.0, 5.0
FALLS = 3  # of a flapping process, with each kind of request


class Absences:
    """The nodes of a simulated federation, some of which go and come back.

    Args:
        drills: drills of the kinds ``away`` and ``flap``.
        nodes: name → Flower node id, for all members.
        now: returns seconds on the simulation's clock.
    """

    def __init__(self, drills: Sequence[Drill], nodes: Mapping[str, int], now: Callable[[], float]) -> None:
        self._drills, self._ids, self._now = drills, dict(nodes), now
        self._back: dict[str, float] = {}
        self._lives: Counter[str] = Counter()
        self._falls: Counter[tuple[str, int, type[Body]]] = Counter()

    def nodes(self) -> dict[str, ConnectedNode]:
        """Return the nodes that are connected now."""
        now = self._now()
        return {
            name: ConnectedNode(number, str(self._lives[name]))
            for name, number in self._ids.items()
            if self._back.get(name, now) <= now
        }

    def delay(self, member: str, asked: Body) -> float:
        """Return 0, or infinity if this request makes the member's node go. It is asked again when it is back."""
        if not isinstance(asked, RoundRequest) or asked.purpose != UPDATE.name:
            return 0.0
        falls = self._falls[member, asked.round, type(asked)]
        for drill in self._drills:
            if drill.member != member:
                continue
            away = drill.kind == "away" and drill.round in (asked.round, asked.round - 1) and isinstance(asked, Seal)
            if away and not falls:
                return self._go(member, asked, AWAY_S)
            if drill.kind == "flap" and drill.round == asked.round and falls < FALLS:
                return self._go(member, asked, DOWN_S)
        return 0.0

    def _go(self, member: str, asked: RoundRequest, seconds: float) -> float:
        self._falls[member, asked.round, type(asked)] += 1
        self._lives[member] += 1
        self._back[member] = self._now() + seconds
        return math.inf
