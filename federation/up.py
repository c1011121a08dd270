"""A federation of real processes on this machine, from a run config: issuer, server and one client for each member.

Everything that separate machines would have is made here, each in its own folder: keys, cards, certificates, configs,
and the circle that all sign. Reading these files is the shortest way to see what a real deployment consists of. Such a
federation protects nobody from the person who runs it: all keys are on one disk.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configs.recipe import Recipe
from ..configs.roles import OperatorConfig, load_config
from ..configs.settings import RunSettings
from ..errors import Ended, InputError, MoonflowerError, Refused
from ..report import table
from .processes import raised
from .remote import Event, Remote
from .stage import stage


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        result: the content of result.json.
        out: the folder.
        error: why the run did not reach its planned end, or None.
    """

    result: dict[str, Any]
    out: Path
    error: MoonflowerError | None


def up(
    settings: RunSettings,
    members: tuple[str, ...],
    recipe: Recipe,
    folder: Path,
    on_event: Callable[[Event], None],
) -> Finished:
    """Run a federation of real processes and return its result. All files are written to ``folder``.

    Args:
        settings: the run's settings.
        members: the members' names.
        recipe: recipe of their practice circle.
        folder: an empty folder.
        on_event: called with each log entry about the run.

    Raises:
        InputError: ``config.task``: nodes would not find the task's module. Nothing was started.
    """
    check_installed(settings.task.ref)
    staged = stage(settings.in_practice(), members, folder, recipe=recipe)
    with raised(staged):
        remote = Remote(load_config(OperatorConfig, staged.operator))
        try:
            run = remote.submit(recipe)
            for event in remote.follow(run):
                on_event(event)
            shown = remote.show(run)
        finally:
            remote.close()
    result = shown["result"]
    table.write(result, folder)
    return Finished(result, folder, ending(shown))


def check_installed(ref: str) -> None:
    """Check that a node finds a task's module, as a node looks for it: without the folder where a person stands.

    Raises:
        InputError: ``config.task``.
    """
    top = ref.partition(":")[0].partition(".")[0]
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    if subprocess.run([sys.executable, "-P", "-c", look, top], check=False).returncode:  # noqa: S603
        raise InputError(
            "config.task",
            f"task module {top!r} is not installed; expected an installed one, because up starts real nodes",
            hint="install it, or name its folder in PYTHONPATH; simulate also finds it beside the config",
        )


def ending(shown: Mapping[str, Any]) -> MoonflowerError | None:
    """Return why a run did not reach its planned end, or None."""
    status, code = shown["status"], shown["code"]
    if status == "done":
        return None
    kind = Ended if status in ("policy", "stopped") else Refused
    return kind(code or "run.crashed", f"the run ended as {status}: {code}")
