"""Lines in a member's own log about the members that a run waits for."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .. import logs
from ..errors import Refused
from ..protocol.messages import Waits
from ..protocol.words import STEPS, WHY

logger = logging.getLogger(__name__)


def tell(request: Waits, names: Iterable[str]) -> None:
    """Log which members the run waits for, since when, and why.

    Args:
        request: from the coordinator.
        names: all members of the circle.

    Raises:
        Refused: ``envelope.member``: the request names a member that is not in the circle.
    """
    known = {*names}
    step = STEPS.get(request.step, "answer")
    for member, since in request.since.items():
        if member not in known:
            raise Refused("envelope.member", "the run waits for a member that is not in this member's circle")
        why = WHY.get(request.why.get(member, ""), "away")
        back = request.returns.get(member, 0)
        often = f", came back {back} times" if back else ""
        logger.warning(
            "the run waits for %s to %s, since %s (%s%s); nothing is lost, and there is nothing to do here",
            *(member, step, logs.printable(since[:40]), why, often),
        )
