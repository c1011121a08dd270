"""A result in the cell of a notebook: a line while a run goes on, and afterwards a compact table and a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .charts import UNDEFINED, best, escaped, fixed, number, over_rounds
from .findings import EVERYBODY, items, part, summary, tally
from .measures import WAYS, beside, measure, measured
from .parts import gate_marks, marks_of
from .style import within

_CLASS = "moonflower"
_STYLE = (
    f".{_CLASS} {{ max-width: fit-content; padding: 12px 16px; font-size: 13px; line-height: 1.45; overflow-x: auto; }}"
    f".{_CLASS} p {{ max-width: 72ch; margin: 0 0 10px; }}"
    f".{_CLASS} table {{ border-collapse: collapse; margin: 0 0 14px; color: inherit; font-size: inherit; }}"
    f".{_CLASS} table th, .{_CLASS} table td {{ padding: 2px 14px 2px 0; text-align: right; background: none; }}"
    f".{_CLASS} table th {{ font-weight: 500; }} .{_CLASS} table th:first-child {{ text-align: left; }}"
    f".{_CLASS} .chart {{ width: 100%; max-width: 460px; height: auto; overflow: visible; }}"
)


def bar(done: int, rounds: int, word: str, loss: float | None) -> str:
    """Return a run's progress as one line of HTML: a bar, rounds, what happened last, and the loss if it is known."""
    known = "" if loss is None else f" · loss {fixed(loss)} on validation rows"
    shown = f"{done} of {rounds} rounds · {escaped(word)}{known}"
    return f'<div><progress value="{done}" max="{rounds}"></progress> <span>{shown}</span></div>'


def cell(result: Mapping[str, Any]) -> str:
    """Return a result as HTML for a cell: the summary, each member's losses and AUC, and the loss over the rounds."""
    return (
        f'<div class="{_CLASS}"><style>{within(_CLASS)}{_STYLE}</style><p>{escaped(summary(result))}</p>'
        f"{_table(result)}{_chart(result)}</div>"
    )


def _table(result: Mapping[str, Any]) -> str:
    subjects = [*items(result, "members"), {"name": EVERYBODY, **part(result, "overall")}]
    subjects = [one for one in subjects if any(part(one, way) for way in WAYS)]
    names = ("loss", beside(measured([part(one, way) for one in subjects for way in WAYS])))
    columns = [
        (metric, way)
        for metric in names
        for way in WAYS
        if any(number(part(one, way).get(metric)) is not None for one in subjects)
    ]
    if not columns:
        return ""
    heads = "".join(f"<th>{measure(metric).label}<br />{way}</th>" for metric, way in columns)
    body = ""
    for one in subjects:
        values = {pair: number(part(one, pair[1]).get(pair[0])) for pair in columns}
        winners = {
            (metric, way)
            for metric in names
            for way in best({way: values[name, way] for name, way in columns if name == metric}, measure(metric).lower)
        }
        cells = "".join(
            f"<td><b>{fixed(value)}</b></td>" if pair in winners else f"<td>{fixed(value)}</td>"
            for pair, value in values.items()
        )
        body += f"<tr><th>{escaped(one.get('name') or UNDEFINED)}</th>{cells}</tr>"
    return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _chart(result: Mapping[str, Any]) -> str:
    """Return the loss over the rounds: on validation rows, or else as the rounds' reports have it."""
    marks, where = gate_marks(result), "on validation rows"
    if not marks:
        marks, where = marks_of(result, lambda one: number(part(one, "metrics").get("loss"))), f"on {EVERYBODY}"
    if not any(mark.value is not None for mark in marks):
        return ""
    title = f"Loss over rounds, {where}"
    desc = f"{len(marks)} rounds: {tally(items(result, 'rounds'))}."
    drawn = over_rounds(marks, title, desc, f"cell-{result.get('run')}")
    return f"<p>{escaped(title)}</p>{drawn}"
