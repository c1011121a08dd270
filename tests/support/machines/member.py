"""A member that faces any coordinator, as a state machine, which ``test_machines.py`` runs.

The member is real: its app, guard, ledger and seals on files, keys, training. The coordinator asks for whatever it
likes, in any order, again, with wrong fields, and holds the keys of all other members, who seal, answer and sign what
it likes. Between any two steps, inside of any transaction, and between ledger and file the member's process may be
killed; its disk may be put back to an earlier state, and files of it may be lost. The machine knows what the rules
allow (rules 2, 3 and 7), and the member must do exactly that: no more, and no less.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from moonflower.client import bases, guard
from moonflower.client.app import Member
from moonflower.client.guard import BaseRules
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.seals import FOLDER, HeldSeal, Seals
from moonflower.crypto import pairs
from moonflower.crypto.answer_plan import AnswerSum, answer_plan
from moonflower.crypto.pairs import public_mask
from moonflower.crypto.sealed import Secrets
from moonflower.errors import Refused
from moonflower.protocol import envelope
from moonflower.protocol.answer import AnswerDocument, SignedAnswer
from moonflower.protocol.envelope import SignedHeader
from moonflower.protocol.messages import Answered, Ask, Enrol, Open, Opened, Sealed
from moonflower.protocol.messages import Seal as SealRequest
from moonflower.protocol.statement import Proof, Statement, Words

from support import circles
from support.federation import NAMES, Killed, identities
from support.machines.world import BENT, ME, OTHERS, RUN, At, Listed, World, bent, world
from support.weakened import in_memory, without

ROUNDS, FEW = 8, 3  # of the run; and of them those that are asked for again and again
BAD, KEPT, GOOD = "worse", "same", "better"  # votes of the others, who are the majority
WHOLE = "select cast(document || signature || answer as blob) from answered where context = ?"
LOW = bytes(32)  # a public mask key of low order

WRONG_LISTS = {  # what is not as it should be about a list, and why it is not answered then
    "left out": "open.list",
    "one more": "open.list",
    "signature": "envelope.signature",
    "another's header": "envelope.signature",
    "names another": "envelope.member",
    "another context": "envelope.context",
    "low order": "envelope.malformed",
    "an older one of mine": "envelope.context",
    "another one of mine": "open.list",
    "base": "envelope.context",
    "round": "envelope.context",
    "checkpoint": "envelope.context",
}
WRONG_ANSWERS = {  # the same of the answers to a list, and why it is not opened
    "left out": "open.list",
    "one more": "open.list",
    "signature": "envelope.signature",
    "to another list": "open.list",
    "to another total": "open.list",
    "another total": "open.list",
    "another best": "base.unknown",
    "functionals": "open.tau",
    "junk": "open.key",
    "junk, each by itself": "open.list",
}


@dataclass(frozen=True)
class Version:
    """A version whose statement all names signed.

    Attributes:
        sha256, data, number: as in its statement.
        said, proof: the statement, and everybody's words.
        refused, promoted: by the votes.
    """

    sha256: str
    data: bytes
    number: int
    said: Statement
    proof: Proof
    refused: bool
    promoted: bool


@dataclass
class Known:
    """What the member's ledger must hold."""

    witnessed: set[int] = field(default_factory=set)
    sealed: dict[str, str] = field(default_factory=dict)  # context → purpose
    answered: dict[str, tuple[dict[str, str], str, bytes]] = field(default_factory=dict)  # → headers, total, what left
    trained: set[tuple[str, int]] = field(default_factory=set)  # (base, round)
    number: int = -1  # of the newest base that was trained from
    bases: dict[int, tuple[str, bool]] = field(default_factory=dict)  # number → version, and whether it was promoted
    candidates: dict[int, str] = field(default_factory=dict)  # number → version
    model: str = ""
    counted: bool = False  # the statistics of its own rows
    rows: bool = False  # the total of all rows was opened

    @property
    def newest(self) -> tuple[int, str] | None:
        return max(self.candidates.items()) if self.candidates else None


@dataclass(frozen=True)
class Disk:
    """A copy of a member's disk, and what the machine knew of its ledger then."""

    folder: Path
    known: Known


class Fragile(Seals):
    """Seals of a member that dies before or after one of these files is written or deleted."""

    fuse = ""

    def keep(self, context: str, seal: HeldSeal) -> None:
        self.burn("before keep")
        super().keep(context, seal)
        self.burn("after keep")

    def drop(self, context: str) -> None:
        self.burn("before drop")
        super().drop(context)
        self.burn("after drop")

    def burn(self, where: str) -> None:
        if self.fuse == where:
            raise Killed


FUSES = st.sampled_from(["", "", "", "inside", "before keep", "after keep", "before drop", "after drop"])


class TheMember(RuleBasedStateMachine):
    """Whatever it is asked: one list a context, everybody's, and from a base that it knows; else nothing leaves."""

    member: Member

    def __init__(self) -> None:
        super().__init__()
        self.folder = in_memory()
        self.home = Path(self.folder.name) / "home"
        self.home.mkdir()
        self.elsewhere = False
        self.inside = False  # the process is killed inside of its next transaction
        self.known = Known()
        self.versions: list[Version] = []
        self.ats: dict[str, At] = {}  # context → the round that it is of
        self.mine: dict[str, dict[str, tuple[bytes, bytes]]] = defaultdict(dict)  # → header → envelope and its seed
        self.lists: dict[str, list[tuple[Listed, Answered]]] = defaultdict(list)  # → what was answered, ever
        self.said: dict[str, dict[str, Statement]] = defaultdict(dict)  # context → list → what was opened
        self.updates: dict[tuple[Any, ...], Any] = {}  # what is sealed → its lanes, for ever the same
        self.disks: list[Disk] = []
        self.why = ""  # the member refused last

    @property
    def world(self) -> World:
        return world()

    @initialize()
    def begin(self) -> None:
        self.start()
        for run in (RUN, "another"):
            self.member.enrol(Enrol(**circles.enrolment(run, self.world.signed)))
        self.member.take_seat(self.world.take_seat())
        for number in (0, 1):
            self.show(number)
        self.copy()
        self.whole(self.at("statistics", 0, 0), "")
        assert self.versions

    def teardown(self) -> None:
        self.member.ledger.close()
        self.folder.cleanup()

    # The member's process and its disk.

    @property
    def path(self) -> Path:
        return self.home / "ledger.db"

    @property
    def seals(self) -> Path:
        return self.home / FOLDER

    def start(self) -> None:
        if hasattr(self, "member"):
            self.member.ledger.close()
        self.inside = False
        self.tried: dict[str, bytes] = {}  # context → the sum of answers that this process tried
        self.member = circles.member(
            identities()[ME],
            self.world.signed,
            self.world.cast.secret(ME),
            Ledger(self.path, self.clock),
            Fragile(self.seals),
            lambda *_: self.world.learners[ME],
        )

    def clock(self) -> float:
        """Return the time, which every entry of the ledger's journal asks for, inside of its transaction."""
        if self.inside:
            raise Killed
        return 0.0

    def show(self, number: int) -> None:
        self.member.ledger.keep_checkpoint(self.world.held[number])
        self.known.witnessed.add(number)

    def copy(self) -> None:
        """Copy the disk as a snapshot of a virtual machine does."""
        folder = Path(self.folder.name) / f"copy {len(self.disks)}"
        folder.mkdir()
        with closing(sqlite3.connect(self.path)) as here, closing(sqlite3.connect(folder / "ledger.db")) as there:
            here.backup(there)
        (folder / "ledger.db").chmod(0o600)
        if self.seals.exists():
            shutil.copytree(self.seals, folder / FOLDER)
        self.disks.append(Disk(folder, copy.deepcopy(self.known)))

    def put_back(self, disk: Disk, what: str) -> None:
        """Put a copy of the disk, or of a part of it, in the place of what is there."""
        self.member.ledger.close()
        if what in ("all", "ledger"):
            for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
                (self.home / name).unlink(missing_ok=True)
            shutil.copy2(disk.folder / "ledger.db", self.path)
            self.known = copy.deepcopy(disk.known)
        if what in ("all", "seals"):
            shutil.rmtree(self.seals, ignore_errors=True)
            if (disk.folder / FOLDER).exists():
                shutil.copytree(disk.folder / FOLDER, self.seals)
        self.start()

    def files(self) -> dict[str, str]:
        """Return context → header digest of what lies in the folder."""
        found = {}
        for path in self.seals.glob("*"):
            signed, _ = envelope.split(envelope.RawEnvelope(path.read_bytes()[36:]))
            found[path.name] = signed.digest
        return found

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return the first column of what another process would find in the ledger."""
        with closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute(query, values)]

    def answer(self, handle: Callable[[], Any], fuse: str = "") -> Any:
        """Return what the member answers, a refusal's code, or None where it was killed; then it is started again."""
        held = self.member.held
        assert isinstance(held, Fragile)
        self.inside, held.fuse = fuse == "inside", fuse
        try:
            return handle()
        except Refused as refusal:
            self.why = str(refusal)
            return refusal.code
        except Killed:
            self.start()
            return None
        finally:
            self.inside, held.fuse = False, ""

    # Rounds.

    def at(self, purpose: str, number: int, planned: int, base: Version | None = None, checkpoint: int = 0) -> At:
        """Return a round as an honest coordinator asks for it."""
        return At(RUN, number, planned, purpose, base.sha256 if base else "", checkpoint)

    def version(self, at: At) -> Version | None:
        """Return the base of a round."""
        return next((one for one in self.versions if one.sha256 == at.base), None)

    def good(self) -> Version:
        """Return the base that an honest coordinator goes on from."""
        return max((one for one in self.versions if not one.refused), key=lambda one: one.number)

    def fresh(self) -> int:
        """Return a number that was never used."""
        return 10 + max([0, *(at.number for at in self.ats.values())])

    def new_round(self, base: Version) -> list[int]:
        """Return the planned rounds in which a base was not trained from; the first where there is none."""
        trained = self.known.trained
        return [planned for planned in range(1, ROUNDS + 1) if (base.sha256, planned) not in trained] or [1]

    def honest_refused(self) -> Version | None:
        """Return the newest candidate that is known, if it was refused."""
        newest = max(self.versions, key=lambda one: one.number)
        return newest if newest.refused else None

    def why_not_sealed(self, at: At, proved: bool, shown: Version | None) -> str:
        """Return the code of why nothing is sealed for a request; "" where it is.

        Args:
            at: the round.
            proved: its base came with the words of all names.
            shown: the version that came as refused.
        """
        known, base = self.known, self.version(at)
        if at.run == "unknown":
            return "envelope.context"
        if self.elsewhere:
            return "circle.changed"
        if at.run == "another":
            return "circle.key"
        trained, based = at.purpose == "update", at.purpose != "statistics"
        if (trained and not 1 <= at.round <= ROUNDS) or bool(at.base) != based:
            return "envelope.context"
        context = self.world.context(at).digest
        if at.checkpoint not in known.witnessed:
            return "audit.fork"
        if context in known.answered:
            return "seal.already"
        if context in known.sealed and context in self.files():
            return ""
        if based:
            if not proved or base is None or base.refused:
                return "base.unknown"
            again, newest = (at.base, at.round) in known.trained, known.newest
            if trained and not again and base.number < known.number:
                return "base.unknown"
            newer = newest is not None and newest[1] != at.base and newest[0] > base.number
            right = shown is not None and shown.refused and (shown.number, shown.sha256) == newest
            if trained and not again and newer and not right:
                return "base.unknown"
        lacks = (trained and not (known.rows and known.counted)) or (at.purpose == "tallies" and not known.rows)
        return "update.failed" if lacks else ""

    def seal(
        self,
        at: At,
        fuse: str = "",
        proof: dict[str, Any] | None = None,
        shown: Version | None = None,
        data: bytes = b"",
    ) -> str | None:
        """Ask for an envelope; return the code of the refusal, "" for an envelope, None where the member was killed."""
        base = self.version(at)
        if proof is None and base is not None:
            proof = base.proof.as_dict()
        request = SealRequest(
            **at.fields(self.world),
            model=data or (base.data if base else b""),
            proof=proof or {},
            refused=shown.proof.as_dict() if shown else {},
        )
        bad = bool(base and (proof != base.proof.as_dict() or data)) or (base is None and bool(at.base))
        why_not, context = self.why_not_sealed(at, not bad, shown), self.world.context(at).digest
        kept = self.files().get(context) if context in self.known.sealed else None
        came = self.answer(lambda: self.member.seal(request), fuse)
        if came is not None:
            found = came if isinstance(came, str) else ""
            assert found == why_not, f"{found!r} instead of {why_not!r}: asked for {at}; {self.why}"
        if why_not:
            return why_not
        if kept is None and not (came is None and fuse == "inside"):
            self.note_sealed(at, context)
        if came is None:
            if context in self.files():  # kept, though it never left
                self.note_kept(at, context)
            return None
        assert isinstance(came, Sealed)
        self.take(at, context, came, kept)
        return ""

    def note_sealed(self, at: At, context: str) -> None:
        """The ledger has the seal, whatever became of its file."""
        known, base = self.known, self.version(at)
        known.sealed[context] = at.purpose
        self.ats[context] = at
        known.counted = known.counted or at.purpose == "statistics"
        if base is not None:
            known.model = base.sha256
            if at.purpose == "update":
                known.trained.add((at.base, at.round))
                known.number = max(known.number, base.number)
                known.bases.setdefault(base.number, (base.sha256, base.promoted))

    def take(self, at: At, context: str, came: Sealed, kept: str | None) -> None:
        """An envelope left the member: it is on the disk, and it is of what was ever sealed of this kind."""
        data = came.envelope.data
        signed, _ = envelope.split(came.envelope)
        header = signed.verify(identities()[ME].card)
        assert (header.context, header.run, header.number, header.purpose) == (context, RUN, at.number, at.purpose)
        assert kept in (None, signed.digest), "another envelope, though the first one was there"
        on_disk = (self.seals / context).read_bytes()
        assert on_disk[36:] == data, "it left before it was kept"
        if kept is None:
            assert self.rows("select header from sealed where context = ?", context) == [signed.digest]
            others = {other for other in self.files() if other != context}
            assert at.purpose not in {self.known.sealed.get(other) for other in others}, (
                "an earlier number is still kept"
            )
        self.note_kept(at, context)

    def note_kept(self, at: At, context: str) -> None:
        """Note what lies on the disk: it is of the update that was ever sealed of this kind, under a key of its own."""
        on_disk = (self.seals / context).read_bytes()
        seed, data = on_disk[4:36], on_disk[36:]
        signed, _ = envelope.split(envelope.RawEnvelope(data))
        if signed.digest not in self.mine[context]:
            assert all(seed != used for _, used in self.mine[context].values()), "another seal of the same randomness"
            lanes = self.world.opened(at, data, seed)
            same = (at.purpose, at.base, at.round) if at.purpose != "statistics" else at.purpose
            before = self.updates.setdefault((same,), lanes)
            assert np.array_equal(lanes, before), "it sealed another update than before"
        self.mine[context][signed.digest] = data, seed

    # Lists.

    def ask(self, at: At, listed: Listed, fuse: str = "", why_not: str | None = None, **changes: Any) -> str | None:
        """Ask for the answer to a list; ``why_not``: it is not as it should be. Return as :meth:`seal`."""
        context, known = self.world.context(at).digest, self.known
        fields: dict[str, Any] = {
            "headers": {name: head.data for name, head in listed.heads.items()},
            "signatures": {name: head.signature for name, head in listed.heads.items()},
            "total": listed.sha256,
        }
        fields |= {name: value for name, value in changes.items() if name in fields}
        where = {**at.fields(self.world), **{name: one for name, one in changes.items() if name not in fields}}
        about, given = (listed.digests, fields["total"]), known.answered.get(context)
        if why_not is None and given is not None and given[:2] != about:
            why_not = "open.list"
        if why_not is None and given is None and self.files().get(context) != listed.heads[ME].digest:
            why_not = "open.list"
        came = self.answer(lambda: self.member.answer_list(Ask(**where, **fields)), fuse)
        if came is not None:
            found = came if isinstance(came, str) else ""
            assert found == (why_not or ""), f"{found!r} instead of {why_not!r}: a list of {at}, {[*changes]}"
        if why_not:
            return why_not
        killed_first = came is None and fuse == "inside"
        if given is None and not killed_first:
            (whole,) = self.rows(WHOLE, context)
            known.answered[context] = *about, whole
        if came is None:
            return None
        assert isinstance(came, Answered)
        self.take_answer(at, context, listed, came)
        return ""

    def take_answer(self, at: At, context: str, listed: Listed, came: Answered) -> None:
        """An answer left the member: it is in the ledger, what it sealed is gone, and it is the same as ever."""
        said = SignedAnswer(came.document, came.signature)
        about = listed.as_seal_list(self.world)
        document = said.verify(identities()[ME].card, context, about.digest, listed.sha256)
        assert document.answer == hashlib.sha256(came.answer).hexdigest()
        assert set(about.headers) == {*NAMES}
        whole = came.document + came.signature + came.answer
        assert self.known.answered[context] == (dict(about.headers), listed.sha256, whole), (
            "it answered otherwise before"
        )
        kept = self.rows(WHOLE, context)
        assert kept == [whole], "it left before the ledger had it"
        assert context not in self.files(), "it left, and what it sealed is still there"
        for other, earlier in self.lists[context]:
            if (other.digests, other.sha256) != (listed.digests, listed.sha256):
                self.check_apart(at, (other, earlier), (listed, came))
        self.lists[context].append((listed, came))

    def check_apart(self, at: At, *both: tuple[Listed, Answered]) -> None:
        """Answers of one context to two lists, as a disk that was put back may give: neither opens with the other's."""
        for (listed, _), (_, given) in (both, both[::-1]):
            answers = {name: self.world.answer(name, at, listed).answer for name in OTHERS} | {ME: given.answer}
            assert not self.world.opens(at, listed, answers), "an answer to one list opens another"

    # Openings.

    def request(self, at: At, listed: Listed, came: Answered, best: str, **changes: Any) -> Open:
        """Return a request to open a list that was answered; ``changes``: name → what is another field."""
        world = self.world
        given = {name: world.answer(name, at, listed) for name in OTHERS}
        documents = {name: one.document for name, one in given.items()} | {ME: came.document}
        signatures = {name: one.signature for name, one in given.items()} | {ME: came.signature}
        sealed_ = {name: one.answer for name, one in given.items()} | {ME: came.answer}
        running = AnswerSum(answer_plan(world.plan))
        seeds = {name: running.add(one) for name, one in sealed_.items()}
        fields: dict[str, Any] = {
            "documents": documents,
            "signatures": signatures,
            "seeds": seeds,
            "keys": running.dump(),
            "answers": sealed_ if changes.pop("whole", False) else {},
            "total": listed.total,
            "best": best,
            "upload": True,
        }
        return Open(**at.fields(world), **{**fields, **changes})

    def open(self, at: At, listed: Listed, came: Answered, request: Open, vote: str, why_not: str, fuse: str) -> None:
        """Ask for an opening, and add the others' words to what it says."""
        context, known = self.world.context(at).digest, self.known
        given, beside = known.answered.get(context), request.best != self.best(at)
        if given is None or given[:2] != (listed.digests, listed.sha256):
            why_not = "open.list"
        elif beside and why_not != "open.list":
            why_not = "base.unknown"
        elif not why_not and not listed.right:
            why_not = "open.tau"
        elif not why_not and at.purpose == "update" and known.model != at.base:
            why_not = "base.unknown"  # it may be opened, but the member no longer has what it would be added to
        if why_not in ("", "open.key", "base.unknown") and not beside and not request.answers:
            summed = request.keys + b"".join(request.seeds[name] for name in sorted(request.seeds))
            if self.tried.setdefault(context, summed) != summed:
                why_not = "open.key"  # one sum a context is tried
        opened = self.answer(lambda: self.member.open(request), fuse)
        if opened is not None:
            found = opened if isinstance(opened, str) else ""
            assert found == why_not, f"{found!r} instead of {why_not!r}: to open {at}"
        if not isinstance(opened, Opened):
            return
        said = Statement.parse(opened.statement)
        assert (said.context, said.members, said.in_range) == (context, NAMES, True)
        assert said.headers == listed.as_seal_list(self.world).digest
        assert self.said[context].setdefault(said.headers, said) == said, "it says something else than before"
        mine = Words(opened.signature, opened.vote, opened.vote_signature)
        mine.check(identities()[ME].card, opened.statement, request.best)
        if at.purpose == "statistics":
            known.rows = True
        if at.purpose == "update":
            known.candidates.setdefault(at.number, said.sha256)
        if at.purpose != "tallies":
            self.learn(said, opened.result, self.world.proof(said, mine, vote, request.best), vote)

    def best(self, at: At) -> str:
        """Return what a vote has to compare with: what was promoted last when the base was trained from."""
        bases = self.known.bases
        reached = max((number for number, (sha256, _) in bases.items() if sha256 == at.base), default=-1)
        good = [number for number, (_, promoted) in bases.items() if number <= reached and (promoted or not number)]
        return bases[max(good)][0] if at.purpose == "update" and good else ""

    def learn(self, said: Statement, data: bytes, proof: Proof, vote: str) -> None:
        """The coordinator has a version, with everybody's words; of several on one it uses those of the last number."""
        assert hashlib.sha256(data).hexdigest() == said.sha256
        voted = said.purpose == "update"
        promoted = voted and vote == GOOD and proof.words[ME].vote != "worse"  # which would take one of three away
        before = [one for one in self.versions if one.sha256 == said.sha256]
        if all(one.number < said.number for one in before):
            self.versions = [one for one in self.versions if one not in before]
            self.versions.append(Version(said.sha256, data, said.number, said, proof, voted and vote == BAD, promoted))

    def whole(self, at: At, fuse: str, vote: str = GOOD, shown: Version | None = None) -> None:
        """Carry a round out, as far as it comes."""
        if self.seal(at, fuse if fuse.endswith("keep") or fuse == "inside" else "", shown=shown) != "":
            return
        listed = self.listed(at)
        if self.ask(at, listed, fuse if fuse.endswith("drop") else "") == "":
            self.open_again(at, vote, fuse="")

    def listed(self, at: At, **more: Any) -> Listed:
        """Return a list with what lies in this member's folder now."""
        context = self.world.context(at).digest
        data, _ = self.mine[context][self.files()[context]]
        return self.world.listed(at, data, **more)

    def open_again(self, at: At, vote: str, fuse: str) -> None:
        context = self.world.context(at).digest
        listed, came = self.lists[context][-1]
        self.open(at, listed, came, self.request(at, listed, came, self.best(at)), vote, "", fuse)

    # What happens.

    def pick(self, data: Any, among: list[Any]) -> Any:
        """Return one of several, rather one of the newest; only its place is printed where a program fails."""
        return among[-1 - data.draw(st.integers(0, 7)) % len(among)]

    @rule(
        fuse=FUSES,
        vote=st.sampled_from([GOOD, KEPT, BAD]),
        planned=st.integers(1, FEW),
        number=st.integers(1, 4),
        purpose=st.sampled_from(["update", "update", "update", "tallies", "statistics"]),
        honest=st.booleans(),
        data=st.data(),
    )
    def carry_out(self, fuse: str, vote: str, planned: int, number: int, purpose: str, honest: bool, data: Any) -> None:
        base = None if purpose == "statistics" else self.pick(data, self.versions)
        number, planned = (0, 0) if purpose == "statistics" else (number, planned)
        at = self.at(purpose, number, planned, base, data.draw(st.sampled_from([0, 0, 1])))
        self.whole(at, fuse, vote, self.honest_refused() if honest else None)

    @rule(data=st.data())
    def ask_for_what_is_odd(self, data: Any) -> None:
        base = self.pick(data, self.versions)
        at = self.at("update", data.draw(st.integers(1, 4)), 1, base)
        changes: tuple[dict[str, Any], ...] = (
            {"run": "another"},
            {"run": "unknown"},
            {"checkpoint": 2},
            {"checkpoint": 3},
            {"round": 0},
            {"round": ROUNDS + 1},
            {"purpose": "statistics"},
            {"base": ""},
        )
        for changed in changes:
            self.seal(replace(at, **changed))

    @precondition(lambda self: self.ats)
    @rule(data=st.data(), fuse=FUSES)
    def ask_again(self, data: Any, fuse: str) -> None:
        """For what was sealed at any time before; then to open it, if it was answered."""
        context = self.pick(data, [*self.ats])
        at = self.ats[context]
        self.seal(at, fuse, shown=self.honest_refused())
        if self.lists[context]:
            listed, came = self.lists[context][-1]
            self.ask(at, listed, fuse)
            self.open(at, listed, came, self.request(at, listed, came, self.best(at)), GOOD, "", "")

    @rule(data=st.data(), planned=st.integers(1, FEW))
    def show_bases_that_nobody_knows(self, data: Any, planned: int) -> None:
        base = self.pick(data, self.versions)
        at = self.at(data.draw(st.sampled_from(["update", "update", "tallies"])), 5, planned, base)
        for how in BENT:
            self.seal(at, proof=bent(base.proof, base.said, how, self.world))
        others = [one for one in self.versions if one.sha256 != base.sha256]
        for other in others[:2]:
            self.seal(at, proof=other.proof.as_dict())
            self.seal(at, data=other.data)
            self.seal(at, shown=other)

    @rule(votes=st.sampled_from([(BAD, GOOD), (GOOD, BAD), (BAD, BAD), (GOOD, GOOD), (GOOD, KEPT, KEPT), (KEPT, BAD)]))
    def open_one_candidate_after_another(self, votes: tuple[str, ...]) -> None:
        """And try all bases in between, with and without the words by which newer ones were refused."""
        for vote in votes:
            at = self.at("update", self.fresh(), self.new_round(self.good())[0], self.good())
            self.whole(at, "", vote, self.honest_refused())
            for base in self.versions[-3:]:
                for shown in (None, *self.versions[-3:]):
                    self.seal(self.at("update", at.number + 1, self.new_round(base)[-1], base), shown=shown)

    @rule(data=st.data(), planned=st.integers(1, FEW), right=st.booleans())
    def list_what_is_wrong(self, data: Any, planned: int, right: bool) -> None:
        base = self.pick(data, self.versions)
        at = self.at("update", data.draw(st.integers(1, 4)), planned, base)
        if self.seal(at, shown=self.honest_refused()) != "":
            return
        for twist in data.draw(st.permutations(sorted(WRONG_LISTS))):
            self.ask_wrong(at, twist)
        listed = self.listed(at, total=None if right else b"\0" * self.world.plan.body_bytes(self.world.lanes(at)))
        if self.ask(at, listed) == "":
            for twist in data.draw(st.permutations(sorted(WRONG_ANSWERS))):
                self.open_wrong(at, twist)
            self.ask_other(at, data)
            self.open_again(
                at, data.draw(st.sampled_from([GOOD, KEPT, BAD])), data.draw(st.sampled_from(["", "inside"]))
            )

    def ask_wrong(self, at: At, twist: str) -> None:
        """Ask for the answer to a list with one thing that is not as it should be."""
        listed, context, who = self.listed(at), self.world.context(at).digest, OTHERS[0]
        heads, changes = dict(listed.heads), dict[str, Any]()
        another = heads[OTHERS[1]]
        if twist == "left out":
            del heads[who]
        elif twist == "one more":
            heads["Mallory"] = another
        elif twist == "signature":
            heads[who] = SignedHeader(heads[who].data, another.signature)
        elif twist == "another's header":
            heads[who] = another
        elif twist == "names another":
            heads[who] = SignedHeader(another.data, identities()[who].sign("envelope", another.data))
        elif twist == "another context":
            heads[who] = self.world.sealed(who, replace(at, number=77)).signed
        elif twist == "low order":
            heads[who] = self.world.sealed(who, at, 3, LOW).signed
        elif twist in ("an older one of mine", "another one of mine"):
            same = twist == "another one of mine"
            found = [one for other, ones in self.mine.items() for one in ones.items() if (other == context) == same]
            found = [one for one in found if one[0] != heads[ME].digest]
            if not found:
                return
            heads[ME] = envelope.split(envelope.RawEnvelope(found[0][1][0]))[0]
        else:
            changes = {"base": "0" * 64} if twist == "base" else {}
            changes |= {"round": at.round % ROUNDS + 1} if twist == "round" else {}
            changes |= {"checkpoint": self.world.held[1 - at.checkpoint].label} if twist == "checkpoint" else {}
        changes |= {"headers": {name: head.data for name, head in heads.items()}}
        changes |= {"signatures": {name: head.signature for name, head in heads.items()}}
        self.ask(at, listed, "", WRONG_LISTS[twist], **changes)

    def ask_other(self, at: At, data: Any) -> None:
        """Ask for the answer to another list or total, where one was answered."""
        listed, _ = self.lists[self.world.context(at).digest][-1]
        data_mine, _ = self.mine[self.world.context(at).digest][listed.heads[ME].digest]
        which = {data.draw(st.sampled_from(OTHERS)): 1}
        self.ask(at, self.world.listed(at, data_mine, which))
        self.ask(at, self.world.listed(at, data_mine, which, total=listed.total))
        self.ask(at, replace(listed, total=listed.total[::-1], right=False))

    def open_wrong(self, at: At, twist: str) -> None:
        """Ask to open an answered list with one thing that is not as it should be."""
        world, who = self.world, OTHERS[0]
        listed, came = self.lists[world.context(at).digest][-1]
        honest = self.request(at, listed, came, self.best(at))
        documents, signatures = dict(honest.documents), dict(honest.signatures)
        changes: dict[str, Any] = {}
        code = WRONG_ANSWERS[twist]
        said = AnswerDocument.parse(documents[who])
        if twist == "left out":
            del documents[who], signatures[who]
        elif twist == "one more":
            documents["Mallory"] = signatures["Mallory"] = b""
        elif twist == "signature":
            signatures[who] = signatures[OTHERS[1]]
        elif twist == "another best":
            changes = {"best": "e" * 64}
        elif twist == "another total":
            changes = {"total": bytes([listed.total[0] ^ 1]) + listed.total[1:]}
        elif twist.startswith("junk"):
            junk = world.answer(who, at, replace(listed, held={**listed.held, who: world.sealed(who, at, 9)}))
            running = AnswerSum(answer_plan(world.plan))
            whole = self.request(at, listed, came, honest.best, whole=True).answers | {who: junk.answer}
            seeds = {name: running.add(one) for name, one in whole.items()}
            changes = {"keys": running.dump(), "seeds": seeds, "answers": whole if "itself" in twist else {}}
            code = code if listed.right else "open.tau"
        else:
            other = {
                "to another list": {"headers": "0" * 64},
                "to another total": {"total": "0" * 64},
                "functionals": {"tau": (said.tau[0] ^ 1, *said.tau[1:])},
            }[twist]
            signed = SignedAnswer.sign(identities()[who], replace(said, **other))
            documents[who], signatures[who] = signed.data, signed.signature
        request = honest.model_copy(update={"documents": documents, "signatures": signatures, **changes})
        self.open(at, listed, came, request, GOOD, code, "")

    @rule(data=st.data(), same_total=st.booleans(), what=st.sampled_from(["all", "all", "ledger", "seals"]))
    def put_back_a_disk_between_two_lists(self, data: Any, same_total: bool, what: str) -> None:
        """The coordinator gets a second answer in a context, to another list or total, and it is worth nothing."""
        at = self.at("update", data.draw(st.integers(1, 4)), data.draw(st.integers(1, FEW)), self.versions[-1])
        if self.seal(at, shown=self.honest_refused()) != "":
            return
        listed = self.listed(at)
        self.copy()
        if self.ask(at, listed) == "":
            self.put_back(self.disks[-1], what)
            mine, _ = self.mine[self.world.context(at).digest][listed.heads[ME].digest]
            if same_total:
                first = self.world.sealed(OTHERS[0], at)  # whose other envelope has the same public mask key
                mask = public_mask(Secrets(first.seed).mask_key)
                self.ask(at, self.world.listed(at, mine, {OTHERS[0]: 1}, total=listed.total, mask=mask))
            else:
                self.ask(at, replace(listed, total=listed.total[::-1], right=False))

    @rule(data=st.data(), what=st.sampled_from(["all", "ledger", "seals"]))
    def put_back_a_disk(self, data: Any, what: str) -> None:
        self.put_back(self.pick(data, self.disks), what)

    @rule(planned=st.integers(1, FEW), number=st.integers(1, 4))
    def lose_a_seal(self, planned: int, number: int) -> None:
        """What was sealed last is lost, and sealed anew: the same update under another key."""
        at = self.at("update", number, planned, self.versions[-1])
        if self.seal(at, shown=self.honest_refused()) == "":
            shutil.rmtree(self.seals)
            self.whole(at, "")

    @rule(
        what=st.sampled_from(["kill", "show", "move", "offer", "seat", "copy", "lose"]),
        number=st.integers(0, 2),
    )
    def meanwhile(self, what: str, number: int) -> None:
        if what == "show":
            self.show(number)
        elif what == "offer":
            self.offer_again()
        elif what == "copy":
            self.copy()
        elif what == "lose":
            shutil.rmtree(self.seals, ignore_errors=True)
        elif what == "seat":
            assert self.member.take_seat(self.world.take_seat())
        else:
            if what == "move":
                self.move_on()
            self.start()

    def move_on(self) -> None:
        """The node lives in another circle: what is asked of the old one is refused for as long as it does."""
        mine, self.elsewhere = self.member.circles, True
        self.member.circles = circles.circles(identities()[ME], Ledger(None), self.world.circle.recipe)
        circles.live_in(self.member.circles, self.world.other)
        for at in [self.at("update", 1, 1, self.good()), *[*self.ats.values()][-2:]]:
            assert self.seal(at) == "circle.changed"
        self.member.circles, self.elsewhere = mine, False

    def offer_again(self) -> None:
        """What was agreed to stays; another seed is another offer."""
        asked = circles.enrolment(RUN, self.world.signed)
        self.member.enrol(Enrol(**asked))
        with pytest.raises(Refused, match="another offer"):
            self.member.enrol(Enrol(**{**asked, "seed": asked["seed"] + 1}))

    @rule()
    def everybody_is_back(self) -> None:
        """Then a round comes to its end, whatever was before: with numbers that were never used."""
        self.show(1)
        number = self.fresh()
        for checkpoint in (0, 1, 2):
            if not (self.known.rows and self.known.counted):  # of a disk from before the statistics
                self.show(checkpoint)
                self.whole(self.at("statistics", 0, 0, None, checkpoint), "")
        assert self.known.rows
        at = self.at("update", number, 1 + number % ROUNDS, self.good(), 1)
        self.whole(at, "", GOOD, self.honest_refused())
        assert self.said[self.world.context(at).digest], "the round did not come to its end"

    @invariant()
    def the_ledger_says_so(self) -> None:
        if not hasattr(self, "member"):
            return
        assert {*self.rows("select context from answered")} == {*self.known.answered}
        assert {*self.rows("select context from sealed")} == {*self.known.sealed}
        assert self.rows("select sha256 from candidates order by number") == [
            sha256 for _, sha256 in sorted(self.known.candidates.items())
        ]
        for context, header in self.files().items():
            left = self.mine[context]
            assert header in left or context in self.known.sealed


# What the machine must find.


WEAKENED = (
    without(guard, "check_list", "{*request.headers} != names or {*request.signatures} != names", "False"),
    without(guard, "check_list", "header.context != context.digest", "False"),
    without(guard, "check_list", "(dict(answer.headers), answer.total) != (digests, listed.total)", "False"),
    without(guard, "check_list", "(dict(answer.headers), answer.total)", "(digests, answer.total)"),
    without(guard, "check_list", "answer.total) != (digests, listed.total)", "0) != (digests, 0)"),
    without(guard, "check_list", "if not own or not hmac", "if False and not hmac"),
    without(SignedHeader, "verify", "if not card.node.verify(", "if False and not card.node.verify("),
    without(SignedHeader, "verify", "header.member != card.name", "False"),
    without(guard, "check_answers", "any({*named} != names for", "any(False for"),
    without(guard, "check_tried", "before is not None and tried != before", "False"),
    without(guard, "check_answers", "hashlib.sha256(request.total).hexdigest() != answer.total", "False"),
    without(guard, "check_total", "if computed != tau.added", "if False and computed != tau.added"),
    without(
        SignedAnswer,
        "verify",
        "(document.context, document.headers, document.total) != (context, headers, total)",
        "False",
    ),
    without(SignedAnswer, "verify", "if not card.node.verify(", "if False and not card.node.verify("),
    without(BaseRules, "check", "(statement.sha256 != context.base, ", "(False, "),
    without(BaseRules, "check", "(not statement.in_range, ", "(False, "),
    without(BaseRules, "check", "(bool(code), ", "(False, "),
    without(BaseRules, "check", "statement.number < before.number and not before.trained", "False"),
    without(BaseRules, "check", "newer[0] > statement.number and not before.trained", "False"),
    without(BaseRules, "_check_refused", "(statement.number, statement.sha256) != newest", "False"),
    without(BaseRules, "_check_refused", "or not was_refused", ""),
    without(BaseRules, "_said", "if (statement.federation, statement.run) != (", "if (1, 1) == ("),
    without(BaseRules, "_said", "purpose is None or not purpose.makes_version", "False"),
    without(Proof, "verify", "statement.members != roster.names or", ""),
    without(Words, "check", 'if not card.node.verify("opened", statement, self.signature) or not', "if not"),
    without(Words, "check", '"vote", voted, self.vote_signature', '"opened", statement, self.signature'),
    without(guard, "check_witnessed", "not witnessed", "False"),
    without(guard, "round_context", "not 1 <= request.round <=", "not 0 <= request.round <= 9 +"),
    without(guard, "round_context", "bool(request.base) != purpose.based", "False"),
    without(pairs, "_words", '"list": headers, ', ""),
    without(pairs, "_words", '"total": total, ', ""),
    without(Member, "seal", "if self.ledger.answered(context.digest) is not None:", "if False:"),
    without(Member, "seal", "if kept is not None and before is not None:", "if False:"),
    without(Member, "seal", "self.held.keep(context.digest, HeldSeal(seed, envelope.data))", "pass"),
    without(Member, "seal", "self._let_go(context)", "pass"),
    without(Member, "answer_list", "self.ledger.remember_answered(context, answer)", "pass"),
    without(Member, "answer_list", "self.held.drop(context.digest)", "pass"),
    without(Member, "open", "candidate=outcome.sha256 if judging else", 'candidate="" if judging else'),
    without(guard, "check_best", "request.best != best", "False"),
    without(Ledger, "good", "& (row.number <= reached)", ""),
    without(Ledger, "good", "row.promoted | (row.number == 0)", "(row.number >= 0)"),
    without(bases, "of_request", "base.sha256 != context.base or", ""),
    without(Member, "enrol", "digest(before.offer) != digest(offer)", "False"),
    without(Ledger, "before", '"base": context.base, ', ""),
    without(Ledger, "before", '"round": context.round, ', ""),
    without(Ledger, "remember_answered", "db.execute(insert(ddl.answered)", "void = (insert(ddl.answered)"),
    without(Ledger, "answered", "None if row is None else", "None if True else"),
    without(Seals, "keep", "files.replace(", "void = ("),
    without(Seals, "drop", "files.remove(", "void = ("),
)
