"""What the schemes do differently at a member: dealing an epoch's keys, sealing, and opening a sum.

Everything else of a round is the same for both (``client/app.py``). In scheme ``shared`` one member deals, and every
member opens a sum by itself. In scheme ``threshold`` every member deals, and a sum is opened from the partial openings
of t members, which are wrapped for the members of set A (``crypto.masks``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..crypto import dealing, keys, sealed, shamir
from ..crypto.dealing import EpochShares
from ..crypto.flood import Opening, ThresholdPlan
from ..crypto.identity import Identity, Roster
from ..crypto.keys import EpochKey, EpochTerms
from ..crypto.mac import Mac
from ..crypto.masks import Wrapped, bare, unwrap, wrap
from ..crypto.planner import Plan
from ..crypto.quantise import Ints
from ..crypto.sealed import SealedVector
from ..crypto.secret import SecretKey, generate
from ..crypto.threshold import Check, Seat, combine, read
from ..errors import Refused
from ..messages import Deals, Open, Partial, TakeDeal
from .ledger import Ledger
from .shares import OwnDeal


class Held(Protocol):
    """What a member holds of a confirmed epoch."""

    def seal(self, context: str, blocks: Iterable[Ints], lanes: int) -> SealedVector:
        """Return the sealed vector of plaintext rows, for the context with this digest."""

    def check_total(self, context: str, tags: Mapping[str, list[int]], total: bytes, lanes: int) -> None:
        """Check that a total is exactly the sum of what these members sealed (``envelope.tag``, ``open.set``)."""

    def open(self, context: str, request: Open, lanes: int) -> Iterator[Ints]:
        """Yield the opened rows of a total that was checked."""


class SharedKey:
    """Scheme ``shared``: the epoch's key, which every member has."""

    def __init__(self, plan: Plan, he_key: bytes, secret: bytes, name: str) -> None:
        self._plan, self._key, self._secret, self._name = plan, SecretKey(plan, he_key), secret, name

    def seal(self, context: str, blocks: Iterable[Ints], lanes: int) -> SealedVector:
        """Return the sealed vector."""
        return sealed.seal(self._key, Mac(self._secret, context, self._plan), self._name, blocks, lanes, self._plan)

    def check_total(self, context: str, tags: Mapping[str, list[int]], total: bytes, lanes: int) -> None:
        """Check the authenticated sum."""
        sealed.check_total(Mac(self._secret, context, self._plan), tags, total, lanes, self._plan)

    def open(self, context: str, request: Open, lanes: int) -> Iterator[Ints]:
        """Decrypt the total."""
        return sealed.open_total(self._key, request.total, request.seeds, lanes, self._plan)


class Shareholder:
    """Scheme ``threshold``: a share; a sum is opened from the partials of t members."""

    def __init__(self, held: shamir.EpochShare, identity: Identity, roster: Roster) -> None:
        self._seat, self._held, self._identity, self._roster = Seat(held), held, identity, roster

    def seal(self, context: str, blocks: Iterable[Ints], lanes: int) -> SealedVector:
        """Return the sealed vector."""
        return self._seat.seal(context, blocks, lanes)

    def check_total(self, context: str, tags: Mapping[str, list[int]], total: bytes, lanes: int) -> None:
        """Check the authenticated sum."""
        sealed.check_total(Mac(self._held.secret, context, self._held.plan), tags, total, lanes, self._held.plan)

    def partial(self, about: Opening, lanes: int) -> bytes:
        """Return this member's partial opening; the ledger remembers it already."""
        return self._seat.partial(about, lanes)

    def wrap(self, about: Opening, partial: bytes) -> Wrapped:
        """Return a partial opening for who combines, signed."""
        if self._held.plan.combiner == "coordinator":
            return bare(self._identity, about, partial)
        return wrap(self._identity, about, partial, self._roster, about.members)

    def open(self, context: str, request: Open, lanes: int) -> Iterator[Ints]:
        """Combine the partial openings, or read what the coordinator combined.

        Raises:
            Refused: ``open.set``: not of the openers, or combined by who should not; ``open.partial``: what they open
                does not hold its check, or one is not for this member; ``envelope.signature``, ``envelope.member``,
                ``envelope.malformed``.
        """
        about, plan = opening_of(context, request), self._held.plan
        check = Check(self._held.secret, context, about.members, plan)
        if plan.combiner == "coordinator":
            if request.partials or request.wrapped:
                raise Refused("open.set", "partial openings came, where the coordinator combines them")
            return read(plan, request.combined, lanes, check).blocks()
        if not {*request.partials} == {*request.wrapped} == {*about.openers}:
            raise Refused("open.set", "the partial openings are not of exactly the openers")
        partials = {name: self._unwrapped(about, name, request) for name in about.openers}
        return combine(plan, request.total, partials, lanes, check).blocks()

    def _unwrapped(self, about: Opening, opener: str, request: Open) -> bytes:
        wrapped = Wrapped.parse(request.wrapped[opener], request.partials[opener])
        try:
            return unwrap(self._identity, about, self._roster.card(opener), wrapped)
        except Refused as error:
            if error.code != "deal.signature":
                raise
            raise Refused("open.partial", f"the partial opening of {opener!r} does not open here") from error


def opening_of(context: str, request: Open | Partial) -> Opening:
    """Return which opening a request is about."""
    return Opening(context, tuple(request.members), tuple(request.openers), request.attempt)


def make_deals(identity: Identity, ledger: Ledger, run: str, terms: EpochTerms, roster: Roster, plan: Plan) -> Deals:
    """Return this member's deals; in scheme ``threshold`` the same payloads again for the same terms."""
    commitments: Mapping[str, str] = {}
    if isinstance(plan, ThresholdPlan):
        kept = ledger.own_deal(terms.epoch)
        if kept is None or (kept.run, kept.terms) != (run, terms):
            dealt = shamir.deal(plan, roster.names)
            kept = OwnDeal(run, terms, dealt.own, dealt.payloads, dealt.commitments)
            ledger.keep_own_deal(kept)
        deals = dealing.wrap(identity, terms, roster, kept.payloads, kept.commitments)
        commitments = kept.commitments
    else:
        deals = keys.deal(identity, terms, roster, plan)
    return Deals(
        ciphertexts={deal.recipient: deal.ciphertext for deal in deals},
        signatures={deal.recipient: deal.signature for deal in deals},
        commitments=dict(commitments),
    )


def take_deals(
    identity: Identity, ledger: Ledger, terms: EpochTerms, roster: Roster, plan: Plan, request: TakeDeal
) -> EpochKey | EpochShares:
    """Return what the deals in a request make, checked.

    Raises:
        Refused: ``deal.signature``; ``deal.epoch``: this member dealt nothing, or something else.
    """
    if {*request.ciphertexts} != {*request.signatures} or not request.ciphertexts:
        raise Refused("deal.signature", "a deal is missing, or its signature")
    deals = {
        dealer: keys.Deal(dealer, identity.name, ciphertext, request.signatures[dealer])
        for dealer, ciphertext in request.ciphertexts.items()
    }
    if not isinstance(plan, ThresholdPlan):
        if len(deals) != 1:
            raise Refused("deal.signature", f"{len(deals)} members dealt, expected one")
        return keys.receive(identity, terms, roster, plan, next(iter(deals.values())))
    kept = ledger.own_deal(terms.epoch)
    if kept is None or kept.terms != terms or dict(kept.commitments) != request.commitments.get(identity.name):
        raise Refused("deal.epoch", "this member dealt something else for that epoch, or nothing")
    return dealing.receive(identity, terms, roster, plan, kept.own, deals, request.commitments)


def sign_answer(identity: Identity, key: EpochKey | EpochShares) -> dict[str, Any]:
    """Return the member's signed answer to the deals."""
    return dealing.sign_answer(identity, key) if isinstance(key, EpochShares) else keys.sign_answer(identity, key)


def confirm(key: EpochKey | EpochShares, roster: Roster, answers: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare all members' answers.

    Raises:
        Refused: ``deal.disagree``, ``deal.signature``.
    """
    if isinstance(key, EpochShares):
        dealing.confirm(key, roster, answers)
    else:
        keys.confirm(key, roster, answers)


def held(identity: Identity, plan: Plan, roster: Roster, key: EpochKey | EpochShares) -> Held:
    """Return what a confirmed epoch's keys can do."""
    if isinstance(key, EpochShares):
        return Shareholder(key.held, identity, roster)
    return SharedKey(plan, key.he_key, key.secret, identity.name)


def stranger(identity: Identity, plan: Plan, roster: Roster) -> Held:
    """Return what fresh keys that nobody else holds can do: for drills."""
    if not isinstance(plan, ThresholdPlan):
        return SharedKey(plan, generate(plan), bytes(keys.SECRET_BYTES), identity.name)
    dealt = {name: shamir.deal(plan, roster.names) for name in roster.names}
    payloads = {dealer: one.payloads[identity.name] for dealer, one in dealt.items()}
    commitments = {dealer: one.commitments for dealer, one in dealt.items()}
    own = dealt[identity.name].own
    return Shareholder(
        shamir.EpochShare(plan, roster.names, identity.name, own, payloads, commitments), identity, roster
    )
