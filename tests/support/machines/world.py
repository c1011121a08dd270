"""What is around a member, for ``test_machine_member.py``: three other members, and all that they may have signed.

The coordinator holds the other members' keys: they seal, answer and sign whatever it likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from moonflower.canonical import digest
from moonflower.client import answering, circle_key
from moonflower.client.checkpoints import HeldCheckpoint
from moonflower.client.guard import OwnAnswer, SealList
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.purposes import Kit
from moonflower.client.seals import HeldSeal as Held
from moonflower.client.seat import Agreed, Seated
from moonflower.configs.settings import Offer, parse
from moonflower.crypto import answers, quantise, sealed
from moonflower.crypto.answer_plan import AnswerSum, answer_plan
from moonflower.crypto.answers import AnswerKey
from moonflower.crypto.identity import parse_roster
from moonflower.crypto.note import Signer, sign_checkpoint
from moonflower.crypto.pairs import public_mask
from moonflower.crypto.quantise import Contribution, Ints
from moonflower.crypto.sealed import Secrets, Sum
from moonflower.errors import Refused
from moonflower.protocol import envelope
from moonflower.protocol.circle import Circle
from moonflower.protocol.context import RoundContext, Terms, template
from moonflower.protocol.envelope import RawEnvelope, SignedHeader
from moonflower.protocol.messages import KeyMade, TakeSeat
from moonflower.protocol.purposes import FIRST
from moonflower.protocol.statement import Proof, Statement, Words, sign_statement, vote_bytes

from support import circles
from support.federation import NAMES, cast, identities, signed_circle

ME, OTHERS = NAMES[1], (NAMES[0], *NAMES[2:])
RUN = "r"


@dataclass(frozen=True)
class At:
    """What the coordinator's requests say of a round; ``checkpoint`` is one of :attr:`World.held`."""

    run: str
    number: int
    round: int
    purpose: str
    base: str
    checkpoint: int

    def fields(self, world: World) -> dict[str, Any]:
        """Return the fields of a request."""
        return {**asdict(self), "checkpoint": world.held[self.checkpoint].label}


@dataclass(frozen=True)
class Listed:
    """What a list was put together from.

    Attributes:
        heads: everybody's signed header, this member's too.
        held: what the others sealed.
        total: the sealed total as the coordinator has it.
        right: it is the sum of the bodies.
    """

    heads: Mapping[str, SignedHeader]
    held: Mapping[str, Held]
    total: bytes
    right: bool

    @property
    def digests(self) -> dict[str, str]:
        """Name → header digest."""
        return {name: head.digest for name, head in self.heads.items()}

    @property
    def sha256(self) -> str:
        """Of the total."""
        return hashlib.sha256(self.total).hexdigest()

    def as_seal_list(self, world: World) -> SealList:
        """Return it as members read it."""
        masks = {
            name: bytes.fromhex(head.verify(world.roster.card(name)).mask) for name, head in sorted(self.heads.items())
        }
        return SealList(self.digests, masks, self.sha256)


class World:
    """What does not change: the other members, and all that the coordinator can have got hold of."""

    def __init__(self) -> None:
        self.cast = cast("training.rounds=8")
        self.signed = signed_circle(self.cast.recipe)
        self.circle = self.signed.circle
        everybody = [identities()[name] for name in NAMES]
        self.other = circles.signed_by(Circle.of(self.cast.recipe, circles.pins_of(everybody), number=2), everybody)
        self.raw_offer = self.circle.offer(self.cast.settings.training.seed, self.cast.settings.training.rounds)
        self.offer = parse(Offer, self.raw_offer, where="test")
        self.pins = {name: identities()[name].card.node.pin for name in NAMES}
        self.learners = {name: self.learner(name) for name in NAMES}
        self.agreed = Agreed.to(self.offer, self.raw_offer, self.learners[ME], Kit().purposes, self.circle)
        self.plan = self.agreed.plan
        self.roster = parse_roster([identities()[name].card.as_dict() for name in NAMES], self.pins)
        self.key = answers.generate(answer_plan(self.plan))
        terms = Terms(self.circle, self.roster, self.plan, self._key_digest, digest(dict(self.agreed.frozen)))
        template_ = template(RUN, self.offer, self.raw_offer, terms)
        self.seat = Seated(self.roster, template_, self.plan, AnswerKey(self.plan, self.key))
        self.held = [held(size) for size in (3, 5, 8, 9)]  # the last two are shown late, and never
        self.sealed = lru_cache(maxsize=4096)(self._sealed)
        self.rows = sum(learner.rows for learner in self.learners.values())

    @property
    def _key_digest(self) -> str:
        return hashlib.sha256(self.key).hexdigest()

    def learner(self, name: str) -> TorchLearner:
        made = self.cast.learner(name, self.cast.splits[name])
        made.prepare(made.scaling(made.summary().tolist()))
        return made

    def take_seat(self) -> TakeSeat:
        """Return the request by which this member gets its seat and the circle's key."""
        first = identities()[self.circle.first]
        made: KeyMade = circle_key.wrapped(first, self.agreed.key_use, self.key, self.roster)
        given = made.ciphertexts[ME], made.signatures[ME]
        return TakeSeat(run=RUN, roster=self.roster.as_list(), ciphertext=given[0], signature=given[1])

    def context(self, at: At) -> RoundContext:
        label = self.held[at.checkpoint].label
        return self.seat.template.at(at.number, at.round, at.purpose, at.base, label)

    def lanes(self, at: At) -> int:
        return self.seat.lanes(FIRST[at.purpose], self.agreed)

    def _given(self, name: str, at: At) -> Contribution:
        learner = self.learners[name]
        if at.purpose == "statistics":
            return Contribution((learner.rows, *learner.tested().tolist(), *learner.summary().tolist()))
        if at.purpose == "tallies":
            return Contribution(tuple(learner.tally(learner.start(), 8).tolist()))
        vector = np.full(self.agreed.sizes["update"], 0.01, dtype=np.float32)
        return Contribution((), vector, learner.rows / self.rows, self.agreed.scale, name.encode() * 32)

    def _sealed(self, name: str, at: At, which: int = 0, mask: bytes = b"") -> Held:
        """Return what another member sealed for a round; ``which``: of several; ``mask``: another public one."""
        context, lanes = self.context(at), quantise.lanes_of(self._given(name, at), self.plan)
        secrets = Secrets(hashlib.sha256(f"{name} {context.digest} {which}".encode()).digest())
        body = sealed.seal(self.plan, context.digest, secrets, lanes)
        made = envelope.seal(identities()[name], context, body, mask or public_mask(secrets.mask_key))
        return Held(secrets.seed, made.data)

    def listed(
        self, at: At, mine: bytes, which: Mapping[str, int] | None = None, total: bytes | None = None, **more: Any
    ) -> Listed:
        """Return a list of what everybody sealed for a round, and its total.

        Args:
            at: the round.
            mine: this member's envelope.
            which: name → which of its envelopes, for others.
            total: in place of the true one.
            more: of :meth:`sealed`, for the first of the others.
        """
        which = which or {}
        held_ = {
            name: self.sealed(name, at, which.get(name, 0), **(more if name == OTHERS[0] else {})) for name in OTHERS
        }
        signed, body = envelope.split(RawEnvelope(mine))
        running = Sum(self.plan, self.lanes(at))
        for one in [body, *(one.body for one in held_.values())]:
            running.add(one)
        true = running.dump()
        heads = {ME: signed} | {name: one.signed for name, one in held_.items()}
        return Listed(heads, held_, true if total is None else total, total in (None, true))

    def answer(self, name: str, at: At, listed: Listed) -> OwnAnswer:
        """Return another member's answer to a list."""
        about, lanes = listed.as_seal_list(self), self.lanes(at)
        return answering.own_answer(identities()[name], self.seat, self.context(at), listed.held[name], about, lanes)

    def opened(self, at: At, mine: bytes, seed: bytes) -> Ints:
        """Return what this member sealed in an envelope."""
        _, body = envelope.split(RawEnvelope(mine))
        key = Secrets(seed).key(self.plan)
        blocks = sealed.open_total(self.plan, self.context(at).digest, key, bytes(body), self.lanes(at))
        return np.concatenate([*blocks])

    def opens(self, at: At, listed: Listed, given: Mapping[str, bytes]) -> bool:
        """Return whether sealed answers open a total together."""
        running = AnswerSum(answer_plan(self.plan))
        seeds = [running.add(given[name]) for name in NAMES]
        key = self.seat.key.open(running.dump(), seeds)
        try:
            list(sealed.open_total(self.plan, self.context(at).digest, key, listed.total, self.lanes(at)))
        except Refused:
            return False
        return True

    def proof(self, said: Statement, mine: Words | None, vote: str, best: str) -> Proof:
        """Return the words of all names about a statement; ``mine`` where this member said its own."""
        words = {name: self.words(name, said, vote, best) for name in (*OTHERS, *(() if mine else (ME,)))}
        return Proof(said.encode(), best, words | ({ME: mine} if mine else {}))

    def words(self, name: str, said: Statement, vote: str, best: str) -> Words:
        voted = identities()[name].sign("vote", vote_bytes(said.encode(), best, vote))
        return Words(sign_statement(identities()[name], said), vote, voted)


def bent(proof: Proof, said: Statement, how: str, world: World) -> dict[str, Any]:
    """Return a proof with one thing that is not as it should be; but for ``best`` this member may have signed each."""
    words = dict(proof.words)
    vote = words[OTHERS[0]].vote
    if how == "none":
        return {}
    if how in ("without me", "without another"):
        del words[ME if how == "without me" else OTHERS[0]]
        return replace(proof, words=words).as_dict()
    if how == "one's words for another":
        return replace(proof, words={**words, ME: words[OTHERS[0]]}).as_dict()
    if how == "one's signature for another":
        mixed = replace(words[ME], signature=words[OTHERS[0]].signature)
        return replace(proof, words={**words, ME: mixed}).as_dict()
    if how == "votes changed":
        turned = {name: replace(one, vote="worse" if vote != "worse" else "same") for name, one in words.items()}
        return replace(proof, words=turned).as_dict()
    changes: dict[str, dict[str, Any]] = {
        "another run": {"run": "another"},
        "another federation": {"federation": "another"},
        "tallies": {"purpose": "tallies"},
        "out of range": {"in_range": False},
        "another version": {"sha256": "0" * 64},
        "fewer members": {"members": tuple(name for name in NAMES if name != OTHERS[0])},
    }
    return world.proof(replace(said, **changes[how]), None, vote, proof.best).as_dict()


BENT = (
    "none",
    "without me",
    "without another",
    "one's words for another",
    "one's signature for another",
    "votes changed",
    "another run",
    "another federation",
    "tallies",
    "out of range",
    "another version",
    "fewer members",
)


def held(size: int) -> HeldCheckpoint:
    signer = Signer("moonflower/heart", bytes(range(32)))
    root = bytes([size]) * 32
    return HeldCheckpoint(size, root, signer.verifier.text(), sign_checkpoint(signer, size, root).note)


@lru_cache
def world() -> World:
    return World()
