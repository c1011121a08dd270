"""The last word on a run: a table for the terminal and a self-contained ``report.html``.

Both read the same ``result``, the content of result.json, and change nothing. What is undefined or unknown is
a dash: a live run knows neither the members' rows nor their own models. Names in a result come from others:
they are made printable for the terminal and escaped for the page, which forbids scripts and the network.
The report says as plainly where federation does not help, or the log does not verify, as where all went well.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .charts import STYLE, UNDEFINED, Mark, bars, best, escaped, fixed, legend, number, over_rounds, plain

WAYS = ("alone", "federated", "personalised", "pooled")
METRICS = ("loss", "accuracy", "auc", "average_precision")
LABELS = {"loss": "loss", "accuracy": "accuracy", "auc": "AUC", "average_precision": "average precision"}
STATUSES = ("promoted", "refused", "failed")
EVERYBODY = "all members' test rows"
_SMALL_MODEL = 4096  # parameters; below it the sealed update is mostly one ciphertext of fixed size

_LOG_WORDS: dict[object, tuple[str, str]] = {
    True: ("verified", "green"),
    False: ("NOT VERIFIED", "bold white on red"),
}

_LIMITS = (
    "<b>Curious coordinator.</b> It sees sealed updates and only their opened mean, never one member's update.",
    "<b>Dishonest coordinator.</b> In this version it is trusted to add honestly: nothing proves yet that the"
    " sum holds every envelope once.",
    "<b>Whoever gets the model.</b> There is no differential privacy: the final model can leak whether a"
    " record was among the training rows.",
    "<b>Dishonest member.</b> The gate bounds the damage that a bad update can do; it does not prove that"
    " anybody was honest.",
)
_SCHEMES = {
    "shared": "<b>Curious member.</b> Scheme “shared”: any one member together with the coordinator can read"
    " the updates of the others.",
    "threshold": "<b>Curious members.</b> Scheme “threshold”: no coalition below the threshold can read an"
    " update. This scheme has not been reviewed outside the project.",
}


def table(result: dict[str, Any], console: Console) -> None:
    """Print the result: each member's numbers, whom federation helps, rounds, wire, log and model path."""
    console.print(_scores_table(result))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for label, text in _facts(result):
        facts.add_row(label, text)
    console.print(facts)
    path = _part(result, "model").get("path")
    line = Text("Model    ", style="bold").append(plain(path or UNDEFINED), style="default")
    console.print(line, soft_wrap=True)


def write_html(result: dict[str, Any], path: Path) -> None:
    """Write the self-contained report to ``path``; a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder is missing or not writable.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_text(page(result), encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def summary(result: Mapping[str, Any]) -> str:
    """Return the run in one plain sentence: who, how many rounds, and what the model reaches."""
    members, rounds = _list(result, "members"), _list(result, "rounds")
    start = f"{_count(len(members), 'member')} trained one model together in {_count(len(rounds), 'round')}"
    start += f" ({tally(rounds, zeros=False)})" if rounds else ""
    if not any(r.get("status") == "promoted" for r in rounds):
        return f"{start}; no round was promoted, so the model is still the one that the run started from."
    overall = _part(result, "overall")
    federated, alone = _part(overall, "federated"), _part(overall, "alone")
    if number(federated.get("loss")) is None:
        return f"{start}; how well the model does on {EVERYBODY} is not known here."
    text = f"{start}; on {EVERYBODY} it reaches {_reached(federated)}"
    if number(alone.get("loss")) is not None:
        text += f", against {_reached(alone)} for the members' own models on average"
    return text + "."


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """Return who is helped by federation and who is not, by loss on each member's own test rows.

    Members that do better alone come first, each with its numbers and whether personalising closes the gap.
    """
    helped: list[str] = []
    same: list[str] = []
    unknown: list[str] = []
    worse: list[str] = []
    for member in _list(result, "members"):
        name = plain(member.get("name"))
        alone, federated = (number(_part(member, way).get("loss")) for way in ("alone", "federated"))
        if alone is None or federated is None:
            unknown.append(name)
        elif alone < federated:
            personalised = number(_part(member, "personalised").get("loss"))
            a, f = _apart(alone, federated)
            worse.append(
                f"Federation does not help {name}: on its own test rows its own model has the lower loss"
                f" ({a} alone, {f} federated); {_gap(alone, federated, personalised)}."
            )
        else:
            (helped if federated < alone else same).append(name)
    lines = list(worse)
    if helped:
        lines.append(f"Federation helps {_and(helped)}: lower loss than alone on their own test rows.")
        if len(helped) == 1:
            lines[-1] = f"Federation helps {helped[0]}: lower loss than alone on its own test rows."
    if same:
        lines.append(f"Federation makes no difference to {_and(same)}: the same loss as alone.")
    if unknown and (lines or not result.get("members")):
        lines.append(f"Whether federation helps {_and(unknown)} is not known here.")
    elif unknown:
        lines.append(
            "Whether federation helps a member cannot be said here: this run knows no loss of models that"
            " members trained alone."
        )
    return lines


def tally(rounds: Sequence[Mapping[str, Any]], zeros: bool = True) -> str:
    """Return ``18 promoted, 2 refused, 0 failed``, or without what did not happen."""
    counts = Counter(r.get("status") for r in rounds)
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status] or zeros)


def setbacks(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return refused and failed rounds by code, ``refused gate.regression (round 7)``."""
    found: dict[str, list[int]] = {}
    for r in rounds:
        if r.get("status") != "promoted":
            found.setdefault(f"{plain(r.get('status'))} {plain(r.get('code') or 'without a code')}", []).append(
                r["round"]
            )
    return [f"{what} ({_rounds(numbers)})" for what, numbers in found.items()]


def exclusions(rounds: Sequence[Mapping[str, Any]], key: str = "excluded") -> list[str]:
    """Return who was left out (``key="warnings"``: warned of), ``Hungary envelope.late (round 9)``."""
    found: dict[str, list[int]] = {}
    for r in rounds:
        for one in _list(r, key):
            found.setdefault(_who(one), []).append(r["round"])
    return [f"{who} ({_rounds(numbers)})" for who, numbers in found.items()]


def page(result: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that is also well-formed XML."""
    name = escaped(result.get("federation"))
    sections = (
        _section("Whom it helps", _members_html(result)),
        _section("Rounds", _rounds_html(result)),
        _section("On the wire", _wire_html(result)),
        _section("Log and model", _log_html(result)),
        _section("What this protects, and against whom", _limits_html(result)),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\" />"
        f"<title>{name}: federated run</title><style>{STYLE}</style></head><body><header>"
        f'<p class="over">moonflower · report of a federated run</p><h1>{name}</h1>{_alarms(result)}'
        f'<p class="lede">{escaped(summary(result))}</p>{_figures(result)}</header>'
        f"<main>{''.join(sections)}</main>"
        f"<footer><p>Run <code>{escaped(result.get('run') or UNDEFINED)}</code> · scheme"
        f" {escaped(result.get('scheme'))}. Every number on this page is also in result.json.</p></footer>"
        "</body></html>\n"
    )


def _scores_table(result: Mapping[str, Any]) -> Table:
    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left", caption_justify="left")
    view.title = Text(f"{plain(result.get('federation'))}: on each member's own test rows", style="bold")
    view.caption = Text("* best of its row. pooled: one model on all rows in one place, for comparison.")
    view.add_column("member", overflow="fold", max_width=28)
    view.add_column("", no_wrap=True)
    for way in WAYS:
        view.add_column(way, justify="right", no_wrap=True)
    subjects = [*_list(result, "members"), {"name": EVERYBODY, **_part(result, "overall")}]
    for subject in subjects:
        rows = number(subject.get("rows"))
        if not any(_part(subject, way) for way in WAYS):
            view.add_row(Text(plain(subject.get("name")), style="bold"), "not known here")
            view.add_row()
            continue
        notes = [plain(subject.get("name")), f"{rows:,.0f} rows" if rows is not None else "", ""]
        for note, metric in zip(notes, METRICS[:3], strict=True):
            values = {way: number(_part(subject, way).get(metric)) for way in WAYS}
            winners = best(values, metric == "loss")
            cells = [
                Text(
                    fixed(value) + ("*" if way in winners else " "),
                    style="bold green" if way in winners else "",
                )
                for way, value in values.items()
            ]
            style = "bold" if note and note == notes[0] else "dim"
            view.add_row(Text(note, style=style), LABELS[metric], *cells, end_section=metric == "auc")
        view.add_row()
    return view


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Text]]:
    """Return the labelled lines below the table."""
    rounds, wire, audit = _list(result, "rounds"), _part(result, "wire"), _part(result, "audit")
    said = [f"{len(rounds)}: {tally(rounds)}", *setbacks(rounds)]
    left_out = exclusions(rounds)
    if left_out:
        said.append(f"excluded: {', '.join(left_out)}")
    lines = [("" if i else "Verdict", Text(sentence)) for i, sentence in enumerate(verdicts(result))]
    lines.append(("Rounds", Text("; ".join(said))))
    lines.append(
        (
            "Wire",
            Text(
                f"upload {_bytes(wire.get('upload_bytes'))} per member and round"
                f" ({_per_param(wire)} a parameter, {_whole(wire.get('params'))}"
                f" parameters), download {_bytes(wire.get('download_bytes'))};"
                f" seal {_seconds(wire.get('seal_s'))}, add {_seconds(wire.get('add_s'))},"
                f" open {_seconds(wire.get('open_s'))}"
            ),
        )
    )
    word, style = _LOG_WORDS.get(audit.get("verified"), ("not checked", "bold white on red"))
    log = Text.assemble((word, style), f", {_count(audit.get('entries'), 'entry', 'entries')}, root ")
    log.append(plain(audit.get("root") or UNDEFINED))
    lines.append(("Log", log))
    return lines


def _alarms(result: Mapping[str, Any]) -> str:
    """Return what must be read before anything else, or nothing."""
    parts = []
    if _part(result, "audit").get("verified") is False:
        parts.append(
            '<div class="alarm" role="alert"><strong>✕ The audit log does not verify.</strong>'
            "<p>Do not rely on the history below, and do not release this model, before the cause is known."
            " <code>moonflower audit verify</code> names the first bad entry.</p></div>"
        )
    rounds = _list(result, "rounds")
    if not any(r.get("status") == "promoted" for r in rounds):
        parts.append(
            '<div class="caution"><p><b>No round was promoted.</b> Nothing that was trained in this run'
            " is part of the model.</p></div>"
        )
    return "".join(parts)


def _figures(result: Mapping[str, Any]) -> str:
    """Return the four numbers that people ask for first."""
    rounds, overall, audit = _list(result, "rounds"), _part(result, "overall"), _part(result, "audit")
    promoted = sum(r.get("status") == "promoted" for r in rounds)
    trouble = setbacks(rounds)
    said = "; ".join(trouble[:3]) + ("; …" if len(trouble) > 3 else "")
    cells = [("Rounds promoted", f"{promoted} of {len(rounds)}", said or ("none refused" if rounds else ""))]
    for metric, label in (("loss", "Loss"), ("auc", "AUC")):
        compared = [
            f"{fixed(_part(overall, way).get(metric))} {way}"
            for way in ("alone", "pooled")
            if number(_part(overall, way).get(metric)) is not None
        ]
        value = fixed(_part(overall, "federated").get(metric))
        cells.append((f"{label}, {EVERYBODY}", value, " · ".join(compared)))
    body = "".join(
        f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}<small>{escaped(more)}</small></dd></div>"
        for label, value, more in cells
    )
    entries = _count(audit.get("entries"), "entry", "entries")
    log = f"<div><dt>Audit log</dt><dd>{_verified(audit)}<small>{entries}</small></dd></div>"
    return f'<dl class="figures">{body}{log}</dl>'


def _members_html(result: Mapping[str, Any]) -> str:
    members = [m for m in _list(result, "members") if any(_part(m, way) for way in WAYS)]
    unseen = [plain(m.get("name")) for m in _list(result, "members") if m not in members]
    sentences = "".join(f"<li>{escaped(sentence)}</li>" for sentence in verdicts(result))
    ways = [w for w in WAYS if any(_part(m, w).get(k) is not None for m in members for k in METRICS)]
    charts = ""
    for metric in METRICS[:3]:
        groups = [(plain(m.get("name")), {way: number(_part(m, way).get(metric)) for way in ways}) for m in members]
        lower = metric == "loss"
        name = {"loss": "Loss", "accuracy": "Accuracy", "auc": "AUC"}[metric]
        title = f"{name}, {'lower' if lower else 'higher'} is better"
        desc = f"Bars for each member: {', '.join(ways)}. The same numbers are in the table below."
        drawing = bars(
            groups, title, desc, f"bars-{metric}",
            lower_is_better=lower, full=None if lower else 1.0, guide=0.5 if metric == "auc" else None,
        )  # fmt: skip
        charts += f"<figure><h3>{title}</h3>{drawing}</figure>"
    missing = [way for way in WAYS if way not in ways]
    note = (
        "<b>alone</b>: trained on the member's own rows only, same rounds and epochs. <b>federated</b>: the"
        " model of this run. <b>personalised</b>: the same with one private number fitted at the member."
        " <b>pooled</b>: one model on all rows in one place, which nobody can have here; for comparison."
        " * best of its group. Dotted line: an AUC of 0.5 is guessing. One run with one seed:"
        " small differences, above all on few test rows, may be chance."
    )
    if missing:
        note += f" Not known here: {_and(missing)}."
    if unseen:
        note += f" No numbers of {escaped(_and(unseen))}: a member's numbers stay with the member."
    return (
        f'<ul class="plain">{sentences}</ul><div class="charts three">{charts}</div>'
        f'<p class="note">{note}</p><details><summary>The same numbers as a table</summary>'
        f"{_members_table(result, ways)}</details>"
    )


def _members_table(result: Mapping[str, Any], ways: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col" class="num">{LABELS[metric]}</th>' for metric in METRICS)
    body = ""
    overall = _part(result, "overall")
    subjects = [(m, ways) for m in _list(result, "members") if any(_part(m, way) for way in ways)]
    subjects.append(({"name": EVERYBODY, **overall}, [w for w in WAYS if _part(overall, w)]))
    for subject, shown in subjects:
        columns = {m: {way: number(_part(subject, way).get(m)) for way in shown} for m in METRICS}
        winners = {m: best(values, m == "loss") for m, values in columns.items()}
        rows = number(subject.get("rows"))
        head = escaped(subject.get("name")) + (f'<br /><span class="note">{rows:,.0f} rows</span>' if rows else "")
        lines: list[str] = []
        for way in shown:
            cells = "".join(
                f'<td class="num best">{fixed(columns[m][way])}*</td>'
                if way in winners[m]
                else f'<td class="num">{fixed(columns[m][way])}</td>'
                for m in METRICS
            )
            first = f'<th scope="rowgroup" rowspan="{len(shown)}">{head}</th>' if not lines else ""
            lines.append(f'<tr>{first}<th scope="row">{way}</th>{cells}</tr>')
        body += f"<tbody>{''.join(lines)}</tbody>" if lines else ""
    return _scrolled(
        "Members' numbers",
        f'<thead><tr><th scope="col">member</th><th scope="col">model</th>{heads}</tr></thead>{body}',
    )


def _rounds_html(result: Mapping[str, Any]) -> str:
    rounds = _list(result, "rounds")
    if not rounds:
        return '<p class="none">There was no round.</p>'
    charts = ""
    for metric in ("loss", "auc"):
        title = f"{'AUC' if metric == 'auc' else 'Loss'} over rounds"
        marks = [
            Mark(r["round"], str(r.get("status")), number(_part(r, "metrics").get(metric)), _note(r, metric),
                 bool(r.get("excluded")))
            for r in rounds
        ]  # fmt: skip
        desc = f"{len(rounds)} rounds: {tally(rounds)}. The numbers are in the table of rounds."
        charts += f"<figure><h3>{title}</h3>{over_rounds(marks, title, desc, f'rounds-{metric}')}</figure>"
    kinds = [s for s in STATUSES if any(r.get("status") == s for r in rounds)]
    kinds += ["member excluded"] if any(r.get("excluded") for r in rounds) else []
    events = [*setbacks(rounds), *(f"excluded: {one}" for one in exclusions(rounds))]
    events += [f"warning: {one}" for one in exclusions(rounds, "warnings")]
    listed = "".join(f"<li>{escaped(event)}</li>" for event in events)
    is_open = ' open="open"' if len(rounds) <= 30 else ""
    return (
        f'<div class="charts">{charts}</div>{legend(kinds)}'
        + (f'<ul class="plain">{listed}</ul>' if listed else "<p>Nothing was refused and nobody was excluded.</p>")
        + f"<details{is_open}><summary>{_count(len(rounds), 'round')} as a table</summary>"
        + _rounds_table(result, rounds)
        + "</details>"
        + '<p class="note">“no.” counts over the whole federation and is never reused. Gate: the median of'
        " the members' votes on rows kept for validation. Clipped: the share of update values cut to the"
        " agreed range.</p>"
    )


def _rounds_table(result: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    names = [plain(m.get("name")) for m in _list(result, "members")]
    words = ("status", "code", "members", "excluded", "warnings")
    numbers = ("gate baseline", "gate median", "clipped", "loss", "accuracy", "AUC")
    heads = '<th scope="col" class="num">round</th><th scope="col" class="num">no.</th>'
    heads += "".join(f'<th scope="col">{word}</th>' for word in words)
    heads += "".join(f'<th scope="col" class="num">{word}</th>' for word in numbers)
    body = ""
    for r in rounds:
        members = [plain(m) for m in r.get("members") or []]
        said = (
            r.get("code") or UNDEFINED,
            _present(members, names),
            ", ".join(_who(one) for one in _list(r, "excluded")) or UNDEFINED,
            ", ".join(_who(one) for one in _list(r, "warnings")) or UNDEFINED,
        )
        gate, metrics = _part(r, "gate"), _part(r, "metrics")
        measured = (
            fixed(gate.get("baseline")),
            _signed(gate.get("median")),
            fixed(r.get("clipped_share")),
            *(fixed(metrics.get(metric)) for metric in METRICS[:3]),
        )
        status = plain(r.get("status"))
        body += (
            f'<tr class="{status if status in STATUSES else ""}">'
            f'<th scope="row" class="num">{escaped(r["round"])}</th>'
            f'<td class="num">{_whole(r.get("number"))}</td><td class="status">{escaped(status)}</td>'
            + "".join(f"<td>{escaped(text)}</td>" for text in said)
            + "".join(f'<td class="num">{text}</td>' for text in measured)
            + "</tr>"
        )
    return _scrolled("Rounds", f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>")


def _present(members: Sequence[str], names: Sequence[str]) -> str:
    """Return the members of a round in few words: ``all 4``, ``all but Hungary``, or their names."""
    missing = [name for name in names if name not in members]
    if not members or not set(members) <= set(names) or len(missing) >= len(members):
        return ", ".join(members) or UNDEFINED
    return f"all but {_and(missing)}" if missing else f"all {len(names)}"


def _wire_html(result: Mapping[str, Any]) -> str:
    wire = _part(result, "wire")
    params = number(wire.get("params"))
    pairs = (
        ("Upload, per member and round", _bytes(wire.get("upload_bytes"))),
        ("Upload, per parameter", _per_param(wire)),
        ("Download, per member and round", _bytes(wire.get("download_bytes"))),
        ("Parameters", _whole(params)),
        ("Sealing, at a member", _seconds(wire.get("seal_s"))),
        ("Adding, at the coordinator", _seconds(wire.get("add_s"))),
        ("Opening, at a member", _seconds(wire.get("open_s"))),
    )
    note = ""
    if params is not None and params < _SMALL_MODEL:
        note = (
            '<p class="note">This model is small and a ciphertext has a fixed size: look at the bytes of a'
            " round, not at bytes for each parameter.</p>"
        )
    return _pairs((label, escaped(text)) for label, text in pairs) + note


def _log_html(result: Mapping[str, Any]) -> str:
    audit, model = _part(result, "audit"), _part(result, "model")
    path = model.get("path")
    return _pairs(
        (
            ("Audit log", _verified(audit)),
            ("Entries", escaped(_whole(audit.get("entries")))),
            ("Root", f"<code>{escaped(audit.get('root') or UNDEFINED)}</code>"),
            ("Model version", escaped(_whole(model.get("version")))),
            ("Model SHA-256", f"<code>{escaped(model.get('sha256') or UNDEFINED)}</code>"),
            ("Model file", f"<code>{escaped(PurePath(path).name if path else UNDEFINED)}</code>"),
        )
    )


def _limits_html(result: Mapping[str, Any]) -> str:
    scheme = plain(result.get("scheme"))
    other = f"<b>Curious member.</b> Scheme “{escaped(scheme)}”: this page does not know its limits."
    facts = (_LIMITS[0], _SCHEMES.get(scheme, other), *_LIMITS[1:])
    text = f'<ul class="plain">{"".join(f"<li>{fact}</li>" for fact in facts)}</ul>'
    if any(_part(m, "pooled") for m in _list(result, "members")):
        text += (
            '<p class="note">This report compares with models trained alone and pooled, which needs all rows'
            " in one place: it comes from a simulation. A simulation shows how a federation would do; it"
            " protects nobody from the machine that ran it.</p>"
        )
    return text


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _scrolled(label: str, rows: str) -> str:
    head = f'<div class="scroll" role="region" aria-label="{escaped(label)}" tabindex="0">'
    return f"{head}<table>{rows}</table></div>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return f'<dl class="pairs">{"".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in pairs)}</dl>'


def _verified(audit: Mapping[str, Any]) -> str:
    if audit.get("verified") is True:
        return "verified ✓"
    return f'<span class="bad">{"✕ NOT VERIFIED" if audit.get("verified") is False else "not checked"}</span>'


def _note(r: Mapping[str, Any], metric: str) -> str:
    """Return a round in words, for its mark on a chart."""
    parts = [f"Round {plain(r['round'])}: {plain(r.get('status'))}", plain(r.get("code") or "")]
    parts.append(f"{LABELS[metric]} {fixed(_part(r, 'metrics').get(metric))}")
    parts += [f"excluded {_who(one)}" for one in _list(r, "excluded")]
    return ", ".join(part for part in parts if part)


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object at ``key``; null and absent are the empty object."""
    return value.get(key) or {}


def _list(value: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    return value.get(key) or []


def _who(one: Mapping[str, Any]) -> str:
    return f"{plain(one.get('member'))} {plain(one.get('code') or '')}".strip()


def _and(names: Sequence[str]) -> str:
    """Return names as a list in prose; names that hold a comma themselves are kept apart by semicolons."""
    mark = "; " if any("," in name for name in names) else ", "
    return names[0] if len(names) == 1 else f"{mark.join(names[:-1])} and {names[-1]}"


def _apart(a: float, b: float) -> tuple[str, str]:
    """Return both numbers with three decimals, or as many (up to six) as it takes to tell them apart."""
    digits = next((d for d in (3, 4, 5) if fixed(a, d) != fixed(b, d)), 6)
    return fixed(a, digits), fixed(b, digits)


def _gap(alone: float, federated: float, personalised: float | None) -> str:
    """Return what personalising does to the gap of a member that does better alone."""
    if personalised is None:
        return "there is no personalised model to compare"
    if personalised <= alone:
        return f"the personalised model closes the gap ({fixed(personalised)})"
    if personalised < federated:
        return f"the personalised model narrows the gap but does not close it ({fixed(personalised)})"
    return f"the personalised model does not close the gap ({fixed(personalised)})"


def _reached(scores: Mapping[str, Any]) -> str:
    auc = number(scores.get("auc"))
    return f"a loss of {fixed(scores.get('loss'))}" + (f" and an AUC of {fixed(auc)}" if auc is not None else "")


def _rounds(numbers: Sequence[int]) -> str:
    few = numbers if len(numbers) <= 6 else numbers[:5]
    shown = ", ".join(plain(n) for n in few)
    more = f" and {len(numbers) - len(few)} more" if len(few) < len(numbers) else ""
    return f"{'round' if len(numbers) == 1 else 'rounds'} {shown}{more}"


def _count(value: object, one: str, many: str = "") -> str:
    return f"{_whole(value)} {one if value == 1 else many or one + 's'}"


def _whole(value: object) -> str:
    found = number(value)
    return f"{found:,.0f}" if found is not None else UNDEFINED


def _per_param(wire: Mapping[str, Any]) -> str:
    found = number(wire.get("upload_bytes_per_param"))
    return f"{found:,.1f} bytes" if found is not None else UNDEFINED


def _bytes(value: object) -> str:
    """Return exact bytes, and a rounded unit from 10,000 on: ``62,180 bytes (62.2 kB)``."""
    found = number(value)
    if found is None:
        return UNDEFINED
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("", 0)) if found >= s)
    return f"{found:,.0f} bytes" + (f" ({found / size:.1f} {unit})" if found >= 1e4 else "")


def _seconds(value: object) -> str:
    found = number(value)
    if found is None:
        return UNDEFINED
    return f"{found * 1e3:.1f} ms" if found < 0.1 else f"{found:.2f} s"


def _signed(value: object) -> str:
    found = number(value)
    return fixed(found) if found is None or found <= 0 else f"+{fixed(found)}"
