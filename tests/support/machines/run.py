"""The life of runs and rounds as a state machine, which ``test_machines.py`` runs: a whole federation in memory.

Coordinator, members, log, ledgers and models are real. While the coordinator carries a run out, mishaps come at chosen
entries of its log; between two of its lives others do. What was asked before may be asked again at any time.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Barrier
from typing import Any

from flwr.app import Error, Message
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from moonflower.client.app import Member
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.ledger.run_book import RunBook
from moonflower.client.seals import FOLDER, HeldSeal, Seals
from moonflower.protocol.answer import AnswerDocument, list_digest
from moonflower.protocol.context import context_digest
from moonflower.protocol.envelope import split
from moonflower.protocol.messages import ROUTES, Answered, Body, Opened, Sealed
from moonflower.protocol.records import from_records, kind_of, to_records
from moonflower.protocol.statement import Statement
from moonflower.server.coordinator import Coordinator
from moonflower.server.door.api import Api
from moonflower.server.opening import GivenAnswers
from moonflower.server.records import history
from moonflower.server.records.models import Models
from moonflower.server.records.state import State
from moonflower.server.round import Rounds
from moonflower.server.sums import Sums

from support.federation import THREE, Federation, Killed
from support.weakened import in_memory, without

SMALL = ("training.rounds=2",)
OVER = ("done", "failed", "policy", "stopped")
ENDS = ("promoted", "refused", "failed")
LITTLE = (
    "restart",
    "lose",
    "die",
    "half",
    "forget",
    "slow",
    "replay",
    "submit",
)  # with these only a run gives the undisturbed model
TROUBLE = ("away", "back", "late", "revoke", "stop")
MOST_ENTRIES = 400  # that two rounds write, whatever happens: a run that is left alone ends
SLOW_S, LATE_S = 20.0, 300.0
WHO = st.sampled_from(THREE)
ENTRY = st.integers(1, 52)  # of a coordinator's life; a run to which nothing happens writes 55
KILL = st.one_of(  # at an entry, by its place or as the n-th of an event; or not at all
    st.tuples(st.sampled_from(["set_closed", "answered", "opened", "envelope_accepted", "judged"]), st.integers(1, 4)),
    st.tuples(st.sampled_from(["round_began", "promoted", "seats_taken"]), st.just(1)),
    st.tuples(st.just(""), ENTRY),
    st.none(),
)
Kill = tuple[str, int] | None
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Mishap:
    """What happens to whom as the n-th entry of a coordinator's life is committed."""

    entry: int
    what: str
    who: str
    which: int


def mishaps(*kinds: str) -> st.SearchStrategy[list[Mishap]]:
    """What happens in the life of a coordinator."""
    one = st.builds(Mishap, ENTRY, st.sampled_from(kinds), WHO, st.integers(0, 99))
    return st.lists(one, min_size=3, max_size=6)


HARMLESS, HARMFUL = mishaps(*LITTLE), mishaps(*LITTLE, *TROUBLE, *TROUBLE, "revoke")


class Fragile(Seals):
    """Seals of a member that dies between its ledger and one of these files, before it is written or deleted."""

    def __init__(self, folder: Path, half: Callable[[], bool]) -> None:
        super().__init__(folder)
        self._half = half

    def keep(self, context: str, seal: HeldSeal) -> None:
        if self._half():
            raise Killed
        super().keep(context, seal)

    def drop(self, context: str) -> None:
        if self._half():
            raise Killed
        super().drop(context)


class Disturbed(Federation):
    """A federation to which things happen; what its members were asked and sent is kept."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.asked: list[tuple[str, type[Body], Any]] = []
        self.envelopes: dict[Place, set[str]] = defaultdict(set)  # (member, context) → digests
        self.contexts: dict[Place, set[str]] = defaultdict(set)  # (purpose, run, number) → contexts
        self.answers: dict[Place, set[str]] = defaultdict(set)  # (member, context) → digests
        self.lists: dict[str, set[tuple[str, str]]] = defaultdict(set)  # context → (list, total) that was answered
        self.statements: dict[Place, set[str]] = defaultdict(set)
        self.losing: set[str] = set()  # whose next reply is lost
        self.dying: set[str] = set()  # who dies inside of its next transaction
        self.halving: set[str] = set()  # who dies before its next file, after the ledger
        self.delays: dict[str, float] = {}  # of the next request to somebody, seconds
        self.queues: dict[str, list[Body]] = defaultdict(list)  # of requests that come too late, but in order
        self.forgotten = 0  # seals that were lost
        super().__init__(folder, *SMALL, *overrides, of=THREE)
        self.around = lambda app: lambda message, context: self.handle(message, context, app)
        self.delay = self.delayed

    def start(self, name: str) -> None:
        super().start(name)
        self.members[name].ledger._clock = lambda: self.time_at(name)
        self.members[name].held = Fragile(self.seals(name), lambda: self.is_marked(self.halving, name))

    def seals(self, name: str) -> Path:
        return self.folder / "members" / f"{name} {FOLDER}"

    def is_marked(self, who: set[str], name: str) -> bool:
        marked = name in who
        who.discard(name)
        return marked

    def time_at(self, name: str) -> float:
        """Return the time, which a ledger asks for inside of a transaction."""
        if self.is_marked(self.dying, name):
            raise Killed
        return 0.0

    def delayed(self, member: str, asked: Body) -> float:
        seconds = self.delays.pop(member, 0.0)
        if seconds == LATE_S:
            self.queues[member].append(asked)
        return seconds

    def handle(self, message: Message, context: Any, app: Any) -> Message:
        """Return a member's reply, or an error of Flower's where it died or its reply was lost."""
        name = context.node_config["member"]
        while self.queues[name]:  # a node works through what came, one after the other; nobody waits for that answer
            late = self.queues[name].pop(0)
            self.ask(name, type(late), to_records(late))
        self.asked.append((name, ROUTES[message.metadata.message_type].request, message.content))
        try:
            reply: Message = app(message, context)
        except Killed:
            self.start(name)
        else:
            self.note(*self.asked[-1], reply.content)
            if not self.is_marked(self.losing, name):
                return reply
        return Message(Error(code=0, reason=""), reply_to=message)

    def replay(self, which: int) -> None:
        """Ask somebody again what it was asked at any time before."""
        if self.asked:
            self.ask(*self.asked[which % len(self.asked)])

    def ask(self, name: str, request: type[Body], records: Any) -> None:
        """Ask a member something whose answer the coordinator does not get."""
        try:
            self.note(name, request, records, self.members[name].answer(request, records))
        except Killed:
            self.start(name)

    def forget(self, name: str) -> None:
        """What a member sealed and did not answer is gone from its disk."""
        for path in self.seals(name).glob("*"):
            path.unlink()
            self.forgotten += 1

    def note(self, name: str, request: type[Body], records: Any, reply: Any) -> None:
        """Keep what a member sent."""
        kind = kind_of(reply)
        if kind == Sealed.kind:
            raw = from_records(Sealed, reply).envelope
            header = split(raw)[0].verify(self.members[name].identity.card)
            self.envelopes[name, header.context, self.forgotten].add(hashlib.sha256(raw.data).hexdigest())
            self.contexts[header.purpose, header.run, header.number].add(header.context)
        elif kind == Answered.kind:
            given = from_records(Answered, reply)
            said = AnswerDocument.parse(given.document)
            whole = given.document + given.signature + given.answer
            self.answers[name, said.context].add(hashlib.sha256(whole).hexdigest())
            self.lists[said.context].add((said.headers, said.total))
            assert not (self.seals(name) / said.context).exists(), "it answered, and still has what it sealed"
        elif kind == Opened.kind:
            asked: Any = from_records(request, records)
            opened = Statement.parse(from_records(Opened, reply).statement)
            self.statements[name, asked.purpose, asked.run, asked.number].add(opened.sha256)
            assert opened.members == THREE

    def reopen(self) -> None:
        """Start the coordinator's side anew on the files that are there."""
        self.state.close()
        self.state = State(self.folder, "heart", [self._logged])


@lru_cache
def undisturbed() -> str:
    """Return the model of a run to which nothing happened."""
    with in_memory() as folder:
        one = Federation(Path(folder) / "0", *SMALL, of=THREE)
        one.queue()
        assert one.carry_out() == "done"
        sha256 = str(one.model().sha256)
        one.close()
    return sha256


class TheRun(RuleBasedStateMachine):
    """Whatever happens to it: rounds are counted once, the last good model stays, and what is left alone ends."""

    most_failed = 5  # in a row, before a run ends: with little mishaps it comes to its end

    def __init__(self) -> None:
        super().__init__()
        self.folder = in_memory()
        self.harmed = False

    @initialize()
    def begin(self) -> None:
        self.one = Disturbed(Path(self.folder.name) / "0", f"gate.max_failed={self.most_failed}")

    def teardown(self) -> None:
        self.one.close()
        self.folder.cleanup()

    @property
    def open_runs(self) -> list[str]:
        with self.one.state.store.read() as db:
            return history.open_runs(db)

    def api(self, state: State) -> Api:
        return Api(state, "heart", lambda: None)

    def submit_to(self, state: State) -> str | None:
        return self.api(state)._queue(self.one.cast.recipe)

    def submit(self) -> str:
        """Submit a run, which works where no other is open; return the open one."""
        before = self.open_runs
        run = self.submit_to(self.one.state)
        assert (run is None) == bool(before), "a second run was accepted, or a first one was not"
        (found,) = self.open_runs
        return found

    @rule()
    def submit_two_at_once(self) -> None:
        """By two processes; whoever is first."""
        before, barrier = self.open_runs, Barrier(2)
        other = State(self.one.folder, "heart")

        def one(state: State) -> str | None:
            barrier.wait()
            return self.submit_to(state)

        with ThreadPoolExecutor(2) as threads:
            accepted = [run for run in threads.map(one, (self.one.state, other)) if run is not None]
        other.close()
        assert len(accepted) == (0 if before else 1)

    @rule(script=HARMLESS, kill=KILL)
    def go_on(self, script: list[Mishap], kill: Kill) -> None:
        self.live(script, kill)

    @rule()
    def kill_again_and_again(self) -> None:
        """A round that was interrupted is no failure of anybody's."""
        for _ in range(self.most_failed):
            self.live([], ("round_began", 1))

    @precondition(lambda self: self.open_runs)
    @rule()
    def leave_alone(self) -> None:
        """Everybody who may be there is there, and nothing happens: the run comes to an end."""
        self.one.away.clear()
        self.one.revoked.clear()
        self.live([], None)

    def live(self, script: list[Mishap], kill: Kill) -> None:
        """Start a coordinator for the open run, let things happen to it, and kill it at an entry of the log."""
        one, first, seen = self.one, len(self.one.entries), Counter[str]()
        run = self.submit()

        def told(entry: dict[str, Any]) -> bool:
            at: int = entry["index"] - first + 1
            assert at < MOST_ENTRIES, "the run goes on and on"
            if entry["event"] == "waited_for":  # whoever operates it reads that, and brings it back
                one.away.discard(entry["member"])
                one.revoked.discard(entry["member"])
            for mishap in script:
                if mishap.entry == at:
                    self.happen(mishap, run)
            seen.update((entry["event"], ""))
            return kill is not None and entry["event"].startswith(kill[0]) and seen[kill[0]] == kill[1]

        one.kill_at = told
        ended = one.carry_out(run)
        one.kill_at = lambda entry: False
        for marked in (one.losing, one.dying, one.halving):
            marked.clear()
        one.delays.clear()
        if ended == "killed":
            one.reopen()
            return
        assert ended.split()[0] in OVER
        assert run not in self.open_runs
        if one.forgotten and ended == "failed open.list":
            return  # who lost its seal of the statistics, and with it what it answers: they have no second number
        if not self.harmed:
            assert ended == "done"
            assert one.model(run).sha256 == undisturbed()

    def happen(self, mishap: Mishap, run: str) -> None:
        one, who = self.one, mishap.who
        self.harmed = self.harmed or mishap.what in TROUBLE
        if mishap.what in ("lose", "die", "half"):
            {"lose": one.losing, "die": one.dying, "half": one.halving}[mishap.what].add(who)
        elif mishap.what == "forget":
            one.forget(who)
        elif mishap.what == "restart":
            one.start(who)
        elif mishap.what in ("slow", "late"):
            one.delays[who] = SLOW_S if mishap.what == "slow" else LATE_S
        elif mishap.what == "replay":
            one.replay(mishap.which)
        elif mishap.what == "submit":
            self.submit()
        elif mishap.what == "away":
            one.away = {who}
        elif mishap.what == "back":
            one.away.discard(who)
        elif mishap.what == "stop":
            assert self.api(one.state)._request_stop(run) == (run in self.open_runs)
        elif mishap.what == "revoke":
            one.revoked = {who}

    @precondition(lambda self: self.one.asked)
    @rule(what=st.sampled_from(["restart", "forget", "replay", "replay"]), who=WHO, which=st.integers(0, 999))
    def meanwhile(self, what: str, who: str, which: int) -> None:
        for n in range(5 if what == "replay" else 1):
            self.happen(Mishap(0, what, who, which * (n + 1)), "")

    # What always holds.

    @invariant()
    def the_log_is_whole(self) -> None:
        self.one.check_log()

    @invariant()
    def rounds_are_counted_once(self) -> None:
        numbers: list[int] = []
        going: list[int] = []
        for entry in self.one.entries:
            if entry["event"] == "round_began":
                assert not going, "a round began before the one before was over"
                going.append(entry["number"])
                numbers.append(entry["number"])
            elif entry["event"] in ENDS:
                going.remove(entry["number"])
        assert numbers == sorted(set(numbers))
        with self.one.state.store.read() as db:
            rows = {row.run: (row.status in OVER, history.rounds(db, row.run)) for row in history.runs(db)}
        assert sorted(row["number"] for _, found in rows.values() for row in found) == numbers
        assert [row["number"] for _, found in rows.values() for row in found if row["status"] == "running"] == going
        assert not any(row["status"] == "running" for over, found in rows.values() if over for row in found)

    @invariant()
    def one_run_is_carried_out_at_a_time(self) -> None:
        assert len(self.open_runs) <= 1
        running, asked = "", set[str]()
        for entry in self.one.entries:
            if entry["event"] in ("run_asked", "stop_asked"):  # while it waits to begin, too
                asked.add(entry["run"])
                continue
            if entry["event"] == "run_began":
                assert not running
                running = entry["run"]
            assert entry.get("run", running) == running, "what is about no run is about circles"
            if entry["event"] == "run_ended":
                running = ""
        assert not running or [running] == self.open_runs
        with self.one.state.store.read() as db:
            assert asked <= {row.run for row in history.runs(db)}

    @invariant()
    def the_last_good_model_is_the_one_that_the_log_names(self) -> None:
        named: dict[str, str] = {}
        for entry in self.one.entries:
            if entry["event"] in ("statistics_opened", "promoted"):
                named[entry["run"]] = entry["details"]["sha256"]
        with self.one.state.store.read() as db:
            entries = self.one.state.models.entries(db)
            good = {run: self.one.state.models.last_good(db, run) for run in {row.run for row in history.runs(db)}}
        assert {run: found.sha256 for run, found in good.items() if found} == named
        assert all(self.one.state.models.is_whole(one.sha256) for one in entries if one.version is not None)

    @invariant()
    def nobody_says_two_things(self) -> None:
        """But who lost a seal makes another one of the same update: that is in ``test_machine_member.py``."""
        for said in (self.one.envelopes, self.one.answers, self.one.statements, self.one.lists):
            for place, found in said.items():
                assert len(found) == 1, f"{place}: {found}"
        for (purpose, *place), contexts in self.one.contexts.items():
            assert len(contexts) == 1, f"{purpose} {place}: {contexts}"

    @invariant()
    def nobody_is_asked_again_for_what_it_gave(self) -> None:
        for event in ("envelope_accepted", "answered"):
            given = Counter(
                (e["run"], e["number"], e["details"]["purpose"], e["member"]) for e in self.one.events(event)
            )
            assert not given or max(given.values()) == 1, given.most_common(1)

    @invariant()
    def a_round_that_was_begun_goes_on(self) -> None:
        assert not [e for e in self.one.events("failed") if e["code"] == history.INTERRUPTED]

    @invariant()
    def everybody_or_nobody(self) -> None:
        known: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for entry in self.one.events("set_closed"):
            said = entry["details"]
            assert {*said["headers"]} == {*THREE}
            known[context_digest(said["context"])].add((list_digest(said["headers"].values()), said["sum"]))
        for context, found in self.one.lists.items():
            assert found <= known[context], "somebody answered a list that is not in the log"
        for entry in self.one.events("opened"):
            said = entry["details"]
            assert {*said["signatures"]} == {*said["vote_signatures"]} == {*THREE}

    @invariant()
    def a_round_fails_for_a_reason(self) -> None:
        failed = [entry["code"] for entry in self.one.events("failed")]
        assert self.harmed or len(failed) <= self.one.forgotten, failed

    @invariant()
    def members_witnessed_this_log(self) -> None:
        for name, member in self.one.members.items():
            assert member.ledger.fork() is None
            with closing(sqlite3.connect(self.one.folder / "members" / f"{name}.db")) as db:
                for size, root in db.execute("select size, root from witnessed"):
                    assert self.one.state.log.at(size).root == root


class TheTroubledRun(TheRun):
    """The same where members are away or very late, are revoked, or the run is stopped."""

    most_failed = 2

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.live([], ("statistics_opened", 1))

    @rule(script=HARMFUL, kill=KILL)
    def go_on_in_trouble(self, script: list[Mishap], kill: Kill) -> None:
        self.live(script, kill)

    @rule(who=WHO, entry=st.integers(5, 25))
    def revoke(self, who: str, entry: int) -> None:
        self.live([Mishap(entry, "revoke", who, 0)], None)

    @rule(what=st.sampled_from(["back", "away"]), who=WHO)
    def go(self, what: str, who: str) -> None:
        self.happen(Mishap(0, what, who, 0), "")

    @rule(who=WHO, nth=st.integers(2, 3))
    def interrupt_after_a_list_was_fixed(self, who: str, nth: int) -> None:
        """And somebody is not there when the round is repeated."""
        self.live([], ("set_closed", nth))
        self.happen(Mishap(0, "away", who, 0), "")
        self.live([Mishap(30, "back", who, 0)], None)


WEAKENED = (
    without(history, "next_number", "return 1 + (", "return 0 + ("),
    without(Api, "_queue", "if history.open_runs(db):", "if False:"),
    without(Rounds, "_begin", "if going is not None and going.round == planned:", "if False:"),
    without(Sums, "_take_up", "kept = contexts.envelopes(db, context.digest)", "kept = {}"),
    without(GivenAnswers, "take_up", "kept.items()", "()"),
    without(Sums, "context", "checkpoint = begun.checkpoint if begun else", "checkpoint ="),
    without(Rounds, "_judge", "self._state.models.write(candidate)", "pass"),
    without(
        Rounds, "_judge", "self._state.models.record(db, replace(entry, norm=statement.norm, votes=counts))", "pass"
    ),
    without(Coordinator, "_start", "self.state.models.write(start)", "pass"),
    without(Ledger, "answered", "None if row is None else", "None if True else"),
    without(Ledger, "keep_key", "db.execute(", "void = ("),
    without(RunBook, "seat", "db.execute(", "void = ("),
    without(Seals, "read", "return seal if", "return None if"),
    without(Member, "answer_list", "self.held.drop(context.digest)", "pass"),
    without(Models, "record", "db.execute(again", "void = (again"),
)
