"""A recipe as sentences for the person who signs it: what is trained on what, who decides, what leaves the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .recipe import Recipe
from .schema import Categorical, CountTarget, Label, NumberTarget, Numeric, Schema, Target
from .settings import AUTO
from .training import Choice, TrainingSettings

OWN_TRAINING = (
    "The task trains by code of its own: which patient is in a short batch may be read from the members' sums, and "
    "nobody checks that it keeps nothing from one round for the next."
)
SETTLING = "How fast each member's own part settles can be told by the coordinator together with all members but two."


def sentences(recipe: Recipe, members: int) -> dict[str, list[str]]:
    """Return a recipe in words, by heading.

    Args:
        recipe: the recipe to sign.
        members: number of members in the circle.
    """
    return {
        "Who": _who(recipe, members),
        "What is trained": _what(recipe),
        "On which rows": _rows(recipe),
        "What leaves a node": _leaves(recipe, members),
        "Who decides about a model": _decides(recipe),
    }


def _who(recipe: Recipe, members: int) -> list[str]:
    own = recipe.federation
    lines = [
        f"{members} members train in the federation {own.name!r}. None of their sums is opened without all of them. "
        f"No circle has fewer than {own.min_members} members.",
        f"A member that leaves without a farewell is let go after {own.let_go_days} days.",
    ]
    if own.practice:
        lines.append("This is a practice: anyone who knows its seed knows which rows are whose. It protects nobody.")
    return lines


def _what(recipe: Recipe) -> list[str]:
    task, training = recipe.task, recipe.training
    options = ", ".join(f"{name} = {value}" for name, value in sorted(task.options.items()))
    pull = f"; each member is pulled towards the common model with weight {training.mu:g}" if training.mu else ""
    own = training.loop == "own"
    return [
        f"The model is that of the task {task.ref}{f' with {options}' if options else ' with its defaults'}.",
        f"The task's code has the digest {recipe.code[:16]}. The arithmetic is number {recipe.numerics}.",
        *_checkpoint(recipe.checkpoint),
        f"A run has at most {training.rounds} rounds. "
        + (
            "In each, the task's own code trains, and it sees every row of the member."
            if own
            else f"In each, every member goes {training.local_epochs} times through its own rows, in {training.parts} "
            f"equal parts, by {_optimizer(training)} with a learning rate of {training.lr:g}{pull}."
        ),
        *([OWN_TRAINING] if own else []),
        f"What is opened becomes the next version by {_server(training)}.",
        *(f"A run may instead choose {_server(other)}." for other in recipe.choice),
        f"A member that trains longer than {training.train_timeout_s:g} seconds is named as away, and the run waits.",
    ]


def _optimizer(training: TrainingSettings) -> str:
    words = f"{training.optimizer}{_options(training.optimizer_options)}"
    if training.scheduler:
        words += f" and the schedule {training.scheduler}{_options(training.scheduler_options)}"
    return words


def _server(chosen: Choice | TrainingSettings) -> str:
    rate = f"the rate {chosen.server_lr:g}" if chosen.server_lr else "its usual rate"
    falls = f", times {chosen.server_decay:g} after each round" if chosen.server_decay < 1 else ""
    return (
        f"the server optimiser {chosen.server_optimizer}{_options(chosen.server_optimizer_options)} with {rate}{falls}"
    )


def _options(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name} = {value}' for name, value in sorted(options.items()))})" if options else ""


def _stays(recipe: Recipe) -> list[str]:
    training = recipe.training
    lines = []
    if training.personal:
        lines.append(f"Tensors named {', '.join(training.personal)} are trained by each member and never leave it.")
    if training.ditto:
        lines.append(
            f"Each member also trains a whole model of its own, pulled towards the common one with weight "
            f"{training.ditto:g}, which never leaves it and changes no update."
        )
    return [*lines, SETTLING] if training.personal else lines


def _checkpoint(sha256: str) -> list[str]:
    if not sha256:
        return []
    return [f"Version 0 has the tensors of the checkpoint file with the digest {sha256[:16]}. The others are drawn."]


def _rows(recipe: Recipe) -> list[str]:
    data, schema = recipe.data, Schema.from_dict(recipe.columns)
    lines = [f"The column {schema.label.name!r} is predicted: {_target(schema.label)}."]
    for column in schema.columns[:40]:
        lines.append(f"{column.name!r} is used, {_column(column)}.")
    if len(schema.columns) > 40:
        lines.append(f"{len(schema.columns) - 40} more columns are used. The recipe itself lists all of them.")
    if data.drop:
        lines.append(f"Not used: {', '.join(data.drop)}.")
    test = (
        f"rows with {data.test_value!r} in column {data.test_column!r} are"
        if data.test_column is not None
        else f"{data.test_fraction:.0%} of a member's rows are"
    )
    lines += [
        f"Of these, {test} never trained with: they test the model. {data.validation_fraction:.0%} of the others "
        "judge each new version.",
        "Which row is in which part is the node's own secret.",
        *_bound(recipe.training.max_rows),
        f"A member's rows change from one run to the next by at least {data.min_count}, or not at all.",
    ]
    return lines


def _bound(max_rows: int) -> list[str]:
    if not max_rows:
        return []
    return [f"At most {max_rows} training rows of a member count. If there are more, a keyed hash chooses them."]


def _target(target: Target) -> str:
    if isinstance(target, Label):
        classes = " or ".join(str(label) for label in target.classes[:4])
        return f"{classes}, and others" if len(target.classes) > 4 else classes
    if isinstance(target, NumberTarget):
        return f"a number from {target.min:g} to {target.max:g}"
    if isinstance(target, CountTarget):
        return f"a count up to {target.max}"
    ends = f"{len(target.grid)} intervals up to {target.grid[-1]:g}"
    return f"the time until {target.event!r} is {target.happened!r}, in {ends}"


def _column(column: Numeric | Categorical) -> str:
    if isinstance(column, Numeric):
        return f"a number from {column.min:g} to {column.max:g}"
    shown = ", ".join(column.categories[:6])
    more = f" and {len(column.categories) - 6} more" if len(column.categories) > 6 else ""
    return f"one of {shown}{more}"


def _leaves(recipe: Recipe, members: int) -> list[str]:
    reports = recipe.training.report_every
    every = "every round" if reports == 1 else f"every {reports} rounds"
    when = f"after {every} and at the end" if reports else "at the end"
    return [
        f"A node sends its update sealed, with {recipe.crypto.value_bits} bits for each number.",
        *_scale(recipe),
        f"What is opened is the sum over all {members} members, and every member sees it. {members - 1} members "
        "together know the remaining member's part of it.",
        f"The members' counts on their test rows are added and opened in the same way {when} of a run.",
        *_stays(recipe),
        "No row leaves a node. Every version of the model goes to the coordinator and to all members, and a model can "
        "tell about the rows that it was trained with.",
    ]


def _scale(recipe: Recipe) -> list[str]:
    """Return what clip and bits mean, for each pattern of tensor names."""
    crypto = recipe.crypto
    if crypto.clip == AUTO:
        return ["The first round finds which values can be sent."]
    steps = (1 << (crypto.value_bits - 1)) - 7
    clips = crypto.clip if isinstance(crypto.clip, dict) else {"": float(crypto.clip)}
    lines = []
    for pattern, clip in clips.items():
        of = f" of tensors {pattern!r}" if pattern else ""
        lines.append(
            f"Values{of} above {clip:g} cannot be sent; the smallest step of a sum is {clip / steps:.2g}. An update "
            "with more than one value in twenty above this limit is not sent at all."
        )
    return lines


def _decides(recipe: Recipe) -> list[str]:
    gate = recipe.gate
    lines = [
        "All members vote on each new version by its loss on their own rows: better than the best version by "
        f"more than {gate.min_gain:.2%}, worse by more than {gate.max_regression:.0%} than the best that they saw, or "
        "the same. A version that most find worse is refused. So is a change longer than "
        f"{gate.max_step:g}, or than three times the longest of the last five. A version becomes the new best version "
        "if most find it better, after those who find it worse are subtracted. Any other version is trained further "
        "and never released.",
        f"{gate.patience} refusals in a row end a run, and so do {gate.max_failed} failures."
        + (f" So do {gate.progress} rounds without a better version, after the fifth." if gate.progress else ""),
    ]
    if gate.release == "automatic":
        lines.append("The last good version is released for use automatically; nobody is asked.")
    else:
        lines.append(f"A version is released for use once approvers of {gate.approvals_required} members have signed.")
    return lines
