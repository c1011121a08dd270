"""The members of a practice, in which one table holds all members' rows: a run config, and each member's rows.

Members' secrets follow from the run's seed (practice); ``moonflower up`` writes the same secrets into its nodes'
folders.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from ...configs.recipe import Recipe, draw_of, recipe_of
from ...configs.schema import Schema
from ...configs.settings import AUTO, RunSettings, load_run
from ...crypto import planner
from ...errors import InputError
from ...version import NUMERICS
from ..code import code_of
from ..scales import scale_of
from ..secret import NodeSecret
from ..tasks import Task, load_task, schema_for
from .calibrate import calibrated
from .datasets import rows_of
from .devices import device_of
from .pretrained import Pretrained, load_pretrained
from .rehearsal import Rehearsal, RehearsedLearner, rehearse
from .rows import Rows, Split
from .splits import join, partition, split
from .suspects import rare_class, suspects, told

logger = logging.getLogger(__name__)
NICE = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100)
"""The numbers to which :func:`rounded_up` rounds, apart from zeros at the end."""


@dataclass(frozen=True)
class Cast:
    """Everything that a federation on one machine needs, checked before anything is written.

    Attributes:
        settings: of the run.
        schema: of the rows.
        splits: member → its rows.
        device: that computes, for all members.
        hints: what a person should know of the columns, as sentences.
        rehearsal: round 1, if it was needed to complete the settings.
    """

    settings: RunSettings
    schema: Schema
    splits: Mapping[str, Split]
    device: torch.device
    hints: tuple[str, ...] = ()
    rehearsal: Rehearsal | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Member names, sorted."""
        return tuple(sorted(self.splits))

    def secret(self, name: str) -> NodeSecret:
        """Return a member's practice secret."""
        return NodeSecret.for_practice(self.settings.training.seed, name)

    def learner(self, name: str, rows: Split) -> RehearsedLearner:
        """Return a fresh learner of these rows."""
        seed = self.settings.training.seed
        return RehearsedLearner(
            self.task,
            rows,
            self.schema,
            seed=seed,
            secret=self.secret(name),
            draw=self.draw,
            pretrained=self.pretrained,
            device=self.device,
            personal=self.settings.training.personal,
        )

    def warn(self) -> None:
        """Log the hints, before anything is trained."""
        for hint in self.hints:
            logger.warning("%s", hint)

    @cached_property
    def task(self) -> Task:
        """What is trained."""
        return load_task(self.settings.task.ref, self.settings.task.options)

    def rehearsed(self) -> Rehearsal:
        """Return round 1 of all members."""
        learners = {name: self.learner(name, self.splits[name]) for name in self.names}
        return rehearse(self.settings.training, learners)

    def everyone(self) -> RehearsedLearner:
        """Return a learner of all members' rows together, which only a practice can make."""
        return self.learner("pooled", join([self.splits[name] for name in self.names]))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the practice circle of these members."""
        return recipe_of(self.settings.in_practice(), self.schema, code_of(self.settings.task.ref), NUMERICS)

    @cached_property
    def pretrained(self) -> Pretrained | None:
        """What version 0 starts from, if the config names a checkpoint file."""
        return load_pretrained(self.settings.data.checkpoint, self.recipe.checkpoint)

    @cached_property
    def draw(self) -> str:
        """Seed of version 0."""
        return draw_of(self.recipe, self.names)


def prepare(config: Path, overrides: Iterable[str] = (), device: str = "auto") -> Cast:
    """Return the cast of a run config: settings, schema, every member's rows; all checked.

    If ``training.max_rows`` is 0, it becomes the largest member's number of training rows, rounded up.

    Args:
        config: run config (TOML).
        overrides: ``table.key=value`` strings.
        device: that computes: auto, cpu, cuda or mps.

    Raises:
        InputError: something in the config or its data is wrong.
    """
    settings = load_run(config, overrides)
    task = load_task(settings.task.ref, settings.task.options)
    schema = schema_for(task, settings.data)
    seed = settings.training.seed
    members = partition(rows_of(task.data(settings.data, schema)), settings.data, settings.simulate, seed)
    secrets = {name: NodeSecret.for_practice(seed, name) for name in members}
    whole = {name: split(rows, settings.data, secret=secrets[name], member=name) for name, rows in members.items()}
    counts = {name: len(part.train) for name, part in whole.items()}
    most = settings.training.max_rows or rounded_up(max(counts.values()))
    training = settings.training.model_copy(update={"max_rows": most})
    splits = {name: part.capped(most) for name, part in whole.items()}
    hints = tuple(told(hint) for hint in [*suspects(schema, members), *rare_class(schema, task, splits)])
    cast = Cast(settings.model_copy(update={"training": training}), schema, splits, device_of(device), hints)
    problem = _contradiction(cast, members)
    if problem:
        raise InputError("config.value", f"{config}: {problem}")
    learner = cast.learner(cast.names[0], splits[cast.names[0]])
    learner.check(cast.settings.training)
    scale_of(learner, cast.settings.crypto)
    planner.plan(len(splits), settings.crypto.value_bits, len(learner.start()))
    _warn(cast.settings, counts)
    if settings.crypto.clip != AUTO and settings.gate.max_step:
        return cast
    rehearsal = cast.rehearsed()
    return replace(cast, settings=calibrated(cast.settings, learner, rehearsal.first), rehearsal=rehearsal)


def rounded_up(rows: int) -> int:
    """Return a bound on rows that says little about them: the next of 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150 …

    >>> rounded_up(203), rounded_up(5081)
    (250, 6000)
    """
    scale = 1
    while NICE[-1] * scale < rows:
        scale *= 10
    return next(nice * scale for nice in NICE if nice * scale >= rows)


def _warn(settings: RunSettings, counts: Mapping[str, int]) -> None:
    """Warn if settings do not suit the members' training rows; ``counts``: member → number of training rows."""
    training, least = settings.training, settings.data.min_count
    most, largest = training.max_rows, max(counts.values())
    if most > max(2 * largest, NICE[0]):
        message = (
            "training.max_rows = %s is more than twice what any member has, and a member may claim it; expected %s"
        )
        logger.warning(message, most, rounded_up(largest))
    for name, count in counts.items():
        if count > most:
            logger.warning("training.max_rows = %s: %s training rows of %s do not count", most, count - most, name)
        if training.loop == "moonflower" and min(count, most) // training.parts < least:
            message = (
                "training.parts = %s leaves %s fewer rows in a part than data.min_count = %s; a node would refuse that"
            )
            logger.warning(message, training.parts, name, least)


def _contradiction(cast: Cast, members: Mapping[str, Rows]) -> str:
    """Return what the config asks for that its data cannot give, or ""."""
    count, data = len(members), cast.settings.data
    least = cast.settings.federation.min_members
    if least > count:
        names = ", ".join(cast.names)
        return f"federation.min_members = {least}; expected at most {count}, the members in the data ({names})"
    if not any(len(part.validation) for part in cast.splits.values()):
        return (
            f"data.validation_fraction = {data.validation_fraction:g} leaves no member a validation row; expected "
            "more, because nothing is promoted otherwise"
        )
    if data.test_column is not None and not any(len(part.test) for part in cast.splits.values()):
        marks = {str(mark) for rows in members.values() for mark in rows.groups[data.test_column]} - {"None"}
        values = "1 other value" if len(marks) == 1 else f"{len(marks)} other values"
        return (
            f"data.test_value = {data.test_value!r}, which no row has in column {data.test_column!r}; "
            f"the column has {values}"
        )
    return ""
