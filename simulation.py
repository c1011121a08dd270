"""A whole federation in one process: the same ServerApp and ClientApp as live, and the baselines to compare with.

All members' data is at hand here, so the result also says what each member would have had alone and what pooling
the data would have given. It protects nobody from whoever runs it: the keys of all members are in one process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict

from . import report
from .client.app import Member, client_app
from .client.data import Rows, Split, join, partition, split
from .client.drills import DrilledMember
from .client.ledger import Ledger
from .client.tasks import load_task, schema_for
from .client.train import Learner, Vector
from .configs.schema import Schema
from .configs.settings import Offer, RunSettings, load_run
from .crypto import planner
from .crypto.identity import Identity
from .drill import OF_COORDINATOR, Drill, parse_drills
from .errors import InputError, MoonflowerError, nearest
from .folder import fresh
from .messages import Seal
from .server.app import Coordinator, server_app
from .server.drills import DrilledCoordinator
from .server.exchange import Exchange, Node
from .server.grid import LocalGrid
from .server.records import rounds as history
from .server.records.state import State
from .server.result import result

Event = dict[str, Any]


@dataclass(frozen=True)
class Simulation:
    """What a simulation left behind.

    Attributes:
        result: the content of result.json.
        out: folder with report.html, result.json, moonflower.db, log.pub and models/.
        error: why the run did not come to its planned end, or None.
    """

    result: dict[str, Any]
    out: Path
    error: MoonflowerError | None


@dataclass(frozen=True)
class Cast:
    """Everything a simulation needs, checked before anything is written."""

    settings: RunSettings
    schema: Schema
    splits: Mapping[str, Split]
    drills: tuple[Drill, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Member names, sorted."""
        return tuple(sorted(self.splits))

    def learner(self, name: str, rows: Split) -> Learner:
        """Return a fresh learner of these rows."""
        task = load_task(self.settings.task.ref, self.settings.task.options)
        return Learner(task, rows, self.schema, seed=self.settings.training.seed, member=name)


def simulate(
    config: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    drills: Iterable[str] = (),
    on_event: Callable[[Event], None] | None = None,
) -> Simulation:
    """Run the federation in ``config`` and return its result; everything is written to ``out``.

    Args:
        config: run config (TOML).
        out: absent or empty folder; default ``runs/<name>-<utc>``.
        overrides: ``table.key=value`` strings.
        drills: ``KIND@ROUND:MEMBER`` strings.
        on_event: called with each entry of the audit log as it is written.

    Raises:
        InputError: config, data, drill or output folder are wrong; nothing was written.
        KeyboardInterrupt: somebody stopped the run; says what is left of it.
    """
    cast = prepare(Path(config), overrides, drills)
    name = cast.settings.federation.name
    with fresh(Path(out) if out is not None else None, name) as folder:
        state = State(folder, name, [on_event] if on_event else [])
        try:
            return _carry_out(cast, state)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{folder} holds the log and the models up to here, and no report") from None
        finally:
            state.close()


def prepare(config: Path, overrides: Iterable[str] = (), drills: Iterable[str] = ()) -> Cast:
    """Return the cast of a simulation: settings, schema, every member's rows, drills; all checked.

    Raises:
        InputError: anything in them is wrong.
    """
    settings = load_run(config, overrides)
    task = load_task(settings.task.ref, settings.task.options)
    schema = schema_for(task, settings.data)
    seed = settings.training.seed
    members = partition(task.data(settings.data, schema), settings.data, settings.simulate, seed)
    splits = {name: split(rows, settings.data, seed=seed, member=name) for name, rows in members.items()}
    cast = Cast(settings, schema, splits, tuple(parse_drills(drills, sorted(splits), settings.training.rounds)))
    problem = _contradiction(cast, members)
    if problem:
        raise InputError("config.value", f"{config}: {problem}")
    size = len(cast.learner(cast.names[0], splits[cast.names[0]]).start())
    planner.plan(len(splits), settings.crypto.value_bits, size)
    return cast


def _contradiction(cast: Cast, members: Mapping[str, Rows]) -> str:
    """Return where the config asks for what its data cannot give, or ""."""
    count, data = len(members), cast.settings.data
    least, quorum = cast.settings.federation.min_members, cast.settings.crypto.open_quorum
    if least > count:
        names = ", ".join(cast.names)
        return f"federation.min_members = {least}; expected at most {count}, the members in the data ({names})"
    if quorum > count:
        return f"crypto.open_quorum = {quorum}; expected at most {count}, the members in the data"
    voters = sum(len(part.validation) > 0 for part in cast.splits.values())
    if voters < least:
        return (
            f"data.validation_fraction = {data.validation_fraction:g} leaves {voters} members rows to vote with; "
            f"expected at least {least}, federation.min_members"
        )
    if data.test_column is not None and not any(len(part.test) for part in cast.splits.values()):
        marks = {str(mark) for rows in members.values() for mark in rows.groups[data.test_column]} - {"None"}
        return (
            f"data.test_value = {data.test_value!r}, which no row has in column {data.test_column!r}; "
            f"{nearest(str(data.test_value), marks)}"
        )
    return ""


def _carry_out(cast: Cast, state: State) -> Simulation:
    settings = cast.settings
    offer = settings.offer(cast.schema.digest())
    learners: dict[str, Learner] = {}
    members = _members(cast, learners)
    nodes = dict(enumerate(cast.names, start=1))
    grid = LocalGrid(client_app(lambda context: members[str(context.node_config["member"])]), nodes, _delays(cast))
    present = {name: Node(number, "") for number, name in nodes.items()}
    exchange = Exchange(grid, cast.names, lambda: present, grid)
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    kind = DrilledCoordinator if any(d.kind in OF_COORDINATOR for d in cast.drills) else Coordinator
    pins = {name: member.identity.card.node.pin for name, member in members.items()}
    with state.store.transaction() as db:
        history.queue_run(db, run, offer)
    coordinator = kind(exchange, state, offer, pins, run)
    if isinstance(coordinator, DrilledCoordinator):
        coordinator.drills = {d.round: (d.kind, d.member) for d in cast.drills if d.kind in OF_COORDINATOR}
    error: MoonflowerError | None = None
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    try:
        server_app(lambda _: coordinator)(grid, context)
    except InputError:
        raise
    except MoonflowerError as raised:
        error = raised
    finally:
        for member in members.values():
            member.ledger.close()
    whole = _result(cast, state, run, learners)
    report.write(whole, state.folder)
    return Simulation(whole, state.folder, error)


def _members(cast: Cast, learners: dict[str, Learner]) -> dict[str, Member]:
    """Return the members, each with its own keys and ledger; all pins are known to all."""
    identities = {name: Identity.generate(name) for name in cast.names}
    pins = {name: identity.card.node.pin for name, identity in identities.items()}
    floor = cast.settings.floor()

    def learner_for(name: str) -> Callable[[Offer], Learner]:
        def make(_: Offer) -> Learner:
            learners[name] = cast.learner(name, cast.splits[name])
            return learners[name]

        return make

    members: dict[str, Member] = {}
    for name in cast.names:
        own = {d.round: d.kind for d in cast.drills if d.member == name and d.kind not in OF_COORDINATOR}
        kind = DrilledMember if own else Member
        member = kind(identities[name], floor, pins, Ledger(None), learner_for(name), cast.schema.digest())
        if isinstance(member, DrilledMember):
            member.drills = own
        members[name] = member
    return members


def _delays(cast: Cast) -> Callable[[str, Message], float]:
    """Return how long replies take: the drills ``drop`` and ``slow`` act on the way, not at the member."""
    late = {"drop": float("inf"), "slow": cast.settings.training.train_timeout_s + 1}
    by_round = {(d.member, d.round): late[d.kind] for d in cast.drills if d.kind in late}

    def delay(member: str, message: Message) -> float:
        if message.metadata.message_type != "train.seal" or not by_round:
            return 0.0
        request = Seal.from_records(message.content)
        return by_round.get((member, request.number), 0.0) if request.purpose == "update" else 0.0

    return delay


def _result(cast: Cast, state: State, run: str, learners: Mapping[str, Learner]) -> dict[str, Any]:
    """Return the result as the coordinator knows it, and what only whoever has all data can add."""
    found = result(state, run)
    sha256 = found["model"]["sha256"]
    vector = state.models.read(sha256).vector if sha256 else None
    baselines = _baselines(cast)
    members = [
        {
            "name": name,
            "rows": sum(len(part) for part in (rows.train, rows.validation, rows.test)),
            "alone": baselines.alone[name],
            "federated": _clean(learners[name].evaluate(vector, "test")) if vector is not None else None,
            "personalised": _clean(learners[name].personalised(vector)) if vector is not None else None,
            "pooled": baselines.pooled[name],
        }
        for name, rows in sorted(cast.splits.items())
    ]
    overall = {**found["overall"], "alone": baselines.overall_alone, "pooled": baselines.overall_pooled}
    return {**found, "members": members, "overall": overall}


@dataclass(frozen=True)
class _Baselines:
    alone: Mapping[str, Mapping[str, Any] | None]
    pooled: Mapping[str, Mapping[str, Any] | None]
    overall_alone: Mapping[str, Any] | None
    overall_pooled: Mapping[str, Any] | None


def _baselines(cast: Cast) -> _Baselines:
    """Train each member alone and all data pooled, with the same rounds × epochs; judge as result.json says."""
    training = cast.settings.training
    everyone = join([cast.splits[name] for name in cast.names])
    together = cast.learner("pooled", everyone)
    pooled = together.fit(training)
    alone, others, weights = {}, [], []
    for name in cast.names:
        learner = cast.learner(name, cast.splits[name])
        vector: Vector = learner.fit(training)
        alone[name] = _clean(learner.evaluate(vector, "test"))
        others.append(learner.evaluate(vector, everyone.test))
        weights.append(learner.rows)
    return _Baselines(
        alone,
        {name: _clean(together.evaluate(pooled, cast.splits[name].test)) for name in cast.names},
        _weighted(others, weights),
        _clean(together.evaluate(pooled, "test")),
    )


def _weighted(metrics: list[dict[str, float | None]], weights: list[int]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in metrics[0]:
        values = [m[name] for m in metrics]
        known = [value for value in values if value is not None]
        out[name] = float(np.average(known, weights=weights)) if len(known) == len(values) else None
    return _clean(out) or {}


def _clean(metrics: Mapping[str, float | None] | None) -> dict[str, float | None] | None:
    """Return metrics with undefined and infinite numbers as None: JSON has no NaN."""
    if metrics is None:
        return None
    return {name: value if value is not None and np.isfinite(value) else None for name, value in metrics.items()}
