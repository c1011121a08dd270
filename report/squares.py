"""Charts in a unit square: an ROC curve, and a calibration curve. Both have shares on both axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import escaped, fixed, label, number, svg

_SIDE, _LEFT, _TOP = 250.0, 56.0, 8.0


def roc_chart(points: Sequence[Sequence[float]], area: float | None) -> str:
    """Return an SVG of an ROC curve.

    Args:
        points: ``[false positive rate, true positive rate]`` pairs from (0, 0) to (1, 1).
        area: the AUC; None if it is unknown.
    """
    line = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in points)
    inside = f'<polyline class="line" points="{line}" />' + label("value mid", _x(0.7), _y(0.25), f"AUC {fixed(area)}")
    desc = f"Share of positive rows found, over the share of negative rows taken for positive; AUC {fixed(area)}."
    return _square("ROC curve", desc, "roc", inside, "negatives taken for positive", "positives found")


def calibration_chart(bins: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of a calibration curve: a dot for each bin, with the interval of its share.

    Args:
        bins: with ``rows``, ``score``, ``share``, ``low`` and ``high`` of each.
    """
    parts = []
    for one in bins:
        score, share, low, high = (number(one.get(key)) or 0.0 for key in ("score", "share", "low", "high"))
        note = f"{fixed(one.get('rows'), 0)} rows: mean score {fixed(score)}, positive {fixed(share)}"
        span = f'<path class="whisker" d="M{_x(score):.1f} {_y(low):.1f}V{_y(high):.1f}" />'
        dot = f'<circle class="promoted" cx="{_x(score):.1f}" cy="{_y(share):.1f}" r="3.5" />'
        parts.append(f"<g><title>{escaped(note)}</title>{span}{dot}</g>")
    desc = f"Share of positive rows over the mean score, in {len(bins)} bins of about equally many rows."
    return _square("Calibration curve", desc, "calibration", "".join(parts), "mean score", "share of positive rows")


def _x(value: float) -> float:
    return _LEFT + _SIDE * value


def _y(value: float) -> float:
    return _TOP + _SIDE * (1 - value)


def _square(title: str, desc: str, ident: str, inside: str, across: str, up: str) -> str:
    """Return a square with ticks and its diagonal around some shapes."""
    parts = [f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" />']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = f"{tick:g}"
        parts.append(
            label("tick end", _LEFT - 7, _y(tick) + 4, text) + label("tick mid", _x(tick), _TOP + _SIDE + 16, text)
        )
        parts.append(f'<path class="grid" d="M{_LEFT} {_y(tick):.1f}H{_LEFT + _SIDE}" />')
    parts.append(f'<path class="diagonal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" />')
    names = label("tick mid", _x(0.5), _TOP + _SIDE + 34, across)
    turned = f'<g transform="translate(12 {_y(0.5):.1f}) rotate(-90)">{label("tick mid", 0, 0, up)}</g>'
    return svg(_LEFT + _SIDE + 24, _TOP + _SIDE + 42, title, desc, ident, "".join([*parts, inside, names, turned]))
