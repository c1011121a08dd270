"""``moonflower simulate``: the command line of :mod:`moonflower.federation.simulate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..configs.settings import load_run
from ..report import table
from .options import AsJson, Device, Out, Overrides, RunConfig
from .output import page

if TYPE_CHECKING:
    from ..federation.outcome import Simulation


def simulate(
    config: RunConfig,
    out: Out = None,
    drill: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND@ROUND:MEMBER", help="Inject a fault on purpose (repeatable)."),
    ] = None,
    overrides: Overrides = None,
    device: Device = "auto",
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Train no model alone and no pooled one to compare with.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole federation in this process, with sealed updates as in a live one, and show what each member gained.

    All members' keys and data are in one process here, so a simulation protects nobody from the person who runs it.
    """
    load_run(config, overrides or ())
    from ..federation.simulate import (
        simulate as run_simulation,  # torch and flwr take seconds: first look at the config
    )

    try:
        done = run_simulation(
            config,
            out=out,
            overrides=overrides or (),
            device=device,
            drills=drill or (),
            baselines=not no_baselines,
            progress=not as_json,
        )
    except KeyboardInterrupt as stop:
        typer.echo(f"stopped; {stop}", err=True)
        raise typer.Exit(130) from None
    _show(done, as_json)
    if done.error is not None:
        raise done.error


def _show(done: Simulation, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done.result, allow_nan=False))
        return
    with page() as console:
        table.table(done.result, console)
    typer.echo(f"report: {done.out / 'report.html'}")
