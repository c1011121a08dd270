"""Attacks on single updates, each carried out against shipped members: against a weakened copy, in which it wins, and
against ours, in which it fails with its code and leaves no trace.

The names N1 to N9, R and B are those of ``docs/protocol.md``. The attacker is the coordinator, who writes every message
itself, and members that hand over all that they have. What a member can do to the model is not here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from moonflower.client import guard, purposes, seals
from moonflower.client.app import Member
from moonflower.client.ledger.ledger import Ledger
from moonflower.crypto import identity as identities_room
from moonflower.crypto import pairs, sealed
from moonflower.crypto.answers import AnswerKey
from moonflower.crypto.identity import Identity
from moonflower.crypto.sealed import Secrets
from moonflower.errors import Refused
from moonflower.protocol import envelope as envelopes
from moonflower.protocol import model_version
from moonflower.protocol.envelope import RawEnvelope, split
from moonflower.protocol.messages import Enrol, TakeSeat
from moonflower.protocol.statement import Proof
from support.hostile import FOURTH, HELPER, NAMES, OTHER, RUN, VICTIM, Hostile, Sum, added, cosine, one_answer, swap

READ, NOTHING = 0.999, 0.5


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    made = Hostile()
    yield made
    for member in made.members.values():
        member.ledger.close()


@pytest.fixture(scope="module")
def expected() -> str:
    """The candidate of round 1 where nobody attacks."""
    honest = Hostile()
    first = honest.start()
    return honest.honest(honest.sum(base=first.sha256)).sha256


def check_untouched(hostile: Hostile, base: str, expected: str) -> None:
    """Check that an attack left no trace: round 1, carried out honestly afterwards, gives what it gives anywhere."""
    assert hostile.honest(hostile.sum(base=base)).sha256 == expected


def refused(code: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    with pytest.raises(Refused) as refusal:
        call(*arguments, **more)
    assert refusal.value.code == code, str(refusal.value)


SUBSETS = swap(
    guard,
    "check_list",
    ("if {*request.headers} != names or {*request.signatures} != names:", "if not names:"),
    ("for card in roster.cards:", "for card in (roster.card(name) for name in sorted(request.headers)):"),
)


def two_sets(hostile: Hostile, base: str) -> Any:
    """N1, N2, N3, and every draft that let go of who is away: one update in two sums, over different sets."""
    rest = [name for name in NAMES if name != VICTIM]
    sums = {}
    for names in (list(NAMES), rest):
        about = hostile.sum(base=base)
        hostile.seal(about)
        total = hostile.total(about, names)
        for name in names:
            hostile.ask(about, name, names, total)
        keys = added(hostile.key(HELPER), [about.answers[name].answer for name in names])
        sums[len(names)] = hostile.opens(about, keys, names)
    return None if any(one is None for one in sums.values()) else sums[4] - sums[3]


def test_a_sum_is_over_everybody(hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = hostile.start().sha256
    refused("open.list", two_sets, hostile, base)
    check_untouched(hostile, base, expected)
    SUBSETS(monkeypatch)
    assert cosine(two_sets(hostile, base), hostile.update(VICTIM, base)) > READ


def test_each_member_is_asked_for_another_list(
    hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N2 as it was carried out: in one context every member is sent a set of its own. Nobody's masks cancel then."""
    base = hostile.start().sha256
    SUBSETS(monkeypatch)  # even where members answered any list
    about = hostile.sum(base=base)
    hostile.seal(about)
    for name in NAMES:
        names = [other for other in NAMES if other in ((name, HELPER) if name != HELPER else NAMES[1:])]
        hostile.ask(about, name, names, hostile.total(about, names))
    key = hostile.key(HELPER)
    for name in (VICTIM, OTHER, FOURTH):
        found = added(key, [about.answers[name].answer, about.answers[HELPER].answer])
        assert hostile.opens(about, found, [name, HELPER]) is None
    monkeypatch.setattr(pairs, "mask", lambda plan, *rest: np.zeros(plan.degree, dtype=np.uint16))
    about = hostile.sum(base=base)
    hostile.seal(about)
    for name in NAMES:
        hostile.ask(about, name, [name], hostile.total(about, [name]))
        found = added(key, [about.answers[name].answer])
        assert cosine(hostile.opens(about, found, [name]), hostile.update(name, base)) > READ
    monkeypatch.undo()
    check_untouched(hostile, base, expected)


def test_an_answer_alone_says_nothing(hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinator and a member that hands over the circle's key read one answer: the key is under masks of all pairs.

    With two members that help, and all their mask keys, too: only together with the last but one would it open.
    """
    base = hostile.start().sha256

    def read(helpers: tuple[str, ...]) -> Any:
        about = hostile.sum(base=base)
        hostile.seal(about)
        seeds = {name: hostile.members[name].held.read(digest_of(hostile, about)) for name in helpers}
        total = hostile.total(about, NAMES)
        answered = hostile.ask(about, VICTIM, NAMES, total)
        found = one_answer(hostile.key(HELPER), answered.answer)
        found = found - known_masks(hostile, about, VICTIM, total, seeds)
        return hostile.opens(about, pairs.key_sum(hostile.seat(about).plan, found), [VICTIM])

    for helpers in ((HELPER,), (HELPER, OTHER)):
        assert cosine(read(helpers), hostile.update(VICTIM, base)) < NOTHING
    assert cosine(read((HELPER, OTHER, FOURTH)), hostile.update(VICTIM, base)) > READ, "all but one know the last"
    check_untouched(hostile, base, expected)
    monkeypatch.setattr(pairs, "mask", lambda plan, *rest: np.zeros(plan.degree, dtype=np.uint16))
    assert cosine(read(()), hostile.update(VICTIM, base)) > READ


def digest_of(hostile: Hostile, about: Sum) -> str:
    return hostile.context(about, hostile.members[VICTIM])


def known_masks(hostile: Hostile, about: Sum, victim: str, total: bytes, seeds: dict[str, Any]) -> Any:
    """The part of a member's masks that others, who hand over their seals, know."""
    if not seeds:
        return 0
    plan, listed = hostile.seat(about).plan, hostile.headers(about, NAMES)
    headers = guard.list_digest(one.digest for one in listed.values())
    sha256 = hashlib.sha256(total).hexdigest()
    public = split_mask(about.envelopes[victim])
    found = 0
    for name, kept in seeds.items():
        mine = pairs.mask(plan, Secrets(kept.seed).mask_key, name, {victim: public}, headers, sha256)
        found = found - mine.astype(np.int64)  # what one of a pair adds, the other one takes away
    return found


def split_mask(envelope: bytes) -> bytes:
    signed, _ = split(RawEnvelope(envelope))
    return bytes.fromhex(envelopes.Header.parse(signed.data).mask)


def test_a_copied_mask_key_cancels_nothing(hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VA Long Beach signs Cleveland's public mask key as its own; Switzerland helps. Hungary's masks must stay."""
    base = hostile.start().sha256
    read = HELPER

    def attack() -> Any:
        about = hostile.sum(base=base)
        hostile.seal(about)
        signed, body = split(RawEnvelope(about.envelopes[FOURTH]))
        header = envelopes.Header.parse(signed.data)
        copied = replace(header, mask=split_mask(about.envelopes[VICTIM]).hex()).encode()
        signature = hostile.members[FOURTH].identity.sign("envelope", copied)
        whole = envelopes.MAGIC + len(copied).to_bytes(4, "little") + copied + signature + bytes(body)
        about.envelopes[FOURTH] = whole
        total = hostile.total(about, NAMES)
        seeds = {OTHER: hostile.members[OTHER].held.read(digest_of(hostile, about))}
        answered = hostile.ask(about, read, NAMES, total)
        found = one_answer(hostile.key(OTHER), answered.answer) - known_masks(hostile, about, read, total, seeds)
        return hostile.opens(about, pairs.key_sum(hostile.seat(about).plan, found), [read])

    assert cosine(attack(), hostile.update(read, base)) < NOTHING
    check_untouched(hostile, base, expected)
    swap(pairs, "_words", ('"lower": lower, "higher": higher', '"lower": "", "higher": ""'))(monkeypatch)
    assert cosine(attack(), hostile.update(read, base)) > READ


def test_what_was_answered_is_not_answered_again(
    hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R: coordinator and a member see the sum first, and then replace the member's envelope, to get what they like."""
    base = hostile.start().sha256
    aim = 0.5

    def attack() -> Any:
        about = hostile.sum(base=base)
        seen = hostile.honest(about)
        member = hostile.members[HELPER]
        member.kit = replace(member.kit, steps=(lambda update, context: replace(update, vector=update.vector + aim),))
        member.ledger.answered = lambda context: None  # type: ignore[method-assign, assignment]
        member.held._held.clear()
        try:
            hostile.seal(about, [HELPER])
        finally:
            del member.ledger.answered
            member.kit = purposes.Kit()
        total = hostile.total(about, NAMES)
        for name in NAMES:
            hostile.ask(about, name, NAMES, total)
        opened = {name: hostile.open(about, name, total) for name in NAMES}
        return hostile.keep(opened, base).vector - seen.vector

    refused("open.list", attack)
    check_untouched(hostile, base, expected)
    again = Hostile()
    base = again.start().sha256
    hostile.members = again.members
    hostile.proofs, hostile.files, hostile.numbers = again.proofs, again.files, again.numbers
    swap(Member, "answer_list", ("answer, kept = self.ledger.answered(context.digest), ", "answer, kept = None, "))(
        monkeypatch
    )
    once = "db.execute(insert(ddl.answered), row)"
    ever = "db.execute(put(ddl.answered), row)"
    swap(Ledger, "remember_answered", (once, ever))(monkeypatch)
    monkeypatch.setattr(seals.Seals, "drop", lambda self, context: None)
    monkeypatch.setattr(guard, "check_tried", lambda *arguments: "")
    assert attack().min() > 0.01, "the second result is the one that they chose"


def planted(hostile: Hostile, base: str, signers: tuple[str, ...]) -> str:
    """Plant a version that some members sign for; returns its digest."""
    first = model_version.parse(hostile.files[base])
    trap = model_version.candidate(first, first.vector + np.float32(3), dict(first.state))
    words = {}
    said = replace(statement_of(hostile, base), sha256=trap.sha256)
    for name in signers:
        signed = hostile.members[name].identity
        vote = signed.sign("vote", vote_of(said))
        words[name] = proof_words(signed.sign("opened", said.encode()), "", vote)
    hostile.proofs[trap.sha256] = Proof(said.encode(), "", words).as_dict()
    hostile.files[trap.sha256] = trap.data
    return trap.sha256


def statement_of(hostile: Hostile, base: str) -> Any:
    from moonflower.protocol.statement import Statement

    return Statement.parse(hostile.proofs[base]["statement"].encode())


def vote_of(said: Any) -> bytes:
    from moonflower.protocol.statement import vote_bytes

    return vote_bytes(said.encode(), "", "")


def proof_words(signature: bytes, vote: str, vote_signature: bytes) -> Any:
    from moonflower.protocol.statement import Words

    return Words(signature, vote, vote_signature)


def test_a_base_needs_the_words_of_all(hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """N4, N5: coordinator and members plant weights, and sign for them; all but the victim sign here."""
    base = hostile.start().sha256
    trap = planted(hostile, base, (HELPER, OTHER, FOURTH))
    about = hostile.sum(base=trap)
    refused("base.unknown", hostile.seal, about, [VICTIM])
    check_untouched(hostile, base, expected)
    everybody = "or {*self.words} != {*roster.names}"
    some = ("for card in roster.cards:", "for card in (roster.card(name) for name in self.words):")
    swap(Proof, "verify", (everybody, ""), some)(monkeypatch)
    about = hostile.sum(base=trap)
    swap(guard.BaseRules, "check", ("trained and newer is not None", "False and newer is not None"))(monkeypatch)
    hostile.seal(about, [VICTIM])
    assert about.envelopes[VICTIM]


def test_a_base_is_of_this_run(hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """N1, N3: a base under another name, of another run, nudged by a smaller rate."""
    base = hostile.start().sha256
    other = {**hostile.offer, "seed": hostile.offer["seed"] + 1}
    proof = hostile.proofs[base]
    hostile.seats("run-2", other)
    start = hostile.honest(hostile.sum("statistics", run="run-2"))
    nudged = hostile.honest(hostile.sum(base=start.sha256, run="run-2"))
    hostile.proofs[base] = proof  # both runs start from the same version
    hostile.seats()
    refused("base.unknown", hostile.seal, hostile.sum(base=nudged.sha256), [VICTIM])
    check_untouched(hostile, base, expected)
    of_run = "(statement.federation, statement.run) != (self.context.federation, self.context.run)"
    swap(guard.BaseRules, "_said", (of_run, "False"))(monkeypatch)
    swap(guard.BaseRules, "check", ("trained and newer is not None", "False and newer is not None"))(monkeypatch)
    about = hostile.sum(base=nudged.sha256)
    hostile.seal(about, [VICTIM])
    assert about.envelopes[VICTIM]


def test_an_older_base_is_for_the_same_round_only(
    hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base over which a sum was opened, in another round: other batches, so another update, from what was kept."""
    base = hostile.start().sha256
    first = hostile.honest(hostile.sum(base=base))
    assert first.sha256 == expected
    refused("base.unknown", hostile.seal, hostile.sum(base=base, planned=2), [VICTIM])
    hostile.seal(hostile.sum(base=base), [VICTIM])  # the same round again gives the same update
    hostile.seal(hostile.sum(base=first.sha256, planned=2), [VICTIM])
    refused("base.unknown", hostile.seal, hostile.sum(base=base, planned=3), [VICTIM])
    swap(guard.BaseRules, "check", ("trained and newer is not None", "False and newer is not None"))(monkeypatch)
    refused("base.unknown", hostile.seal, hostile.sum(base=base, planned=3), [VICTIM])
    monkeypatch.undo()
    swap(
        guard.BaseRules,
        "check",
        ("trained and newer is not None", "False and newer is not None"),
        ("trained and statement.number < before.number", "False and statement.number < before.number"),
    )(monkeypatch)
    hostile.seal(hostile.sum(base=base, planned=3), [VICTIM])


def test_a_thief_comes_too_late(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """N8: whoever takes all of a member's files after its answer reads nothing of what was recorded."""
    base = hostile.start().sha256

    def steal() -> Any:
        about = hostile.sum(base=base)
        hostile.honest(about)
        kept = hostile.members[VICTIM].held.read(digest_of(hostile, about))
        if kept is None:
            return None
        return hostile.opens(about, Secrets(kept.seed).key(hostile.seat(about).plan), [VICTIM])

    assert steal() is None
    monkeypatch.setattr(seals.Seals, "drop", lambda self, context: None)
    assert cosine(steal(), hostile.update(VICTIM, base)) > READ


def test_what_is_sealed_twice_has_two_keys(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """B: a member that lost its file, and whose rows changed meanwhile, seals anew in one context."""
    base = hostile.start().sha256
    plan = None

    def between() -> Any:
        nonlocal plan
        about = hostile.sum(base=base)
        bodies = []
        for shift in (0.0, 0.25):
            member = hostile.members[VICTIM]
            steps = (lambda update, context, by=shift: replace(update, vector=update.vector + np.float32(by)),)
            member.kit = replace(member.kit, steps=steps)
            hostile.seal(about, [VICTIM])
            bodies.append(split(RawEnvelope(about.envelopes[VICTIM]))[1])
            member.held.drop(digest_of(hostile, about))
        member.kit = purposes.Kit()
        plan = hostile.seat(about).plan
        lanes = hostile.lanes(about)
        first, second = (sealed.residues_of(plan, body, lanes) for body in bodies)
        p = plan.primes[0]
        apart = (second[0].astype(object) - first[0].astype(object)) % p
        return np.array([int(one) - p if one > p // 2 else int(one) for one in apart])

    small = 43 << plan.plain_bits if plan else None
    found = between()
    limit = 43 << plan.plain_bits  # type: ignore[union-attr]
    if len(plan.primes) == 1:  # type: ignore[union-attr]
        assert (np.abs(found) <= limit).mean() < 0.5, f"{small}"
    monkeypatch.setattr(
        Secrets, "fresh", classmethod(lambda cls, random, secret, context, vector: cls(bytes.fromhex(context)))
    )
    assert (np.abs(between()) <= limit).all(), "one key twice: the difference of two vectors lies open"


def test_a_total_is_the_sum_of_the_list(hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator adds a number of its own to the total before it is answered: a shift of its choice."""
    base = hostile.start().sha256

    def shifted(about: Sum, names: Any) -> bytes:
        plan, lanes = hostile.seat(about).plan, hostile.lanes(about)
        total = sealed.residues_of(plan, real(about, names), lanes)
        at = plan.limbs // plan.lanes + 1
        moved = [one.copy() for one in total]
        for residues, p in zip(moved, plan.primes, strict=True):
            residues[at] = (int(residues[at]) + 5) % p
        return sealed._packed(plan, moved)

    real = hostile.total
    hostile.total = shifted  # type: ignore[method-assign]
    refused("open.tau", hostile.honest, hostile.sum(base=base))
    hostile.total = real  # type: ignore[method-assign]
    check_untouched(hostile, base, expected)
    hostile.total = shifted  # type: ignore[method-assign]
    monkeypatch.setattr(guard, "check_total", lambda *arguments: None)
    assert hostile.honest(hostile.sum(base=base)).sha256 != expected


def test_one_sum_of_answers_is_tried_in_a_context(
    hostile: Hostile, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator sends sums with noise of its own: which of them open tells the circle's key, bit by bit."""
    base = hostile.start().sha256
    tried = []
    real = AnswerKey.open

    def opened(self: AnswerKey, *arguments: Any) -> Any:
        tried.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(AnswerKey, "open", opened)

    def attack() -> int:
        about = hostile.sum(base=base)
        hostile.seal(about)
        total = hostile.total(about, NAMES)
        for name in NAMES:
            hostile.ask(about, name, NAMES, total)
        honest = hostile.opening(about, total)
        tried.clear()
        for at in range(3):
            chosen = honest.keys[:at] + bytes([honest.keys[at] ^ 1]) + honest.keys[at + 1 :]
            with suppress(Refused):
                hostile.open(about, VICTIM, total, keys=chosen)
        asked = len(tried)
        themselves = {name: one.answer for name, one in about.answers.items()}
        assert model_version.parse(hostile.open(about, VICTIM, total, answers=themselves).result).sha256 == expected
        return asked

    assert attack() == 1
    check_untouched(hostile, base, expected)
    monkeypatch.setattr(guard, "check_tried", lambda *arguments: "")
    assert attack() == 3


def test_rows_are_summed_once(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums of rows alone, a row added between them: their difference would be that row."""
    hostile.start()

    def apart(*runs: str) -> Any:
        sums, cast = [], hostile.cast
        for run in runs:
            hostile.seats(run)
            about = hostile.sum("statistics", run=run)
            hostile.seal(about)
            total = hostile.total(about, NAMES)
            for name in NAMES:
                hostile.ask(about, name, NAMES, total)
            found = added(hostile.key(HELPER), [one.answer for one in about.answers.values()])
            plan, lanes = hostile.seat(about).plan, hostile.lanes(about)
            blocks = sealed.open_total(plan, digest_of(hostile, about), found, total, lanes)
            sums.append(np.concatenate(list(blocks)))
            whole = cast.splits[VICTIM].train
            fewer = replace(cast.splits[VICTIM], train=whole.take(np.arange(len(whole) - 1)))
            hostile.members[VICTIM]._learner_for = lambda *_, fewer=fewer: cast.learner(VICTIM, fewer)
            hostile.members[VICTIM]._agreed.clear()
        return sums[1] - sums[0]

    assert not apart("run-3", "run-4").any()
    monkeypatch.setattr(purposes.Statistics, "contribute", lambda self, at: counted_anew(at))
    hostile.members[VICTIM]._learner_for = lambda *_: hostile.cast.learner(VICTIM, hostile.cast.splits[VICTIM])
    hostile.members[VICTIM]._agreed.clear()
    assert apart("run-5", "run-6")[0] != 0, "one row fewer"


def counted_anew(at: Any) -> Any:
    found = [at.learner.rows, *at.learner.tested().tolist(), *at.learner.summary().tolist()]
    return purposes.Given(purposes.Contribution(tuple(found)), facts={f"counted:{at.counted}": found})


def test_a_large_number_locks_nobody_out(hostile: Hostile, expected: str) -> None:
    """N9: after epoch 2**53 + 1 the first version took no other. A number is no more than a name."""
    base = hostile.start().sha256
    hostile.numbers = 2**53
    hostile.seal(hostile.sum(base=base))
    hostile.numbers = 1
    check_untouched(hostile, base, expected)


def test_nobody_else_plays_the_other_members(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator makes up everybody but the victim; of the sum it knows all other parts."""

    def attack() -> Any:
        made_up = {name: Identity.generate(name) for name in NAMES if name != VICTIM}
        for name, one in made_up.items():
            hostile.members[name].identity = one
        hostile.seats()
        first = hostile.honest(hostile.sum("statistics"))
        opened = hostile.honest(hostile.sum(base=first.sha256))
        own = {name: hostile.update(name, first.sha256) for name in made_up}
        rows = {name: len(hostile.cast.splits[name].train) for name in NAMES}
        mean = (opened.vector - first.vector) * sum(rows.values())
        return mean - sum(own[name] * rows[name] for name in own), first.sha256

    victim = hostile.members[VICTIM]
    card = victim.enrol(Enrol(**hostile.offer)).card
    cards = [card, *(Identity.generate(name).card.as_dict() for name in NAMES[1:])]
    refused("circle.card", victim.take_seat, TakeSeat(run=RUN, roster=cards, ciphertext=b"", signature=b""))
    pinned = "not hmac.compare_digest(pins.get(card.name, "
    source = ("if " + pinned, "if False and not hmac.compare_digest(pins.get(card.name, ")
    swap(identities_room, "parse_roster", source)(monkeypatch)
    weak = identities_room.parse_roster
    monkeypatch.setattr("moonflower.client.seat.parse_roster", weak)
    monkeypatch.setattr("support.hostile.parse_roster", weak)
    found, base = attack()
    assert cosine(found, hostile.update(VICTIM, base)) > READ
