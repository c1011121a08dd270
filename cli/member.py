"""``moonflower member``: the server's roster, and what a member's own node holds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..canonical import canonical
from ..client.keyring import identity_of, load_keys, make_keys
from ..configs.roles import ClientConfig, ServerConfig, load_config
from ..crypto.identity import Card
from ..errors import InputError
from ..logs import printable
from ..server.records import members as roster
from ..server.records.members import RosterMember
from ..server.records.state import State
from .card import read_card
from .options import ClientFile, ServerFile
from .output import page, tell_keys, write_new

if TYPE_CHECKING:
    from ..client.ledger.ledger import Ledger

member = typer.Typer(no_args_is_help=True, help="Who takes part: cards, roster.")


def _opened(settings: ServerConfig) -> State:
    """Open the server's state. If it does not exist yet, it is created for the current user only."""
    os.umask(0o077)
    return State(settings.server.state, settings.server.federation)


@member.command("add")
def add(
    cards: Annotated[list[Path], typer.Argument(help="Cards that members sent (moonflower member card).")],
    config: ServerFile = Path("server.toml"),
) -> None:
    """Put a member on this server's roster, or back on it after a revocation. A circle says who trains together.

    Compare the pin with the member over another channel, such as the telephone.
    """
    settings = load_config(ServerConfig, config)
    sent, lines = [_card(path, settings.oauth.issuer) for path in cards], []
    state = _opened(settings)
    try:
        with state.store.transaction() as db:  # all of them, or none
            for card in sent:
                new = RosterMember(card.name, card.issuer, card.client_id, card.node.pin)
                added = roster.add(db, state.log, new)
                roster.take_card(db, state.log, card.as_dict())
                lines.append(f"{new.name}: {'added' if added else 'already on the roster'}, pin {new.pin}")
    finally:
        state.close()
    for line in lines:
        typer.echo(line, err=True)


def _card(path: Path, issuer: str) -> Card:
    """Return the card in a file, if its issuer is this server's."""
    card = read_card(path)
    if card.issuer != issuer:
        raise InputError(
            "config.member", f"card {path} names issuer {card.issuer!r}; expected this server's, {issuer!r}"
        )
    return card


@member.command("list")
def show(
    config: ServerFile = Path("server.toml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """List the roster."""
    settings = load_config(ServerConfig, config)
    state = _opened(settings)
    try:
        with state.store.read() as db:
            members = roster.members(db)
    finally:
        state.close()
    if as_json:
        typer.echo(json.dumps({"members": [vars(member) for member in members]}))
        return
    table = Table("member", "client", "pin", "")
    for member in members:
        table.add_row(member.name, member.client_id, member.pin, "revoked" if member.revoked else "")
    with page() as console:
        console.print(table)


@member.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Member's name.")],
    reason: Annotated[str, typer.Option("--reason", help="Reason, which the log keeps for ever: no personal data.")],
    config: ServerFile = Path("server.toml"),
) -> None:
    """Shut a member out of the server at once. A run waits for it until it is let in again or let go.

    The member stays in the circle. `moonflower circle propose RUN.toml --without NAME` lets it go;
    `moonflower member add CARD` lets it in again.
    """
    settings = load_config(ServerConfig, config)
    state = _opened(settings)
    try:
        with state.store.transaction() as db:
            roster.revoke(db, state.log, name, reason)
    finally:
        state.close()
    typer.echo(f"{name}: revoked", err=True)


@contextmanager
def ledger_of(settings: ClientConfig) -> Iterator[Ledger]:
    """Open the ledger of a client that has run."""
    from ..client.ledger.ledger import FILE_NAME, Ledger

    path = settings.client.state / FILE_NAME
    if not path.exists():
        raise InputError("config.state", f"{path} does not exist; expected the ledger of a client that has run")
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()


@member.command("card")
def card(
    config: ClientFile,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; must not exist.  [default: stdout]")] = None,
) -> None:
    """Print this member's signed card (public), and its pin on stderr. Missing keys are created."""
    settings = load_config(ClientConfig, config)
    tell_keys(make_keys(settings.client.state))
    own = identity_of(settings).card
    text = canonical(own.as_dict()).decode()
    if out is None:
        typer.echo(text)
    else:
        write_new({out: f"{text}\n".encode()})
    typer.echo(f"pin of {settings.client.member}: {own.node.pin}", err=True)


@member.command("log")
def log(
    config: ClientFile,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget it and trust the next checkpoint, once the coordinator explained why."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Print the newest checkpoint of the coordinator's log that this member witnessed, with its cosignature.

    An auditor compares a copy of the log with it: moonflower audit verify COPY --witness FILE.
    Exit status 1: the coordinator showed a history that contradicts it. The other checkpoint is printed on stderr.
    """
    from ..client.witness import LogWitness

    settings = load_config(ClientConfig, config)
    identity = identity_of(settings)
    with ledger_of(settings) as ledger:
        newest, fork = ledger.newest_checkpoint(), ledger.fork()
        note = LogWitness(identity, ledger, settings.client.log_key, time.time).signed(newest) if newest else None
        if forget:
            ledger.forget_checkpoints()
    if as_json:
        size, key = (newest.size, newest.key) if newest else (None, None)
        summary = {
            "size": size,
            "checkpoint": note,
            "key": key,
            "witness": identity.card.as_witness.text(),
            "fork": fork,
        }
        typer.echo(json.dumps(summary))
    elif note is None:
        typer.echo("this member has not witnessed a checkpoint yet", err=True)
    else:
        typer.echo(note, nl=False)
    if forget:
        typer.echo("forgotten: the next checkpoint that comes is taken as the first", err=True)
    elif fork:
        typer.echo(f"the coordinator showed a history that contradicts the one held here:\n{fork['shown']}", err=True)
        raise typer.Exit(1)


@member.command("journal")
def journal(
    config: ClientFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Print what this member did, from its own ledger: what it sealed, opened and voted, and what it refused and why.

    It shows digests, names and codes; no key, no row, no count of rows. It works while the client runs.
    """
    settings = load_config(ClientConfig, config)
    with ledger_of(settings) as ledger:
        entries = ledger.journal()
    if as_json:
        typer.echo(json.dumps({"member": settings.client.member, "journal": entries}))
        return
    table = Table("time", "did", "run", "round", "purpose", "what", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        number = "" if entry["number"] is None else str(entry["number"])
        what = ", ".join(f"{name} {_short(value)}" for name, value in entry["what"].items())
        words = (
            entry["time"],
            entry["event"],
            entry["run"],
            number,
            entry["purpose"],
            f"{entry['code']} {what}".strip(),
        )
        table.add_row(*(Text(printable(word)) for word in words))
    with page(uncut=True) as console:
        console.print(table)


@member.command("statistics")
def statistics(
    config: ClientFile,
    delete_gone: Annotated[
        bool,
        typer.Option(
            "--delete-gone",
            help="Drop at once rows that are gone from the table, and min_count - 1 other rows of each of their parts.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Show how many rows this node uses, and how they differ from its table. The counts are for its operator alone.

    A run uses the rows of the run before until a part has changed by min_count rows or more. Stop the client before
    --delete-gone, which also deletes what the node sealed and nobody opened.
    """
    from ..client.node.keeper import locked
    from ..client.own_rows import OwnRows, snapshots_of
    from ..client.seals import FOLDER, Seals

    settings = load_config(ClientConfig, config)
    secret = load_keys(settings.client.state).secret
    with ledger_of(settings) as ledger:
        circle = ledger.circles.standing().living
        if circle is None:
            raise InputError(
                "config.value",
                "this node is in no circle, so no run uses its rows; expected a circle that has begun",
                hint="moonflower circle show",
            )
        snapshots = snapshots_of(settings, secret, ledger, Seals(settings.client.state / FOLDER), circle.recipe)
        table, changed = OwnRows(settings, secret).now(circle.recipe), list[str]()
        if delete_gone:
            with locked(settings.client.state):
                changed = snapshots.delete_gone(table)
        states = snapshots.states(table)
    if as_json:
        typer.echo(json.dumps({"parts": [vars(state) for state in states], "deleted": changed}))
        return
    shown = Table("part", "rows in use", "rows in the table", "changed", "replaced at", "gone")
    for state in states:
        shown.add_row(
            state.name, *(str(n) for n in (state.in_use, state.table, state.changed, state.least, state.gone))
        )
    with page() as console:
        console.print(
            shown if states else "No run has used rows of this node yet. The next run uses those of the table."
        )
    if beyond := sum(state.beyond for state in states):
        most = circle.recipe.training.max_rows
        typer.echo(f"training.max_rows = {most}: {beyond} of the table's training rows do not count", err=True)
    if delete_gone:
        summary = f"deleted from {' and '.join(changed)}" if changed else "no row in use is gone from the table"
        typer.echo(summary, err=True)


def _short(value: object) -> str:
    """Return a detail for a person to read; a digest is cut to its first digits."""
    if isinstance(value, list):
        return " + ".join(map(str, value))
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
