"""Parts that the page's sections and a notebook share: tables that scroll, intervals in words, marks of rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .charts import UNDEFINED, Mark, escaped, fixed, number, plain
from .findings import items, part, who


def scrolled(label: str, rows: str, kind: str = "") -> str:
    """Return a table that scrolls on narrow screens; ``rows``: its head and bodies as HTML."""
    head = f'<div class="scroll" role="region" aria-label="{escaped(label)}" tabindex="0">'
    return f"{head}<table{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{rows}</table></div>"


def pairs(lines: Iterable[tuple[str, str]]) -> str:
    """Return labels with their values; both are HTML."""
    return f'<dl class="pairs">{"".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in lines)}</dl>'


def span(ends: Any, value: Any = None, digits: int = 3) -> str:
    """Return a value with its interval, ``0.866 (0.802 to 0.911)``; only the value if there is no interval."""
    shown = fixed(value, digits)
    if not ends:
        return shown
    low, high = ends
    return f"{shown} ({fixed(low, digits)} to {fixed(high, digits)})" if shown != UNDEFINED else UNDEFINED


def marks_of(
    result: Mapping[str, Any], value: Callable[[Mapping[str, Any]], float | None], name: str = ""
) -> list[Mark]:
    """Return the rounds as marks of a chart.

    Args:
        result: the result.
        value: a round → what is drawn of it.
        name: what that is called.
    """
    marks = []
    for one in items(result, "rounds"):
        known = value(one)
        words = [f"Round {plain(one['round'])}: {plain(one.get('status'))}", plain(one.get("code") or "")]
        words += [f"{name or 'loss'} {fixed(known)}", *(f"named {who(entry)}" for entry in items(one, "named"))]
        note = ", ".join(filter(None, words))
        marks.append(Mark(one["round"], str(one.get("status")), known, note, bool(one.get("named"))))
    return marks


def gate_marks(result: Mapping[str, Any]) -> list[Mark]:
    """Return the loss on validation rows over the rounds, as marks of a chart; empty where it is not known."""
    losses = dict(part(part(result, "evidence"), "validation").get("by_round") or [])
    return marks_of(result, lambda one: number(losses.get(one.get("number")))) if losses else []
