"""The circle: who trains together. A sum is over everybody in it, or it is not opened (rule 2).

It is the set of names and pins in a node's own config. Every member makes its digest from what it itself holds, and
the digest stands in every context: members that hold other circles seal under other contexts, and nothing opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..canonical import digest
from ..crypto.pairs import order
from ..errors import Refused


@dataclass(frozen=True)
class Circle:
    """All members of a federation, by name and pin.

    Attributes:
        federation: its name.
        members: (name, pin) pairs, sorted by name.
        practice: the members' secrets come from a seed, so that whoever knows it knows which rows are whose. A node
            with a secret of its own is in no such circle.
    """

    federation: str
    members: tuple[tuple[str, str], ...]
    practice: bool

    @classmethod
    def of(cls, federation: str, pins: Mapping[str, str], practice: bool, smallest: int = 2) -> Circle:
        """Return the circle of these pins.

        Args:
            federation: its name.
            pins: name → pin, of every member.
            practice: see :class:`Circle`.
            smallest: fewest members.

        Raises:
            Refused: ``circle.differs``: too few members, or two that are one.
        """
        members = tuple(sorted(pins.items()))
        if len(members) < max(smallest, 2):
            raise Refused("circle.differs", f"a circle of {_count(len(members))}; {_least(smallest)}")
        if len({order(name) for name in pins}) < len(pins) or len({*pins.values()}) < len(pins):
            raise Refused("circle.differs", "two members of the circle share a name or a pin")
        return cls(federation, members, practice)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(name for name, _ in self.members)

    @property
    def pins(self) -> dict[str, str]:
        """Name → pin."""
        return dict(self.members)

    @property
    def first(self) -> str:
        """Who makes the key under which answers travel."""
        return self.members[0][0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits."""
        return digest(
            {
                "kind": "moonflower.circle",
                "federation": self.federation,
                "members": [list(pair) for pair in self.members],
                "practice": self.practice,
            }
        )


def _count(members: int) -> str:
    return "one member" if members == 1 else f"{members} members"


def _least(smallest: int) -> str:
    if smallest == 2:
        return "expected two or more: of one alone the sum is its own update"
    return f"expected {smallest} or more (min_members); of two, each reads the other's update"
