"""A member that faces any coordinator, as a state machine, which ``test_machines.py`` runs.

The member is real: its app, guard, ledger on a file, keys, training. The coordinator asks for whatever it likes, in any
order, again, with wrong fields, and adds up what it likes; the other members sign for it what a member can be asked to
seal, under any terms. The machine knows what the rules allow (rules 1, 2, 3 and 7), and the member must do exactly
that: no more, and no less. Between any two steps, and inside of any transaction, its process may be killed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from moonflower.client import guard
from moonflower.client.app import Member
from moonflower.client.ledger.ledger import Epoch, Ledger
from moonflower.configs.settings import FloorSettings
from moonflower.crypto import planner, sealed
from moonflower.crypto.schemes import deal
from moonflower.errors import Refused
from moonflower.protocol import envelope
from moonflower.protocol.messages import Enrol, Open, Opened, Sealed, TakeDeal
from moonflower.protocol.statement import Proof, Statement
from moonflower.server.aggregate import RunningSum
from test_machine_means import in_memory, without
from test_machine_world import (
    BAD_PROOFS,
    CLIPS,
    DORA,
    EVERYBODY,
    LEAST,
    ME,
    REST,
    ROSTERS,
    RUN,
    UNCONFIRMED,
    Ask,
    World,
    world,
)

from federation import NAMES, Killed, identities

TWISTS = {  # what is not as it should be about a sum, and why it is not opened then
    "context": "envelope.context",
    "sum: one twice": "envelope.tag",
    "sum: one less": "envelope.tag",
    "seeds": "open.set",
    "signature": "envelope.signature",
    "another's header": "envelope.signature",
    "without me": "open.set",
    "an older one of mine": "envelope.context",
    "unsorted": "open.set",
    "clip": "envelope.context",
    "round": "envelope.context",
    "checkpoint": "envelope.context",
}
LEFT_OUT: tuple[set[str], ...] = (set(), {NAMES[1]}, {NAMES[2]}, {DORA}, {NAMES[1], DORA})


@st.composite
def asks(draw: Any) -> Ask:
    """Requests for envelopes, most of which are as an honest coordinator's."""
    purpose = draw(st.sampled_from(["update", "update", "tallies", "statistics"]))
    base = draw(st.integers(0, 1)) if purpose != "statistics" else 0
    clip = 0.0 if purpose == "statistics" else CLIPS[base]
    odd = draw(st.sampled_from(["", "", "", "", "", "run", "epoch", "clip", "checkpoint"]))
    return Ask(
        run="another" if odd == "run" else RUN,
        epoch=draw(st.sampled_from([4, 9] if odd == "epoch" else [1, 1, 2, 3])),
        number=draw(st.integers(1, 2)),
        round=draw(st.sampled_from([1, 1, 1, 2])),
        purpose=purpose,
        base=base,
        clip=4.0 if odd == "clip" else clip,
        checkpoint=draw(st.sampled_from([2, 3] if odd == "checkpoint" else [0, 0, 1])),
    )


class TheMember(RuleBasedStateMachine):
    """Whatever it is asked, a member seals once, opens one set for a base, and only what was sealed on its terms."""

    member: Member

    def __init__(self) -> None:
        super().__init__()
        self.folder = in_memory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.pinned = EVERYBODY
        self.fuse: int | None = None  # transactions until the process is killed inside of one
        self.dies_opening = False
        self.witnessed = {0, 1}
        self.sealed: dict[tuple[str, str, int, int], Ask] = {}  # the terms first sealed under in a place
        self.envelopes: dict[tuple[str, str, int, int], bytes] = {}
        self.kept: dict[tuple[str, str], tuple[str, str, int, int]] = {}  # whose bytes the ledger still has
        self.model = -1  # the base that the ledger has
        self.first: dict[tuple[str, str], frozenset[str]] = {}  # rule 2
        self.openings: list[tuple[tuple[str, str], frozenset[str], frozenset[str]]] = []
        self.opening: tuple[Ask, frozenset[str]] | None = None
        self.real_open = sealed.open_total
        self.patch = mock.patch.object(sealed, "open_total", self.open_total)

    @initialize()
    def begin(self) -> None:
        self.patch.start()
        self.start()
        self.member.enrol(Enrol(run=RUN, offer=self.world.raw_offer))
        self.member.enrol(Enrol(run="another", offer=self.world.raw_offer))
        for epoch, roster in self.world.rosters.items():
            kept = Epoch(RUN, roster.as_list(), self.world.keys[epoch], confirmed=epoch != UNCONFIRMED)
            self.member.ledger.keep_epoch(kept)
        for number in self.witnessed:
            self.member.ledger.keep_checkpoint(self.world.held[number])

    @property
    def world(self) -> World:
        return world()

    def teardown(self) -> None:
        self.patch.stop()
        self.member.ledger.close()
        self.folder.cleanup()

    def start(self) -> None:
        if hasattr(self, "member"):
            self.member.ledger.close()
        self.fuse, self.dies_opening = None, False
        floor = FloorSettings(tasks=(self.world.offer.task.ref,), min_members=LEAST)
        pins = {name: self.world.pins[name] for name in self.pinned}
        ledger = Ledger(self.path, self.clock)
        schema = self.world.cast.schema.digest()
        self.member = Member(identities()[ME], floor, pins, ledger, lambda _: self.world.learners[ME], schema)

    def clock(self) -> float:
        """Return the time, which every entry of the ledger's journal asks for, inside of its transaction."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed
        return 0.0

    # The rules, as this machine understands them.

    def stands(self, ask: Ask) -> bool:
        """Return whether a run's epoch may be used: keys that were confirmed, all of whose holders are pinned."""
        return (
            ask.run == RUN and ask.epoch in ROSTERS and ask.epoch != UNCONFIRMED and self.pinned >= ROSTERS[ask.epoch]
        )

    def why_not_sealed(self, ask: Ask) -> str:
        """Return the code of why nothing is sealed for a request; "" where it is."""
        if not self.stands(ask):
            return "envelope.epoch"
        if ask.checkpoint not in self.witnessed:
            return "audit.fork"
        before = self.sealed.get(ask.place)
        if before is not None:
            same = before == ask.same and self.kept[ask.purpose, ask.run] == ask.place
            return "" if same else "seal.already"
        proved = ask.proof == "" and (ask.purpose != "update" or ask.clip == CLIPS[ask.base])
        return "" if proved or ask.purpose == "statistics" else "base.unproved"

    def why_not_opened(self, ask: Ask, members: frozenset[str], twist: str) -> str:
        """Return the code of why a sum of what these members sealed for ``ask`` is not decrypted; "" where it is."""
        first = self.first.get((ask.purpose, self.world.key_of(ask)))
        late = twist.startswith("sum: ")  # looked at last
        if not self.stands(ask):
            return "envelope.epoch"
        if twist and not late:
            return TWISTS[twist]
        if len(members) < LEAST:
            return "open.cohort"
        if first is not None and members not in (first, first & self.pinned):
            return "open.overlap"
        return TWISTS[twist] if late else ""

    # What happens.

    @rule(ask=asks(), fuse=st.sampled_from([None, None, None, None, 0]))
    def seal(self, ask: Ask, fuse: int | None) -> None:
        why_not, new = self.why_not_sealed(ask), ask.place not in self.sealed
        self.fuse = fuse
        came = self.answer(lambda: self.member.seal(self.world.request(ask)))
        if came is not None:
            assert (came if isinstance(came, str) else "") == why_not, f"asked for {ask}"
        if isinstance(came, Sealed):
            self.take(ask, came, new)

    def answer(self, handle: Callable[[], Any]) -> Any:
        """Return what the member answers, a refusal's code, or None where it was killed; then it is started again."""
        try:
            return handle()
        except Refused as refusal:
            return refusal.code
        except Killed:
            self.start()
            return None
        finally:
            self.fuse, self.dies_opening = None, False

    def take(self, ask: Ask, came: Sealed, new: bool) -> None:
        """An envelope left the member: it is on the disk, and it is the one that left before, if one did."""
        data = came.envelope.data
        assert self.envelopes.setdefault(ask.place, data) == data, "another envelope for the same place"
        signed, _ = envelope.split(came.envelope)
        said = signed.verify(identities()[ME].card)
        assert said.context == self.world.context(ask).digest
        assert data in self.rows("select envelope from sealed"), "it left before it was kept"
        if new:
            self.sealed[ask.place], self.kept[ask.purpose, ask.run] = ask.same, ask.place
            self.model = self.model if ask.purpose == "statistics" else ask.base

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def ask_again(self, data: Any) -> None:
        self.seal(data.draw(st.sampled_from(list(self.sealed.values()))), None)

    @precondition(lambda self: self.sealed)
    @rule(data=st.data(), change=st.sampled_from(["round", "base", "clip", "checkpoint"]))
    def ask_again_on_other_terms(self, data: Any, change: str) -> None:
        ask = data.draw(st.sampled_from(list(self.sealed.values())))
        changed = {"round": 3 - ask.round, "base": 1 - ask.base, "clip": 4.0, "checkpoint": 1 - min(ask.checkpoint, 1)}
        ask = replace(ask, **{change: changed[change]})
        if change == "base" and ask.purpose != "statistics":
            ask = replace(ask, clip=CLIPS[ask.base])
        self.seal(replace(ask, base=0) if ask.purpose == "statistics" else ask, None)

    @rule(ask=asks(), left_out=st.sampled_from([(), (), NAMES[1:2], NAMES[2:3]]), fuse=st.sampled_from([None, None, 1]))
    def whole_round(self, ask: Ask, left_out: tuple[str, ...], fuse: int | None) -> None:
        self.seal(ask, None)
        if self.sealed.get(ask.place) == ask.same:
            self.open(ask, ROSTERS[ask.epoch] - {*left_out}, "", fuse)

    @precondition(lambda self: self.sealed)
    @rule(data=st.data(), order=st.permutations(LEFT_OUT), fuse=st.sampled_from([None, None, None, 0, 1, 2]))
    def open_for_one_set_after_the_other(self, data: Any, order: list[set[str]], fuse: int | None) -> None:
        ask = data.draw(st.sampled_from(list(self.sealed.values())))
        for left_out in order[:3]:
            self.open(ask, ROSTERS[ask.epoch] - left_out, "", fuse)

    @precondition(lambda self: self.sealed)
    @rule(data=st.data(), left_out=st.sampled_from([set(), set(), {DORA}]))
    def open_what_is_wrong(self, data: Any, left_out: set[str]) -> None:
        ask = data.draw(st.sampled_from(list(self.sealed.values())))
        members = ROSTERS[ask.epoch] - left_out
        others = data.draw(st.permutations(sorted(members - {ME})))
        for twist in TWISTS:
            if twist != "an older one of mine" or len(self.envelopes) > 1:
                self.open(ask, members, twist, None, others)

    @rule(ask=asks().filter(lambda ask: ask.purpose != "statistics"))
    def ask_without_a_proof(self, ask: Ask) -> None:
        for proof in BAD_PROOFS:
            self.seal(replace(ask, proof=proof), None)

    @rule(ask=asks())
    def evict(self, ask: Ask) -> None:
        """The node's own operator no longer pins a member; the others open again what was opened with it."""
        self.whole_round(replace(ask, epoch=1), (), None)
        self.pinned = REST
        self.start()
        self.whole_round(replace(ask, epoch=3), (), None)

    def open(
        self, ask: Ask, members: frozenset[str], twist: str, fuse: int | None, others: list[str] | None = None
    ) -> None:
        who, another = others[:2] if others else ("", "")
        members = members - {ME} if twist == "without me" else members
        asked = self.request(ask, members, twist, who, another)
        why_not = self.why_not_opened(ask, members, twist)
        self.fuse, self.dies_opening = fuse, fuse == 2
        self.opening = None if why_not else (ask, members)
        if not why_not and ask.purpose == "update" and self.model != ask.base:
            why_not = "base.unproved"  # it may be opened, but the member no longer has what it would be added to
        came = self.answer(lambda: self.member.open(asked))
        if came is not None:
            assert (came if isinstance(came, str) else "") == why_not, f"{ask} for {sorted(members)}, {twist}"
        if isinstance(came, Opened):
            self.check_statement(ask, asked, came)

    def request(self, ask: Ask, members: frozenset[str], twist: str, who: str, another: str) -> Open:
        """Return a request to open what was sealed for ``ask``, with one thing that is not as it should be."""
        world, plan = self.world, self.world.plans[ask.epoch]
        raws = {name: world.envelope(name, ask) for name in members - {ME}}
        if ME in members:
            older = [data for place, data in self.envelopes.items() if place != ask.place]
            raws[ME] = older[0] if older and twist == "an older one of mine" else self.envelopes[ask.place]
        if twist == "context":
            raws[who] = world.envelope(who, ask, True)
        total = RunningSum(plan, world.lanes(ask))
        left_out = {"sum: one twice": another, "sum: one less": who}.get(twist)
        heads, seeds = {}, {}
        for name, data in sorted(raws.items()):
            heads[name], body = envelope.split(envelope.RawEnvelope(data))
            seeds[name] = bytes(body[: plan.chunks(world.lanes(ask)) * planner.SEED_BYTES])
            if name != left_out and len(body) == total.body_bytes:  # an older one may be of another length
                total.add(body)
            if (twist, name) == ("sum: one twice", who):
                total.add(body)
        headers = {name: signed.data for name, signed in heads.items()}
        signatures = {name: signed.signature for name, signed in heads.items()}
        if twist in ("signature", "another's header"):
            signatures[who] = signatures[another]
            headers[who] = headers[another] if twist == "another's header" else headers[who]
        if twist == "seeds":
            seeds[who] = seeds[another]
        listed = sorted(members, reverse=twist == "unsorted")
        at = 1 - min(ask.checkpoint, 1) if twist == "checkpoint" else ask.checkpoint
        return Open(
            run=ask.run,
            epoch=ask.epoch,
            number=ask.number,
            round=3 - ask.round if twist == "round" else ask.round,
            purpose=ask.purpose,
            base=world.base(ask),
            clip=3.0 if twist == "clip" else ask.clip,
            checkpoint=world.held[at].label,
            members=listed,
            headers=headers,
            signatures=signatures,
            seeds=seeds,
            total=total.dump(),
            best=world.bases[0].sha256,
            upload=False,
        )

    def open_total(self, *arguments: Any) -> Any:
        """Stands where the sum is decrypted: the ledger on the disk must say by now what is opened (rule 2)."""
        assert self.opening is not None, "a sum is opened that may not be"
        ask, members = self.opening
        key = (ask.purpose, self.world.key_of(ask))
        kept = self.rows("select members from opened where purpose = ? and key = ?", key)
        expected = self.first.setdefault(key, members)
        assert [frozenset(json.loads(text)) for text in kept] == [expected], "opened before the ledger said so"
        self.openings.append((key, members, self.pinned))
        if self.dies_opening:
            raise Killed
        return self.real_open(*arguments)

    def check_statement(self, ask: Ask, asked: Open, came: Opened) -> None:
        said = Statement.parse(came.statement)
        assert identities()[ME].card.node.verify("opened", came.statement, came.signature)
        assert (said.context, list(said.members)) == (self.world.context(ask).digest, asked.members)
        assert said.in_range

    def rows(self, query: str, values: Iterable[Any] = ()) -> list[Any]:
        """Return the first column of what another process would find in the ledger."""
        with closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute(query, tuple(values))]

    @rule(what=st.sampled_from(["kill", "show", "pin", "pin", "unpin", "offer", "deal"]), number=st.integers(0, 2))
    def meanwhile(self, what: str, number: int) -> None:
        if what == "show":
            self.member.ledger.keep_checkpoint(self.world.held[number])
            self.witnessed.add(number)
        elif what == "offer":
            self.offer_again()
        elif what == "deal":
            self.deal_again(number + 1)
        else:
            if what != "kill":  # the node's own operator does that, and starts it again
                self.pinned = REST if what == "unpin" else EVERYBODY
            self.start()

    def offer_again(self) -> None:
        """What was agreed to stays; another learning rate is another offer."""
        offer = dict(self.world.raw_offer)
        self.member.enrol(Enrol(run=RUN, offer=offer))
        offer["training"] = {**offer["training"], "lr": 1e-9}
        with pytest.raises(Refused, match="another offer"):
            self.member.enrol(Enrol(run=RUN, offer=offer))

    def deal_again(self, epoch: int) -> None:
        """Keys that were confirmed are never dealt anew: two sums could be sealed under them in one place."""
        world, dealer = self.world, NAMES[1]
        deals = deal.deal(identities()[dealer], world.keys[epoch].terms, world.rosters[epoch], world.plans[epoch])
        mine = next(one for one in deals if one.recipient == ME)
        taken = TakeDeal(
            run=RUN,
            epoch=epoch,
            roster=world.rosters[epoch].as_list(),
            ciphertexts={dealer: mine.ciphertext},
            signatures={dealer: mine.signature},
        )
        with pytest.raises(Refused) as refusal:
            self.member.take_deal(taken)
        assert refusal.value.code == ("deal.epoch" if self.pinned >= ROSTERS[epoch] else "deal.signature")

    @invariant()
    def one_base_one_set(self) -> None:
        """While everybody is pinned. Who is pinned no more may be missing from the set, and nobody else."""
        for key, first in self.first.items():
            found = {members for where, members, pinned in self.openings if where == key and pinned == EVERYBODY}
            assert len(found | {first}) == 1
            assert {members for where, members, _ in self.openings if where == key} <= {first, first & REST}

    @invariant()
    def the_ledger_says_so(self) -> None:
        if not hasattr(self, "member"):
            return
        for (purpose, key), members in self.first.items():
            assert self.member.ledger.opened(purpose, key) == sorted(members)
        for place, data in self.envelopes.items():
            kept = self.kept[place[0], place[1]] == place
            assert (data in self.rows("select envelope from sealed where envelope is not null")) == kept


# What the machine must find.


WEAKENED = (
    without(guard, "check_opening", "header.context != own.context", "False"),
    without(guard, "check_opening", "own.context != context.digest", "False"),
    without(guard, "check_opening", "own.header not in digests.values()", "False"),
    without(guard, "check_opening", "len(members) < max(context.min_members, floor.min_members)", "False"),
    without(guard, "check_opening", "opened_before is not None and", "False and"),
    without(guard, "check_opening", "{*opened_before} & {*pinned}", "{*members}"),
    without(guard, "check_opening", "({*opened_before}, ", "({*opened_before, *members}, "),
    without(guard, "check_opening", "header.seeds != ", "False and "),
    without(guard, "check_opening", "members != sorted(set(members))", "False"),
    without(guard, "check_seal", "remembered.context != context.digest", "False"),
    without(guard, "check_base", "if wrong:", "if False:"),
    without(guard, "check_base", "not statement.in_range", "False"),
    without(guard, "check_base", "statement.sha256 != context.base", "False"),
    without(guard, "check_base", "statement.clip != context.clip", "False"),
    without(guard, "check_base", "len(statement.members) < max(context.min_members, floor.min_members)", "False"),
    without(Proof, "verify", "len(signed) < needed", "False"),
    without(guard, "check_witnessed", "not witnessed", "False"),
    without(sealed, "check_total", "if not mac.verify", "if False and mac.verify"),
    without(Ledger, "remember_opening", "db.execute(insert(tables.opened)", "void = (insert(tables.opened)"),
    without(
        Ledger, "remember_opening", ".on_conflict_do_nothing()", '.on_conflict_do_update(["purpose", "key"], set_=row)'
    ),
    without(Ledger, "remember_sealed", "db.execute(insert(tables.sealed)", "void = (insert(tables.sealed)"),
    without(Ledger, "remember_sealed", "values(envelope=None)", "values(run=tables.sealed.c.run)"),
    without(Ledger, "sealed", "_place(context).items()", '_place(context).items() if name != "epoch"'),
    without(Member, "open", "self.ledger.remember_opening(context, key, request.members)", "pass"),
    without(Member, "enrol", "digest(before) != digest(request.offer)", "False"),
    without(Member, "take_deal", "held.confirmed or", ""),
    without(Member, "_seat", "not held.confirmed", "False"),
)
