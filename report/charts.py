"""The charts of the report, as text that needs no script, no font and no network. ``style.py`` has their colours.

Every function is pure. A chart is an inline SVG with ``role="img"``, a title and a description. Shapes and printed
numbers carry the meaning, and colour only repeats it. Sizes suit a width of 340 to 560 px; the style sheet enlarges
letters on narrow screens. Everything that came with the result goes through ``escaped``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

UNDEFINED = "–"
MINUS = "−"

_Scale = Callable[[float], float]


def plain(value: object) -> str:
    """Return ``value`` as printable text: characters that could steer a terminal or break XML become U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))


def escaped(value: object) -> str:
    """Return ``plain(value)`` escaped for HTML text and attributes.

    >>> escaped("<script>")
    '&lt;script&gt;'
    """
    return html.escape(plain(value))


def number(value: object) -> float | None:
    """Return a finite number, or None: null, NaN, text and truth values count as undefined."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def fixed(value: object, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` decimals, or a dash if it is undefined.

    >>> fixed(0.89449), fixed(None)
    ('0.894', '–')
    """
    known = number(value)
    if known is None:
        return UNDEFINED
    if abs(known) >= 1e6:
        return f"{known:.2e}".replace("-", MINUS)
    text = f"{known:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


@dataclass(frozen=True)
class Mark:
    """One round on a chart.

    Attributes:
        round: planned round, from 1.
        status: ``promoted``, ``kept``, ``refused`` or ``failed``.
        value: the metric; None if it was not measured.
        note: the round in words.
        named: whether the round named a member.
    """

    round: int
    status: str
    value: float | None
    note: str
    named: bool


def over_rounds(marks: Sequence[Mark], title: str, desc: str, ident: str) -> str:
    """Return an SVG of one metric over rounds, or a sentence if no round was measured.

    A line joins the promoted rounds. Below the plot, a circle marks a kept round, a diamond a refused one, a cross a
    failed one and a triangle one that named a member. So rounds without a metric show, too.

    Args:
        marks: rounds, in order.
        title: name of the chart.
        desc: description for screen readers.
        ident: id, unique in the page.
    """
    measured = [m for m in marks if m.value is not None]
    if not measured:
        return '<p class="none">Not measured in any round.</p>'
    width, left, right, top, plot = 460.0, 44.0, 48.0, 12.0, 190.0
    low, high = _range(measured)
    first, last = min(m.round for m in marks), max(m.round for m in marks)

    def x(mark_round: float) -> float:
        share = (mark_round - first) / (last - first) if last > first else 0.5
        return left + (width - left - right) * share

    def y(value: float) -> float:
        inside = top + plot * (high - value) / (high - low)
        return min(max(inside, top + 5), top + plot - 6)

    parts = [_y_axis(low, high, y, left, width - right)]
    base = top + plot
    ticks = [t for t in nice_ticks(first, last, 6) if t == int(t) and t >= 1] if last > first else [first]
    parts += [label("tick mid", x(t), base + 17, str(int(t))) for t in ticks]
    parts.append(label("tick end", left - 7, base + 17, "round"))
    promoted = [m for m in measured if m.status == "promoted"]
    line = " ".join(f"{x(m.round):.1f},{y(m.value):.1f}" for m in promoted if m.value is not None)
    parts.append(f'<polyline class="line" points="{line}" />')
    radius = 3.0 if len(marks) <= 40 else 1.5
    for mark in measured:
        assert mark.value is not None
        parts.append(_point(mark, x(mark.round), y(mark.value), radius))
        if mark.value > high or mark.value < low:
            side = "↑" if mark.value > high else "↓"
            across = min(x(mark.round), width - right - 28)
            parts.append(label("tick", across + 7, y(mark.value) + 4, f"{side} {fixed(mark.value)}"))
    for end in promoted[-1:]:
        assert end.value is not None
        parts.append(label("value", x(end.round) + 7, y(end.value) + 4, fixed(end.value)))
    lanes, height = _lanes(marks, x, top, base)
    return svg(width, height, title, desc, ident, "".join([lanes, *parts]))


def bars(
    groups: Sequence[tuple[str, Mapping[str, float | None]]],
    title: str,
    desc: str,
    ident: str,
    *,
    lower_is_better: bool = False,
    full: float | None = None,
    guide: float | None = None,
) -> str:
    """Return an SVG with a group of bars for each member. Every bar starts at zero and has its number beside it.

    Args:
        groups: (member, {way of training: value}) pairs; None is drawn as a dash.
        title: name of the chart.
        desc: description for screen readers.
        ident: id, unique in the page.
        lower_is_better: whether the lowest value of a group is marked as best, or the highest.
        full: value of a bar of full length; None for the largest value.
        guide: value at which a dotted line crosses all bars; None for no line.
    """
    known = [v for _, values in groups for v in values.values() if v is not None]
    if not known:
        return '<p class="none">Not known for any member.</p>'
    width, left, longest, row = 340.0, 88.0, 196.0, 16.0
    scale = longest / max(full or max(known), 1e-12)
    parts: list[str] = []
    y = 2.0
    for name, values in groups:
        short = name if len(name) <= 42 else name[:41] + "…"
        parts.append(label("member", 0, y + 12, short))
        y += 19
        top = y
        winners = best(values, lower_is_better)
        for way, value in values.items():
            parts.append(label("tick end", left - 8, y + 10.5, way))
            length = 0.0 if value is None else min(max(value * scale, 0.0), longest)
            note = f"<title>{escaped(name)}, {escaped(way)}: {fixed(value)}</title>"
            bar = f'x="{left:.0f}" y="{y + 1:.1f}" width="{length:.1f}" height="11"'
            parts.append(f'<rect class="bar {escaped(way)}" {bar}>{note}</rect>')
            mark = "*" if way in winners else ""
            kind = "value" if mark else "tick"
            parts.append(label(kind, left + length + 6, y + 10.5, fixed(value) + mark))
            y += row
        parts.append(f'<path class="axis" d="M{left:.1f} {top - 1:.1f}V{y - 2:.1f}" />')
        if guide is not None:
            parts.append(f'<path class="guide" d="M{left + guide * scale:.1f} {top - 1:.1f}V{y - 2:.1f}" />')
        y += 12
    return svg(width, y - 8, title, desc, ident, "".join(parts))


def best(values: Mapping[str, float | None], lower_is_better: bool) -> set[str]:
    """Return the keys of the best value as printed (three decimals); none if fewer than two values are known."""
    known = {key: round(value, 3) for key, value in values.items() if value is not None}
    if len(known) < 2:
        return set()
    target = min(known.values()) if lower_is_better else max(known.values())
    return {key for key, value in known.items() if value == target}


def legend(kinds: Sequence[str]) -> str:
    """Return the legend: each shape with its word."""
    items = "".join(
        f'<li><svg width="14" height="14" viewBox="0 0 14 14" aria-hidden="true">{_shape(k, 7, 7)}</svg>'
        f"{escaped(k)}</li>"
        for k in kinds
    )
    return f'<ul class="legend">{items}</ul>'


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``; an end is included if it is round.

    >>> nice_ticks(0.38, 0.61, 4)
    [0.4, 0.5, 0.6]
    """
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    decimals = max(0, -math.floor(math.log10(step)))
    start = math.ceil(low / step - 1e-9)
    return [round(i * step, decimals) for i in range(start, math.floor(high / step + 1e-9) + 1)]


def _range(measured: Sequence[Mark]) -> tuple[float, float]:
    """Return the vertical range: all promoted values with some room around them, and the others that are near.

    One wild round must not flatten the curve. A value outside the range is drawn at the edge, with its number.
    """
    core = [m.value for m in measured if m.status == "promoted" and m.value is not None]
    everything = [m.value for m in measured if m.value is not None]
    core = core or everything
    low, high = min(core), max(core)
    span = (high - low) or max(abs(high) * 0.1, 1e-3)
    low, high = max(min(everything), low - span / 2), min(max(everything), high + span / 2)
    return low - span * 0.08, high + span * 0.08


def _y_axis(low: float, high: float, y: _Scale, left: float, right: float) -> str:
    ticks = nice_ticks(low, high, 5)
    decimals = max(1, -math.floor(math.log10(ticks[1] - ticks[0]))) if len(ticks) > 1 else 3
    return "".join(
        f'<path class="grid" d="M{left:.1f} {y(t):.1f}H{right:.1f}" />'
        + label("tick end", left - 7, y(t) + 4, fixed(t, decimals))
        for t in ticks
    )


def _lanes(marks: Sequence[Mark], x: _Scale, top: float, base: float) -> tuple[str, float]:
    """Return the marks below the plot (rounds not promoted, members named) and the height of the whole chart."""
    parts, y = [], base + 34.0
    lanes = (
        [(m, m.status) for m in marks if m.status != "promoted"],
        [(m, "member named") for m in marks if m.named],
    )
    for lane in filter(None, lanes):
        for mark, kind in lane:
            at = x(mark.round)
            parts.append(f'<path class="rule" d="M{at:.1f} {top:.1f}V{base:.1f}" />')
            parts.append(f"<g><title>{escaped(mark.note)}</title>{_shape(kind, at, y)}</g>")
        y += 16
    return "".join(parts), y - 8 if parts else base + 26


def label(kind: str, x: float, y: float, text: str) -> str:
    """Return a text at a place of a chart; ``kind``: its classes in the style sheet."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escaped(text)}</text>'


def _point(mark: Mark, x: float, y: float, radius: float) -> str:
    if mark.status == "promoted":
        shape = f'<circle class="promoted" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" />'
    else:
        shape = _shape(mark.status, x, y)
    return f"<g><title>{escaped(mark.note)}</title>{shape}</g>"


def _shape(kind: str, x: float, y: float) -> str:
    """Return a disc (promoted), a circle (kept), a diamond (refused), a triangle (member named) or a cross (failed)."""
    at = f"M{x:.1f} {y:.1f}"
    if kind == "promoted":
        return f'<circle class="promoted" cx="{x:.1f}" cy="{y:.1f}" r="3.5" />'
    if kind == "kept":
        return f'<circle class="kept" cx="{x:.1f}" cy="{y:.1f}" r="3.5" />'
    if kind == "refused":
        return f'<path class="refused" d="{at}m0 -5l5 5l-5 5l-5 -5z" />'
    if kind == "member named":
        return f'<path class="named" d="{at}m0 -4.5l5 8.5h-10z" />'
    return f'<path class="failed" d="{at}m-4 -4l8 8m0 -8l-8 8" />'


def svg(width: float, height: float, title: str, desc: str, ident: str, body: str) -> str:
    """Return a chart of this size around its shapes; arguments are as in :func:`over_rounds`."""
    ident = escaped(ident)
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
        f' aria-labelledby="{ident}-t {ident}-d">'
        f'<title id="{ident}-t">{escaped(title)}</title>'
        f'<desc id="{ident}-d">{escaped(desc)}</desc>{body}</svg>'
    )
