"""A simulation for every combination of settings, each in its own folder, and a choice among them.

The choice is by the loss on all members' validation rows, by which members vote. Test rows choose nothing: a choice
among many by the rows that also judge it would make the model look better than it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..client.learning.cast import prepare
from ..client.tasks import load_task
from ..configs.settings import load_run
from ..errors import InputError, MoonflowerError
from ..report.findings import items, part
from .combinations import value_of
from .simulate import simulate

_RECIPE = ("federation", "task", "data", "training", "crypto", "gate")


@dataclass(frozen=True)
class Tried:
    """One combination.

    Attributes:
        overrides: its ``table.key=value`` strings.
        out: folder of its run.
        result: the content of result.json; None if there is none.
        error: why it did not reach its planned end, or "".
    """

    overrides: tuple[str, ...]
    out: Path
    result: dict[str, Any] | None
    error: str

    @property
    def settings(self) -> dict[str, Any]:
        """Its values by dotted key."""
        return {key.strip(): value_of(text) for key, _, text in (one.partition("=") for one in self.overrides)}

    @property
    def loss(self) -> float | None:
        """Loss of its model on all members' validation rows; None without a model."""
        found: float | None = part(part(self.result or {}, "evidence"), "validation").get("loss")
        return found

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        result = self.result or {}
        rounds = items(result, "rounds")
        return {
            "settings": self.settings,
            "out": str(self.out),
            "ended": result.get("ended"),
            "rounds": len(rounds),
            "promoted": sum(one.get("status") == "promoted" for one in rounds),
            "validation_loss": self.loss,
            "overall": part(result, "overall").get("federated"),
            "error": self.error or None,
        }


def check(config: Path, combined: Sequence[tuple[str, ...]]) -> None:
    """Check the settings and the task of every combination, and the data with the first one, before anything runs.

    Raises:
        InputError: names the combination that is wrong.
    """
    seen: set[str] = set()
    for overrides in combined:
        try:
            task = load_run(config, overrides).task
            if (key := json.dumps(task.model_dump(mode="json"), sort_keys=True)) not in seen:
                load_task(task.ref, task.options)
                seen.add(key)
        except InputError as error:
            raise InputError(error.code, f"with {' '.join(overrides)}: {error}", hint=error.hint) from None
    prepare(config, combined[0])


def sweep(
    config: Path, combined: Sequence[tuple[str, ...]], out: Path, progress: bool, say: Callable[[str], None]
) -> Iterator[Tried]:
    """Yield the combinations, each after its simulation without baselines. One that fails does not end the others.

    Args:
        config: run config (TOML).
        combined: of :func:`~moonflower.federation.combinations.combinations`.
        out: folder; each run gets one in it, from ``01``.
        progress: show the rounds on stderr.
        say: called with a line before each run.
    """
    for number, overrides in enumerate(combined, start=1):
        folder = out / f"{number:02}"
        say(f"{number} of {len(combined)}: {' '.join(overrides)}")
        try:
            done = simulate(config, out=folder, overrides=overrides, baselines=False, progress=progress)
        except MoonflowerError as error:
            yield Tried(overrides, folder, None, _first_line(error))
        except Exception as error:  # a task is anybody's code
            yield Tried(overrides, folder, None, f"{type(error).__name__}: {_first_line(error)}")
        else:
            yield Tried(overrides, folder, done.result, _first_line(done.error) if done.error else "")


def best_of(tried: Sequence[Tried]) -> int | None:
    """Return which combination has the lowest loss on validation rows, the first of equal ones; None without any."""
    known = [(one.loss, at) for at, one in enumerate(tried) if one.loss is not None]
    return min(known)[1] if known else None


def with_baselines(config: Path, one: Tried) -> Tried:
    """Return a combination's run anew, with baselines, in the folder ``best`` beside it: the same model, to the bit.

    Raises:
        InputError: ``config.out``: there is such a folder already.
    """
    done = simulate(config, out=one.out.parent / "best", overrides=one.overrides)
    return Tried(one.overrides, done.out, done.result, one.error)


def recipe_tables(one: Tried) -> dict[str, dict[str, Any]]:
    """Return what a recipe should say: what the simulation proposes, and the combination's own settings above that."""
    tables: dict[str, dict[str, Any]] = {name: dict(keys) for name, keys in part(one.result or {}, "proposal").items()}
    for dotted, value in one.settings.items():
        name, _, key = dotted.partition(".")
        if name in _RECIPE:
            tables.setdefault(name, {})[key] = value
    return {name: tables[name] for name in _RECIPE if name in tables}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
