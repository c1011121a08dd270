"""The page's sections on how sure the numbers are: counts, intervals and curves; and the settings behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import UNDEFINED, escaped, number, plain
from .findings import EVERYBODY, items, part, whole
from .parts import scrolled, span
from .squares import calibration_chart, roc_chart

_HEADS = ("test rows", "positive", "accuracy", "AUC", "loss, federated − alone", "AUC, federated − alone")
MOST_COLUMNS = 50
"""Most classes whose test rows are listed."""
_TABLES = ("task", "data", "simulate", "training", "crypto", "gate")


def sureness(result: Mapping[str, Any]) -> str:
    """Return the section on counts, intervals and curves of the model over all members' test rows."""
    found = part(result, "evidence")
    if not items(found, "members"):
        return f'<p class="none">{_why_unknown(result)}</p>'
    share = f"{100 * (number(found.get('confidence')) or 0):.0f} %"
    area = (
        " AUC, the federated model's: DeLong, DeLong and Clarke-Pearson (1988), on the logit scale; its difference: the"
        " same, on the same rows."
    )
    note = (
        f"In brackets: {share} confidence intervals. Accuracy, the federated model's: Wilson (1927)."
        f"{area if found.get('positive') is not None else ''} Difference of losses: a paired bootstrap over the same"
        " rows. They take the rows as drawn by chance and the models as given: another seed would train other models."
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
    heads = [head for head in _HEADS if binary or ("AUC" not in head and head != "positive")]
    named = [] if binary or len(found["classes"]) > MOST_COLUMNS else found["classes"]
    counts = "".join(f'<th scope="col" class="num">class {escaped(one)}</th>' for one in named)
    body = ""
    for one in subjects:
        measured, ends = metrics.get(one["name"]) or {}, part(part(one, "intervals"), "federated")
        cells = {
            "test rows": whole(one.get("rows")),
            "positive": whole((one.get("per_class") or [None])[-1]),
            "accuracy": span(ends.get("accuracy"), measured.get("accuracy")),
            "AUC": span(ends.get("auc"), measured.get("auc")),
            "loss, federated − alone": _difference(one, "loss"),
            "AUC, federated − alone": _difference(one, "auc"),
        }
        texts = [cells[head] for head in heads] + [whole(rows) for rows in one["per_class"][: len(named)]]
        row = "".join(f'<td class="num">{escaped(text)}</td>' for text in texts)
        body += f'<tr><th scope="row">{escaped(one["name"])}</th>{row}</tr>'
    columns = "".join(f'<th scope="col" class="num">{escaped(head)}</th>' for head in heads)
    head = f'<thead><tr><th scope="col">member</th>{columns}{counts}</tr></thead>'
    return scrolled("Test rows and intervals", f"{head}<tbody>{body}</tbody>")


def _difference(one: Mapping[str, Any], metric: str) -> str:
    known = part(part(one, "difference"), metric)
    return span((known["low"], known["high"]), known["value"]) if known else UNDEFINED


def _figures(result: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    overall = part(part(result, "overall"), "federated")
    drawn = []
    if found.get("roc"):
        drawn.append(("ROC curve", roc_chart(found["roc"], number(overall.get("auc")))))
    if found.get("calibration"):
        drawn.append(("Calibration", calibration_chart(found["calibration"])))
    if found.get("confusion"):
        drawn.append(("Confusion matrix", _confusion(found["confusion"], found.get("classes") or [])))
    figures = "".join(f"<figure><h3>{title}, {EVERYBODY}</h3>{body}</figure>" for title, body in drawn)
    return figures or '<p class="none">There is no model, so there are no curves.</p>'


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
    rule = (
        "A score above 0.5 says the second class." if len(classes) == 2 else "The class with the highest score is said."
    )
    return scrolled("Confusion matrix", table, "matrix") + f'<p class="note">{rule}</p>'


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
