"""``moonflower access``: who may not come in at this server, whatever its token says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..configs.roles import ServerConfig, load_config
from ..server.records import denied
from ..server.records.denied import Denied
from ..server.records.pseudonyms import Pseudonyms, read_pseudonyms
from ..server.records.state import State
from .options import AsJson, ServerFile
from .output import page, print_json, visible

access = typer.Typer(no_args_is_help=True, help="Who may not come in: desks, programs and people.")

Name = Annotated[str, typer.Argument(help="OAuth client, or with --subject a person, as tokens write it.")]
Subject = Annotated[bool, typer.Option("--subject", help="The name is a token's subject: a person.")]


@contextmanager
def _opened(config: Path) -> Iterator[tuple[State, Pseudonyms]]:
    settings = load_config(ServerConfig, config).server
    names = read_pseudonyms(settings.pseudonym_key)
    os.umask(0o077)
    state = State(settings.state, settings.federation)
    try:
        yield state, names
    finally:
        state.close()


@access.command("deny")
def deny(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Reason, which the log keeps for ever: no personal data.")],
    subject: Subject = False,
    config: ServerFile = Path("server.toml"),
) -> None:
    """Shut a desk, a program or a person out at once: its tokens count no more, and its sessions end.

    Revoke it at the issuer, too. A member is shut out with `moonflower member revoke`.
    """
    who = Denied("subject" if subject else "client", name)
    with _opened(config) as (state, names), state.store.transaction() as db:
        denied.deny(db, state.log, who, reason, names)
    typer.echo(f"{who.kind} {visible(name)}: shut out", err=True)


@access.command("allow")
def allow(name: Name, subject: Subject = False, config: ServerFile = Path("server.toml")) -> None:
    """Let a desk, a program or a person in again that was shut out here."""
    who = Denied("subject" if subject else "client", name)
    with _opened(config) as (state, names), state.store.transaction() as db:
        denied.allow(db, state.log, who, names)
    typer.echo(f"{who.kind} {visible(name)}: may come in again", err=True)


@access.command("list")
def show(config: ServerFile = Path("server.toml"), as_json: AsJson = False) -> None:
    """List who was shut out."""
    with _opened(config) as (state, _), state.store.read() as db:
        found = denied.denied(db)
    if as_json:
        print_json({"denied": [vars(one) for one in found]})
        return
    table = Table("kind", "name")
    for one in found:
        table.add_row(one.kind, escape(visible(one.name)))
    with page() as console:
        console.print(table)
