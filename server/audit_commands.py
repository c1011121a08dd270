"""``moonflower audit``: look at the log, verify it, prove an entry, write it out. It only reads, offline."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .. import terminal
from ..crypto import merkle
from ..crypto.note import Verifier, open_checkpoint
from ..errors import AuditError, InputError, Refused, nearest
from .records.audit import EVENTS
from .records.source import EXPECTED, Record, opened, write
from .records.verify import verify as verify_log

audit = typer.Typer(name="audit", help="The append-only log of what the coordinator did.", no_args_is_help=True)

State = Annotated[Path, typer.Option("--state", help="State folder of the server.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_STATE = Path("state")
_COLUMNS = ("index", "time", "event", "run", "number", "member", "code", "details")
_MAX_TEXT_BYTES = 1 << 20  # of a key or a checkpoint that a person hands in


@audit.command()
def show(
    state: State = _STATE,
    as_json: Json = False,
    run: Annotated[str, typer.Option(help="Only entries of this run.")] = "",
    event: Annotated[str, typer.Option(help="Only entries of this event.")] = "",
) -> None:
    """Print the entries, oldest first; unverified, see `verify`."""
    if event and event not in EVENTS:
        raise InputError("config.event", f"unknown event {event!r}; {nearest(event, EVENTS)}")
    _not_empty(state)
    with opened(state) as history:
        entries = [_entry(record, at) for at, record in enumerate(history.records)]
    chosen = [e for e in entries if run in ("", e.get("run", "")) and event in ("", e.get("event"))]
    if as_json:
        _print_json({"entries": chosen})
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for entry in chosen:
        table.add_row(*(_cell(entry.get(column)) for column in _COLUMNS))
    with terminal.page(uncut=True) as console:  # one line an entry
        console.print(table, no_wrap=True, overflow="ellipsis")


@audit.command()
def verify(
    source: Annotated[Path, typer.Argument(help="A moonflower.db, a folder that holds one, or an export.")],
    key: Annotated[Path | None, typer.Option(help="The log's public key; default: log.pub beside SOURCE.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint kept elsewhere: shows a cut-off or rewritten log.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every entry and signature. Exit status: 0 verifies, 1 does not, 2 cannot be read."""
    if checkpoint is None:  # with one, a file of which nothing is left is a log that was cut off
        _not_empty(source)
    kept = None if checkpoint is None else _read(checkpoint)
    report = verify_log(source, _key(key or _folder(source) / "log.pub").text(), kept)
    if as_json:
        fields = asdict(report)
        del fields["reason"]
        _print_json(fields)
    elif report.ok:
        typer.echo(f"verified: {report.entries} entries, root {report.root}")
    else:
        typer.echo(f"does not verify: {report.code}: {report.reason}; {report.entries} entries before it do")
    if not report.ok:
        raise typer.Exit(1)


@audit.command()
def prove(
    index: Annotated[int, typer.Argument(help="Index of the entry.", min=0)],
    state: State = _STATE,
    as_json: Json = False,
) -> None:
    """Print what shows a third party that an entry is in the log: Merkle path, signed checkpoint, key."""
    _not_empty(state)
    with opened(state) as history:
        records = list(history.records)
    verifier = _key(state / "log.pub")
    if index >= len(records):
        raise InputError("config.index", f"there is no entry {index}; expected an index below {len(records)}")
    entry = records[index].entry
    try:
        checkpoint = open_checkpoint(records[-1].note, verifier)
        path = merkle.inclusion_proof([merkle.leaf_hash(record.entry) for record in records], index)
        merkle.verify_inclusion(merkle.leaf_hash(entry), index, checkpoint.size, path, checkpoint.root)
    except Refused as error:
        raise AuditError(error.code, f"entry {index} cannot be proved: {error}", first_bad=index) from error
    proof = {
        "index": index,
        "entry": entry.decode(),
        "leaf": merkle.leaf_hash(entry).hex(),
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "proof": [sibling.hex() for sibling in path],
        "checkpoint": checkpoint.note,
        "key": verifier.text(),
    }
    if as_json:
        _print_json(proof)
        return
    typer.echo(f"entry {index} of {checkpoint.size}: {proof['entry']}")
    typer.echo(f"leaf  {proof['leaf']}   (SHA-256 of a zero byte and the entry)")
    for sibling in path:
        typer.echo(f"path  {sibling.hex()}")
    typer.echo(f"root  {proof['root']}   (RFC 9162 section 2.1.3.2)")
    typer.echo(f"key   {proof['key']}\n\n{checkpoint.note}", nl=False)


@audit.command()
def export(
    out: Annotated[Path, typer.Option(help="New file to write.")],
    state: State = _STATE,
) -> None:
    """Write the log as JSON lines, one entry with its checkpoint each; `verify` reads that too."""
    _not_empty(state)
    with opened(state) as history:
        try:
            with out.open("xb") as file:
                count = write(history.records, file)
        except AuditError:
            out.unlink()
            raise
        except OSError as error:
            raise InputError("config.out", f"--out {out} cannot be written: {error.strerror}") from error
    typer.echo(f"{count} entries written to {out}", err=True)


def _entry(record: Record, at: int) -> dict[str, Any]:
    """Return an entry for display; its place in the file counts, whatever it claims."""
    try:
        value = json.loads(record.entry)
    except (ValueError, RecursionError):
        value = None
    if record.fault or not isinstance(value, dict):
        raise AuditError(record.fault or "audit.entry", f"entry {at} cannot be read", first_bad=at)
    return value


def _cell(value: object) -> Text:
    """Return one cell; control characters, as of a terminal, are taken out."""
    if value is None:
        return Text("")
    text = value if isinstance(value, str) else json.dumps(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _not_empty(source: Path) -> None:
    """Check that there is something: an empty file would be the export of an empty log.

    Raises:
        InputError: config.state.
    """
    if not source.exists() or (source.is_file() and not source.stat().st_size):
        found = "is empty" if source.exists() else "does not exist"
        raise InputError("config.state", f"{source} {found}; expected {EXPECTED}")


def _folder(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _key(path: Path) -> Verifier:
    text = _read(path).strip()
    try:
        return Verifier.parse(text)
    except InputError as error:
        raise InputError(error.code, f"{path}: {error}") from None


def _read(path: Path) -> str:
    """Return a small text file.

    Raises:
        InputError: it is missing, too large or not text (config.path).
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT_BYTES).decode()
    except OSError as error:
        raise InputError("config.path", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError("config.path", f"{path}: expected a text file") from error


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))
