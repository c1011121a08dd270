"""A node's floor (rule 9) in words: what may run at the node, and which line to add for what may not.

A missing key of the floor refuses what the key would bound. The refusal and ``moonflower doctor`` print the line to
add, so that nobody has to guess it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from .roles import CircleSettings, ClientConfig
from .settings import FloorSettings

MB = 1_000_000
USUAL_TASK = "moonflower.client.tasks.tabular:task"
_MISSING = {
    "min_members": ("No circle is signed", "the smallest circle", "be in one", "min_members = 3"),
    "runs_a_day": ("No run trains", "runs a day", "allow some", "runs_a_day = 20"),
    "max_envelope_mb": ("No envelope is sealed", "the largest envelope", "seal some", "max_envelope_mb = 64"),
}
_SIGNS = {
    "ask": "This node's operator signs every circle by hand.",
    "same-names": "This node signs by itself a circle with the same members and other settings. Its operator signs any "
    "other circle by hand.",
}


def missing(circle: CircleSettings) -> tuple[str, ...]:
    """Return which keys of ``[circle]`` a floor lacks. The node signs nothing while any of them is missing.

    >>> missing(CircleSettings(runs_a_day=20))
    ('min_members', 'max_envelope_mb')
    """
    return tuple(key for key in _MISSING if getattr(circle, key) is None)


def nothing_of(key: str) -> str:
    """Return why something is refused whose bound is missing from ``[circle]``, and the line to add.

    >>> nothing_of("runs_a_day")
    "this node's client.toml has no line for runs a day; to allow some, add under [circle]: runs_a_day = 20"
    """
    _, what, wish, line = _MISSING[key]
    return f"this node's client.toml has no line for {what}; to {wish}, add under [circle]: {line}"


def not_listed(ref: str, tasks: Iterable[str]) -> str:
    """Return why a task does not run here, and the line that allows it.

    >>> not_listed("heart:task", ())
    'this node\\'s client.toml names no tasks; to allow this one, add under [client]: tasks = ["heart:task"]'
    """
    listed = tuple(tasks)
    line = f"tasks = {json.dumps([*listed, ref], ensure_ascii=False)}"
    if not listed:
        return f"this node's client.toml names no tasks; to allow this one, add under [client]: {line}"
    return f"task {ref!r} is not among the tasks of this node's client.toml; to allow it, set under [client]: {line}"


def trains_itself(ref: str, tasks: Iterable[str]) -> str:
    """Return why a task that trains by code of its own does not run here, and the line that allows it.

    >>> print(trains_itself("h:task", ()))
    this node lets no task train by code of its own; to allow this one, set under [client]: own_training = ["h:task"]
    """
    listed = tuple(tasks)
    which = "only other tasks" if listed else "no task"
    line = f"own_training = {json.dumps([*listed, ref], ensure_ascii=False)}"
    return f"this node lets {which} train by code of its own; to allow this one, set under [client]: {line}"


def floor_sentences(config: ClientConfig, ref: str = "") -> dict[str, list[str]]:
    """Return a node's floor in words, by heading.

    Args:
        config: the node's config.
        ref: the task of the recipe under which the node lives; "" if the node is in no circle.
    """
    return {
        "What may run at this node": [*_runs(config.client, config.circle), *_decides(config.client, config.circle)],
        "What is not allowed here": [
            *refused(config, ref),
            "Everything is refused that neither this floor nor a recipe signed by this node allows.",
        ],
    }


def refused(config: ClientConfig, ref: str = "") -> list[str]:
    """Return what a node does not allow: one sentence each, which ends with the line to add."""
    tasks = config.client.tasks
    lines = [f"No task runs here: {not_listed(ref or USUAL_TASK, tasks)}"] if not tasks else []
    if tasks and ref and ref not in tasks:
        lines.append(f"The circle's task does not run here: {not_listed(ref, tasks)}")
    return lines + [f"{_MISSING[key][0]} here: {nothing_of(key)}" for key in missing(config.circle)]


def _runs(floor: FloorSettings, circle: CircleSettings) -> list[str]:
    lines = []
    if floor.tasks:
        which = "Only this task runs" if len(floor.tasks) == 1 else "Only these tasks run"
        lines.append(f"{which} here: {', '.join(floor.tasks)}.")
    own = [ref for ref in floor.tasks if ref in floor.own_training]
    lines += [f"Trained by code of its own: {', '.join(own)}."] if own else []
    if circle.runs_a_day is not None:
        lines.append(f"At most {_counted(circle.runs_a_day, 'run')} a day {_plural(circle.runs_a_day, 'trains')} here.")
    if circle.min_members is not None:
        lines.append(f"No circle has fewer than {circle.min_members} members.")
    if circle.max_envelope_mb is not None:
        lines.append(f"No envelope is larger than {circle.max_envelope_mb:g} MB.")
    return [*lines, f"No recipe gives a member more than {floor.max_train_s:g} seconds to train in a round."]


def _decides(floor: FloorSettings, circle: CircleSettings) -> list[str]:
    least = floor.min_approvals
    approved = f"No model is released unless approvers of {_counted(least, 'member')} have signed."
    key = "the one key that client.toml names" if floor.log_key else "the first key that it shows"
    signs = _SIGNS.get(circle.sign, f"This node signs one circle by itself: {circle.sign}.")
    return [
        approved if least else "A model may be released without any approval.",
        signs,
        f"The coordinator's log is accepted under {key}.",
    ]


def _counted(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def _plural(number: int, verb: str) -> str:
    return verb if number == 1 else verb.removesuffix("s")
