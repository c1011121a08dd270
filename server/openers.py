"""Whose partial openings a sum is opened with (scheme ``threshold``): ask t members of set A, replace who fails.

The coordinator relays partial openings to set A and cannot read them: it sees whom it asked, sizes, and whether the
members could open with them. Where the run says that the coordinator combines, it adds them up itself, and could read
the sum. Attempts count up within an opening; a coordinator that was killed never takes an opening up again, because its
run goes on in a new epoch, whose contexts are new.

An opener is waited for as long again as the first one took, five seconds at least, while others can take its place;
who was late is asked once more, with all of ``open_timeout_s``, where nobody else is left.

**Who spoilt an opening** is named where everybody else of a failed opening took part in one that held. To come so far
one member of set A opens the sum again with other openers (:meth:`Partials.question`): a few attempts, of a failed
opening only. That names who garbles always in a sum; who garbles once and then behaves may have somebody else named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from flwr.app import RecordDict

from ..crypto import threshold
from ..crypto.context import RoundContext
from ..crypto.flood import MAX_ATTEMPTS, Opening, ThresholdPlan
from ..crypto.masks import Wrapped, check_wrapped
from ..crypto.threshold import Openers, judge, next_openers
from ..errors import Refused
from ..messages import Open, Partial, PartialOpening
from .run import Run, Seats


class Partials:
    """The partial openings of one sum.

    Args:
        run: the run.
        seats: its epoch, of scheme ``threshold``.
        context: of the sum.
        lanes: of its vectors.
        garblers: members that spoilt an opening of this epoch; they are asked last. Who is named is added.

    Attributes:
        seconds: member → seconds that its newest partial opening took.
    """

    def __init__(self, run: Run, seats: Seats, context: RoundContext, lanes: int, garblers: set[str]) -> None:
        assert isinstance(seats.plan, ThresholdPlan)
        self._run, self._seats, self._context = run, seats, context
        self._plan, self._lanes, self._garblers = seats.plan, lanes, garblers
        self._outcomes: dict[Openers, str] = {}
        self._away: dict[str, str] = {}
        self._hurried: set[str] = set()
        self._patient = False
        self._openers: Openers = ()
        self._attempt = 0
        self.seconds: dict[str, float] = {}

    def fill(self, request: Open) -> Open:
        """Return a request to open with the partial openings of t members; the next set's, if it was called before.

        Raises:
            Refused: ``open.partial``: no one member, and no two where two can be spared, explain why the sum did not
                open, so an envelope or a deal is at fault; or fewer than t members are left that may give one, and the
                code is why most others did not.
        """
        spare = len(request.members) - self._plan.threshold
        while self._attempt < MAX_ATTEMPTS and not judge(self._outcomes, min(max(spare, 1), 2)).sealed:
            self._openers = self._next(request.members)
            if not self._openers:
                break
            filled = self._filled(request)
            if filled is not None:
                return filled
        codes = Counter(self._away.values()).most_common(1)
        code = "open.partial" if self._outcomes or not codes else codes[0][0]
        raise Refused(code, f"no {self._plan.threshold} members opened the sum after {self._attempt} attempts")

    def failed(self) -> None:
        """Take note that the newest partial openings do not open the sum."""
        self._outcomes[self._openers] = ""
        about = {"number": self._context.number, "purpose": self._context.purpose}
        self._run.note("warned", what="opening", code="open.partial", openers=list(self._openers), **about)

    def held(self, digest: str) -> None:
        """Take note that they opened it."""
        self._outcomes[self._openers] = digest

    def question(self, request: Open) -> Open | None:
        """Return a request whose answer, held or failed, leaves fewer members who may have spoilt an opening.

        None where there is nothing to find out, or no way to; who is named then was logged.
        """
        while True:
            good = {member for openers, digest in self._outcomes.items() if digest for member in openers}
            doubts = [sorted({*openers} - good) for openers, digest in self._outcomes.items() if not digest]
            several = min((doubt for doubt in doubts if len(doubt) > 1), key=len, default=[])
            half = several[: (len(several) + 1) // 2]
            others = sorted(good - self._away.keys())[: self._plan.threshold - len(half)]
            self._openers = tuple(sorted([*half, *others]))
            possible = half and len(self._openers) == self._plan.threshold and not {*half} & self._away.keys()
            if not possible or self._attempt == MAX_ATTEMPTS:
                break
            filled = self._filled(request)
            if filled is not None:
                return filled
        for member in sorted({doubt[0] for doubt in doubts if len(doubt) == 1}):
            self._garblers.add(member)
            self._refused(member, "open.partial")
        return None

    def _next(self, members: list[str]) -> Openers:
        """Return whom to ask next; () where nobody is left."""
        present = [member for member in members if member not in self._away]
        trusted = [member for member in present if member not in self._garblers]
        found = next_openers(trusted, self._plan.threshold, self._outcomes)
        found = found or next_openers(present, self._plan.threshold, self._outcomes)
        if found or not self._hurried:
            return found
        for member in self._hurried:
            del self._away[member]
        self._hurried, self._patient = set(), True
        return self._next(members)

    def _filled(self, request: Open) -> Open | None:
        """Return the request with what the openers of a new attempt gave; None where it does not open the sum."""
        spare = {*request.members} - self._away.keys() - {*self._openers}
        found = self._ask(request, hurry=bool(spare) and not self._patient)
        self._attempt += 1
        if len(found) < len(self._openers):
            return None
        came: dict[str, Any] = {"openers": list(self._openers), "attempt": self._attempt - 1}
        partials = {member: one.ciphertext for member, one in found.items()}
        if self._plan.combiner == "members":
            wrapped = {member: one.as_dict() for member, one in found.items()}
            return request.model_copy(update={**came, "partials": partials, "wrapped": wrapped})
        try:
            combined = threshold.add(self._plan, request.total, partials, self._lanes)
            threshold.read(self._plan, combined, self._lanes, None).blocks()
        except Refused:
            self.failed()
            return None
        return request.model_copy(update={**came, "combined": combined})

    def _ask(self, request: Open, *, hurry: bool) -> dict[str, Wrapped]:
        """Return what the openers of this attempt gave; who gave nothing right is not asked again for this sum.

        Args:
            request: to open; what it says of set A goes to the openers.
            hurry: others can take the place of who is slow.
        """
        fields: dict[str, Any] = {
            name: getattr(request, name) for name in Partial.model_fields if name not in ("openers", "attempt")
        }
        asked = Partial(**fields, openers=list(self._openers), attempt=self._attempt)
        found: dict[str, Wrapped] = {}
        requests, timeout_s = dict.fromkeys(self._openers, asked), self._run.offer.crypto.open_timeout_s
        for member, reply in self._run.ask("evaluate.partial", requests, timeout_s, lambda: hurry and bool(found)):
            try:
                found[member] = self._checked(member, reply, tuple(request.members))
            except Refused as error:
                self._away[member] = error.code
        for member in self._openers:
            if member not in found:
                if hurry and member not in self._away:
                    self._hurried.add(member)
                self._refused(member, self._away.setdefault(member, "envelope.late"))
        return found

    def _checked(self, member: str, reply: RecordDict | str, members: tuple[str, ...]) -> Wrapped:
        if isinstance(reply, str):
            raise Refused(reply, "the member gave no partial opening")
        came = PartialOpening.from_records(reply)
        about = Opening(self._context.digest, members, self._openers, self._attempt)
        wrapped = Wrapped.parse(came.wrapped, came.ciphertext)
        size = self._plan.body_bytes(self._lanes)
        check_wrapped(about, self._seats.roster.card(member), wrapped, size, self._plan.combiner)
        self.seconds[member] = came.partial_s
        return wrapped

    def _refused(self, member: str, code: str) -> None:
        about: Mapping[str, Any] = {"number": self._context.number, "purpose": self._context.purpose}
        self._run.note("opening_refused", member=member, code=code, **about)
