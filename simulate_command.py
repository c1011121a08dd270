"""``moonflower simulate``: the command line around :mod:`moonflower.simulation`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import following, report, terminal
from .configs.settings import load_run

if TYPE_CHECKING:
    from .simulation import Simulation


def simulate(
    config: Annotated[Path, typer.Argument(help="Run config (TOML), such as configs/heart.toml.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Absent or empty folder for the results.  [default: runs/<name>-<utc>]"),
    ] = None,
    drill: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND@ROUND:MEMBER", help="Let something go wrong on purpose (repeatable)."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change a setting (repeatable)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json on stdout and nothing else.")] = False,
) -> None:
    """Run a whole federation in this process, sealed as live, and show what each member gained.

    All members' keys and data are in one process here, so a simulation protects nobody from whoever runs it.
    """
    settings = load_run(config, overrides or ())
    rounds = settings.training.rounds
    from .simulation import simulate as run_simulation  # torch and flwr take seconds: first look at the config

    with following.shown(rounds, quiet=as_json) as follow:
        try:
            done = run_simulation(config, out=out, overrides=overrides or (), drills=drill or (), on_event=follow)
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
    with terminal.page() as console:
        report.table(done.result, console)
    typer.echo(f"report: {done.out / 'report.html'}")
