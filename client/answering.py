"""A member's answer to a list, and the sum of all answers. A total opens only with the answers of all members."""

from __future__ import annotations

import hashlib

from ..crypto import pairs, sealed, tau
from ..crypto.answer_plan import AnswerSum, answer_plan
from ..crypto.identity import Identity
from ..crypto.quantise import Ints
from ..crypto.sealed import Secrets
from ..errors import Refused
from ..protocol.answer import AnswerDocument, SignedAnswer
from ..protocol.context import RoundContext
from ..protocol.messages import Open
from .guard import Answers, OwnAnswer, SealList
from .seals import HeldSeal
from .seat import Seated


def own_answer(
    identity: Identity, seat: Seated, context: RoundContext, kept: HeldSeal, listed: SealList, lanes: int
) -> OwnAnswer:
    """Return a member's answer: its one-time key under the masks of all pairs, and the signed document.

    Args:
        identity: the member's.
        seat: its seat in the run.
        context: of the round.
        kept: what it sealed.
        listed: the list and total that it may answer.
        lanes: of the vector.
    """
    plan, name, secrets = seat.plan, identity.name, Secrets(kept.seed)
    others = {other: public for other, public in listed.masks.items() if other != name}
    masked = pairs.mask(plan, secrets.mask_key, name, others, listed.digest, listed.total)
    answer = seat.key.seal(pairs.answer(plan, secrets.key(plan), masked))
    residues = sealed.residues_of(plan, kept.body, lanes)
    functionals = tau.functionals(plan, listed.digest, listed.total, residues)
    document = AnswerDocument(
        context.digest, listed.digest, listed.total, functionals, hashlib.sha256(answer).hexdigest()
    )
    signed = SignedAnswer.sign(identity, document)
    return OwnAnswer(context.digest, listed.headers, listed.total, signed.data, signed.signature, answer)


def key_sum(seat: Seated, request: Open, checked: Answers) -> Ints:
    """Return the sum of all one-time keys.

    Raises:
        Refused: ``open.key``: the sum of answers does not open; ``open.list``: a sealed answer is not the one that its
            member signed.
    """
    names = seat.roster.names
    if not request.answers:
        return seat.key.open(request.keys, [request.seeds[name] for name in names])
    if {*request.answers} != {*names}:
        raise Refused("open.list", "expected one sealed answer of every member of the circle, and of nobody else")
    added, seeds = AnswerSum(answer_plan(seat.plan)), []
    for name in names:
        if hashlib.sha256(request.answers[name]).hexdigest() != checked.digests[name]:
            raise Refused("open.list", f"the sealed answer of {name!r} is not the one that it signed")
        seeds.append(added.add(request.answers[name]))
    return seat.key.open(added.dump(), seeds)
