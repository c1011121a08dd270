"""``moonflower doctor``: check a config and everything that it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..doctor.checks import carry_out, steps
from ..doctor.spoken import spoken
from .options import AsJson
from .output import page, print_json, print_list


def doctor(
    config: Annotated[Path, typer.Argument(help="Any config (TOML): of a run, client, server, operator or issuer.")],
    as_json: AsJson = False,
) -> None:
    """Check a config and what it depends on: keys, TLS, clock, issuer, disk, state, and that encryption is on.

    For a node it also says in sentences what may run there, and under which recipe.

    Exit status: 0 nothing failed (there may be warnings), 1 something failed, 2 the config cannot be read.
    """
    checks = carry_out(steps(config))
    sections = spoken(config, checks)
    well = all(check.status != "failed" for check in checks)
    if as_json:
        listed = [
            {"name": check.name, "status": check.status, "found": check.found, "hint": check.hint} for check in checks
        ]
        print_json({"ok": well, "checks": listed, "floor": sections.floor, "recipe": sections.recipe})
    else:
        for check in checks:
            advice = f" → {check.hint}" if check.hint and check.status != "ok" else ""
            typer.echo(f"{check.status:<8} {check.name:<11} {check.found}{advice}")
        with page() as console:
            for heading, lines in {**(sections.floor or {}), **(sections.recipe or {})}.items():
                print_list(console, heading, lines)
    if not well:
        raise typer.Exit(1)
