"""A coordinator that does as it likes with shipped members, for ``test_attacks.py``.

It is handed what a coordinator has: cards, envelopes, answers, statements, candidates. Members that help it hand over
all that they have. :meth:`Hostile.cosine` is how it is told whether it read somebody.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from moonflower.client import guard
from moonflower.client.app import Member
from moonflower.client.checkpoints import HeldCheckpoint
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.seals import Seals
from moonflower.crypto import answers, bits, pairs, sealed
from moonflower.crypto.answer_plan import AnswerSum, answer_plan
from moonflower.crypto.answers import AnswerKey
from moonflower.crypto.identity import parse_roster
from moonflower.crypto.note import Signer, sign_checkpoint
from moonflower.crypto.quantise import Ints, OpenedSum
from moonflower.errors import Refused
from moonflower.protocol import model_version
from moonflower.protocol.circle import Circle
from moonflower.protocol.envelope import RawEnvelope, SignedHeader, split
from moonflower.protocol.messages import Answered, Ask, Enrol, MakeKey, Open, Opened, Seal, TakeSeat
from moonflower.protocol.statement import Proof, Words

from support import circles
from support.federation import NAMES, cast, identities
from support.weakened import Weaken

RUN = "run-1"
VICTIM, HELPER, OTHER, FOURTH = NAMES


@dataclass
class Sum:
    """One context as the coordinator drives it.

    Attributes:
        request: what every request of it says.
        envelopes: name → envelope, as it came.
        answers: name → answer, of the last list.
    """

    request: dict[str, Any]
    envelopes: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Answered] = field(default_factory=dict)


class Hostile:
    """Four shipped members, and a coordinator that is bound by nothing.

    Args:
        names: members that exist.
        overrides: of the run.
    """

    def __init__(self, names: Iterable[str] = NAMES, *overrides: str) -> None:
        self.names = tuple(names)
        self.cast = cast("training.report_every=0", *overrides)
        self.settings = self.cast.settings.in_practice()
        everybody = [identities()[name] for name in self.names]
        self.pins = circles.pins_of(everybody)
        self.signed = circles.signed_by(Circle.of(self.cast.recipe, self.pins), everybody)
        self.circle = self.signed.circle
        self.offer = circles.enrolment(RUN, self.signed)
        self.members = {name: self.started(name) for name in self.names}
        self.proofs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.numbers = 0

    def started(self, name: str, learner: Any = None) -> Member:
        """Return a shipped member; ``learner``: of other rows."""
        made = learner or (lambda *_: self.cast.learner(name, self.cast.splits[name]))
        secret = self.cast.secret(name)
        member = circles.member(identities()[name], self.signed, secret, Ledger(None), Seals(None), made)
        member.ledger.keep_checkpoint(held(3))
        return member

    def seats(self, run: str = RUN, offer: Mapping[str, Any] | None = None) -> None:
        """Let everybody take a seat, as an honest coordinator does."""
        asked = Enrol(**{**self.offer, **(offer or {}), "run": run})
        enrolled = {name: self.members[name].enrol(asked) for name in self.names}
        cards = [enrolled[name].card for name in self.names]
        first = self.members[self.names[0]]
        made = first.make_key(MakeKey(run=run, roster=cards))
        for name in self.names:
            sent = {"ciphertext": made.ciphertexts[name], "signature": made.signatures[name]}
            self.members[name].take_seat(TakeSeat(run=run, roster=cards, **sent))
        self.roster = parse_roster(cards, self.pins)

    def sum(self, purpose: str = "update", base: str = "", planned: int = 1, run: str = RUN, **changed: Any) -> Sum:
        """Begin a context."""
        self.numbers += 1
        number = 0 if purpose == "statistics" else self.numbers
        trained = purpose == "update"
        request = {
            "run": run,
            "number": number,
            "round": planned if trained else 0,
            "purpose": purpose,
            "base": base,
            "checkpoint": held(3).label,
        }
        return Sum({**request, **changed})

    def seal(self, about: Sum, names: Iterable[str] | None = None, refused: str = "") -> None:
        """Ask members for envelopes."""
        base = about.request["base"]
        for name in names or self.names:
            sent = {"model": self.files.get(base, b""), "proof": self.proofs.get(base, {})}
            asked = Seal(**about.request, **sent, refused=self.proofs.get(refused, {}))
            about.envelopes[name] = self.members[name].seal(asked).envelope.data

    def headers(self, about: Sum, names: Iterable[str]) -> dict[str, SignedHeader]:
        return {name: split(RawEnvelope(about.envelopes[name]))[0] for name in names}

    def total(self, about: Sum, names: Iterable[str]) -> bytes:
        """Add envelopes up."""
        seat = self.seat(about)
        added = sealed.Sum(seat.plan, self.lanes(about))
        for name in names:
            added.add(split(RawEnvelope(about.envelopes[name]))[1])
        return added.dump()

    def ask(self, about: Sum, member: str, names: Iterable[str], total: bytes) -> Answered:
        """Ask one member to answer a list of these names and a total."""
        listed = self.headers(about, names)
        asked = Ask(
            **about.request,
            headers={name: one.data for name, one in listed.items()},
            signatures={name: one.signature for name, one in listed.items()},
            total=hashlib.sha256(total).hexdigest(),
        )
        about.answers[member] = self.members[member].answer_list(asked)
        return about.answers[member]

    def opening(self, about: Sum, total: bytes, **changed: Any) -> Open:
        """Return the request that goes with the answers that came."""
        added = AnswerSum(answer_plan(self.seat(about).plan))
        seeds = {name: added.add(one.answer) for name, one in sorted(about.answers.items())}
        fields = {
            "documents": {name: one.document for name, one in about.answers.items()},
            "signatures": {name: one.signature for name, one in about.answers.items()},
            "seeds": seeds,
            "keys": added.dump(),
            "answers": {},
            "total": total,
            "best": self.best(about),
            "upload": True,
        }
        return Open(**about.request, **{**fields, **changed})

    def best(self, about: Sum) -> str:
        """Return what members compare the result with: the version promoted last when the base was trained from."""
        if about.request["purpose"] != "update":
            return ""
        ledger = next(iter(self.members.values())).ledger
        return (ledger.good(about.request["run"], about.request["base"]) or [""])[-1]

    def open(self, about: Sum, member: str, total: bytes, **changed: Any) -> Opened:
        """Have one member open."""
        return self.members[member].open(self.opening(about, total, **changed))

    def honest(self, about: Sum) -> model_version.Version:
        """Carry a context out as an honest coordinator does; return the version that follows."""
        self.seal(about)
        return self.finish(about, self.names)

    def finish(self, about: Sum, names: Iterable[str]) -> model_version.Version:
        """Have a list of these names answered and opened by all of them; return the version that follows."""
        total, names = self.total(about, names), tuple(names)
        for name in names:
            self.ask(about, name, names, total)
        opened = {name: self.open(about, name, total) for name in names}
        return self.keep(opened, self.best(about))

    def keep(self, opened: Mapping[str, Opened], best: str) -> model_version.Version:
        """Keep what openers said as a proof, and the version that they made."""
        some = next(iter(opened.values()))
        words = {name: Words(one.signature, one.vote, one.vote_signature) for name, one in opened.items()}
        version = model_version.parse(some.result)
        self.proofs[version.sha256] = Proof(some.statement, best, words).as_dict()
        self.files[version.sha256] = version.data
        return version

    def start(self) -> model_version.Version:
        """Take seats and open the statistics."""
        self.seats()
        return self.honest(self.sum("statistics"))

    # What is known of members, to judge what was read, and what a member that helps hands over.

    def seat(self, about: Sum) -> Any:
        return next(iter(self.members[self.names[0]]._seated.values()))

    def lanes(self, about: Sum) -> int:
        member = self.members[self.names[0]]
        agreed = member._agreed[about.request["run"]]
        return int(self.seat(about).lanes(member.kit.known[about.request["purpose"]], agreed))

    def key(self, name: str) -> AnswerKey:
        """The circle's key, as a member that helps hands it over."""
        found: AnswerKey = next(iter(self.members[name]._seated.values())).key
        return found

    def update(self, name: str, base: str, planned: int = 1) -> np.ndarray[Any, Any]:
        """What a member's training changed: what nobody may read."""
        learner = self.cast.learner(name, self.cast.splits[name])
        version = model_version.parse(self.files[base])
        learner.prepare(version.manifest["scaling"])
        return learner.train(version.vector, self.settings.training, planned).vector - version.vector

    def opens(self, about: Sum, key_sum: Ints, names: Iterable[str]) -> np.ndarray[Any, Any] | None:
        """Return what a sum of keys opens of these members' envelopes, as lanes; None where it opens nothing."""
        plan, total = self.seat(about).plan, self.total(about, names)
        context = next(iter(self.members.values()))  # any member's: the context is one
        digest = self.context(about, context)
        try:
            blocks = list(sealed.open_total(plan, digest, key_sum, total, self.lanes(about)))
        except Refused:
            return None
        sums = OpenedSum(iter(blocks), self.lanes(about), 0, len(list(names)), plan)
        return np.concatenate([part for _, part in sums.values()])

    def context(self, about: Sum, member: Member) -> str:
        seat = member._seated[about.request["run"]]
        asked = Ask(**about.request, headers={}, signatures={}, total="0" * 64)
        return guard.round_context(seat.template, asked, member.kit.known).digest


def held(size: int) -> HeldCheckpoint:
    """A checkpoint that members witnessed."""
    signer = Signer("moonflower/heart", bytes(range(32)))
    root = bytes([size]) * 32
    return HeldCheckpoint(size, root, signer.verifier.text(), sign_checkpoint(signer, size, root).note)


def cosine(one: Any, other: Any) -> float:
    """How alike two vectors are; 0 for none."""
    if one is None:
        return 0.0
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1.0))


def swap(owner: Any, name: str, *pairs: tuple[str, str]) -> Weaken:
    """Return what takes pieces of a function of a module or a class out, and puts others in."""

    def weaken(patch: pytest.MonkeyPatch) -> None:
        source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
        for check, _ in pairs:
            assert check in source, f"{name} has no {check!r} any more"
        for check, instead in pairs:
            source = source.replace(check, instead)
        scope = dict(vars(sys.modules[getattr(owner, "__module__", owner.__name__)]))
        exec(source, scope)
        patch.setattr(owner, name, scope[name])

    return weaken


def one_answer(key: AnswerKey, answer: bytes) -> Ints:
    """What whoever holds the circle's key reads of one sealed answer, or of the sum of some: residues mod 2**w."""
    plan = key._plan
    table = np.frombuffer(answer[: plan.seed_bytes], np.uint8).reshape(plan.chunks, -1)
    packed = np.frombuffer(answer[plan.seed_bytes :], np.uint8).reshape(plan.chunks, plan.chunk_bytes)
    words = bits.unpack(packed, plan.degree, plan.modulus_bits)
    return answers._numbers(key._key.decrypt(words, [table]), plan)


def added(key: AnswerKey, sealed_answers: Iterable[bytes]) -> Ints:
    """The sum of one-time keys that some answers hold together, if their masks cancel."""
    return pairs.key_sum(key._outer, sum(one_answer(key, one) for one in sealed_answers))
