"""A whole federation in one process: the same ServerApp and ClientApp as live, and baselines to compare with.

All members' data is here, so the result also says how good each member's own model is, and how good a model of the
pooled data is. A simulation protects nobody from the person who runs it: all members' keys are in one process.
"""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..client.app import Member, client_app
from ..client.circles import Circles, Own
from ..client.learning.cast import Cast, prepare
from ..client.learning.learner import Learner
from ..client.learning.torch import TorchLearner
from ..client.ledger.ledger import Ledger
from ..client.purposes import Kit
from ..client.seals import Seals
from ..configs.settings import Offer, SimulateSettings
from ..configs.shown import changed
from ..crypto.identity import Identity
from ..errors import InputError, MoonflowerError
from ..protocol.circle import Circle
from ..report import table
from ..server.app import server_app
from ..server.coordinator import Coordinator
from ..server.exchange import Exchange
from ..server.records import history
from ..server.records.models import Entry
from ..server.records.state import State
from ..server.round import chain_of
from ..server.watch.result import result
from . import practice
from .baselines import Baselines, attempt, baselines, without
from .comparison import comparison
from .curves import Curve
from .drills.absence import Absences
from .drills.hostile_coordinator import DrilledCoordinator
from .drills.hostile_member import DrilledMember
from .drills.kinds import OF_COORDINATOR, OF_MEMBERS, OF_NODES, Drill, parse_drills
from .folder import fresh
from .grid import LocalGrid, play
from .outcome import Simulation
from .progress import chosen
from .proposal import RoundOne, proposal

Event = dict[str, Any]


def simulate(
    config: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    device: str = "auto",
    drills: Iterable[str] = (),
    on_event: Callable[[Event], None] | None = None,
    kit: Kit | None = None,
    baselines: bool = True,
    progress: bool | None = None,
) -> Simulation:
    """Run the federation in ``config`` and return its result. All files are written to ``out``.

    Args:
        config: path of a run config (TOML).
        out: absent or empty folder; default ``runs/<name>-<utc>``.
        overrides: ``table.key=value`` strings that override the config.
        device: that computes, for all members: auto, cpu, cuda or mps.
        drills: ``KIND@ROUND:MEMBER`` strings.
        on_event: called with each entry of the audit log as it is written.
        kit: purposes, steps and optimiser of all members; None for the usual ones.
        baselines: also train each member alone and on pooled rows; without, ``alone`` and ``pooled`` are None.
        progress: show the rounds while they go on: on stderr, or in the cell of a notebook; None: in a notebook only.

    Raises:
        InputError: the config, the data, a drill or the output folder is wrong. Nothing was written.
        KeyboardInterrupt: somebody stopped the run; the message says what is left of it.
    """
    cast = prepare(Path(config), overrides, device)
    cast.warn()
    planned = parse_drills(drills, cast.names, cast.settings.training.rounds)
    name = cast.settings.federation.name
    with fresh(Path(out) if out is not None else None, name) as folder, ExitStack() as stack:
        curve = Curve(cast, folder / "models")
        follow = stack.enter_context(chosen(progress, cast.settings.training.rounds, lambda: curve.last))
        state = State(folder, name, [curve, follow, *([on_event] if on_event else [])])
        stack.callback(state.close)
        try:
            return _carry_out(cast, planned, state, kit or Kit(), curve, stack, compare=baselines)
        except KeyboardInterrupt as stop:
            traceback.clear_frames(stop.__traceback__)  # ends what was under way while its store is open
            raise KeyboardInterrupt(f"{folder} holds the log and the models up to here, and no report") from None


def _carry_out(
    cast: Cast, drills: Sequence[Drill], state: State, kit: Kit, curve: Curve, stack: ExitStack, *, compare: bool
) -> Simulation:
    training = cast.settings.training
    learners: dict[str, TorchLearner] = {}
    watch = RoundOne(cast)
    members = _members(cast, drills, learners, kit.with_steps([watch]))
    ledgers = {name: member.ledger for name, member in members.items()}
    for ledger in ledgers.values():
        stack.callback(ledger.close)
    curve.own = {name: ledger.metric for name, ledger in ledgers.items()}
    nodes = dict(enumerate(cast.names, start=1))
    numbers = {name: number for number, name in nodes.items()}
    absences = Absences([d for d in drills if d.kind in OF_NODES], numbers, lambda: grid.now())
    app = client_app(lambda context: members[str(context.node_config["member"])])
    grid = LocalGrid(app, nodes, absences.delay)
    exchange = Exchange(grid, cast.names, absences.nodes, grid)
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    kind = DrilledCoordinator if any(d.kind in OF_COORDINATOR for d in drills) else Coordinator
    signed = practice.begin(cast.recipe, {name: member.circles for name, member in members.items()}, state)
    offer = signed.circle.offer(training.seed, training.rounds)
    with state.store.transaction() as db:
        history.queue_run(db, run, offer)
    coordinator = kind(exchange, state, offer, signed, run, kit.known)
    if isinstance(coordinator, DrilledCoordinator):
        coordinator.drills = {d.round: (d.kind, d.member) for d in drills if d.kind in OF_COORDINATOR}
    error: MoonflowerError | None = None
    try:
        play(server_app(lambda _: coordinator), grid)
    except InputError:
        raise
    except MoonflowerError as raised:
        error = raised
    compared = baselines(cast) if compare else without(cast)
    whole = _result(cast, watch, state, run, learners, compared, curve, ledgers)
    table.write(whole, state.folder)
    return Simulation(whole, state.folder, error)


def _members(cast: Cast, drills: Sequence[Drill], learners: dict[str, TorchLearner], kit: Kit) -> dict[str, Member]:
    """Return the members, each with its own keys and ledger."""
    floor, circle = cast.settings.floor(), practice.floor(cast.settings.federation.min_members)

    def learner_for(name: str) -> Callable[[Circle, Offer, str], Learner]:
        def make(*_: object) -> Learner:
            learners[name] = learner = cast.learner(name, cast.splits[name])
            learner.known = cast.rehearsal.known.pop(name, None) if cast.rehearsal else None
            return learner

        return make

    members: dict[str, Member] = {}
    for name in cast.names:
        drilled = {d.round: d.kind for d in drills if d.member == name and d.kind in OF_MEMBERS}
        kind = DrilledMember if drilled else Member
        ledger, own = Ledger(None), Own(Identity.generate(name), True, floor, circle)
        circles = Circles(own, ledger.circles)
        member = kind(circles, cast.secret(name), ledger, Seals(None), learner_for(name), kit=kit)
        if isinstance(member, DrilledMember):
            member.drills = drilled
        members[name] = member
    return members


def _result(
    cast: Cast,
    watch: RoundOne,
    state: State,
    run: str,
    learners: Mapping[str, TorchLearner],
    compared: Baselines,
    curve: Curve,
    ledgers: Mapping[str, Ledger],
) -> dict[str, Any]:
    """Return the coordinator's result, plus what only a process with all data can add."""
    known = result(state, run)
    model = known["model"]
    version = state.models.read(model["sha256"]) if model else None
    own = {name: ledger.own_parts.of(version.identity) if version else {} for name, ledger in ledgers.items()}
    tallied = known["overall"]["federated"]
    told = comparison(cast, version, learners, compared, curve, own=own, tallied=tallied)
    longest = max((entry.norm or 0.0 for entry in chain_of(_entries(state, run))), default=0.0)
    vector, scaling = (version.vector, version.manifest["scaling"]) if version else (None, {})
    better = [one["threshold"] for one in told["evidence"].get("thresholds", ()) if one["by"] != "in use"]
    propose = partial(proposal, cast, watch, longest, vector, scaling, *better)
    proposed = attempt("proposing a recipe", propose, told["problems"])
    split = {"simulate": cast.settings.simulate.model_dump(mode="json", exclude_none=True)}
    return {
        **known,
        **told,
        "proposal": proposed,
        "config": {**known["config"], **split},
        "changed": [*known["changed"], *changed(split, {"simulate": SimulateSettings})],
    }


def _entries(state: State, run: str) -> list[Entry]:
    with state.store.read() as db:
        return state.models.entries(db, run)
