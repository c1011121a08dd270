"""Several results side by side: how each ended, how good its model is, and in which settings they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from .charts import UNDEFINED, fixed, plain
from .findings import items, part
from .measures import measure, measured

_WAYS = ("federated", "alone", "pooled")


def compared(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results side by side, JSON-able.

    Args:
        runs: name → the result.

    Returns:
        ``runs``: for each ``name, run, federation, ended, rounds, promoted``, the ``overall`` metrics of each way over
        all members' test rows, and ``settings``: those of ``differing``, null where a run has no such key or its result
        has no config. ``differing``: the dotted keys in which they differ.
    """
    settings = {name: dict(_leaves(part(result, "config"))) for name, result in runs.items()}
    keys = dict.fromkeys(key for of_run in settings.values() for key in of_run)
    differing = [key for key in keys if len({_text(of_run.get(key)) for of_run in settings.values()}) > 1]
    return {
        "runs": [
            {
                "name": name,
                "run": result.get("run"),
                "federation": result.get("federation"),
                "ended": result.get("ended"),
                "rounds": len(items(result, "rounds")),
                "promoted": sum(one.get("status") == "promoted" for one in items(result, "rounds")),
                "overall": {way: part(result, "overall").get(way) for way in _WAYS},
                "settings": {key: settings[name].get(key) for key in differing},
            }
            for name, result in runs.items()
        ],
        "differing": differing,
    }


def view(told: Mapping[str, Any]) -> Table:
    """Return what :func:`compared` says as a table with a column for each run."""
    runs: Sequence[Mapping[str, Any]] = told["runs"]
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for one in runs:
        table.add_column(Text(plain(one["name"]), style="bold"), overflow="fold", justify="right")

    def line(label: str, values: Sequence[Any]) -> None:
        table.add_row(Text(label), *(Text(plain(UNDEFINED if value is None else value)) for value in values))

    line("federation", [one["federation"] for one in runs])
    line("ended", [one["ended"] for one in runs])
    line("promoted", [f"{one['promoted']} of {one['rounds']}" for one in runs])
    for metric in measured([part(one["overall"], way) for one in runs for way in _WAYS]):
        for way in _WAYS:
            values = [part(one["overall"], way).get(metric) for one in runs]
            if any(value is not None for value in values):
                line(f"{measure(metric).label}, {way}", [fixed(value) for value in values])
    for key in told["differing"]:
        line(key, [_text(one["settings"][key]) for one in runs])
    return table


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted key."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def _text(value: Any) -> str:
    if value is None:
        return UNDEFINED
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
