"""The page's sections on how sure the numbers are: counts, intervals and curves; and the settings behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import UNDEFINED, escaped, fixed, number, plain
from .findings import EVERYBODY, items, part, whole
from .measures import MEASURES, measure
from .parts import scrolled, span
from .squares import calibration_chart, roc_chart

_LOSS, _AREA = "loss, federated − alone", "AUC, federated − alone"
_METHODS = {
    "accuracy": "Accuracy: Wilson (1927).",
    "auc": "AUC: DeLong, DeLong and Clarke-Pearson (1988), on the logit scale; its difference: the same, on the same"
    " rows.",
    "average_precision": "Average precision: Boyd, Eng and Page (2013), on the logit scale.",
    "c_index": "C-index: Pencina and D'Agostino (2004), on the logit scale.",
    "r2": "R²: delta method.",
    "d2": "D²: delta method.",
    "rmse": "RMSE and MAE: normal distribution of the mean.",
}
"""Metric with an interval → how that is made; in the order in which they are shown."""
MOST_COLUMNS = 50
"""Most classes whose test rows are listed."""
_TABLES = ("task", "data", "simulate", "training", "crypto", "gate")


def sureness(result: Mapping[str, Any]) -> str:
    """Return the section on counts, intervals and curves of the model over all members' test rows."""
    found = part(result, "evidence")
    if not items(found, "members"):
        return f'<p class="none">{_why_unknown(result)}</p>'
    share = f"{100 * (number(found.get('confidence')) or 0):.0f} %"
    methods = " ".join(_METHODS[name] for name in _measured(found) if name in _METHODS)
    note = (
        f"In brackets: {share} confidence intervals of the federated model. {methods} Difference of losses: a paired"
        " bootstrap over the same rows. They take the rows as drawn by chance and the models as given: another seed"
        " would train other models."
    )
    return (
        _table(result, found) + f'<p class="note">{note}</p><div class="charts three">{_figures(result, found)}</div>'
    )


def _why_unknown(result: Mapping[str, Any]) -> str:
    if result.get("evidence") is None:
        return (
            "Not known here: counts of test rows and curves need all members' rows in one process, which only a"
            " simulation has. A member's rows stay with the member."
        )
    return "There are no test rows, or the task's scores are no chances of classes: no counts, intervals or curves."


def _table(result: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    metrics = {one.get("name"): part(one, "federated") for one in items(result, "members")}
    metrics[EVERYBODY] = part(part(result, "overall"), "federated")
    subjects = [*items(found, "members"), {**part(found, "overall"), "name": EVERYBODY}]
    binary = found.get("positive") is not None
    known = _measured(found)
    events = "events" in part(found, "overall")
    heads = ["test rows", *(["positive"] if binary else []), *(["events"] if events else [])]
    heads += [*(measure(name).label for name in known), _LOSS, *([_AREA] if binary else [])]
    named = [] if binary or len(found["classes"]) > MOST_COLUMNS else found["classes"]
    counts = "".join(f'<th scope="col" class="num">class {escaped(one)}</th>' for one in named)
    body = ""
    for one in subjects:
        measured, ends = metrics.get(one["name"]) or {}, part(part(one, "intervals"), "federated")
        cells = {
            "test rows": whole(one.get("rows")),
            "positive": whole((one.get("per_class") or [None])[-1]),
            "events": whole(one.get("events")),
            _LOSS: _difference(one, "loss"),
            _AREA: _difference(one, "auc"),
            **{measure(name).label: span(ends.get(name), measured.get(name)) for name in known},
        }
        texts = [cells[head] for head in heads] + [whole(rows) for rows in one["per_class"][: len(named)]]
        row = "".join(f'<td class="num">{escaped(text)}</td>' for text in texts)
        body += f'<tr><th scope="row">{escaped(one["name"])}</th>{row}</tr>'
    columns = "".join(f'<th scope="col" class="num">{escaped(head)}</th>' for head in heads)
    head = f'<thead><tr><th scope="col">member</th>{columns}{counts}</tr></thead>'
    return scrolled("Test rows and intervals", f"{head}<tbody>{body}</tbody>")


def _measured(found: Mapping[str, Any]) -> list[str]:
    """Return the metrics that have intervals for this kind of label, the most important first."""
    binary = found.get("positive") is not None
    names = part(part(part(found, "overall"), "intervals"), "federated")
    return [name for name in MEASURES if name in names and (binary or name != "auc")]


def _difference(one: Mapping[str, Any], metric: str) -> str:
    known = part(part(one, "difference"), metric)
    return span((known["low"], known["high"]), known["value"]) if known else UNDEFINED


def _figures(result: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    overall = part(part(result, "overall"), "federated")
    drawn = []
    if found.get("roc"):
        drawn.append(("ROC curve", roc_chart(found["roc"], number(overall.get("auc")))))
    if found.get("calibration") and found.get("kind", "classes") != "classes":
        drawn.append(("Calibration", _calibration(found["calibration"])))
    elif found.get("calibration"):
        drawn.append(("Calibration", calibration_chart(found["calibration"])))
    if found.get("thresholds"):
        drawn.append(("What a threshold does", _thresholds(found)))
    elif found.get("confusion"):
        drawn.append(("Confusion matrix", _confusion(found["confusion"], found.get("classes") or [])))
    figures = "".join(f"<figure><h3>{title}, {EVERYBODY}</h3>{body}</figure>" for title, body in drawn)
    known = bool(overall) or not found.get("classes")
    return figures or ("" if known else '<p class="none">There is no model, so there are no curves.</p>')


def _calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of what the model says and what is, by bins of rows."""
    at = bins[0].get("at")
    what = "" if at is None else f", chance to live past {at:g}"
    lines = "".join(
        f'<tr><th scope="row" class="num">{whole(one.get("rows"))}</th><td class="num">{fixed(one.get("score"))}</td>'
        f'<td class="num">{escaped(span((one["low"], one["high"]), one["share"]))}</td></tr>'
        for one in bins
    )
    heads = "".join(f'<th scope="col" class="num">{head}</th>' for head in ("rows", f"model says{what}", "is"))
    return scrolled("Calibration", f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>", "matrix")


def _thresholds(found: Mapping[str, Any]) -> str:
    """Return the confusion matrix and the shares of each threshold."""
    classes, body = found.get("classes") or [], ""
    for one in found["thresholds"]:
        why = "in use" if one["by"] == "in use" else "better on the validation rows"
        lines = "".join(
            f'<tr><th scope="row">{name}</th><td class="num">{_share(one.get(name))}</td></tr>'
            for name in ("sensitivity", "specificity", "precision")
        )
        rule = f"A score above {one['threshold']:g} says {escaped(classes[1])}: the threshold {why}."
        shares = scrolled(f"Shares at {one['threshold']:g}", f"<tbody>{lines}</tbody>", "matrix")
        body += f"<p>{rule}</p>{_confusion(one['confusion'], classes)}{shares}"
    return body


def _share(one: Any) -> str:
    return escaped(span((one["low"], one["high"]), one["value"]) if one else UNDEFINED)


def _confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">said {escaped(one)}</th>' for one in classes)
    body = ""
    for at, (name, row) in enumerate(zip(classes, counts, strict=False)):
        cells = "".join(
            f"<td{' class=' + chr(34) + 'right' + chr(34) if at == i else ''}>{whole(count)}</td>"
            for i, count in enumerate(row)
        )
        body += f'<tr><th scope="row">is {escaped(name)}</th>{cells}</tr>'
    table = f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody>"
    note = '<p class="note">The class with the highest score is said.</p>' if len(classes) > 2 else ""
    return scrolled("Confusion matrix", table, "matrix") + note


def settings_html(result: Mapping[str, Any]) -> str:
    """Return the section with every setting of the run; those that are no defaults are marked."""
    config, changed = part(result, "config"), set(result.get("changed") or ())
    if not config:
        return '<p class="none">Not known: the result is from an older version.</p>'
    body = ""
    for table in _TABLES:
        rows = [(key, value, f"{table}.{key}" in changed) for key, value in part(config, table).items()]
        first = f'<th scope="rowgroup" rowspan="{len(rows)}">[{table}]</th>'
        lines = "".join(
            f'<tr{_MARKED if marked else ""}>{first if at == 0 else ""}<th scope="row">{escaped(key)}</th>'
            f"<td><code>{escaped(_shown(value))}</code></td><td>{'* not the default' if marked else ''}</td></tr>"
            for at, (key, value, marked) in enumerate(rows)
        )
        body += f"<tbody>{lines}</tbody>" if rows else ""
    head = (
        '<thead><tr><th scope="col">table</th><th scope="col">key</th><th scope="col">value</th><th></th></tr></thead>'
    )
    note = (
        "Options of [task] count as changed, because their defaults are the task's own. Clip, longest step and most"
        " rows are shown as the run used them, also where it found them."
    )
    return (
        f"<details><summary>{len(changed)} settings are not the default</summary>"
        f'{scrolled("Settings", head + body)}<p class="note">{note}</p></details>'
    )


_MARKED = ' class="changed"'


def _shown(value: Any) -> str:
    return UNDEFINED if value is None else plain(value) if isinstance(value, str) else json.dumps(value)
