"""The result of a run: a table for the terminal and a self-contained ``report.html``.

Both read the same ``result``, the content of result.json, and change nothing. Names in a result come from others. So
they are made printable for the terminal and escaped for the page.
"""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import files
from .charts import UNDEFINED, best, fixed, number, plain
from .findings import (
    EVERYBODY,
    NO_MODEL,
    counted,
    ending,
    exclusions,
    in_bytes,
    in_seconds,
    items,
    part,
    per_param,
    rare,
    recipe_lines,
    setbacks,
    summary,
    tally,
    verdicts,
    whole,
)
from .measures import WAYS, measure, measured, shown
from .page import page

_NAME_WIDTH = 28
_LOG_WORDS: dict[object, tuple[str, str]] = {
    True: ("verified", "green"),
    False: ("NOT VERIFIED", "bold white on red"),
}


def table(result: dict[str, Any], console: Console) -> None:
    """Print the result: each member's numbers, whom federation helps, rounds, cost, log, and the model's path."""
    console.print(_scores_table(result))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for label, text in _facts(result):
        facts.add_row(label, text)
    console.print(facts)
    path = part(result, "model").get("path")
    line = Text("Model    ", style="bold").append(plain(path or NO_MODEL), style="default")
    console.print(line, soft_wrap=True)


def write(result: dict[str, Any], folder: Path) -> None:
    """Write ``result.json`` and ``report.html``. A reader sees each file old or new, and always whole.

    Raises:
        OSError: the folder is missing or not writable.
    """
    files.replace(folder / "result.json", f"{json.dumps(result, indent=1, allow_nan=False)}\n".encode())
    files.replace(folder / "report.html", page(result).encode())


def _scores_table(result: Mapping[str, Any]) -> Table:
    members = items(result, "members")
    theirs = not members or any(part(member, way) for member in members for way in WAYS)
    subjects = [*(members if theirs else []), {"name": EVERYBODY, **part(result, "overall")}]
    ways = [way for way in WAYS if any(measured([part(one, way)]) for one in subjects)] or list(WAYS)
    known = measured([part(one, way) for one in subjects for way in WAYS])
    metrics = shown(known, rare(result)) if known else []
    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left", caption_justify="left")
    judged = "each member judged on its own test rows" if theirs else "a member's own numbers stay with the member"
    view.title = Text(f"{plain(result.get('federation'))}: {judged}", style="bold")
    if theirs:
        view.caption = Text(
            "* best of its row. Below the members: all members' test rows together, alone is there the members' mean."
            " pooled: one model on all rows in one place, for comparison."
        )
    view.add_column("member", overflow="fold", max_width=_NAME_WIDTH)
    view.add_column("", no_wrap=True)
    for way in ways:
        view.add_column(way, justify="right", no_wrap=True)
    for subject in subjects:
        _add(view, subject, ways, metrics)
    return view


def _add(view: Table, subject: Mapping[str, Any], ways: Sequence[str], metrics: Sequence[str]) -> None:
    """Add a member's lines: its name and rows on the left, and one metric on each line beside them."""
    names = textwrap.wrap(plain(subject.get("name")), _NAME_WIDTH) or [""]
    if not any(part(subject, way) for way in WAYS):
        view.add_row(Text("\n".join(names), style="bold"), "not known here")
        view.add_row()
        return
    rows = number(subject.get("rows"))
    left = [Text(name, style="bold") for name in names]
    left += [Text(f"{rows:,.0f} rows", style="dim")] if rows is not None else []
    for first, metric in itertools.zip_longest(left, metrics):
        values = {way: _value(subject, way, metric) for way in ways if metric}
        winners = best(values, measure(metric).lower) if metric else set()
        cells = [
            Text(fixed(value) + ("*" if way in winners else " "), style="bold green" if way in winners else "")
            for way, value in values.items()
        ]
        view.add_row(first or "", measure(metric).label if metric else "", *cells)
    view.add_row()


def _value(subject: Mapping[str, Any], way: str, metric: str) -> float | None:
    return number(part(subject, way).get(metric))


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Text]]:
    """Return the labelled lines below the table."""
    rounds, wire, audit = items(result, "rounds"), part(result, "wire"), part(result, "audit")
    outcomes = [f"{len(rounds)}: {tally(rounds)}", *setbacks(rounds)]
    left_out = exclusions(rounds)
    if left_out:
        outcomes.append(f"named: {', '.join(left_out)}")
    lines = [("Result", Text(summary(result)))]
    lines += [("" if i else "Verdict", Text(sentence)) for i, sentence in enumerate(verdicts(result))]
    lines.append(("Rounds", Text("; ".join(outcomes))))
    if how := ending(result):
        lines.append(("End", Text(how)))
    lines += [("Missing", Text(plain(problem))) for problem in result.get("problems") or ()]
    lines += [("" if i else "Recipe", Text(f"proposes {line}")) for i, line in enumerate(recipe_lines(result))]
    lines.append(
        (
            "Wire",
            Text(
                f"upload {in_bytes(wire.get('upload_bytes'))} per member and round"
                f" ({per_param(wire)} a parameter, {whole(wire.get('params'))}"
                f" parameters), download {in_bytes(wire.get('download_bytes'))};"
                f" seal {in_seconds(wire.get('seal_s'))}, add {in_seconds(wire.get('add_s'))},"
                f" answer {in_seconds(wire.get('answer_s'))}, open {in_seconds(wire.get('open_s'))}"
            ),
        )
    )
    word, style = _LOG_WORDS.get(audit.get("verified"), ("not checked", "bold white on red"))
    log = Text.assemble((word, style), f", {counted(audit.get('entries'), 'entry', 'entries')}, root ")
    log.append(plain(audit.get("root") or UNDEFINED))
    lines.append(("Log", log))
    return lines
