"""``moonflower member report`` and ``member model``: what a member has of its own, which never leaves it in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..configs.roles import ClientConfig, load_config
from ..errors import InputError
from ..report.measures import measure, measured
from .member import ledger_of, member
from .options import AsJson, ClientFile
from .output import page, write_new

if TYPE_CHECKING:
    from ..client.ledger.ledger import Ledger
    from ..protocol.model_version import Version

ModelFile = Annotated[
    Path | None,
    typer.Option("--model", help="Model version (safetensors).  [default: the version that the node holds]"),
]


@member.command("report")
def report(
    config: ClientFile,
    model: ModelFile = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Also train on the own rows only, for as many rounds as the last run."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how good a version is on this node's own test rows, also with its own part. The numbers are for it alone."""
    from ..client.own_model import judged

    settings = load_config(ClientConfig, config)
    with ledger_of(settings) as ledger:
        found = judged(settings, ledger, version_of(ledger, model), alone=alone)
    if as_json:
        typer.echo(json.dumps({"member": settings.client.member, **vars(found)}, allow_nan=False))
        return
    names = measured([getattr(found, way) or {} for way in ("federated", "personalised", "alone")])
    table = Table("", *(measure(name).label for name in names))
    for way in ("federated", "personalised", "alone"):
        metrics = getattr(found, way) or {}
        values = (metrics.get(name) for name in names)
        table.add_row(way, *("–" if value is None else f"{value:.3f}" for value in values))
    with page() as console:
        console.print(table)
    typer.echo(f"version {found.version[:16]}, on {found.rows} own test rows", err=True)


@member.command("model")
def model(
    config: ClientFile,
    out: Annotated[Path, typer.Option("--out", help="File to write; it must not exist.")],
    version: ModelFile = None,
) -> None:
    """Write a version together with what is this node's own, as one model file: for this member alone."""
    from ..client.own_model import whole

    settings = load_config(ClientConfig, config)
    with ledger_of(settings) as ledger:
        file = whole(ledger, version_of(ledger, version), settings.client.member)
    write_new({out: file.data})
    typer.echo(str(out))


def version_of(ledger: Ledger, path: Path | None) -> Version:
    """Return the version in a file, or the one that a node holds.

    Raises:
        InputError: ``data.file``, ``data.model``.
    """
    from ..client.own_model import held
    from ..protocol.model_version import parse

    if path is None:
        return held(ledger)
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise InputError("data.file", f"{path} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(error.code, f"{path}: {error}") from None
