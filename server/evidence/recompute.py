"""Adds a round's sum up again from kept envelopes, which checks the coordinator's arithmetic.

It shows that the coordinator added exactly what the members signed. It opens nothing: no key is needed, and none is
here. The module is pure except for reading the envelopes, one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ...crypto.planner import Plan
from ...crypto.sealed import Sum
from ...errors import InputError, Refused
from ...protocol.context import RoundContext
from ...protocol.envelope import RawEnvelope, check, split
from .certificate import ClosedSet


def recompute(closed: ClosedSet, kept: Callable[[str], RawEnvelope]) -> str:
    """Return the SHA-256 of the sum of all members' envelopes, after checking that it equals the logged one.

    Args:
        closed: the list as it is in the log.
        kept: returns the kept envelope with a header digest, unchecked.

    Raises:
        Refused: ``audit.envelope``: an envelope is missing or is not what its member signed for this sum (the message
            names the member); ``audit.sum``: the sum differs from the logged one.
    """
    try:
        context, found_plan = RoundContext(**closed.context), dict(closed.context["crypto"])
        plan = Plan(**{**found_plan, "primes": tuple(found_plan["primes"])})
    except (TypeError, KeyError, InputError):
        raise Refused("audit.certificate", "another version of moonflower wrote the round's context") from None
    running: Sum | None = None
    for member in closed.members:
        card, header = closed.roster.card(member), closed.headers[member]
        try:
            raw = kept(header)
            signed, body = split(raw)
            if signed.digest != header:
                raise Refused("audit.envelope", f"its header's digest is {signed.digest}, the log has {header}")
            if running is None:  # the log does not hold the model's size: all bodies must have the first one's
                running = Sum(plan, _lanes(plan, len(body)))
            envelope = check(raw, card, context, running.body_bytes)
            running.add(envelope.body)
        except Refused as error:
            raise Refused("audit.envelope", f"the envelope of {member!r}: {error}") from None
    digest = hashlib.sha256(running.dump()).hexdigest() if running else ""
    if digest != closed.sum:
        raise Refused("audit.sum", f"the envelopes add up to {digest}, the log has {closed.sum}")
    return digest


def _lanes(plan: Plan, body_bytes: int) -> int:
    """Return the fewest lanes of a vector whose sealed form has this length, or the nearest shorter length."""
    travelling = 8 * body_bytes // plan.coefficient_bits
    return max(1, (travelling - plan.zeros - 7) * plan.lanes + 1)
