"""The practice circle of a federation on one machine. One person has all the keys, proposes the circle and signs it.

The document, the signatures and the log's entries are the same as live; only nobody is asked. The members' secrets come
from a seed, so a node with its own secret is never in a practice circle.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..client.circles import Circles
from ..configs.recipe import Recipe
from ..configs.roles import CircleSettings
from ..protocol.circle import Circle, SignedCircle
from ..server.records import circles as records
from ..server.records.state import State

RUNS_A_DAY, MAX_ENVELOPE_MB = 1000, 1024


def floor(min_members: int) -> CircleSettings:
    """Return the floor of practice circles. It is wide, because all their nodes are on the same user's machine."""
    return CircleSettings(min_members=min_members, runs_a_day=RUNS_A_DAY, max_envelope_mb=MAX_ENVELOPE_MB)


def begin(recipe: Recipe, members: Mapping[str, Circles], state: State) -> SignedCircle:
    """Propose a circle of these members, sign it for all of them, and return it with their signatures.

    Args:
        recipe: the circle's recipe.
        members: name → the circles of that member.
        state: the coordinator's records.

    Raises:
        Refused: a member does not sign it.
    """
    pins = {name: member.own.identity.card.node.pin for name, member in members.items()}
    with state.store.read() as db:
        number = records.board(db, time.time()).newest + 1
    circle = Circle.of(recipe, pins, number=number)
    with state.store.transaction() as db:
        records.propose(db, state.log, circle, time.time())
    for name, member in sorted(members.items()):
        signature = member.sign(circle, (), by_hand=True)
        assert signature is not None  # nobody is let go
        with state.store.transaction() as db:
            records.take_signature(db, state.log, circle.digest, name, signature, time.time())
    with state.store.read() as db:
        signed = records.signed(db, circle.digest)
    for member in members.values():
        member.enter(signed)
    return signed
