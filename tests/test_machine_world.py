"""What is around a member, for ``test_machine_member.py``: three other members, and all that they may have sealed.

The other members are honest, and sign whatever a member can be asked to seal, on any terms; the coordinator has it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from moonflower import __version__
from moonflower.canonical import digest
from moonflower.client.checkpoints import HeldCheckpoint
from moonflower.client.learning.torch import TorchLearner
from moonflower.configs.settings import Offer, parse
from moonflower.crypto import planner, quantise, sealed
from moonflower.crypto.identity import Roster, parse_roster
from moonflower.crypto.mac import Mac
from moonflower.crypto.note import Signer, sign_checkpoint
from moonflower.crypto.quantise import Contribution
from moonflower.crypto.schemes import deal, secret
from moonflower.protocol import envelope, model_version
from moonflower.protocol.context import RoundContext
from moonflower.protocol.messages import Seal
from moonflower.protocol.statement import Proof, Statement, sign_statement

from federation import NAMES, cast, identities

ME, DORA = NAMES[0], NAMES[-1]
EVERYBODY, REST = frozenset(NAMES), frozenset(NAMES[:-1])
RUN, LEAST = "r", 3
ROSTERS = {1: EVERYBODY, 2: EVERYBODY, 3: REST, 4: EVERYBODY}  # members of an epoch
UNCONFIRMED = 4
CLIPS = (8.0, 2.0)  # that the proofs of the two bases state
BAD_PROOFS = ("none", "one signature", "another base", "too few members", "out of range", "federation", "of tallies")


@dataclass(frozen=True)
class Ask:
    """What the coordinator's request for an envelope says; ``proof`` is "" where it is as it should be."""

    run: str
    epoch: int
    number: int
    round: int
    purpose: str
    base: int
    clip: float
    checkpoint: int
    proof: str = ""

    @property
    def place(self) -> tuple[str, str, int, int]:
        """What is sealed once (rule 7)."""
        return self.purpose, self.run, self.epoch, self.number

    @property
    def same(self) -> Ask:
        """The request but for its proof, which is no part of the terms."""
        return replace(self, proof="")


class World:
    """What does not change: the other members, and all that the coordinator can have got hold of."""

    def __init__(self) -> None:
        self.cast = cast("training.weights=equal")
        self.raw_offer = self.cast.settings.offer(self.cast.schema.digest())
        self.offer = parse(Offer, self.raw_offer, where="test")
        self.pins = {name: identities()[name].card.node.pin for name in NAMES}
        self.learners = {name: self.learner(name) for name in NAMES}
        own = self.learners[ME]
        self.size = len(own.start())
        self.sizes = {"update": self.size, "statistics": 1 + len(own.summary()), "tallies": len(own.tally(own.start()))}
        self.rosters = {epoch: self.roster(names) for epoch, names in ROSTERS.items()}
        self.plans = {e: planner.plan(len(r.names), 16, self.size) for e, r in self.rosters.items()}
        self.keys = {epoch: self.key(epoch) for epoch in ROSTERS}
        self.held = [held(size) for size in (3, 5, 8, 9)]  # the last two are shown late, and never
        self.bases = self._bases()
        self.envelope = lru_cache(maxsize=None)(self._envelope)
        self.proof = lru_cache(maxsize=None)(self._proof)

    def learner(self, name: str) -> TorchLearner:
        made = self.cast.learner(name, self.cast.splits[name])
        made.prepare(made.scaling(made.summary().tolist()))
        return made

    def roster(self, names: Iterable[str]) -> Roster:
        return parse_roster([identities()[name].card.as_dict() for name in sorted(names)], self.pins)

    def key(self, epoch: int) -> deal.EpochKey:
        terms = deal.EpochTerms.of(self.offer.federation.name, epoch, self.rosters[epoch], self.plans[epoch])
        return deal.EpochKey(terms, secret.generate(self.plans[epoch]), bytes([epoch]) * deal.SECRET_BYTES)

    def _bases(self) -> list[model_version.Version]:
        own = self.learners[ME]
        scaling = own.scaling(own.summary().tolist())
        manifest = {"format": 1, "schema": self.cast.schema.to_dict(), "scaling": scaling}
        first = model_version.build(own.layout, own.start(), manifest)
        return [first, model_version.candidate(first, first.vector + 1)]

    def template(self, epoch: int) -> RoundContext:
        return RoundContext(
            federation=self.offer.federation.name,
            run=RUN,
            number=0,
            round=0,
            purpose="statistics",
            base="",
            clip=0.0,
            training=self.offer.training.model_dump(mode="json"),
            schema=self.cast.schema.digest(),
            task=self.offer.task.model_dump(mode="json"),
            package=__version__,
            crypto=self.plans[epoch].as_dict(),
            epoch=epoch,
            roster=self.rosters[epoch].digest,
            min_members=self.offer.federation.min_members,
            offer=digest(self.raw_offer),
            checkpoint="",
        )

    def context(self, ask: Ask) -> RoundContext:
        at = self.held[ask.checkpoint].label
        return self.template(ask.epoch).at(ask.number, ask.round, ask.purpose, self.base(ask), ask.clip, at)

    def base(self, ask: Ask) -> str:
        return "" if ask.purpose == "statistics" else self.bases[ask.base].sha256

    def key_of(self, ask: Ask) -> str:
        """What an opening is remembered under (rule 2)."""
        return self.learners[ME].data_digest() if ask.purpose == "statistics" else self.base(ask)

    def lanes(self, ask: Ask) -> int:
        limbs = self.plans[ask.epoch].limbs
        return self.size + limbs if ask.purpose == "update" else self.sizes[ask.purpose] * limbs

    def _envelope(self, name: str, ask: Ask, odd: bool = False) -> bytes:
        """Return what another member sealed for a round; ``odd``: under a learning rate of its own."""
        learner, plan, context = self.learners[name], self.plans[ask.epoch], self.context(ask)
        if odd:
            context = replace(context, training={**context.training, "lr": 1e-9})
        if ask.purpose == "statistics":
            given = Contribution((learner.rows, *learner.summary().tolist()))
        elif ask.purpose == "tallies":
            given = Contribution(tuple(learner.tally(self.bases[ask.base].vector).tolist()))
        else:
            weight = quantise.weight_of(1, len(ROSTERS[ask.epoch]))
            given = Contribution((weight,), self.bases[0].vector * 0 + 0.01, weight, ask.clip)
        mac = Mac(self.keys[ask.epoch].secret, context.digest, plan)
        key = secret.SecretKey(plan, self.keys[ask.epoch].he_key)
        vector = sealed.seal(key, mac, name, quantise.slot_blocks(given, plan), self.lanes(ask), plan)
        return envelope.seal(identities()[name], context, vector).data

    def _proof(self, base: int, how: str) -> dict[str, Any]:
        """Return what comes as a base's proof; "" is as it should be."""
        if how == "none":
            return {}
        about = self.template(1).at(9, 1, "tallies" if how == "of tallies" else "update", "a" * 64, 1.0, "")
        if how == "federation":
            about = replace(about, federation="another")
        members = NAMES[1:3] if how == "too few members" else NAMES
        said = Statement.of(
            about,
            dict.fromkeys(members, "a" * 64),
            sha256=self.bases[1 - base if how == "another base" else base].sha256,
            clip=CLIPS[base],
            in_range=how != "out of range",
        )
        signers = members[:1] if how == "one signature" else members
        return Proof(said.encode(), {name: sign_statement(identities()[name], said) for name in signers}).as_dict()

    def request(self, ask: Ask) -> Seal:
        return Seal(
            run=ask.run,
            epoch=ask.epoch,
            number=ask.number,
            round=ask.round,
            purpose=ask.purpose,
            base=self.base(ask),
            clip=ask.clip,
            checkpoint=self.held[ask.checkpoint].label,
            model=b"" if ask.purpose == "statistics" else self.bases[ask.base].data,
            proof={} if ask.purpose == "statistics" else self.proof(ask.base, ask.proof),
        )


def held(size: int) -> HeldCheckpoint:
    signer = Signer("moonflower/heart", bytes(range(32)))
    root = bytes([size]) * 32
    return HeldCheckpoint(size, root, signer.verifier.text(), sign_checkpoint(signer, size, root).note)


@lru_cache
def world() -> World:
    return World()
