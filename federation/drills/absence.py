"""What happens to a member's node, on purpose: it is away for a while, or its process starts anew again and again.

``away`` takes the node off the line for ten minutes as it is asked for its update, in this round and in the next.
``flap`` has its process die three times with each request of the round, and come back after five seconds. Time is
virtual: nobody really waits.
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
        drills: of the kinds ``away`` and ``flap``.
        nodes: name → number, of all members.
        now: seconds on the simulation's clock.
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
        """Return 0, or infinity for a request with which the member's node goes; it is asked again when it is back."""
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
