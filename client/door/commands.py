"""``moonflower client``, ``keys``, and ``member card|log|journal|statistics``: what the operator of a node types."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ... import terminal
from ...canonical import canonical
from ...configs.live import ClientConfig, OperatorConfig, ServerConfig, load_config
from ...configs.toml import read_toml
from ...errors import InputError
from ...logs import printable
from ..keyring import identity_of, load_keys, make_keys

if TYPE_CHECKING:
    from ..ledger import Ledger

keys = typer.Typer(no_args_is_help=True, help="Keys of a node and of its OAuth client.")
AnyConfig = Annotated[Path, typer.Argument(help="Client, operator or server config (TOML).")]
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
    made = make_client_key(_login(settings, config)[1])
    if isinstance(settings, ClientConfig):
        made += make_keys(settings.client.state)
    if not made:
        raise InputError("config.key", f"all keys of {config} are there already", hint=f"moonflower keys show {config}")
    _tell(made)
    _show(settings, config)


@keys.command("show")
def keys_show(config: AnyConfig) -> None:
    """Print the public half of the OAuth client's key, and a node's pin, which the others' configs hold."""
    _show(_either(config), config)


@keys.command("approver")
def keys_approver(
    file: Annotated[Path, typer.Argument(help="File to write; must not exist. Keep it where only you read it.")],
) -> None:
    """Create the key with which a person signs releases of models, and print its public half.

    The line goes into [[approver]] of the member's client.toml, beside a name, which should be a role.
    """
    from ...crypto.identity import PublicKey
    from ..approver import make_approver_key

    public = PublicKey(make_approver_key(file).public_key())
    _tell((file,))
    typer.echo(f"thumbprint: {public.pin}", err=True)
    typer.echo(f"key = '{json.dumps(public.jwk)}'")


def _either(path: Path) -> ClientConfig | OperatorConfig | ServerConfig:
    """Return the config of a client, of an operator, or of a server with a dashboard, by the table that it has."""
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
        raise InputError("config.key", f"{path} names no key; a server has one for [dashboard] only")
    return settings.dashboard.client_id, settings.dashboard.key


def _show(settings: ClientConfig | OperatorConfig | ServerConfig, path: Path) -> None:
    from .keys import load_key

    if isinstance(settings, ClientConfig):
        typer.echo(f"pin of {settings.client.member}: {load_keys(settings.client.state).pin}")
    client_id, key = _login(settings, path)
    typer.echo(f"public key of OAuth client {client_id}: {json.dumps(load_key(key).public.jwk)}")


@contextmanager
def _ledger(settings: ClientConfig) -> Iterator[Ledger]:
    """Open the ledger of a client that has run."""
    from ..ledger import FILE_NAME, Ledger

    path = settings.client.state / FILE_NAME
    if not path.exists():
        raise InputError("config.state", f"{path} does not exist; expected the ledger of a client that has run")
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()


def member_card(
    config: ConfigArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; must not exist.  [default: stdout]")] = None,
) -> None:
    """Print this member's signed card (public), and on stderr its pin; keys that are missing are created."""
    settings = load_config(ClientConfig, config)
    _tell(make_keys(settings.client.state))
    own = identity_of(settings).card
    card = canonical(own.as_dict()).decode()
    if out is None:
        typer.echo(card)
    else:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(card + "\n")
        except OSError as error:
            raise InputError("config.out", f"--out {out} cannot be written: {error.strerror}") from None
    typer.echo(f"pin of {settings.client.member}: {own.node.pin}", err=True)


def member_log(
    config: ConfigArgument,
    forget: Annotated[
        bool, typer.Option("--forget", help="Let go of it, after the coordinator explained why: trust the next one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Print the newest checkpoint of the coordinator's log that this member witnessed, with its cosignature.

    An auditor compares a copy of the log with it: moonflower audit verify COPY --witness FILE.
    Exit status 1: the coordinator showed a history that contradicts it; the other checkpoint follows on stderr.
    """
    from ..witness import LogWitness

    settings = load_config(ClientConfig, config)
    identity = identity_of(settings)
    with _ledger(settings) as ledger:
        held, fork = ledger.newest_checkpoint(), ledger.fork()
        note = LogWitness(identity, ledger, settings.client.log_key, time.time).signed(held) if held else None
        if forget:
            ledger.forget_checkpoints()
    if as_json:
        size, key = (held.size, held.key) if held else (None, None)
        said = {"size": size, "checkpoint": note, "key": key, "witness": identity.card.as_witness.text(), "fork": fork}
        typer.echo(json.dumps(said))
    elif note is None:
        typer.echo("this member has witnessed nothing of a log yet", err=True)
    else:
        typer.echo(note, nl=False)
    if forget:
        typer.echo("forgotten: the next checkpoint that comes is taken as the first", err=True)
    elif fork:
        typer.echo(f"the coordinator showed another history than the one held here:\n{fork['shown']}", err=True)
        raise typer.Exit(1)


def member_statistics(
    config: ConfigArgument,
    forget: Annotated[
        bool, typer.Option("--forget", help="Let go of it: these rows' statistics may be opened for one set more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Print for which set of members this node's statistics were opened; it refuses any other (open.overlap).

    So a member that joined later, or has a new name, cannot take part while these rows stay as they are, unless the
    operator of every other node lets go. All members can then subtract the two sums: docs/running.md says what they
    learn. It works beside a client that runs, and stands in the journal.
    """
    settings = load_config(ClientConfig, config)
    with _ledger(settings) as ledger:
        sets = ledger.opened_statistics()
        if forget and sets:
            ledger.forget_statistics()
    if as_json:
        typer.echo(
            json.dumps({"member": settings.client.member, "opened_for": sets, "forgotten": bool(forget and sets)})
        )
        return
    for members in sets:
        typer.echo(", ".join(members))
    if not sets:
        typer.echo("no statistics of this node were opened yet", err=True)
    elif forget:
        typer.echo("forgotten: the next statistics are opened for whoever takes part in them", err=True)


def member_journal(
    config: ConfigArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Print what this member did and refused, from its own ledger: what it sealed, opened, voted, and why it refused.

    Digests, names and codes; no key, no row, no count of rows. It works beside a client that runs.
    """
    settings = load_config(ClientConfig, config)
    with _ledger(settings) as ledger:
        journal = ledger.journal()
    if as_json:
        typer.echo(json.dumps({"member": settings.client.member, "journal": journal}))
        return
    table = Table("time", "did", "run", "epoch", "round", "purpose", "what", box=None, padding=(0, 2, 0, 0))
    for entry in journal:
        numbers = ("" if entry[name] is None else str(entry[name]) for name in ("epoch", "number"))
        what = ", ".join(f"{name} {_short(value)}" for name, value in entry["what"].items())
        words = (
            entry["time"],
            entry["event"],
            entry["run"],
            *numbers,
            entry["purpose"],
            f"{entry['code']} {what}".strip(),
        )
        table.add_row(*(Text(printable(word)) for word in words))
    with terminal.page(uncut=True) as console:
        console.print(table)


def _short(value: object) -> str:
    """Return a detail as a person reads it: of a digest the first digits."""
    if isinstance(value, list):
        return " + ".join(map(str, value))
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _tell(made: tuple[Path, ...]) -> None:
    for path in made:
        typer.echo(f"created {path}", err=True)
