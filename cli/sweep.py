"""``moonflower sweep``: a simulation for every combination of settings, and which one to propose."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .. import files
from ..configs.settings import load_run
from ..errors import InputError
from ..federation.combinations import MANY, combinations
from ..federation.folder import fresh
from ..report.charts import UNDEFINED, fixed, plain
from ..report.findings import EVERYBODY, part, toml
from ..report.measures import measure, measured
from .options import AsJson, Out, RunConfig
from .output import page, print_json

if TYPE_CHECKING:
    from ..federation.sweep import Tried

CHOSEN_BY = "loss on all members' validation rows"


def sweep(
    config: RunConfig,
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="TABLE.KEY=A,B,C", help="Values of a setting to try (repeatable)."),
    ],
    out: Out = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run more than 64 combinations.")] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate every combination of the given values, and propose the settings with the lowest loss on validation rows.

    Test rows choose nothing. Each run has its own folder below --out; only the chosen one is compared with models
    trained alone and pooled. A run that fails is a line of the table, and the others go on.
    """
    combined = combinations(sets)
    if len(combined) > MANY and not yes:
        raise InputError("config.set", f"{len(combined)} combinations; expected at most {MANY}, or --yes")
    name = load_run(config, combined[0]).federation.name
    from ..federation import sweep as sweeping  # torch and flwr take seconds: first look at the config

    sweeping.check(config, combined)

    def say(line: str) -> None:
        if not as_json:
            typer.echo(line, err=True)

    with fresh(out, f"{name} sweep", claim="01") as folder:
        try:
            tried = list(sweeping.sweep(config, combined, folder, not as_json and sys.stderr.isatty(), say))
        except KeyboardInterrupt:
            typer.echo(f"stopped; {folder} holds the runs up to here", err=True)
            raise typer.Exit(130) from None
    best = sweeping.best_of(tried)
    if best is not None:
        say(f"training alone and pooled with the settings of {tried[best].out.name}, to compare")
        tried[best] = sweeping.with_baselines(config, tried[best])
    recipe = {} if best is None else sweeping.recipe_tables(tried[best])
    told = {
        "runs": [one.as_dict() for one in tried],
        "best": best,
        "chosen_by": CHOSEN_BY,
        "recipe": recipe,
        "out": str(folder),
    }
    files.replace(folder / "sweep.json", f"{json.dumps(told, indent=1, allow_nan=False)}\n".encode())
    if as_json:
        print_json(told)
    else:
        _show(tried, best, recipe, folder)
    if best is None:
        raise typer.Exit(1)


def _show(tried: Sequence[Tried], best: int | None, recipe: dict[str, Any], folder: Path) -> None:
    with page(uncut=True) as console:
        console.print(_table(tried, best))
        if best is None:
            console.print("\nNo combination gave a model.")
            return
        one = tried[best]
        overall = part(one.result or {}, "overall")
        losses = ", ".join(f"{fixed(part(overall, way).get('loss'))} {way}" for way in ("alone", "federated", "pooled"))
        console.print(f"\n* {one.out.name}: lowest {CHOSEN_BY} ({fixed(one.loss, 4)}). Test rows chose nothing.")
        console.print(f"Its loss on {EVERYBODY}: {losses}. Report: {one.out / 'report.html'}", soft_wrap=True)
        console.print("\nFor the recipe:\n")
        for table, keys in recipe.items():
            lines = [f"[{table}]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
            console.print(Text("\n".join(lines)), soft_wrap=True)


def _table(tried: Sequence[Tried], best: int | None) -> Table:
    """Return a line for each combination: its settings, its loss on validation rows, and its metrics on test rows."""
    told = [one.as_dict() for one in tried]
    shown = measured([one["overall"] or {} for one in told])
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    heads = (
        "",
        *tried[0].settings,
        "validation loss",
        *(f"{measure(metric).label}, test" for metric in shown),
        "promoted",
        "",
    )
    for at, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if at in (0, len(heads) - 1) else "right")
    for at, (one, row) in enumerate(zip(tried, told, strict=True)):
        values = [value if isinstance(value, str) else toml(value) for value in one.settings.values()]
        scores = [fixed((row["overall"] or {}).get(metric)) for metric in shown]
        loss = fixed(one.loss, 4) + ("*" if at == best else " ")
        promoted = f"{row['promoted']} of {row['rounds']}" if one.result else UNDEFINED
        cells = (one.out.name, *values, loss, *scores, promoted, plain(one.error))
        table.add_row(*(Text(cell, style="bold" if at == best else "") for cell in cells))
    return table
