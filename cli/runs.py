"""``moonflower up``, ``run``, ``runs`` and ``stop``: a federation of real processes, as its submitter sees it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..configs.recipe import recipe_of
from ..configs.roles import OperatorConfig, load_config
from ..configs.schema import Schema, load_schema
from ..configs.settings import RunSettings, load_run
from ..federation import progress
from ..federation.folder import fresh
from ..protocol.words import WHY
from ..report import table as report
from ..version import NUMERICS
from .options import OPERATOR, AsJson, Operator, Out, Overrides, RunConfig
from .output import page

if TYPE_CHECKING:
    from ..federation.remote import Remote


def up(
    config: RunConfig,
    out: Out = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole federation of real processes on this machine: issuer, server, and one client for each member.

    It gives the same model as simulate does with this config, to the bit. All keys are on one disk here, so it protects
    nobody from the person who runs it. The folder shows what each separate machine would have.
    """
    settings = load_run(config, overrides or ())
    from ..client.learning.cast import prepare  # torch and flwr take seconds: first look at the config
    from ..federation.up import up as run_up

    # Even if they were inherited as ignored: child processes must be ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    cast = prepare(config, overrides or ())
    cast.warn()
    name = settings.federation.name
    with fresh(out, name) as folder, progress.shown(settings.training.rounds, quiet=as_json) as follow:
        done = run_up(cast.settings, cast.names, cast.recipe, folder, follow)
    _show(done.result, as_json)
    if not as_json:
        typer.echo(f"report: {done.out / 'report.html'}")
    if done.error is not None:
        raise done.error


def run(
    config: RunConfig,
    operator: Operator = OPERATOR,
    overrides: Overrides = None,
    start: Annotated[
        str, typer.Option("--start", metavar="VERSION", help="Version of the circle that the run starts from.")
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's identifier and do not follow it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a run to a server and follow it to its end. The exit status is the run's.

    The config must match the recipe of the current circle; only its seed may differ, and it may have fewer rounds. The
    run may start from a version that this circle promoted. If the config matches a circle that waits for signatures,
    this command waits for them.
    """
    settings = load_run(config, overrides or ())
    remote = _remote(operator)
    from ..client.code import code_of
    from ..federation.up import ending

    try:
        recipe = recipe_of(settings, _schema(settings), code_of(settings.task.ref), NUMERICS)
        remote.await_circle(recipe, lambda line: typer.echo(line, err=True))
        submitted = remote.submit(recipe, start)
        if detach:
            typer.echo(json.dumps({"run": submitted}) if as_json else submitted)
            return
        with progress.shown(settings.training.rounds, quiet=as_json) as follow:
            for event in remote.follow(submitted):
                follow(event)
        shown = remote.show(submitted)
    finally:
        remote.close()
    _show(shown["result"], as_json)
    error = ending(shown)
    if error is not None:
        raise error


def runs(operator: Operator = OPERATOR, as_json: AsJson = False) -> None:
    """List the runs of a server."""
    remote = _remote(operator)
    try:
        listed = remote.runs()
    finally:
        remote.close()
    if as_json:
        typer.echo(json.dumps({"runs": listed}))
        return
    table = Table("run", "status", "rounds", "")
    for row in listed:
        waits = ", ".join(
            f"{away['member']} ({WHY.get(away['why'], away['why'])}) since {away['since']}" for away in row["away"]
        )
        note = f"waits for {waits}" if waits else row["code"]
        table.add_row(row["run"], row["status"], f"{row['rounds']} of {row['of']}", note)
    with page() as console:
        console.print(table)


def stop(
    run: Annotated[str, typer.Argument(help="Identifier of the run (moonflower runs).")],
    operator: Operator = OPERATOR,
) -> None:
    """Ask the server to end a run. The last good version stays."""
    remote = _remote(operator)
    try:
        remote.stop(run)
    finally:
        remote.close()
    typer.echo(f"{run}: will end before its next step", err=True)


def _schema(settings: RunSettings) -> Schema:
    """Return a run's schema; only a task that has its own is imported, because torch takes seconds."""
    if settings.data.schema_path is not None:
        return load_schema(settings.data.schema_path)
    from ..client.tasks import load_task, schema_for

    return schema_for(load_task(settings.task.ref, settings.task.options), settings.data)


def _remote(operator: Path) -> Remote:
    settings = load_config(OperatorConfig, operator)
    from ..federation.remote import Remote

    return Remote(settings)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
        return
    with page() as console:
        report.table(result, console)
