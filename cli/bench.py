"""``moonflower bench``: what sealing costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError


def bench(
    nvflare_python: Annotated[
        Path | None, typer.Option(help="Interpreter that has nvflare[HE], to measure NVFLARE's own classes.")
    ] = None,
    params: Annotated[
        list[int] | None, typer.Option(min=1000, help="Parameters, in one tensor (repeatable).  Default: 1M and 10M.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Measure sealing, adding and opening on this machine, side by side with other schemes."""
    if nvflare_python is not None and not nvflare_python.is_file():
        raise InputError(
            "config.file", f"--nvflare-python {nvflare_python}: no such file; expected a Python interpreter"
        )
    from ..bench import measure as measuring  # needs SEAL, which a server may not have installed

    shapes = [(count, 1) for count in params] if params else list(measuring.SHAPES)
    result: dict[str, Any] = measuring.bench(shapes, nvflare_python, lambda what: typer.echo(what, err=True))
    typer.echo(json.dumps(result, allow_nan=False) if as_json else measuring.markdown(result))
