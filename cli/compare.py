"""``moonflower compare``: runs that are over, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..configs.roles import OperatorConfig, load_config
from ..report.reading import checked, read_result
from ..report.sidebyside import compared, view
from .options import AsJson
from .output import page, print_json

if TYPE_CHECKING:
    from ..federation.remote import Remote


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folder that simulate or up wrote, or its result.json; with --as also a run's identifier.",
            show_default=False,
        ),
    ],
    operator: Annotated[
        Path | None, typer.Option("--as", help="Operator config (TOML), to compare runs of a server.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show runs side by side: how they ended, their metrics over all members' test rows, and differing settings."""
    remote = None if operator is None else _remote(operator)
    try:
        results = _named([(one, _result(one, remote)) for one in runs])
    finally:
        if remote is not None:
            remote.close()
    told = compared(results)
    if as_json:
        print_json(told)
        return
    with page(uncut=True) as console:
        console.print(view(told))
        if len(results) > 1 and not told["differing"]:
            console.print("\nThe settings are the same, or not in the results.")


def _remote(operator: Path) -> Remote:
    settings = load_config(OperatorConfig, operator)
    from ..federation.remote import Remote

    return Remote(settings)


def _result(name: str, remote: Remote | None) -> dict[str, Any]:
    """Return a run's result: of this machine if there is such a path, or else of the server."""
    if remote is None or Path(name).exists():
        return read_result(Path(name)).result
    return checked(remote.show(name).get("result"), f"run {name}")


def _named(results: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the results by the shortest names that tell them apart: a folder's name, or what was given."""
    resolved = [(given, Path(given).resolve(), result) for given, result in results]
    folders = [path.parent.name if path.name == "result.json" else path.name for _, path, _ in resolved]
    out: dict[str, dict[str, Any]] = {}
    for (given, _, result), folder in zip(resolved, folders, strict=True):
        out[folder if folders.count(folder) == 1 else given] = result
    return out
