"""``moonflower client``, ``keys`` and ``member card``: what the operator of a node types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...canonical import canonical
from ...configs.live import ClientConfig, load_config
from ...errors import InputError
from ..keyring import Keyring, load_keys, make_keys

ConfigArgument = Annotated[Path, typer.Argument(help="Client config (TOML).")]


def client(
    config: ConfigArgument,
    once: Annotated[bool, typer.Option("--once", help="Do not start the node again when it ends.")] = False,
) -> None:
    """Run this organisation's node beside its data, until it is stopped.

    Exit status: 0 asked to stop, 2 bad input, 75 broken (with --once), 77 refused by server or issuer.
    """
    from .keeper import keep  # POSIX only

    status = keep(config, once=once)
    if status:
        raise typer.Exit(status)


def keys_new(config: ConfigArgument) -> None:
    """Create the node's keys in its state folder, and print the pin that the others need."""
    state = load_config(ClientConfig, config).client.state
    made = make_keys(state)
    if not made:
        raise InputError("config.key", f"{state} holds keys already; expected none", hint="moonflower keys show CONFIG")
    _tell(made)
    typer.echo(load_keys(state).pin)


def keys_show(config: ConfigArgument) -> None:
    """Print the pin of the node's key: the RFC 7638 thumbprint that the others' configs hold."""
    typer.echo(load_keys(load_config(ClientConfig, config).client.state).pin)


def member_card(
    config: ConfigArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; must not exist.  [default: stdout]")] = None,
) -> None:
    """Print this member's signed card (public), and on stderr its pin; keys that are missing are created."""
    settings = load_config(ClientConfig, config)
    _tell(make_keys(settings.client.state))
    keys = load_keys(settings.client.state)
    card = canonical(_card(settings, keys)).decode()
    if out is None:
        typer.echo(card)
    else:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(card + "\n")
        except OSError as error:
            raise InputError("config.out", f"--out {out} cannot be written: {error.strerror}") from None
    typer.echo(f"pin of {settings.client.member}: {keys.pin}", err=True)


def _card(settings: ClientConfig, keys: Keyring) -> dict[str, object]:
    oauth = settings.oauth
    return keys.identity(settings.client.member, oauth.issuer, oauth.client_id).card.as_dict()


def _tell(made: tuple[Path, ...]) -> None:
    for path in made:
        typer.echo(f"created {path}", err=True)
