"""Drills as people write them: KIND@ROUND:MEMBER. They are checked against the run that they are for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...configs.names import nfc
from ...errors import InputError, nearest

OF_MEMBERS = (
    "nan",
    "scale",
    "overflow",
    "rare",
    "trap",
    "flip",
    "inner-product",
    "tamper",
    "replay",
    "plaintext",
    "wrong-params",
    "junk",
    "crash",
    "rows",
)
OF_COORDINATOR = ("split-base", "nudge", "fork-list", "leave-out", "shift", "rushing")
OF_NODES = ("away", "flap")
KINDS = (*OF_MEMBERS, *OF_NODES, *OF_COORDINATOR)


@dataclass(frozen=True)
class Drill:
    """A fault injected on purpose.

    Attributes:
        kind: one of :data:`KINDS`.
        round: planned round, from 1.
        member: name of the member that does it, or that the coordinator does it to.
    """

    kind: str
    round: int
    member: str


def parse_drills(texts: Iterable[str], members: Sequence[str], rounds: int) -> list[Drill]:
    """Return the drills in ``texts``.

    Args:
        texts: ``KIND@ROUND:MEMBER``; MEMBER is a name or a 1-based index.
        members: the members' names, in order.
        rounds: number of rounds of the run.

    Raises:
        InputError: ``config.drill``: unknown kind or member, or a round that the run does not have.
    """
    drills = [_parse(nfc(text), members, rounds) for text in texts]
    taken: dict[tuple[int, str], Drill] = {}
    for drill in drills:
        who = "the coordinator" if drill.kind in OF_COORDINATOR else drill.member
        other = taken.setdefault((drill.round, who), drill)
        if other is not drill:
            both = f"{other.kind} and {drill.kind}"
            raise InputError("config.drill", f"--drill: {both} are both for {who} in round {drill.round}; expected one")
    return drills


def _parse(text: str, members: Sequence[str], rounds: int) -> Drill:
    kind, at, rest = text.partition("@")
    when, colon, who = rest.partition(":")
    if not (at and colon):
        raise InputError("config.drill", f"--drill {text}: expected KIND@ROUND:MEMBER, such as tamper@3:1")
    if kind not in KINDS:
        raise InputError("config.drill", f"--drill {text}: unknown kind {kind!r}; {nearest(kind, KINDS)}")
    first = 2 if kind in OF_COORDINATOR else 1
    if not when.isdecimal() or not first <= int(when) <= rounds:
        raise InputError("config.drill", f"--drill {text}: round {when!r}; expected {first} to {rounds}")
    if who in members:
        return Drill(kind, int(when), who)
    if who.isdecimal() and 1 <= int(who) <= len(members):
        return Drill(kind, int(when), members[int(who) - 1])
    raise InputError("config.drill", f"--drill {text}: unknown member {who!r}; {nearest(who, members)}")
