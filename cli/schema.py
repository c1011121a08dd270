"""``moonflower schema``: infer the columns that all members share from a table, check a table, merge schemas."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import InputError
from .options import AsJson, Decimal, Encoding, Separator, format_of
from .output import page, print_json, print_list, visible, write_new

if TYPE_CHECKING:
    from ..configs.infer import Described, Inferred

schema = typer.Typer(no_args_is_help=True, help="The schema that all members share.")

Data = Annotated[Path, typer.Argument(help="CSV or Parquet file, a folder of such files, or a pattern.")]
NewFile = Annotated[Path, typer.Option("--out", help="Schema file to write; must not exist.")]
Columns = list[str] | None


@schema.command("infer")
def infer(
    file: Data,
    label: Annotated[str, typer.Option("--label", help="Column to predict.")],
    out: NewFile,
    site: Annotated[str | None, typer.Option("--site", help="Column that names the member.")] = None,
    drop: Annotated[Columns, typer.Option("--drop", help="Column that is not a feature (repeatable).")] = None,
    keep: Annotated[Columns, typer.Option("--keep", help="Feature that looks like an id (repeatable).")] = None,
    numeric: Annotated[Columns, typer.Option("--numeric", help="Column of numbers (repeatable).")] = None,
    category: Annotated[Columns, typer.Option("--category", help="Column of categories (repeatable).")] = None,
    date: Annotated[Columns, typer.Option("--date", help="Column of dates, read as days (repeatable).")] = None,
    date_order: Annotated[str, typer.Option("--date-order", help="Of 01/02/2020: dmy or mdy.  [default: found]")] = "",
    positive: Annotated[str | None, typer.Option("--positive", help="Positive class.  [default: found]")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Of the label: classes, number, count, time.  [default: found]")
    ] = None,
    event: Annotated[str | None, typer.Option("--event", help="Column: was the event seen at that time?")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Also write a run config to begin with; must not exist.")
    ] = None,
    min_count: Annotated[int, typer.Option("--min-count", min=1, help="Fewest rows of a listed value.")] = 10,
    separator: Separator = "",
    decimal: Decimal = "",
    encoding: Encoding = "",
    as_json: AsJson = False,
) -> None:
    """Write a schema that fits a table, with ranges widened to round numbers and without rare categories.

    The file is shared with all members. Read it before you send it. What the command prints is for you alone.
    """
    from ..client.learning.tables import batches, look, names_of
    from ..configs.infer import Wanted
    from ..configs.infer import infer as infer_schema  # pandas takes a second
    from ..configs.starter import starter
    from ..configs.survey import survey

    if date_order not in ("", "dmy", "mdy"):
        raise InputError("data.column", f"--date-order {date_order} is unknown; expected dmy or mdy")
    wanted = Wanted(
        label, site, drop or (), keep or (), numeric or (), category or (), date or (), positive, kind, event,
        date_order, min_count,
    )  # fmt: skip
    fmt = look(file, format_of(separator, decimal, encoding))
    wanted.check(names_of(file, fmt))
    table = survey(batches(file, fmt), exact=wanted.exact, dates=wanted.date, site=site, decimal=fmt.decimal)
    found = infer_schema(table, wanted)
    written = {out: found.schema.dump().encode()}
    following = f"moonflower schema check {shlex.quote(str(out))} {shlex.quote(str(file))}"
    if config is not None:
        given = {"separator": separator, "decimal": decimal, "encoding": encoding}
        sites = len(table.facts[label].filled or {})
        text = starter(found, table=file, schema=out, config=config, site=site, sites=sites, given=given)
        written[config] = text.encode()
        following = f"moonflower simulate {shlex.quote(str(config))}"
    write_new(written)
    if as_json:
        made = {"schema": str(out), "config": str(config) if config else None, "next": following}
        print_json({**_told(found), **made})
    else:
        _show(found)
        _say_created(out, len(found.schema.columns), config, following)


def _say_created(out: Path, columns: int, config: Path | None, following: str) -> None:
    lines = [f"created {out}: {columns} columns. It will be shared with all members: read it first."]
    if config is not None:
        lines.append(f"created {config}: settings to begin with; docs/training.md has them all.")
    typer.echo("\n".join([*lines, f"next: {following}"]), err=True)


@schema.command("check")
def check(
    schema_file: Annotated[Path, typer.Argument(metavar="SCHEMA", help="Schema (TOML).")],
    file: Data,
    separator: Separator = "",
    decimal: Decimal = "",
    encoding: Encoding = "",
    as_json: AsJson = False,
) -> None:
    """List all faults of a table under a schema, without the cells. Exit status 2 if there are any."""
    from ..client.learning.tables import batches, look
    from ..configs.inspection import inspect
    from ..configs.schema import load_schema

    schema = load_schema(schema_file)
    fmt = look(file, format_of(separator, decimal, encoding))
    rows, found = inspect(batches(file, fmt), schema, fmt.decimal)
    if as_json:
        print_json({"rows": rows, "faults": [asdict(fault) for fault in found]})
    elif found:
        table = Table("column", "cells", "what they are", "expected", "first rows", "what would work")
        for fault in found:
            numbers = ", ".join(map(str, fault.rows))
            cells = (fault.column, str(fault.count), fault.problem, fault.expected, numbers, fault.would_work)
            table.add_row(*(escape(visible(cell)) for cell in cells))
        with page(uncut=True) as console:
            console.print(table)
    typer.echo(f"{file}: {rows} rows, {len(found) or 'no'} fault{'s'[: len(found) != 1]}", err=True)
    if found:
        raise typer.Exit(2)


@schema.command("merge")
def merge(
    schemas: Annotated[list[Path], typer.Argument(metavar="SCHEMA...", help="Schemas of the sites (TOML).")],
    out: NewFile,
    common: Annotated[bool, typer.Option("--common", help="Leave out columns that only some have.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Keep columns that only some have.")] = False,
) -> None:
    """Write one schema that the tables of all sites fit. No row is needed."""
    from ..configs.merge import ALL, COMMON
    from ..configs.merge import merge as merge_schemas
    from ..configs.schema import load_schema

    if common and every:
        raise InputError("config.schema", "--common and --all are both given; expected one of them")
    if len(schemas) < 2:
        raise InputError("config.schema", "one schema is given; expected two or more")
    which = COMMON if common else ALL if every else ""
    merged = merge_schemas([(str(path), load_schema(path)) for path in schemas], which)
    write_new({out: merged.dump().encode()})
    typer.echo(f"created {out}: {len(merged.columns)} columns of {len(schemas)} schemas", err=True)


def _show(found: Inferred) -> None:
    """Print what each column is, what the label is, and the warnings."""
    table = Table("column", "kind", "range or categories", "missing", "warnings")
    for one in found.columns:
        cells = (one.name, one.said, _content(one), str(one.missing), str(len(one.hints) or ""))
        table.add_row(*(escape(visible(cell)) for cell in cells))
    target, label = found.schema.label, found.label
    lines = [f"kind: {target.kind} ({label.why})"]
    lines += [f"{visible(word)}: {rows} rows" for word, rows in label.classes.items()]
    if label.positive:
        lines.append(f"positive: {visible(label.positive)} ({label.why_positive})")
    lines += [f"{key} = {value}" for key, value in _limits(found).items()]
    with page(uncut=True) as console:
        console.print(table)
        print_list(console, f"label {visible(target.name)}, {found.rows} rows", lines)
        if found.hints:
            warnings = [
                f"{visible(hint.column)}: {visible(hint.message)}; {visible(hint.todo)}" for hint in found.hints
            ]
            print_list(console, "warnings", warnings)


def _content(one: Described) -> str:
    from ..configs.schema import Categorical, Date

    if one.column is None:
        return ""
    if isinstance(one.column, Categorical):
        return f"{len(one.column.categories)} categories{' and others' if one.column.other else ''}"
    if isinstance(one.column, Date):
        return f"{one.column.first} to {one.column.last}"
    return f"{one.column.min:g} to {one.column.max:g}"


def _limits(found: Inferred) -> dict[str, Any]:
    """Return what the label's table holds besides names and classes: its range, its grid."""
    known = ("name", "kind", "classes", "event", "happened")
    return {key: value for key, value in found.schema.label.to_dict().items() if key not in known}


def _told(found: Inferred) -> dict[str, Any]:
    from ..configs.schema import Categorical, Date

    columns = []
    for one in found.columns:
        column = one.column
        entry: dict[str, Any] = {"name": one.name, "kind": one.said, "kept": column is not None, "range": None}
        if isinstance(column, Date):
            entry["range"] = [column.first, column.last]
        elif column is not None and not isinstance(column, Categorical):
            entry["range"] = [column.min, column.max]
        entry["categories"] = len(column.categories) if isinstance(column, Categorical) else None
        columns.append({**entry, "missing": one.missing, "warnings": _plain(one.hints)})
    label = found.label
    return {
        "rows": found.rows,
        "columns": columns,
        "label": {
            **label.target.to_dict(),
            "kind": label.target.kind,
            "why": label.why,
            "rows": dict(label.classes),
            "positive": label.positive or None,
            "why_positive": label.why_positive or None,
            "warnings": _plain(label.hints),
        },
    }


def _plain(hints: Sequence[Any]) -> list[dict[str, str]]:
    return [asdict(hint) for hint in hints]
