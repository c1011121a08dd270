"""The command line: mounts a command on first use, and turns an error into a message and an exit status."""

from __future__ import annotations

import gc
import logging
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from .errors import MoonflowerError
from .version import __version__

gc.set_threshold(20_000, 20, 100)  # libraries make many objects as they are imported, and keep them
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: nothing phones home
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

COMMANDS = {
    "simulate": "simulate:simulate",
    "sweep": "sweep:sweep",
    "compare": "compare:compare",
    "up": "runs:up",
    "server": "server:server",
    "client": "node:client",
    "run": "runs:run",
    "runs": "runs:runs",
    "stop": "runs:stop",
    "predict": "predict:predict",
    "bench": "bench:bench",
    "issuer": "server:issuer",
    "health": "health:health",
    "doctor": "doctor:doctor",
    "version": "",
    "circle": "circle:circle",
    "member": "own:member",
    "access": "access:access",
    "keys": "keys:keys",
    "crypto": "crypto:crypto",
    "model": "model:model",
    "audit": "audit:audit",
    "schema": "schema:schema",
}
"""Command → its place in ``cli``: a function, or a group of commands. Only the named command is imported."""


class Commands(TyperGroup):
    """The commands of :data:`COMMANDS`, each imported when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.add_command(_mounted(cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the named command. For an unknown name, all commands are mounted first, so typer can suggest one."""
        if args and args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _mounted(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name].partition(":")
    found: Any = getattr(import_module(f".cli.{module}", __package__), attribute) if module else _version
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = name  # typer does not set it
        return group
    single = typer.Typer(add_completion=False)
    single.command(name)(found)
    return typer.main.get_command(single)


app = typer.Typer(
    name="moonflower",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Organisations train one model together; the coordinator sees sealed updates and their opened mean. "
    "docs/threat-model.md says against whom moonflower protects, and against whom it does not.",
)


@app.callback()
def _options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, to stderr.")] = False,
) -> None:
    if context.invoked_subcommand != "version":
        from . import logs

        logs.to_stderr("console", "", level=logging.DEBUG if verbose else logging.WARNING)


def _version() -> None:
    """Print moonflower's version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line and exit with its status: 0 done, 1 failed, 2 bad input, 3 ended by policy."""
    if sys.stdout is None:  # closed by the caller, but libraries print to it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os.umask(os.umask(0o022) | 0o022)  # whatever the caller's is: nothing that we make may be written by others
    command, status = typer.main.get_command(app), 0
    try:  # not command.main(), which handles closed pipes and Ctrl-C in another way
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
