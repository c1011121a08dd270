"""The front door: mounts the rooms' commands, and is the one place that turns an error into words and a status."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import click
import typer

from . import __version__, logs
from .errors import MoonflowerError

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: nothing phones home
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from .client.commands import predict, schema
from .client.door.commands import client, keys, member_card, member_journal, member_log, member_statistics
from .crypto_commands import bench, crypto
from .doctor import doctor
from .health import health
from .live_commands import run, runs, stop, up
from .model_commands import model
from .server.audit_commands import audit
from .server.door.commands import issuer, member, server
from .simulate_command import simulate

app = typer.Typer(
    name="moonflower",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Organisations train one model together; the coordinator sees sealed updates and their opened mean. "
    "docs/threat-model.md says against whom moonflower protects, and against whom not.",
)
app.command("simulate")(simulate)
app.command("up")(up)
app.command("server")(server)
app.command("client")(client)
app.command("run")(run)
app.command("runs")(runs)
app.command("stop")(stop)
app.command("predict")(predict)
app.command("bench")(bench)
app.command("issuer")(issuer)
app.command("health")(health)
app.command("doctor")(doctor)
member.command("card")(member_card)
member.command("log")(member_log)
member.command("journal")(member_journal)
member.command("statistics")(member_statistics)
app.add_typer(member, name="member")
app.add_typer(keys, name="keys")
app.add_typer(crypto, name="crypto")
app.add_typer(model, name="model")
app.add_typer(audit, name="audit")
app.add_typer(schema, name="schema")


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, to stderr.")] = False,
) -> None:
    logs.to_stderr("console", "", level=logging.DEBUG if verbose else logging.WARNING)


@app.command("version")
def _version() -> None:
    """Print moonflower's version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line and exit with its status: 0 done, 1 failed, 2 bad input, 3 ended by policy."""
    if sys.stdout is None:  # closed by the caller; libraries print to it all the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    command, status = typer.main.get_command(app), 0
    try:  # not command.main(): that has its own way with closed pipes and Ctrl-C
        with command.make_context("moonflower", sys.argv[1:]) as context:
            command.invoke(context)
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except MoonflowerError as error:
        _complain(str(error), error.hint)
        status = error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = error.exit_code
    except click.UsageError as error:
        _complain(error.format_message(), f"{error.ctx.command_path} --help" if error.ctx else "")
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typer.echo("stopped", err=True)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _complain(sentence: str, hint: str) -> None:
    typer.echo(f"error: {sentence}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)


if __name__ == "__main__":
    main()
