"""``moonflower server``, ``issuer`` and ``member``: what whoever runs the coordinator does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ... import terminal
from ...configs.live import IssuerConfig, ServerConfig, load_config
from ...crypto.identity import parse_card
from ...errors import InputError, Refused
from ..records import members as roster
from ..records.members import Member
from ..records.state import State

member = typer.Typer(no_args_is_help=True, help="Who takes part: cards, roster.")
ConfigOption = Annotated[Path, typer.Option("--config", help="Server config (TOML).")]


def server(
    config: Annotated[Path, typer.Argument(help="Server config (TOML).", show_default=False)],
) -> None:
    """Run the coordinator: SuperLink, gateway with TLS, and the runs that it accepted, until SIGTERM or Ctrl-C."""
    settings = load_config(ServerConfig, config)
    from .link import serve  # flwr takes seconds: first look at the config

    serve(settings, config)


def issuer(
    config: Annotated[Path, typer.Argument(help="Issuer config (TOML).", show_default=False)],
    expose: Annotated[bool, typer.Option("--expose", help="Listen on an address that others reach.")] = False,
) -> None:
    """Run the embedded OAuth server, for trying things out on one machine. A real federation uses its own."""
    settings = load_config(IssuerConfig, config)
    from .issuer import serve

    serve(settings, expose=expose)


def _opened(settings: ServerConfig) -> State:
    """Open the server's state. Whichever is first, the server or this, makes it for its own user only."""
    os.umask(0o077)
    return State(settings.server.state, settings.server.federation)


@member.command("add")
def add(
    card: Annotated[Path, typer.Argument(help="Card that the member sent (moonflower member card).")],
    config: ConfigOption = Path("server.toml"),
) -> None:
    """Put a member on the roster. Compare the pin with the member by another channel, such as the telephone."""
    settings = load_config(ServerConfig, config)
    try:
        parsed = parse_card(json.loads(card.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError("config.path", f"card {card} cannot be read: {error.strerror}") from None
    except (ValueError, Refused):
        raise InputError("config.member", f"{card} is not a member card that its own key signed") from None
    if parsed.issuer != settings.oauth.issuer:
        named = f"card {card} names issuer {parsed.issuer!r}"
        raise InputError("config.member", f"{named}; expected this server's, {settings.oauth.issuer!r}")
    new = Member(parsed.name, parsed.issuer, parsed.client_id, parsed.node.pin)
    state = _opened(settings)
    try:
        with state.store.transaction() as db:
            added = roster.add(db, state.log, new)
            roster.take_card(db, state.log, parsed.as_dict())
    finally:
        state.close()
    typer.echo(f"{new.name}: {'added' if added else 'on the roster already'}, pin {new.pin}", err=True)


@member.command("list")
def show(
    config: ConfigOption = Path("server.toml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """List the roster."""
    settings = load_config(ServerConfig, config)
    state = _opened(settings)
    try:
        with state.store.read() as db:
            found = roster.members(db)
    finally:
        state.close()
    if as_json:
        typer.echo(json.dumps({"members": [vars(one) for one in found]}))
        return
    table = Table("member", "client", "pin", "")
    for one in found:
        table.add_row(one.name, one.client_id, one.pin, "revoked" if one.revoked else "")
    with terminal.page() as console:
        console.print(table)


@member.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Member's name.")],
    reason: Annotated[str, typer.Option("--reason", help="For the log, which keeps it for good: no personal data.")],
    config: ConfigOption = Path("server.toml"),
) -> None:
    """Take a member off the roster: it is shut out at once, and the next round begins new keys without it."""
    settings = load_config(ServerConfig, config)
    state = _opened(settings)
    try:
        with state.store.transaction() as db:
            roster.revoke(db, state.log, name, reason)
    finally:
        state.close()
    typer.echo(f"{name}: revoked", err=True)
