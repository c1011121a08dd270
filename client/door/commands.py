"""``moonflower client``, ``keys`` and ``member card``: what the operator of a node types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...canonical import canonical
from ...configs.live import ClientConfig, OperatorConfig, load_config
from ...configs.toml import read_toml
from ...errors import InputError
from ..keyring import Keyring, load_keys, make_keys

keys = typer.Typer(no_args_is_help=True, help="Keys of a node and of its OAuth client.")
AnyConfig = Annotated[Path, typer.Argument(help="Client or operator config (TOML).")]
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


@keys.command("new")
def keys_new(config: AnyConfig) -> None:
    """Create the keys that are missing: that of the OAuth client, and a node's own in its state folder.

    The public half of the OAuth key, printed last, is for whoever runs the authorization server.
    """
    from .keys import make_client_key

    settings = _either(config)
    made = make_client_key(settings.oauth.key)
    if isinstance(settings, ClientConfig):
        made += make_keys(settings.client.state)
    if not made:
        raise InputError("config.key", f"all keys of {config} are there already", hint=f"moonflower keys show {config}")
    _tell(made)
    _show(settings)


@keys.command("show")
def keys_show(config: AnyConfig) -> None:
    """Print the public half of the OAuth client's key, and a node's pin, which the others' configs hold."""
    _show(_either(config))


def _either(path: Path) -> ClientConfig | OperatorConfig:
    """Return the config of a client or of an operator, by the table that it has."""
    if "operator" in read_toml(path, "config"):
        return load_config(OperatorConfig, path)
    return load_config(ClientConfig, path)


def _show(settings: ClientConfig | OperatorConfig) -> None:
    from .keys import load_key

    if isinstance(settings, ClientConfig):
        typer.echo(f"pin of {settings.client.member}: {load_keys(settings.client.state).pin}")
    public = json.dumps(load_key(settings.oauth.key).public.jwk)
    typer.echo(f"public key of OAuth client {settings.oauth.client_id}: {public}")


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
