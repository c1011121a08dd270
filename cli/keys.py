"""``moonflower keys``: the keys of a node, of its OAuth client, and of approvers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..canonical import canonical
from ..client.keyring import identity_of, load_keys, make_keys
from ..configs.roles import ClientConfig, OperatorConfig, ServerConfig, load_config
from ..configs.toml import read_toml
from ..errors import InputError
from .output import tell_created, tell_keys, write_new

keys = typer.Typer(no_args_is_help=True, help="Keys of a node and of its OAuth client.")
AnyConfig = Annotated[Path, typer.Argument(help="Client, operator or server config (TOML).")]


@keys.command("new")
def keys_new(
    config: AnyConfig,
    card: Annotated[Path | None, typer.Option("--card", help="Also write a node's signed card (public).")] = None,
    public: Annotated[
        Path | None, typer.Option("--public", help="Also write the public half of the OAuth key (JWK).")
    ] = None,
) -> None:
    """Create the missing keys: the key of the OAuth client, and a node's own keys in its state folder.

    The public half of the OAuth key is printed last. Send it to the people who run the authorization server.
    """
    from ..oauth.keys import load_key, make_client_key

    settings = _either(config)
    if card is not None and not isinstance(settings, ClientConfig):
        raise InputError("config.value", f"{config}: not a client config; --card writes the card of a node")
    created = make_client_key(_login(settings, config)[1])
    if isinstance(settings, ClientConfig):
        created += make_keys(settings.client.state)
    written: dict[Path, bytes] = {}
    if card is not None and isinstance(settings, ClientConfig):
        written[card] = canonical(identity_of(settings).card.as_dict()) + b"\n"
    if public is not None:
        written[public] = canonical(load_key(_login(settings, config)[1]).public.jwk) + b"\n"
    write_new(written)
    if not (created or written):
        raise InputError("config.key", f"{config}: all keys exist already", hint=f"moonflower keys show {config}")
    tell_keys(created)
    _show(settings, config)


@keys.command("show")
def keys_show(config: AnyConfig) -> None:
    """Print the public half of the OAuth client's key, and a node's pin."""
    _show(_either(config), config)


@keys.command("approver")
def keys_approver(
    file: Annotated[Path, typer.Argument(help="File to write; must not exist. Keep it where only you can read it.")],
) -> None:
    """Create the key with which a person signs releases of models, and print its public half.

    The printed line goes into [[approver]] of the member's client.toml, beside a name. Use a role as the name.
    """
    from ..client.approver import make_approver_key
    from ..crypto.identity import PublicKey

    public = PublicKey(make_approver_key(file).public_key())
    tell_created((file,))
    typer.echo(f"thumbprint: {public.pin}", err=True)
    typer.echo(f"key = '{json.dumps(public.jwk)}'")


def _either(path: Path) -> ClientConfig | OperatorConfig | ServerConfig:
    """Return a client, operator or server config; the kind follows from the tables in the file."""
    tables = read_toml(path, "config")
    if "operator" in tables:
        return load_config(OperatorConfig, path)
    if "server" in tables:
        return load_config(ServerConfig, path)
    return load_config(ClientConfig, path)


def _login(settings: ClientConfig | OperatorConfig | ServerConfig, path: Path) -> tuple[str, Path]:
    """Return the OAuth client of a config, and the file of its key."""
    if not isinstance(settings, ServerConfig):
        return settings.oauth.client_id, settings.oauth.key
    if settings.dashboard is None or settings.dashboard.key is None:
        raise InputError("config.key", f"{path} names no key; a server has a key only under [dashboard]")
    return settings.dashboard.client_id, settings.dashboard.key


def _show(settings: ClientConfig | OperatorConfig | ServerConfig, path: Path) -> None:
    from ..oauth.keys import load_key

    if isinstance(settings, ClientConfig):
        typer.echo(f"pin of {settings.client.member}: {load_keys(settings.client.state).pin}")
    client_id, key = _login(settings, path)
    typer.echo(f"public key of OAuth client {client_id}: {json.dumps(load_key(key).public.jwk)}")
