"""A small federation in memory for tests: processes that can be killed and started again, on files that stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from moonflower.client.app import Member, client_app
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.seals import FOLDER, Seals
from moonflower.configs.recipe import Recipe, parse_recipe
from moonflower.crypto.identity import Identity
from moonflower.errors import MoonflowerError
from moonflower.federation import simulate
from moonflower.federation.grid import LocalGrid
from moonflower.protocol.circle import Circle, SignedCircle
from moonflower.protocol.envelope import Header, split
from moonflower.protocol.messages import Body, Refusal, Sealed
from moonflower.protocol.purposes import UPDATE
from moonflower.protocol.records import from_records, kind_of, to_records
from moonflower.server.coordinator import Coordinator
from moonflower.server.exchange import ConnectedNode, Exchange
from moonflower.server.records import history
from moonflower.server.records.state import State
from moonflower.server.records.verify import verify

from support import CONFIGS, circles
from support.keys import identity_of

NAMES = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
THREE = NAMES[:2] + NAMES[3:]
"""Members of a smaller circle, for tests that carry out many runs."""


App = Callable[[Any, Any], Any]


class Killed(BaseException):
    """kill -9, as far as one process can do it to itself."""


@lru_cache
def cast(*overrides: str) -> simulate.Cast:
    return simulate.prepare(
        CONFIGS / "heart.toml", ("training.rounds=3", "training.local_epochs=1", "federation.practice=true", *overrides)
    )


@lru_cache
def identities() -> dict[str, Identity]:
    return {name: identity_of(name) for name in NAMES}


def without_update(name: str, numbers: Callable[[int], bool]) -> Callable[[str, Callable[[], Any]], Any]:
    """Return what has a member say that it has no update under some numbers; for :attr:`Federation.handled`."""

    def handled(member: str, handle: Callable[[], Any]) -> Any:
        reply = handle()
        if member == name and reply.has_content() and kind_of(reply.content) == Sealed.kind:
            header = Header.parse(split(from_records(Sealed, reply.content).envelope)[0].data)
            if header.purpose == UPDATE.name and numbers(header.number):
                reply.content = to_records(Refusal(code="update.failed"))
        return reply

    return handled


@lru_cache(maxsize=8)
def _signed(recipe: str, names: Sequence[str]) -> SignedCircle:
    everybody = [identities()[name] for name in names]
    made = parse_recipe(json.loads(recipe), where="test")
    return circles.signed_by(Circle.of(made, circles.pins_of(everybody)), everybody)


def signed_circle(recipe: Recipe, names: Sequence[str] = NAMES) -> SignedCircle:
    """Return the circle of these members under a recipe, signed by all."""
    return _signed(json.dumps(recipe.as_dict()), tuple(names))


class Federation:
    """Hospitals and their coordinator; everything that a killed process leaves behind is under ``folder``.

    Args:
        folder: is made, or was left by an earlier one.
        overrides: of the run's settings.
        of: all members of the circle.
        names: those that are started, if not all; without the coordinator where ``alone``.

    Attributes:
        kill_at: a log entry as it is committed → whether the coordinator dies with it.
        handled: called with a member's name and what handles a message; returns the reply.
        around: wraps the app of all members.
        delay: a member and what it is asked → seconds until its reply is there.
        away: members whose nodes are not connected.
        revoked: members that the server's operator revoked.
        members: name → the member's process.
    """

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        of: Sequence[str] = NAMES,
        names: Sequence[str] | None = None,
        alone: bool = False,
    ) -> None:
        self.folder, self.cast, self.names = folder, cast("training.report_every=0", *overrides), tuple(of)
        self.kill_at: Callable[[dict[str, Any]], bool] = lambda entry: False
        self.handled: Callable[[str, Callable[[], Any]], Any] = lambda member, handle: handle()
        self.around: Callable[[App], App] = lambda app: app
        self.delay: Callable[[str, Body], float] = lambda member, asked: 0.0
        self.away: set[str] = set()
        self.revoked: set[str] = set()
        self.pins = {name: identities()[name].card.node.pin for name in of}
        self.signed = signed_circle(self.cast.recipe, of)
        self.members: dict[str, Member] = {}
        (folder / "members").mkdir(parents=True, exist_ok=True)
        for name in of if names is None else names:
            self.start(name)
        if not alone:
            self.state = State(folder, "heart", [self._logged])
            circles.on_record(self.state, self.signed)

    def start(self, name: str) -> None:
        """Start a member's process, in place of the one before."""
        if name in self.members:
            self.members[name].ledger.close()
        home = self.folder / "members"
        self.members[name] = circles.member(
            identity_of(name),  # whose card has a new signature, as that of every process
            self.signed,
            self.cast.secret(name),
            Ledger(home / f"{name}.db"),
            Seals(home / f"{name} {FOLDER}"),
            lambda *_: self.cast.learner(name, self.cast.splits[name]),
        )

    def queue(self, run: str = "run-1") -> str:
        with self.state.store.transaction() as db:
            history.queue_run(db, run, self.offer())
        return run

    def offer(self, **chosen: int) -> dict[str, Any]:
        """Return what a run carries."""
        training = self.cast.settings.training
        return self.signed.circle.offer(**{"seed": training.seed, "rounds": training.rounds, **chosen})

    def coordinator(self, run: str = "run-1") -> Coordinator:
        """Start the coordinator's process for a run."""
        with self.state.store.read() as db:
            row = history.run_row(db, run)
        assert row is not None
        ids = dict(enumerate(self.names, start=1))

        def member_of(context: Any) -> Member:
            return self.members[context.node_config["member"]]

        app = client_app(member_of)

        def handle(message: Any, context: Any) -> Any:
            return self.handled(context.node_config["member"], lambda: app(message, context))

        grid = LocalGrid(self.around(handle), ids, self.delay)  # type: ignore[arg-type]
        present = {name: ConnectedNode(number, "") for number, name in ids.items()}

        def connected() -> dict[str, ConnectedNode]:
            return {name: node for name, node in present.items() if name not in self.away | self.revoked}

        exchange = Exchange(grid, self.names, connected, grid, revoked=lambda: frozenset(self.revoked))
        return Coordinator(exchange, self.state, row.offer, self.signed, run)

    def carry_out(self, run: str = "run-1") -> str:
        """Carry a run out; return "killed", or how it ended: status, and code if there is one."""
        try:
            self.coordinator(run).carry_out()
        except Killed:
            return "killed"
        except MoonflowerError:
            pass
        row = self.row(run)
        return f"{row.status} {row.code}".strip()

    def row(self, run: str = "run-1") -> history.RunRow:
        with self.state.store.read() as db:
            row = history.run_row(db, run)
        assert row is not None
        return row

    def rounds(self, run: str = "run-1") -> list[dict[str, Any]]:
        with self.state.store.read() as db:
            return history.rounds(db, run)

    def model(self, run: str = "run-1") -> Any:
        """Return the last good version of a run."""
        with self.state.store.read() as db:
            return self.state.models.last_good(db, run)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The audit log."""
        return list(self.state.log.entries())

    def events(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["event"] == event]

    def close(self) -> None:
        for member in self.members.values():
            member.ledger.close()
        self.state.close()

    def check_log(self) -> None:
        report = verify(self.folder / "moonflower.db", (self.folder / "log.pub").read_text(), None)
        assert report.ok, report.reason

    def _logged(self, entry: dict[str, Any]) -> None:
        if self.kill_at(entry):
            raise Killed
