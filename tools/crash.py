"""Kills processes of a small federation at chosen points and looks at what is left; exits with 1 if it is not right.

    python tools/crash.py TRIALS SEED          trials at random points: part of ``make soak``
    python tools/crash.py --suite FILE N SEED  every named point, other mishaps, N random points: ``test_crash.py``
    python tools/crash.py --only WORD          of those that have a name, the ones with a word in it
    python tools/crash.py --again PLAN         one trial again, as a failed one printed it

One warm process imports everything once and forks a child per trial. The child forks one *life* of the federation
after the other, each on the same folder, with nothing in memory but identities and data. A life is killed with
SIGKILL at its point; the last life has none and must bring the run to its end. Then everything is checked that a crash
must not break (:func:`problems`). Named points share runs: one run dies at several that lie far apart. A life that
never comes to its point, because of a kill before, has its trial alone.

Points need no hooks in the program: stores, files and messages are wrapped in the life itself. A transaction has
three, called after the entries of log or journal that it writes: as it begins, inside before the commit, and after it
before anybody is told. Every SQL statement, file operation and message has its own. In a *machine* trial coordinator
and members are one process, so that points come in one order and a trial can be done again exactly; in a trial where
one dies *alone* each is a process of its own, and is started again while the others go on.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from moonflower.protocol.records import from_records

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has only the thread that forked it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
from flwr.app import Message
from moonflower import store
from moonflower.client.app import client_app
from moonflower.client.ledger import journal as deeds
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.seals import FOLDER
from moonflower.errors import MoonflowerError
from moonflower.federation.grid import LocalGrid
from moonflower.protocol.answer import AnswerDocument, list_digest
from moonflower.protocol.context import context_digest
from moonflower.protocol.envelope import split
from moonflower.protocol.messages import Answered, Opened, Sealed
from moonflower.protocol.statement import Statement
from moonflower.server.coordinator import Coordinator
from moonflower.server.exchange import ConnectedNode, Exchange
from moonflower.server.records import history
from moonflower.server.records.log import Log
from moonflower.server.records.state import State
from moonflower.server.records.verify import verify
from sqlalchemy import Engine, event
from support import memory
from support.federation import THREE, Federation

RUNS = ("run-1", "run-2")
SMALL = ("training.rounds=2",)
PATIENCE_S = 600
COORDINATOR = "coordinator"
ENDED, BROKE = 0, 3  # exit status of a life: the run is over; an exception ended it
FULL = {  # point → bytes that a file may still have
    "coordinator: envelope_accepted update: after, first": 0,
    "file: half written, last": 0,
    "coordinator: judged+promoted: inside, first": 0,
    "coordinator: judged+promoted: inside, last": 400_000,
    "coordinator: set_closed update: inside, first": 0,
    "member: sealed update: inside, last": 0,
    "member: answered update: inside, first": 150_000,
}
DAMAGED = {
    "coordinator: judged+promoted: after, first": "flip",
    "coordinator: judged+promoted: after, last": "cut",
    "member: answered update: after, last": "lose",
}
SECOND = ("file: half written, first", "file: replace: before, first", "coordinator: judged+promoted: inside, first")
ALONE = {
    THREE[1]: (
        "member: agreed: after",
        "member: seated: after",
        "member: sealed statistics: after",
        "member: sealed update: inside",
        "member: sealed update: after",
        "file: replace seal: after",
        "message: train.seal: answered",
        "message: train.seal: left",
        "member: answered update: after",
        "file: unlink seal: after",
        "message: query.answer: answered",
        "member: opened update+judged update: after",
        "message: evaluate.open: answered",
    ),
    COORDINATOR: (
        "message: train.seal: pulled",
        "message: query.answer: sent",
        "message: query.answer: pulled",
        "message: evaluate.open: sent",
        "coordinator: set_closed update: after",
        "coordinator: judged+promoted: inside",
        "coordinator: judged+promoted: after",
    ),
}
SHARE = 12  # named points at which one run dies
AGAIN = ("sealed update: ", "answered update: ", "judged+promoted: ", " seal: ", "half written")


# Points


class Points:
    """Counts the points that a process passes, and does at one of them what it was made for.

    Args:
        at: index of the point; None for a dry run.
        act: what to do there.
        name: of the point, instead of its index: where it is passed first.
    """

    def __init__(self, at: int | None = None, act: Callable[[], None] = lambda: None, name: str = "") -> None:
        self.at, self.act, self.name, self.names = at, act, name, list[str]()

    def reach(self, name: str) -> int:
        """Pass a point; return its index."""
        index = len(self.names)
        self.names.append(name)
        if index == self.at or (self.name and name == self.name):
            self.act()
        return index

    def install(self) -> None:
        """Wrap stores, files and messages of this process for the rest of its life."""
        _wrap_stores(self)
        _wrap_files(self)


def die() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(limit: int) -> Callable[[], None]:
    """Return what lets no file of this process grow beyond ``limit`` bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _wrap_stores(points: Points) -> None:
    real = store.Store.transaction
    written: list[str] = []  # entries of log or journal in the open transaction
    tables: list[str] = []

    def side(one: store.Store) -> str:
        return COORDINATOR if one.path is not None and one.path.name == "moonflower.db" else "member"

    @contextmanager
    def transaction(self: store.Store) -> Iterator[Any]:
        before = points.reach("")
        with real(self) as connection:
            written.clear()
            tables.clear()
            yield connection
            name = f"{side(self)}: {'+'.join(dict.fromkeys(written)) or ' '.join(['no entry', *tables[:1]])}"
            points.names[before] = f"begin: {name}"
            points.reach(f"{name}: inside")
            assert self._held.transaction is not None
            self._held.transaction[1].insert(0, lambda: void(points.reach(f"{name}: after")))

    def execute(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        words = statement.split()
        points.reach(f"sql: {' '.join(words[:3])}")
        if words[0] in ("INSERT", "UPDATE") and words[1] != "OR":
            tables.append(words[2] if words[1] == "INTO" else words[1])

    real_append, real_entry = Log.append, deeds._entry

    def append(self: Log, connection: Any, name: str, **about: Any) -> int:
        written.append(f"{name} {about.get('purpose', '')}".rstrip())
        return real_append(self, connection, name, **about)

    def entry(time_s: float, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
        written.append(f"{name} {about.get('purpose', '')}".rstrip())
        return real_entry(time_s, name, about)

    for owner, name, wrapped in (
        (store.Store, "transaction", transaction),
        (Log, "append", append),
        (deeds, "_entry", entry),
    ):
        setattr(owner, name, wrapped)
    event.listen(Engine, "before_cursor_execute", execute)


def _wrap_files(points: Points) -> None:
    def around(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            place = str(arguments[-1]) if arguments else ""
            seal = f" {FOLDER}/" in place and ".tmp-" not in place
            points.reach(f"file: {name}{' seal' * seal}: before")
            done = real(*arguments, **more)
            points.reach(f"file: {name}{' seal' * seal}: after")
            return done

        return call

    real_fdopen = os.fdopen

    def fdopen(handle: int, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        file = real_fdopen(handle, mode, *arguments, **more)
        return _InHalves(file, points) if mode == "wb" else file

    for name in ("fsync", "replace", "link", "unlink"):
        setattr(os, name, around(name, getattr(os, name)))
    setattr(os, "fdopen", fdopen)  # noqa: B010


class _InHalves:
    """A file whose content comes in two halves, with a point between them."""

    def __init__(self, file: Any, points: Points) -> None:
        self._file, self._points = file, points

    def write(self, data: bytes) -> int:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._points.reach("file: half written")
        self._file.write(data[len(data) // 2 :])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _InHalves:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def void(_: object) -> None:
    """Return nothing."""


# Trials


@dataclass(frozen=True)
class Kill:
    """What happens to one life.

    Attributes:
        at: index of the point among those of an undisturbed life.
        who: whose point: ``machine``, ``coordinator`` or a member's name.
        disk: -1 for SIGKILL; else the disk is full from there on, and no file grows beyond so many bytes.
        name: of the point, instead of its index, in a life that another one went before.
    """

    at: int
    who: str = "machine"
    disk: int = -1
    name: str = ""

    def points(self) -> Points:
        """Return the points that do it."""
        return Points(None if self.name else self.at, die if self.disk < 0 else fill_disk(self.disk), self.name)


@dataclass(frozen=True)
class Plan:
    """A trial.

    Attributes:
        kills: what happens to each life but the last.
        damage: what becomes of the newest good model's file after the first: ``flip`` a bit, ``cut`` it, ``lose`` it.
        second: an identical run went before, so that every model is written over one that counts already.
    """

    kills: tuple[Kill, ...]
    damage: str = ""
    second: bool = False

    @property
    def strict(self) -> bool:
        """Whether the run must give what an undisturbed one does: a member whose disk is full may be left out."""
        return all(kill.disk < 0 for kill in self.kills)

    @property
    def alone(self) -> bool:
        """Whether every process is one of its own."""
        return self.kills[0].who != "machine"

    def dump(self) -> str:
        """Return the plan as ``--again`` takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Plan:
        """Return the plan that :meth:`dump` wrote."""
        said = json.loads(text)
        return cls(tuple(Kill(**kill) for kill in said.pop("kills")), **said)


@dataclass
class Sent:
    """What members' processes sent, as they wrote it to a pipe before it left; it outlives them.

    Attributes:
        envelopes: (member, purpose, run, number) → (context, digest of the whole envelope, its header's).
        answers: (member, context) → (digests of list and total, digest of all that left).
        statements: as ``envelopes`` → digests of signed statements.
    """

    envelopes: dict[tuple[Any, ...], set[tuple[str, str, str]]] = field(default_factory=dict)
    answers: dict[tuple[Any, ...], set[tuple[str, str, str]]] = field(default_factory=dict)
    statements: dict[tuple[Any, ...], set[str]] = field(default_factory=dict)

    def add(self, lines: Iterable[str]) -> None:
        """Take what was written."""
        for line in lines:
            kind, place, *what = json.loads(line)
            if kind == "envelope":
                self.envelopes.setdefault(tuple(place), set()).add(tuple(what))
            elif kind == "answer":
                self.answers.setdefault(tuple(place), set()).add(tuple(what))
            else:
                self.statements.setdefault(tuple(place), set()).update(what)


def note_sent(tell: Callable[[str], object], member: str, asked: Message, reply: Message) -> None:
    """Tell what a member is about to send, where it is an envelope, an answer or a statement."""
    config = reply.content.config_records["message"]
    said = json.loads(str(asked.content.config_records["message"]["json"]))["fields"]
    place = [member, *(said.get(name) for name in ("purpose", "run", "number"))]
    if config["kind"] == Sealed.kind:
        raw = from_records(Sealed, reply.content).envelope
        signed, _ = split(raw)
        context = json.loads(signed.data)["context"]
        what: list[Any] = ["envelope", place, context, hashlib.sha256(raw.data).hexdigest(), signed.digest]
    elif config["kind"] == Answered.kind:
        given = from_records(Answered, reply.content)
        document = AnswerDocument.parse(given.document)
        whole = hashlib.sha256(given.document + given.signature + given.answer).hexdigest()
        what = ["answer", [member, document.context], document.headers, document.total, whole]
    elif config["kind"] == Opened.kind:
        what = ["statement", place, Statement.parse(from_records(Opened, reply.content).statement).sha256]
    else:
        return
    tell(json.dumps(what))


# Lives


def live(folder: Path, points: Points, tell: Callable[[str], object], after: Sequence[str] = ()) -> None:
    """Live once: coordinator and members, all in this process. ``after``: ends of a run that another one follows."""
    points.install()
    real_push = LocalGrid.push_messages

    def push(self: LocalGrid, messages: Iterable[Message]) -> Any:
        points.reach(f"message: {(first := next(iter(messages))).metadata.message_type}: sent")
        return real_push(self, [first])

    LocalGrid.push_messages = push  # type: ignore[method-assign]
    one = Federation(folder, *SMALL, of=THREE)
    run = queue(one, after)
    one.around = lambda app: watched(app, points, tell)
    with suppress(MoonflowerError):
        one.coordinator(run).carry_out()
    one.close()


def watched(app: Callable[..., Message], points: Points, tell: Callable[[str], object]) -> Callable[..., Message]:
    """Return a ClientApp whose messages are points, and which tells what it is about to send."""

    def handle(message: Message, context: Any) -> Message:
        route, member = message.metadata.message_type, str(context.node_config["member"])
        points.reach(f"message: {route}: came")
        reply = app(message, context)
        note_sent(tell, member, message, reply)
        points.reach(f"message: {route}: answered")
        return reply

    return handle


def queue(one: Federation, after: Sequence[str] = ()) -> str:
    """Submit the run, unless an earlier life did; or a second one after the first. Return which is to go on."""
    with one.state.store.read() as db:
        known = history.runs(db)
    if not known:
        return one.queue(RUNS[0])
    if len(known) < len(RUNS) and known[-1].status in after:
        return one.queue(RUNS[len(known)])
    return known[-1].run


def forked(body: Callable[[], object]) -> int:
    """Fork a child that does ``body`` and nothing else; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    gc.disable()  # a collection touches, and so copies, every page that the parent shares
    status = BROKE
    with suppress(BaseException):
        signal.alarm(PATIENCE_S)
        try:
            body()
            status = ENDED
        except BaseException:
            traceback.print_exc()
    os._exit(status)


def ended(pid: int) -> str:
    """Wait for a child; return ``ended``, ``broke`` or ``killed``, or what else became of it."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "killed" if number == signal.SIGKILL else f"ended by {signal.Signals(number).name}"
    return {ENDED: "ended", BROKE: "broke"}.get(os.WEXITSTATUS(status), "odd status")


def one_life(folder: Path, points: Points, sent: Sent, after: Sequence[str] = ()) -> str:
    """Live once in a child; return how that ended."""
    reading, writing = os.pipe()
    output = (folder / "output").open("ab")

    def body() -> None:
        os.close(reading)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        live(folder, points, lambda line: os.write(writing, f"{line}\n".encode()), after)

    pid = forked(body)
    os.close(writing)
    output.close()
    with open(reading, "rb") as file:
        lines = file.read().decode().splitlines()
    sent.add(lines)
    return ended(pid)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        wrong: what is wrong afterwards.
        missed: how many of its last kills no life came to.
    """

    wrong: list[str]
    missed: int = 0


def trial(plan: Plan, folder: Path, reference: Reference) -> Outcome:
    """Carry out a trial in a folder."""
    sent, after, missed = Sent(), list[str]() if plan.strict else ["failed", "policy"], 0
    if plan.second:
        shutil.copytree(reference.folder / "machine", folder, dirs_exist_ok=True)
        sent, after = copy.deepcopy(reference.sent), ["done"]
    for life, kill in enumerate(plan.kills[:1] if plan.alone else plan.kills):
        if plan.alone:
            processes = Processes(folder, sent, plan.kills)
            end, missed = processes.run(), processes.missed
        else:
            end = one_life(folder, kill.points(), sent, after)
        if end not in ("killed", "ended") and not (end == "broke" and kill.disk >= 0):
            return Outcome([f"a life {end}", (folder / "output").read_text()[-3000:]])
        if not (plan.damage and life) and (wrong := lost(folder)):
            return Outcome([f"when life {life} was over: {wrong}"])
        if life == 0 and plan.damage:
            damage(folder, plan.damage)
        if kill.name and end == "ended":
            missed = len(plan.kills) - life
            break
    end = one_life(folder, Points(), sent, after)
    if end != "ended":
        return Outcome([f"the last life {end}", (folder / "output").read_text()[-3000:]])
    return Outcome(problems(folder, sent, reference.result, strict=plan.strict), missed)


def damage(folder: Path, how: str) -> None:
    """Damage the newest good model's file, and leave half of one beside it, unless it is the run's only one."""
    with looking(folder / "moonflower.db") as db:
        if db is None or not db.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
            return
        over = db.execute("select 1 from runs where status not in ('queued', 'running')").fetchone()
        good = db.execute("select sha256 from versions where version is not null order by version desc").fetchall()
    if over or len(good) < 2:
        return
    model = folder / "models" / f"{good[0][0]}.safetensors"
    data = model.read_bytes()
    if how == "lose":
        model.unlink()
    else:
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if how == "flip" else data[: len(data) // 2])
    model.with_name(f"{model.name}.tmp-{gone()}-0badcafe").write_bytes(data[:100])


@contextmanager
def looking(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Give a database as a kill left it; closing it does not tidy up either. None where there is none yet."""
    if not path.exists() or not path.stat().st_size:
        yield None
        return
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        yield db


def gone() -> int:
    """Return the number of a process that is over."""
    pid = forked(lambda: None)
    ended(pid)
    return pid


# Lives of processes


class Processes:
    """A coordinator and three members as processes of their own. Whoever dies is started again; nobody else notices.

    This process carries their messages to and fro, as SuperLink and nodes do, and knows nothing about them.

    Args:
        folder: of the federation.
        sent: takes what members send.
        kills: what happens to one of them, in its first lives.
        count: have every process write which points it passed.
    """

    def __init__(self, folder: Path, sent: Sent, kills: Sequence[Kill] = (), *, count: bool = False) -> None:
        self._folder, self._sent, self._kills, self._count = folder, sent, kills, count
        self._pipes: dict[str, Connection] = {}
        self._pids: dict[str, int] = {}
        self._lives: Counter[str] = Counter()

    @property
    def missed(self) -> int:
        """How many of the kills have not happened."""
        return max(0, len(self._kills) + 1 - self._lives[self._kills[0].who])

    def run(self) -> str:
        """Run until the coordinator ends; return how it, or what ended otherwise than by SIGKILL, did."""
        try:
            for who in (*THREE, COORDINATOR):
                self._start(who)
            while True:
                ready = wait([*self._pipes.values()], timeout=PATIENCE_S)
                if not ready:
                    return "hangs"
                for who in [who for who, pipe in self._pipes.items() if pipe in ready]:
                    try:
                        self._carry(who, pickle.loads(self._pipes[who].recv_bytes()))
                    except (EOFError, ConnectionError):
                        end = ended(self._pids.pop(who))
                        self._pipes.pop(who).close()
                        kill = self._kill(who)
                        if end != "killed" and not (end == "broke" and kill is not None and kill.disk >= 0):
                            return end if who == COORDINATOR else f"of {who} {end}"
                        self._start(who)
        finally:
            for who, pid in self._pids.items():
                if self._count:
                    self._tell(who, None)
                else:
                    os.kill(pid, signal.SIGKILL)
                ended(pid)
            for pipe in self._pipes.values():
                pipe.close()

    def _start(self, who: str) -> None:
        self._lives[who] += 1
        kill = self._kill(who)
        points = Points() if kill is None else kill.points()
        here, there = Pipe()
        body = self._coordinator if who == COORDINATOR else self._member

        def whole() -> None:
            output = (self._folder / "output").open("ab")
            os.dup2(output.fileno(), 2)
            points.install()
            body(who, points, there)
            if self._count:
                (self._folder / f"names {who}").write_text(json.dumps(points.names))

        self._pids[who] = forked(whole)
        there.close()
        self._pipes[who] = here
        self._tell(COORDINATOR, ("lives", dict(self._lives)))

    def _kill(self, who: str) -> Kill | None:
        """Return what happens to a process in its present life."""
        life = self._lives[who] - 1
        return self._kills[life] if life < len(self._kills) and self._kills[life].who == who else None

    def _carry(self, who: str, what: Any) -> None:
        """Carry a message on: "ask", life, id, member, route, content; "reply", life, id, content; or "sent", line."""
        if what[0] == "sent":
            self._sent.add([what[1]])
        elif what[0] == "ask":
            self._tell(what[3], what)
        elif what[1] == self._lives[COORDINATOR]:
            self._tell(COORDINATOR, what)

    def _tell(self, who: str, what: Any) -> None:
        with suppress(OSError):
            if who in self._pipes:
                self._pipes[who].send_bytes(pickle.dumps(what))

    def _coordinator(self, who: str, points: Points, pipe: Connection) -> None:
        one = Federation(self._folder, *SMALL, of=THREE, names=())
        run = queue(one)
        grid = Wire(pipe, points, self._lives[who])
        exchange = Exchange(grid, THREE, grid.nodes, grid)
        with suppress(MoonflowerError):
            Coordinator(exchange, one.state, one.row(run).offer, one.signed, run).carry_out()
        one.close()

    def _member(self, who: str, points: Points, pipe: Connection) -> None:
        one = Federation(self._folder, *SMALL, of=THREE, names=(who,), alone=True)
        app = client_app(lambda _: one.members[who])
        grid = LocalGrid(watched(app, points, lambda line: pipe.send_bytes(pickle.dumps(("sent", line)))), {1: who})
        while (asked := pickle.loads(pipe.recv_bytes())) is not None:
            _, life, name, _, route, content = asked
            ids = grid.push_messages([Message(content, dst_node_id=1, message_type=route)])
            (reply,) = grid.pull_messages(ids)
            pipe.send_bytes(pickle.dumps(("reply", life, name, reply.content)))
            points.reach(f"message: {route}: left")
        one.members[who].ledger.close()


class Wire:
    """Flower's Grid and the coordinator's clock over a pipe to :class:`Processes`."""

    def __init__(self, pipe: Connection, points: Points, life: int) -> None:
        LocalGrid(lambda *_: None, {})  # sets what Flower's messages ask for
        self._pipe, self._points, self._life = pipe, points, life
        self._asked: dict[str, Message] = {}
        self._replies: dict[str, Any] = {}
        self._lives: dict[str, int] = {}

    def nodes(self) -> dict[str, ConnectedNode]:
        """Return who is connected."""
        self._take(0)
        return {name: ConnectedNode(n, str(self._lives[name])) for n, name in enumerate(THREE) if name in self._lives}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages."""
        ids = []
        for message in messages:
            name = str(len(self._asked))
            message.metadata.__dict__["_message_id"] = name
            route = message.metadata.message_type
            self._points.reach(f"message: {route}: sent")
            self._asked[name] = message
            asked = ("ask", self._life, name, THREE[message.metadata.dst_node_id], route, message.content)
            self._pipe.send_bytes(pickle.dumps(asked))
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the reply to the first of these messages that has one."""
        self._take(0)
        for name in message_ids:
            if name in self._replies:
                self._points.reach(f"message: {self._asked[name].metadata.message_type}: pulled")
                return [Message(self._replies.pop(name), reply_to=self._asked[name])]
        return []

    def now(self) -> float:
        """Return seconds."""
        return time.monotonic()

    def wait(self, until: float) -> None:
        """Return when something came."""
        self._take(max(0.0, min(0.5, until - self.now())))

    def _take(self, seconds: float) -> None:
        while self._pipe.poll(seconds):
            what = pickle.loads(self._pipe.recv_bytes())
            seconds = 0
            if what[0] == "lives":
                self._lives = what[1]
            else:
                self._replies[what[2]] = what[3]


# What a crash must not break


def lost(folder: Path) -> str:
    """Return what a kill took away or apart, as it lies there, or "".

    The log has to verify, all models that it names have to be whole, and what rows say the log or journal says, too.
    """
    database = folder / "moonflower.db"
    with looking(database) as db:
        if db is None or not db.execute("select 1 from sqlite_master where name = 'log'").fetchone():
            return ""
        entries = [json.loads(entry) for (entry,) in db.execute("select entry from log order by idx")]
        apart = _apart(db, entries)
    if entries:
        report = verify(database, (folder / "log.pub").read_text(), None)
        if not report.ok:
            return f"the log does not verify: {report.code} {report.reason}"
    for entry in entries:
        if entry["event"] in ("statistics_opened", "promoted") and not _is_whole(folder, entry["details"]["sha256"]):
            return f"entry {entry['index']} names a model whose file is not whole"
    return apart or next(filter(None, (_ledger_apart(folder / "members" / f"{name}.db") for name in THREE)), "")


def _apart(db: sqlite3.Connection, entries: Sequence[Mapping[str, Any]]) -> str:
    """Return which rows of the coordinator are not those of its log: they change in one transaction, or not at all."""

    def rows(query: str) -> set[tuple[Any, ...]]:
        return {tuple(row) for row in db.execute(query)}

    def named(*events: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        return [(entry, entry.get("details", {})) for entry in entries if entry["event"] in events]

    rounds = {entry["number"]: "running" for entry, _ in named("round_began")}
    rounds |= {entry["number"]: entry["event"] for entry, _ in named("promoted", "refused", "failed")}
    return _different(
        runs=(rows("select run from runs where status != 'queued'"), {(e["run"],) for e, _ in named("run_began")}),
        ends=(
            rows("select run, status from runs where status not in ('queued', 'running')"),
            {(entry["run"], said["status"]) for entry, said in named("run_ended")},
        ),
        rounds=(
            {(n, json.loads(body)["status"]) for n, body in rows("select number, body from rounds")},
            {*rounds.items()},
        ),
        versions=(
            rows("select run, sha256 from versions where version is not null"),
            {(entry["run"], said["sha256"]) for entry, said in named("statistics_opened", "promoted")},
        ),
    )


def _ledger_apart(path: Path) -> str:
    """Return which rows of a member's ledger are not those of its journal."""
    with looking(path) as db:
        if db is None or not db.execute("select 1 from sqlite_master where name = 'journal'").fetchone():
            return ""
        columns = "event, run, number, purpose, what"
        journal = [(*row[:4], json.loads(row[4])) for row in db.execute(f"select {columns} from journal order by idx")]
        agreed = {tuple(row) for row in db.execute("select run from agreements")}
        seated = {tuple(row) for row in db.execute("select run from agreements where roster is not null")}
        sealed = {tuple(row) for row in db.execute("select context, purpose, run, number, header from sealed")}
        answered = {tuple(row) for row in db.execute("select context, total from answered")}
        candidates = {tuple(row) for row in db.execute("select run, number, sha256 from candidates")}
    deeds = {  # of one context, the seal that was made last
        what["context"]: (what["context"], purpose, run, number, what["header"])
        for event, run, number, purpose, what in journal
        if event == "sealed"
    }

    def did(event: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        return ((run, number, what) for name, run, number, _, what in journal if name == event)

    wrong = _different(
        agreed=(agreed, {(run,) for run, *_ in did("agreed")}),
        seated=(seated, {(run,) for run, *_ in did("seated")}),
        sealed=(sealed, {*deeds.values()}),
        answered=(answered, {(what["context"], what["total"]) for *_, what in did("answered")}),
        candidates=(candidates, {(run, number, what["sha256"]) for run, number, what in did("judged")}),
    )
    return f"{path.name}: {wrong}" if wrong else ""


def _different(**both: tuple[set[Any], set[Any]]) -> str:
    """Return the first of these whose rows and entries are not the same, or ""."""
    for name, (rows, said) in both.items():
        if rows != said:
            return f"{name}: rows that no entry tells of: {rows - said}; entries without rows: {said - rows}"
    return ""


def _is_whole(folder: Path, sha256: str) -> bool:
    path = folder / "models" / f"{sha256}.safetensors"
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def problems(folder: Path, sent: Sent, reference: Mapping[str, Any], *, strict: bool = True) -> list[str]:
    """Return what is wrong with what a run left behind.

    Args:
        folder: of the federation.
        sent: by its members.
        reference: what an undisturbed run came to.
        strict: this one must have come to the same.
    """
    found: list[str] = []

    def expect(right: object, what: str) -> None:
        if not right:
            found.append(what)

    wrong = lost(folder)
    expect(not wrong, wrong)
    state = State(folder, "heart")
    entries = list(state.log.entries())
    with state.store.read() as db:
        runs, last, versions = history.runs(db), state.models.last_good(db), state.models.entries(db)
        rounds = [one for run in runs for one in history.rounds(db, run.run)]

    def named(*events: str) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry["event"] in events]

    ends = [f"{run.status} {run.code}".strip() for run in runs]
    over = ends[-1] == "done" and (not strict or set(ends) == {"done"})
    expect(over, f"the run did not come to its end: {ends}")
    said = [(entry["run"], entry["details"]["status"]) for entry in named("run_ended")]
    expect(said == [(run.run, run.status) for run in runs], f"the log says of the runs' ends: {said}")
    numbers = [entry["number"] for entry in named("round_began")]
    expect(numbers == sorted(set(numbers)), f"rounds' numbers are not unique and growing: {numbers}")
    for kind in ("envelope_accepted", "answered"):
        given = Counter((e["run"], e["number"], e["member"], e["details"]["purpose"]) for e in named(kind))
        again = [place for place, times in given.items() if times > 1]
        expect(not strict or not again, f"somebody was asked again: {kind} {again}")
    expect([one["number"] for one in rounds] == numbers, f"the rounds are not those of the log: {numbers}")
    closed = named("promoted", "refused", "failed")
    expect(sorted(entry["number"] for entry in closed) == numbers, f"not every round of {numbers} has one end")

    good = named("statistics_opened", "promoted")
    expect(good and last and last.sha256 == good[-1]["details"]["sha256"], "the last good model is not the log's")
    for run in runs:
        rows = [v.sha256 for v in versions if v.run == run.run and v.version is not None]
        logged = list(dict.fromkeys(e["details"]["sha256"] for e in good if e["run"] == run.run))
        expect(rows == logged, f"the good versions of {run.run} are not those of the log")
        starts = [entry for entry in named("statistics_opened") if entry["run"] == run.run]
        expect(len(starts) == 1 or run.status == "failed", "the statistics were not opened once")
        expect(not strict or rows == reference["versions"], "the models are not those of an undisturbed run")
    expect(
        last and (not strict or last.metrics == reference["metrics"]), "the report is not that of an undisturbed run"
    )

    known: set[tuple[str, str]] = set()
    for (member, *place), envelopes in sent.envelopes.items():
        contexts = Counter(context for context, *_ in envelopes)
        expect(max(contexts.values()) == 1, f"{member} sent two envelopes of one context for {place}: {envelopes}")
        expect(len(contexts) == 1, f"{member} sealed {place} twice: {envelopes}")
        known |= {(member, header) for *_, header in envelopes}
    lists: dict[str, set[tuple[str, str]]] = {}
    for entry in named("set_closed"):
        said = entry["details"]
        unknown = {*said["headers"].items()} - known
        expect(not unknown, f"entry {entry['index']} lists envelopes that nobody sent: {unknown}")
        expect({*said["headers"]} == {*THREE}, f"entry {entry['index']} lists not everybody")
        lists.setdefault(context_digest(said["context"]), set()).add(
            (list_digest(said["headers"].values()), said["sum"])
        )
    for (member, context), answers in sent.answers.items():
        expect(len(answers) == 1, f"{member} answered twice under context {context}: {answers}")
        about = {answer[:2] for answer in answers}
        expect(about <= lists.get(context, set()), f"{member} answered a list that the log does not have: {context}")

    for name in THREE:
        found += _ledger_problems(folder / "members" / f"{name}.db", name, sent, state)
    left = [str(path.relative_to(folder)) for path in folder.rglob("*.tmp-*")]
    expect(not left, f"half-written files are left: {left}")
    state.close()
    return found


def _ledger_problems(path: Path, name: str, sent: Sent, state: State) -> list[str]:
    found: list[str] = []
    with closing(Ledger(path)) as ledger:
        journal, held = ledger.journal(), ledger.newest_checkpoint()
    with closing(sqlite3.connect(path)) as db:
        sealed = dict(db.execute("select context, header from sealed").fetchall())
        answered = dict(db.execute("select context, total from answered").fetchall())
        (check,) = db.execute("pragma integrity_check").fetchone()
    if check != "ok":
        found.append(f"{name}: the ledger is damaged: {check}")
    if wrong := _ledger_apart(path):
        found.append(wrong)
    for (member, *place), said in sent.envelopes.items():
        if member == name and any(sealed.get(context) != header for context, _, header in said):
            found.append(f"{name}: an envelope left that the ledger does not know: {place}")
    for (member, context), answers in sent.answers.items():
        if member == name and {total for _, total, _ in answers} != {answered.get(context)}:
            found.append(f"{name}: an answer left that the ledger does not know: {context}")
        if member == name and (path.with_name(f"{name} {FOLDER}") / context).exists():
            found.append(f"{name}: an answer left, and what it sealed is still there: {context}")
    did = {(e["event"], e["purpose"], e["run"], e["number"]): e["what"] for e in journal}
    for (member, *place), digests in sent.statements.items():
        known = ("answered", *place) in did and {did.get(("opened", *place), {}).get("sha256")} == digests
        if member == name and not known:
            found.append(f"{name}: the journal does not know what was opened: {place} {digests}")
    if held is not None and state.log.at(held.size).root != held.root:
        found.append(f"{name}: holds a checkpoint that is not the log's")
    return found


# From the command line


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        folder: what it left behind.
        sent: by its members.
        names: of all points, in order, where all processes are one.
        second: the same of an identical run after it.
        alone: process → names of its points, where each is one; not always in the same order at the coordinator.
        result: the good versions, and the last one's metrics.
    """

    folder: Path
    sent: Sent
    names: list[str]
    second: list[str]
    alone: dict[str, list[str]]
    result: dict[str, Any]

    @classmethod
    def take(cls, folder: Path) -> Reference:
        """Run undisturbed, in both ways."""
        alone, sent = folder / "machine", Sent()
        alone.mkdir(parents=True)
        names = _names(alone, sent)
        state = State(alone, "heart")
        with state.store.read() as db:
            versions = [one.sha256 for one in state.models.entries(db) if one.version is not None]
            last = state.models.last_good(db)
        state.close()
        assert last is not None
        result = {"versions": versions, "metrics": last.metrics}
        assert not (wrong := problems(alone, sent, result)), wrong

        twice, both = folder / "twice", copy.deepcopy(sent)
        shutil.copytree(alone, twice)
        second = _names(twice, both, ("done",))
        assert not (wrong := problems(twice, both, result)), wrong

        apart, others = folder / "processes", Sent()
        apart.mkdir()
        end = Processes(apart, others, count=True).run()
        assert end == "ended", end
        assert not (wrong := problems(apart, others, result)), wrong
        alone_names = {who: json.loads((apart / f"names {who}").read_text()) for who in (COORDINATOR, *THREE)}
        return cls(folder, sent, names, second, alone_names, result)

    def named(self) -> dict[str, Plan]:
        """Return a trial for every named point; several have the same one."""
        known = _named(self.names)
        plans = dict[str, Plan]()
        for place in ("first", "last"):  # who died in the second round comes to no point of the first any more
            plans |= _shared({name: index for name, index in known.items() if name.endswith(place)})
        return plans

    def single(self, name: str) -> Plan:
        """Return a trial of its own for a named point."""
        _, who, point = name.split(", ", 2) if name.startswith("alone, ") else ("", "machine", name)
        own = self.alone[who] if who != "machine" else self.names
        return Plan((Kill(_named(own)[point if who == "machine" else f"{point}, first"], who),))

    def mishaps(self) -> dict[str, Plan]:
        """Return trials in which one process dies alone, disks are full, models are damaged, or written once more."""
        first, second = _named(self.names), _named(self.second)
        plans = {f"disk full at {name}": Plan((Kill(first[name], disk=disk),)) for name, disk in _of(FULL, first)}
        plans |= {f"{how}, {name}": Plan((Kill(first[name]),), how) for name, how in _of(DAMAGED, first)}
        plans |= {f"once more, {name}": Plan((Kill(second[name]),), second=True) for name in SECOND if name in second}
        for who, names in ALONE.items():
            own = _named(self.alone[who])
            known = {f"alone, {who}, {name}": index for name, index in _of_first(names, own)}
            plans |= _shared(known, who)
            if f"{names[-1]}, first" in own:
                plans[f"disk full, {who} alone"] = Plan((Kill(own[f"{names[-1]}, first"], who, 0),))
        return plans

    def chances(self, count: str, seed: str) -> dict[str, Plan]:
        """Return so many trials at random points."""
        return {f"random {number}": self.chance(int(seed), number) for number in range(int(count))}

    def chance(self, seed: int, number: int) -> Plan:
        """Return a trial at random points."""
        rng = random.Random(f"{seed} {number}")
        kinds = {"once": 40, "twice": 15, "alone": 20, "full": 12, "damaged": 8, "second": 5}
        (kind,) = rng.choices([*kinds], [*kinds.values()])
        if kind == "second":
            return Plan((Kill(self._point(rng, self.second)),), second=True)
        if kind == "alone":
            who = rng.choice([COORDINATOR, *THREE])
            return Plan((Kill(rng.randrange(len(self.alone[who])), who),))
        if kind == "full":
            disk = rng.choice((0, int(2 ** rng.uniform(8, 20))))
            if rng.random() < 0.5:
                return Plan((Kill(self._point(rng, self.names), disk=disk),))
            who = rng.choice([COORDINATOR, *THREE])
            return Plan((Kill(rng.randrange(len(self.alone[who])), who, disk),))
        kills = tuple(Kill(self._point(rng, self.names)) for _ in range(1 if kind == "once" else rng.choice((2, 2, 3))))
        return Plan(kills, rng.choice(("flip", "cut", "lose")) if kind == "damaged" else "")

    @staticmethod
    def _point(rng: random.Random, names: list[str]) -> int:
        """Return the index of a point: any of all, or of those with one name, for most are SQL of a few kinds."""
        if rng.random() < 0.5:
            return rng.randrange(len(names))
        name = rng.choice(sorted(set(names)))
        return rng.choice([index for index, one in enumerate(names) if one == name])


def _named(names: Sequence[str]) -> dict[str, int]:
    """Return the indexes of points as they are passed first; of a round's own, also as they are passed last."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        if name.startswith(("sql: ", "begin: ")):
            continue  # what they leave on the disk, the point before leaves too: for chance only
        found.setdefault(f"{name}, first", index)
        if any(word in name for word in AGAIN):
            found[f"{name}, last"] = index
    return found


def _shared(known: Mapping[str, int], who: str = "machine") -> dict[str, Plan]:
    """Return trials for points, by name; each dies at several that lie far apart in an undisturbed life."""
    order, plans = sorted(known, key=known.__getitem__), dict[str, Plan]()
    runs = -(-len(order) // SHARE)
    for first in range(runs):
        chosen = order[first::runs]
        kills = [Kill(known[chosen[0]], who)]
        kills += [Kill(known[name], who, name=_point_of(name)) for name in chosen[1:]]
        plans |= dict.fromkeys(chosen, Plan(tuple(kills)))
    return plans


def _point_of(name: str) -> str:
    """Return the point's own name of a trial's name, as ``alone, Hungary, file: replace: after`` or ``…, first``."""
    return name.split(", ", 2)[2] if name.startswith("alone, ") else name.rpartition(", ")[0]


def _of_first(names: Iterable[str], own: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the points that a process passes, with the index of the first time."""
    return ((name, own[f"{name}, first"]) for name in names if f"{name}, first" in own)


def _of(wanted: Mapping[str, Any], known: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """Yield the items whose point is known: code that was weakened on purpose may have others."""
    return ((name, value) for name, value in wanted.items() if name in known)


def _names(folder: Path, sent: Sent, after: Sequence[str] = ()) -> list[str]:
    """Live once, undisturbed; return the names of the points that were passed."""
    points = Points()
    reading, writing = os.pipe()

    def body() -> None:
        live(folder, points, lambda line: os.write(writing, f"{line}\n".encode()), after)
        (folder / "names").write_text(json.dumps(points.names))

    end = ended(forked(body))
    os.close(writing)
    with open(reading, "rb") as file:
        sent.add(file.read().decode().splitlines())
    assert end == "ended", end
    names: list[str] = json.loads((folder / "names").read_text())
    return names


def warm_up(folder: Path) -> None:
    """Do once what is slow the first time."""
    torch.set_num_threads(1)
    one = Federation(folder, *SMALL, of=THREE)
    one.queue(RUNS[0])
    assert one.carry_out(RUNS[0]) == "done"
    one.close()
    gc.freeze()


def carry_out(plans: Mapping[str, Plan], reference: Reference, base: Path) -> Iterator[tuple[str, Plan, list[str]]]:
    """Carry trials out, as many at a time as there are processors; yield each one's name, plan and what is wrong."""
    alike: dict[Plan, list[str]] = {}
    for name, plan in plans.items():
        alike.setdefault(plan, []).append(name)
    waiting, running = [*alike.items()], dict[int, tuple[Plan, list[str], Path]]()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            plan, names = waiting.pop(0)
            folder = Path(tempfile.mkdtemp(dir=base))

            def body(plan: Plan = plan, folder: Path = folder) -> None:
                signal.alarm(0)
                try:
                    outcome = trial(plan, folder, reference)
                except Exception:
                    outcome = Outcome([traceback.format_exc()])
                (folder / "outcome").write_text(json.dumps(asdict(outcome)))

            running[forked(body)] = plan, names, folder
        pid, _ = os.wait()
        plan, names, folder = running.pop(pid)
        outcome = Outcome(**json.loads((folder / "outcome").read_text()))
        if not outcome.wrong:
            shutil.rmtree(folder)
        missed = outcome.missed if len(names) == len(plan.kills) > 1 else 0  # the names of shared kills
        tried = names[: len(names) - missed]
        waiting += [(reference.single(name), [name]) for name in names[len(tried) :]]
        for name in tried:
            yield name, plan, [*outcome.wrong, f"left in {folder}"] if outcome.wrong else []


def main(arguments: list[str]) -> int:
    """Do what the module's first lines say."""
    memory.use()  # a killed process loses nothing that it wrote, whatever the disk
    base = Path(tempfile.mkdtemp(prefix="crash-"))
    warm_up(base / "warm")
    reference = Reference.take(base / "reference")
    out = None
    if arguments[0] == "--again":
        plans = {"again": Plan.load(arguments[1])}
    elif arguments[0] == "--suite":
        out = Path(arguments[1])
        plans = reference.named() | reference.mishaps() | reference.chances(*arguments[2:])
    elif arguments[0] == "--only":
        every = reference.named() | reference.mishaps()
        plans = {name: plan for name, plan in every.items() if arguments[1] in name}  # with those that share its run
    else:
        plans = reference.chances(*arguments)
    began, results = time.monotonic(), {}
    for name, plan, wrong in carry_out(plans, reference, base):
        results[name] = wrong
        if wrong:
            print(f"{name}: {wrong[0]}", *wrong[1:], sep="\n  ")
            machine = reference.second if plan.second else reference.names
            for kill in plan.kills:
                known = machine if kill.who == "machine" else reference.alone[kill.who]
                print(f"  at {known[kill.at]} of {kill.who}")
            print(f"  python tools/crash.py --again '{plan.dump()}'", flush=True)
    failed = sum(map(bool, results.values()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = f"{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU"
    print(f"{len(results)} trials in {took}, {failed} failed; {len(reference.names)} points")
    if out is not None:
        out.write_text(json.dumps(results))
    if not failed:
        shutil.rmtree(base)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
