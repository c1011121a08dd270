"""The circles and signatures that the server shows to nodes and submitters: ``GET /api/circle``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from .circle import Farewell, SignedCircle


@dataclass(frozen=True)
class CircleBoard:
    """The circles at a server, their signatures, and farewells.

    Attributes:
        living: the circle that began last, with all signatures; None before the first.
        proposed: the circles that wait for signatures, by number.
        farewells: to the living circle; :meth:`Farewell.is_from` checks one.
        newest: the highest number of a circle that a member signed or that waits for signatures; 0 for none.
    """

    living: SignedCircle | None
    proposed: tuple[SignedCircle, ...]
    farewells: tuple[Farewell, ...]
    newest: int

    @property
    def all(self) -> tuple[SignedCircle, ...]:
        """All circles, the living one first."""
        return (*((self.living,) if self.living else ()), *self.proposed)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "living": None if self.living is None else self.living.as_dict(),
            "proposed": [circle.as_dict() for circle in self.proposed],
            "farewells": [farewell.as_dict() for farewell in self.farewells],
            "newest": self.newest,
        }

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> CircleBoard:
        """Return what came from a server. Every signature under a circle is checked, and nothing else.

        Raises:
            Refused: ``circle.differs``: a circle, a signature or a farewell is malformed.
        """
        try:
            living, proposed, farewells, newest = (
                raw[field] for field in ("living", "proposed", "farewells", "newest")
            )
            return cls(
                None if living is None else SignedCircle.parse(living),
                tuple(SignedCircle.parse(circle) for circle in proposed),
                tuple(Farewell.parse(farewell) for farewell in farewells),
                int(newest),
            )
        except (KeyError, TypeError, ValueError):
            expected = "expected living, proposed, farewells and newest"
            raise Refused("circle.differs", f"the server's list of circles is malformed; {expected}") from None
