"""``moonflower model`` and ``moonflower audit``: looking at what a coordinator or a simulation left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .. import terminal
from ..errors import InputError
from .audit_commands import audit
from .records.models import Entry
from .records.state import open_existing

__all__ = ["audit", "model"]

model = typer.Typer(no_args_is_help=True, help="Model versions: list, show, export.")
StateOption = Annotated[Path, typer.Option("--state", help="Folder of a server or a simulation.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@model.command("list")
def list_versions(state: StateOption = Path("state"), as_json: JsonOption = False) -> None:
    """List every version: the start, promoted ones, and refused candidates."""
    store, models = open_existing(state)
    try:
        with store.read() as db:
            entries = models.entries(db)
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps({"versions": [_brief(entry) for entry in entries]}, allow_nan=False))
        return
    table = Table("version", "verdict", "round", "members", "loss", "auc", "sha256")
    for entry in entries:
        metrics = entry.metrics or {}
        table.add_row(
            "–" if entry.version is None else str(entry.version),
            f"{entry.verdict} {entry.code}".strip(),
            str(entry.number),
            str(len(entry.members)),
            *("–" if metrics.get(name) is None else f"{metrics[name]:.3f}" for name in ("loss", "auc")),
            entry.sha256[:12],
        )
    with terminal.page() as console:
        console.print(table)


@model.command("show")
def show(
    version: Annotated[str, typer.Argument(help="Version number, or the first digits of its SHA-256.")],
    state: StateOption = Path("state"),
    as_json: JsonOption = False,
) -> None:
    """Show one version's lineage: base, round, members, verdict, who signed it, metrics."""
    store, models = open_existing(state)
    try:
        with store.read() as db:
            entry = models.find(db, version)
    finally:
        store.close()
    fields = {
        **entry.as_dict(),
        "path": str(models.path(entry.sha256)) if entry.version is not None else None,
    }
    if as_json:
        typer.echo(json.dumps(fields, allow_nan=False))
        return
    table = Table.grid(padding=(0, 2))
    signers = ", ".join(sorted(entry.proof["signatures"]))
    for name, value in {
        **fields,
        "proof": f"signed by {signers}",
        "members": ", ".join(entry.members),
    }.items():
        table.add_row(name, "–" if value is None or value == "" else str(value))
    with terminal.page() as console:
        console.print(table)


@model.command("export")
def export(
    version: Annotated[str, typer.Argument(help="Version number, or the first digits of its SHA-256.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; must not exist.")],
    state: StateOption = Path("state"),
) -> None:
    """Write one version's file (safetensors; its SHA-256 is its name) for ``moonflower predict`` and other tools."""
    store, models = open_existing(state)
    try:
        with store.read() as db:
            entry = models.find(db, version)
    finally:
        store.close()
    if entry.version is None:
        raise InputError("data.model", f"version {version} was refused ({entry.code}); its file was not kept")
    data = models.read(entry.sha256).data
    try:
        with out.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise InputError("config.out", f"--out {out} cannot be written: {error.strerror}") from None
    typer.echo(str(out))


def _brief(entry: Entry) -> dict[str, object]:
    return {
        "version": entry.version,
        "sha256": entry.sha256,
        "verdict": entry.verdict,
        "code": entry.code,
        "number": entry.number,
        "base": entry.base,
        "metrics": entry.metrics,
    }
