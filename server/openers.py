"""Whose partial openings a sum is opened with (scheme ``threshold``): ask t members of set A, replace who fails.

The coordinator relays partial openings to set A and cannot read them: it sees whom it asked, sizes, and whether the
members could open with them. Attempts count up within an opening; a coordinator that was killed never takes an opening
up again, because its run goes on in a new epoch, whose contexts are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from flwr.app import RecordDict

from ..crypto.context import RoundContext
from ..crypto.flood import MAX_ATTEMPTS, Opening, ThresholdPlan
from ..crypto.masks import Wrapped, check_wrapped
from ..crypto.threshold import Openers, judge, next_openers
from ..errors import Refused
from ..messages import Open, Partial, PartialOpening
from .run import Run, Seats

LIARS = 0  # openers that lie on purpose: an opening that holds its check is taken (docs/protocol.md, "Who lied")


class Partials:
    """The partial openings of one sum.

    Args:
        run: the run.
        seats: its epoch, of scheme ``threshold``.
        context: of the sum.
        lanes: of its vectors.

    Attributes:
        seconds: member → seconds that its newest partial opening took.
    """

    def __init__(self, run: Run, seats: Seats, context: RoundContext, lanes: int) -> None:
        assert isinstance(seats.plan, ThresholdPlan)
        self._run, self._seats, self._context = run, seats, context
        self._plan, self._bytes = seats.plan, seats.plan.body_bytes(lanes)
        self._outcomes: dict[Openers, str] = {}
        self._away: dict[str, str] = {}
        self._openers: Openers = ()
        self._attempt = 0
        self.seconds: dict[str, float] = {}

    def fill(self, request: Open) -> Open:
        """Return a request to open with the partial openings of t members; the next set's, if it was called before.

        Raises:
            Refused: ``open.partial``: no one member explains why the sum did not open, so an envelope or a deal is at
                fault; or fewer than t members are left that may give one, and the code is why most others did not.
        """
        while self._attempt < MAX_ATTEMPTS and not judge(self._outcomes, 1).sealed:
            present = [member for member in request.members if member not in self._away]
            self._openers = next_openers(present, self._plan.threshold, self._outcomes)
            if not self._openers:
                break
            found = self._ask(request)
            self._attempt += 1
            if len(found) == len(self._openers):
                return request.model_copy(
                    update={
                        "openers": list(self._openers),
                        "attempt": self._attempt - 1,
                        "partials": {member: one.ciphertext for member, one in found.items()},
                        "wrapped": {member: one.as_dict() for member, one in found.items()},
                    }
                )
        codes = Counter(self._away.values()).most_common(1)
        code = "open.partial" if self._outcomes or not codes else codes[0][0]
        raise Refused(code, f"no {self._plan.threshold} members opened the sum after {self._attempt} attempts")

    def failed(self) -> None:
        """Take note that the newest partial openings do not open the sum."""
        self._outcomes[self._openers] = ""
        about = {"number": self._context.number, "purpose": self._context.purpose}
        self._run.note("warned", what="opening", code="open.partial", openers=list(self._openers), **about)

    def held(self, digest: str) -> None:
        """Take note that they opened it, and name who had spoilt earlier openings, where that is certain enough.

        A member is named where no smaller explanation leaves it out, or where it is the only one of a failed opening
        that took no part in this one: it garbles always, or another does so at times.
        """
        self._outcomes[self._openers] = digest
        said = judge(self._outcomes, LIARS)
        left = said.suspects - {*self._openers}
        for member in sorted(said.named or (left if len(left) == 1 else frozenset())):
            self._refused(member, "open.partial")

    def _ask(self, request: Open) -> dict[str, Wrapped]:
        """Return what the openers of this attempt gave; who gave nothing right is not asked again for this sum."""
        fields: dict[str, Any] = {
            name: getattr(request, name) for name in Partial.model_fields if name not in ("openers", "attempt")
        }
        asked = Partial(**fields, openers=list(self._openers), attempt=self._attempt)
        found: dict[str, Wrapped] = {}
        requests = dict.fromkeys(self._openers, asked)
        for member, reply in self._run.ask("evaluate.partial", requests, self._run.offer.crypto.open_timeout_s):
            try:
                found[member] = self._checked(member, reply, tuple(request.members))
            except Refused as error:
                self._away[member] = error.code
        for member in self._openers:
            if member not in found:
                self._refused(member, self._away.setdefault(member, "envelope.late"))
        return found

    def _checked(self, member: str, reply: RecordDict | str, members: tuple[str, ...]) -> Wrapped:
        if isinstance(reply, str):
            raise Refused(reply, "the member gave no partial opening")
        came = PartialOpening.from_records(reply)
        about = Opening(self._context.digest, members, self._openers, self._attempt)
        wrapped = Wrapped.parse(came.wrapped, came.ciphertext)
        check_wrapped(about, self._seats.roster.card(member), wrapped, self._bytes)
        self.seconds[member] = came.partial_s
        return wrapped

    def _refused(self, member: str, code: str) -> None:
        about: Mapping[str, Any] = {"number": self._context.number, "purpose": self._context.purpose}
        self._run.note("opening_refused", member=member, code=code, **about)
