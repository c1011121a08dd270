"""An epoch's keys at a member: dealing them, sealing, and opening a sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..crypto import sealed
from ..crypto.identity import Identity, Roster
from ..crypto.mac import Mac
from ..crypto.planner import Plan
from ..crypto.quantise import Ints
from ..crypto.schemes import deal as keys
from ..crypto.schemes.deal import EpochKey, EpochTerms
from ..crypto.schemes.secret import SecretKey, generate
from ..crypto.sealed import SealedVector
from ..errors import Refused
from ..protocol.messages import Deals, Open, TakeDeal


class SharedKey:
    """The epoch's key, which every member has."""

    def __init__(self, plan: Plan, he_key: bytes, secret: bytes, name: str) -> None:
        self._plan, self._key, self._secret, self._name = plan, SecretKey(plan, he_key), secret, name

    def seal(self, context: str, blocks: Iterable[Ints], lanes: int) -> SealedVector:
        """Return the sealed vector of plaintext rows, for the context with this digest."""
        return sealed.seal(self._key, Mac(self._secret, context, self._plan), self._name, blocks, lanes, self._plan)

    def check_total(self, context: str, tags: Mapping[str, list[int]], total: bytes, lanes: int) -> None:
        """Check that a total is exactly the sum of what these members sealed (``envelope.tag``, ``open.set``)."""
        sealed.check_total(Mac(self._secret, context, self._plan), tags, total, lanes, self._plan)

    def open(self, request: Open, lanes: int) -> Iterator[Ints]:
        """Yield the opened rows of a total that was checked."""
        return sealed.open_total(self._key, request.total, request.seeds, lanes, self._plan)


def make_deals(identity: Identity, terms: EpochTerms, roster: Roster, plan: Plan) -> Deals:
    """Return this member's deals."""
    deals = keys.deal(identity, terms, roster, plan)
    return Deals(
        ciphertexts={deal.recipient: deal.ciphertext for deal in deals},
        signatures={deal.recipient: deal.signature for deal in deals},
    )


def take_deal(identity: Identity, terms: EpochTerms, roster: Roster, plan: Plan, request: TakeDeal) -> EpochKey:
    """Return the keys in a request's one deal, checked.

    Raises:
        Refused: ``deal.signature``.
    """
    if {*request.ciphertexts} != {*request.signatures} or len(request.ciphertexts) != 1:
        raise Refused("deal.signature", f"{len(request.ciphertexts)} deals came, or not their signatures; expected one")
    dealer, ciphertext = next(iter(request.ciphertexts.items()))
    deal = keys.Deal(dealer, identity.name, ciphertext, request.signatures[dealer])
    return keys.receive(identity, terms, roster, plan, deal)


def held(identity: Identity, plan: Plan, key: EpochKey) -> SharedKey:
    """Return what a confirmed epoch's keys can do."""
    return SharedKey(plan, key.he_key, key.secret, identity.name)


def stranger(identity: Identity, plan: Plan) -> SharedKey:
    """Return what fresh keys that nobody else holds can do: for drills."""
    return SharedKey(plan, generate(plan), bytes(keys.SECRET_BYTES), identity.name)
