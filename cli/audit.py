"""``moonflower audit``: show the log, verify it, prove an entry or a round, export it. It only reads, and offline."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..canonical import canonical, parse_stored
from ..configs.names import nfc
from ..crypto import merkle
from ..crypto.note import Verifier, open_checkpoint
from ..errors import AuditError, InputError, Refused, nearest
from ..protocol.gate import counted
from ..protocol.purposes import FIRST, STATISTICS, UPDATE
from ..report.findings import votes
from ..server.evidence.certificate import Certified, build_certificate, proved_set, verify_certificate
from ..server.evidence.gather import gather
from ..server.evidence.recompute import recompute as add_up
from ..server.records.envelopes import Envelopes
from ..server.records.log import EVENTS
from ..server.records.source import EXPECTED, Record, opened, write
from ..server.records.state import ENVELOPES
from ..server.records.verify import verify as verify_log
from .output import new_file, page

audit = typer.Typer(name="audit", help="The append-only log of what the coordinator did.", no_args_is_help=True)

State = Annotated[Path, typer.Option("--state", help="State folder of the server.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Run = Annotated[str, typer.Option("--run", help="Run, if several runs have a sum of this number.")]
_STATE = Path("state")
_COLUMNS = ("index", "time", "event", "run", "number", "member", "code", "details")
_MAX_TEXT_BYTES = 1 << 20  # of a key or a checkpoint that a person gives
_MAX_CERTIFICATE_BYTES = 64 << 20  # a thousand members' cards, signatures and Merkle paths take 5 MB
_PIN_CHARACTERS = 43
_PLAIN = ("federation", "run", "number", "purpose", "members", "headers", "sum", "statement", "verdict")


@audit.command()
def show(
    state: State = _STATE,
    as_json: Json = False,
    run: Annotated[str, typer.Option(help="Only entries of this run.")] = "",
    event: Annotated[str, typer.Option(help="Only entries of this event.")] = "",
) -> None:
    """Print the entries, oldest first. They are not verified: see `verify`."""
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
    with page(uncut=True) as console:  # one line for each entry
        console.print(table, no_wrap=True, overflow="ellipsis")


@audit.command()
def verify(
    source: Annotated[Path, typer.Argument(help="A moonflower.db, a folder that holds it, or an export.")],
    key: Annotated[Path | None, typer.Option(help="The log's public key; default: log.pub beside SOURCE.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint kept elsewhere: reveals a truncated or rewritten log.")
    ] = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(help="A member's own checkpoint (moonflower member log), for the same check (repeatable)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every entry and signature. Exit status: 0 the log verifies, 1 it does not, 2 it cannot be read."""
    if checkpoint is None and not witness:  # given either, an empty file is a log that was truncated
        _not_empty(source)
    kept = None if checkpoint is None else _read(checkpoint)
    seen = {f"witness {path}": _read(path) for path in witness or ()}
    report = verify_log(source, _key(key or _folder(source) / "log.pub").text(), kept, seen)
    if as_json:
        fields = asdict(report)
        del fields["reason"]
        _print_json(fields)
    elif report.ok:
        typer.echo(f"verified: {report.entries} entries, root {report.root}")
        for name in seen:
            typer.echo(f"{name}: holds an earlier state of this log, or this state")
    else:
        typer.echo(f"does not verify: {report.code}: {report.reason}; the {report.entries} entries before it verify")
    if not report.ok:
        raise typer.Exit(1)


@audit.command()
def prove(
    index: Annotated[int, typer.Argument(help="Index of the entry.", min=0)],
    state: State = _STATE,
    as_json: Json = False,
) -> None:
    """Print the proof that an entry is in the log, for a third party: Merkle path, signed checkpoint, key."""
    _not_empty(state)
    with opened(state) as history:
        records = list(history.records)
    verifier = _key(state / "log.pub")
    if index >= len(records):
        raise InputError("config.index", f"the log has no entry {index}; expected an index below {len(records)}")
    entry = records[index].entry
    try:
        checkpoint = open_checkpoint(records[-1].note, verifier)
        path = merkle.Tree(merkle.leaf_hash(record.entry) for record in records).inclusion(index)
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
def certificate(
    number: Annotated[int, typer.Argument(metavar="ROUND", help="Number of the round; 0: statistics.", min=0)],
    state: State = _STATE,
    purpose: Annotated[str, typer.Option(help="Purpose of the sum.  [default: update; statistics for 0]")] = "",
    run: Run = "",
    out: Annotated[Path | None, typer.Option(help="New file for the certificate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate itself, one JSON object.")] = False,
) -> None:
    """Make a round's certificate and print what it proves. A third party checks that file offline with `check`."""
    _not_empty(state)
    verifier = _key(_folder(state) / "log.pub")
    chosen = purpose or (UPDATE if number else STATISTICS).name
    with opened(state) as history:
        evidence = build_certificate(history.records, number, chosen, verifier, run)
    data = canonical(evidence).decode()
    if out is not None:
        with new_file(out) as file:
            file.write(data.encode() + b"\n")
    if as_json:
        typer.echo(data)
        return
    _print_page(verify_certificate(evidence, verifier))
    if out is not None:
        typer.echo(f"certificate written to {out}", err=True)


@audit.command()
def check(
    file: Annotated[Path, typer.Argument(help="A round's certificate, as `certificate` wrote it.")],
    key: Annotated[Path, typer.Option(help="The log's public key (log.pub), from a source that you trust.")],
    pin: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PIN, from the member itself; either for every member of the set, or for none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a round's certificate, offline. Exit status: 0 it verifies, 1 it does not, 2 it cannot be read."""
    verifier, pins = _key(key), _pins(pin or [])
    text = _read(file, _MAX_CERTIFICATE_BYTES)
    try:
        certified = verify_certificate(_parsed(text), verifier, pins or None)
    except Refused as error:
        if as_json:
            _print_json({"ok": False, "code": error.code, **dict.fromkeys(_PLAIN)})
        else:
            typer.echo(f"does not verify: {error.code}: {error}")
        raise typer.Exit(1) from None
    if as_json:
        fields = certified.as_dict()
        _print_json({"ok": True, "code": "", **{name: fields[name] for name in _PLAIN}})
        return
    typer.echo("verified")
    _print_page(certified)
    if not pins:
        typer.echo("No --pin was given: only the log says that these keys are the members'.")


@audit.command()
def recompute(
    number: Annotated[int, typer.Argument(metavar="ROUND", help="Number of the round.", min=1)],
    state: State = _STATE,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Add up a round's kept envelopes again and compare the sum with the log.

    The server keeps envelopes only if its config says so (keep_envelopes_h).
    """
    _not_empty(state)
    folder = _folder(state)
    with opened(state) as history:
        evidence = gather(history.records, number, UPDATE.name, run, last="set_closed")
    closed = proved_set(evidence, _key(folder / "log.pub"))
    kept = Envelopes(folder / ENVELOPES, 0, time.time)
    if not (kept.folder / str(number)).is_dir():
        raise Refused(
            "audit.envelope",
            f"no envelope of round {number} is kept in {kept.folder}",
            hint="a server keeps envelopes only for the hours that keep_envelopes_h in its config allows",
        )
    total = add_up(closed, lambda header: kept.read(number, header))
    if as_json:
        _print_json({"ok": True, "number": number, "members": list(closed.members), "sum": total})
        return
    typer.echo(f"the sum of {len(closed.members)} envelopes equals the logged sum, bit for bit: {total}")


@audit.command()
def export(
    out: Annotated[Path, typer.Option(help="New file to write.")],
    state: State = _STATE,
) -> None:
    """Write the log as JSON lines, each an entry with its checkpoint. `verify` reads this file too."""
    _not_empty(state)
    with opened(state) as history, new_file(out) as file:
        count = write(history.records, file)
    typer.echo(f"{count} entries written to {out}", err=True)


def _print_page(certified: Certified) -> None:
    """Print what a certificate proves, in a few lines."""
    closed, statement, proof, verdict = certified.closed, certified.statement, certified.proof, certified.verdict
    context, checkpoint = closed.context, certified.checkpoint
    purpose = FIRST.get(statement.purpose)
    lines = {
        "about": f"{statement.purpose} {statement.number} of run {statement.run}, {statement.federation}",
        "members": (
            f"{', '.join(statement.members)} ({len(statement.members)}, all members of circle {context['circle'][:12]})"
        ),
        "base": statement.base,
        "sealed sum": f"{closed.sum} (claimed by the coordinator: see recompute)",
        (purpose.result if purpose else statement.purpose): statement.sha256,
        "signed by": f"{', '.join(sorted(proof.words))} ({len(proof.words)}, all members)",
        "in range": "yes" if statement.in_range else "no: honest members' updates cannot add up to this",
        "metrics": ", ".join(f"{name} {value}" for name, value in sorted(statement.metrics.items())),
    }
    if verdict is not None:
        why = f" ({verdict.code})" if verdict.code else ""
        words = f"; {votes(counted(verdict.votes))}" if verdict.votes else ""
        lines["verdict"] = f"{verdict.status}{why}{words}"
    elif purpose and purpose.voted:
        lines["verdict"] = "none in the log yet"
    lines["log"] = f"{checkpoint.origin}, {checkpoint.size} entries, root {checkpoint.root.hex()}"
    lines["witnessed"] = f"the members sealed after they had seen the first {certified.witnessed} entries"
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:<15} {_cell(value).plain}")


def _pins(texts: list[str]) -> dict[str, str]:
    pins = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (equals and name and len(value) == _PIN_CHARACTERS) or name in pins:
            raise InputError(
                "config.member",
                f"--pin {text}: expected NAME=PIN with a pin of {_PIN_CHARACTERS} characters, each member once",
                hint="moonflower keys show prints a member's pin",
            )
        pins[nfc(name)] = value
    return pins


def _parsed(text: str) -> Any:
    try:
        return parse_stored(text.removesuffix("\n").encode())
    except ValueError:
        raise Refused("audit.certificate", "not a certificate: expected one line of canonical JSON") from None


def _entry(record: Record, at: int) -> dict[str, Any]:
    """Return an entry for display. Errors name its place in the file, whatever index it claims."""
    try:
        value = json.loads(record.entry)
    except (ValueError, RecursionError):
        value = None
    if record.fault or not isinstance(value, dict):
        raise AuditError(record.fault or "audit.entry", f"entry {at} cannot be read", first_bad=at)
    return value


def _cell(value: object) -> Text:
    """Return one cell, with control characters replaced."""
    if value is None:
        return Text("")
    text = value if isinstance(value, str) else json.dumps(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _not_empty(source: Path) -> None:
    """Check that the source exists and is not empty: an empty file would pass as the export of an empty log.

    Raises:
        InputError: ``config.state``.
    """
    if not source.exists() or (source.is_file() and not source.stat().st_size):
        problem = "is empty" if source.exists() else "does not exist"
        raise InputError("config.state", f"{source} {problem}; expected {EXPECTED}")


def _folder(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _key(path: Path) -> Verifier:
    text = _read(path).strip()
    try:
        return Verifier.parse(text)
    except InputError as error:
        raise InputError(error.code, f"{path}: {error}") from None


def _read(path: Path, limit: int = _MAX_TEXT_BYTES) -> str:
    """Return a small text file.

    Raises:
        InputError: ``config.path``: it is missing or not text.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit).decode()
    except OSError as error:
        raise InputError("config.path", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError("config.path", f"{path}: expected a text file") from error


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))
