"""``report.html``: the result as one page that needs no script, no font and no network.

Names in a result come from others. So they are escaped, and the page forbids scripts and the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from .charts import UNDEFINED, bars, best, escaped, fixed, legend, number, over_rounds, plain
from .findings import (
    EVERYBODY,
    NO_MODEL,
    STATUSES,
    counted,
    ending,
    exclusions,
    in_bytes,
    in_seconds,
    items,
    listed,
    part,
    per_param,
    recipe_lines,
    setbacks,
    summary,
    tally,
    verdicts,
    votes,
    who,
    whole,
)
from .measures import WAYS, beside, measure, measured, shown, whole_table
from .parts import gate_marks, marks_of, pairs, scrolled
from .style import STYLE
from .sureness import settings_html, sureness

_SMALL_MODEL = 4096  # parameters; below it the sealed update is mostly one ciphertext of fixed size
_LIMITS = (
    "<b>Coordinator</b>, curious or dishonest, alone. Nobody holds a key that opens one member's update: a sum is over"
    " everybody, and only the answers of all together open it (experimental until somebody outside the project has"
    " reviewed it). The coordinator sees every version, votes, sizes and times, and it can stop the run.",
    "<b>Coordinator and members together.</b> The coordinator and all members but two learn the sum of the last two,"
    " and no more (experimental until somebody outside the project has reviewed it). All members but one know the"
    " update of that one. All members signed the settings; a run chooses little but its seed. Where a task trains by"
    " code of its own, nobody checks its batches, and many seeds over the same rows can tell the one record in a short"
    " batch.",
    "<b>Members.</b> Every member knows every opened sum. What only one member changed between two sums is that"
    " member's.",
    "<b>A member that is away or answers junk</b> holds everybody up, and nobody can say who answered junk.",
    "<b>Whoever records the traffic.</b> It opens to whoever breaks X25519.",
    "<b>Whoever gets the model.</b> There is no differential privacy: the final model can leak whether a"
    " record was among the training rows.",
    "<b>Dishonest member.</b> The gate bounds the damage that a bad update can do; it does not prove that"
    " anybody was honest. Row counts, and so weights, are each member's word.",
)


def page(result: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that is also well-formed XML."""
    name = escaped(result.get("federation"))
    sections = (
        _section("Whom it helps", _members_html(result)),
        _section("How sure this is", sureness(result)),
        _section("Rounds", _rounds_html(result)),
        _section("On the wire", _wire_html(result)),
        _section("Log and model", _log_html(result)),
        _section("Settings", settings_html(result)),
        _section("For the recipe", _recipe_html(result)),
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
        f"<footer><p>Run <code>{escaped(result.get('run') or UNDEFINED)}</code>."
        " Every number on this page is also in result.json.</p></footer>"
        "</body></html>\n"
    )


def _alarms(result: Mapping[str, Any]) -> str:
    """Return the warnings that a reader must see first, or nothing."""
    parts = []
    if part(result, "audit").get("verified") is False:
        parts.append(
            '<div class="alarm" role="alert"><strong>✕ The audit log does not verify.</strong>'
            "<p>Do not rely on the history below, and do not release this model, before the cause is known."
            " <code>moonflower audit verify</code> names the first bad entry.</p></div>"
        )
    if not result.get("model"):
        parts.append(f'<div class="caution"><p><b>{NO_MODEL}</b></p></div>')
    if result.get("problems"):
        problems = "".join(f"<p>{escaped(one)}.</p>" for one in result["problems"])
        parts.append(f'<div class="caution"><p><b>Part of this report is missing.</b></p>{problems}</div>')
    return "".join(parts)


def _figures(result: Mapping[str, Any]) -> str:
    """Return the four most important numbers."""
    rounds, overall, audit = items(result, "rounds"), part(result, "overall"), part(result, "audit")
    promoted = sum(r.get("status") == "promoted" for r in rounds)
    trouble = setbacks(rounds)
    why = "; ".join(trouble[:3]) + ("; …" if len(trouble) > 3 else "")
    cells = [("Rounds promoted", f"{promoted} of {len(rounds)}", why or ("none refused" if rounds else ""))]
    for metric in ("loss", beside(measured([part(overall, way) for way in WAYS]))):
        compared = [
            f"{fixed(part(overall, way).get(metric))} {way}"
            for way in ("alone", "pooled")
            if number(part(overall, way).get(metric)) is not None
        ]
        value = fixed(part(overall, "federated").get(metric))
        cells.append((f"{measure(metric).title}, {EVERYBODY}", value, " · ".join(compared)))
    body = "".join(
        f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}<small>{escaped(more)}</small></dd></div>"
        for label, value, more in cells
    )
    entries = counted(audit.get("entries"), "entry", "entries")
    log = f"<div><dt>Audit log</dt><dd>{_verified(audit)}<small>{entries}</small></dd></div>"
    return f'<dl class="figures">{body}{log}</dl>'


def _members_html(result: Mapping[str, Any]) -> str:
    members = [m for m in items(result, "members") if any(part(m, way) for way in WAYS)]
    unseen = [plain(m.get("name")) for m in items(result, "members") if m not in members]
    sentences = "".join(f"<li>{escaped(sentence)}</li>" for sentence in verdicts(result))
    if unseen and not members:
        note = f"No numbers of {escaped(listed(unseen))}: a member's numbers stay with the member."
        return f'<ul class="plain">{sentences}</ul><p class="note">{note}</p>'
    ways = [w for w in WAYS if any(measured([part(m, w)]) for m in members)]
    charts = ""
    known = measured([part(member, way) for member in members for way in ways])
    for metric in shown(known):
        groups = [(plain(m.get("name")), {way: number(part(m, way).get(metric)) for way in ways}) for m in members]
        about = measure(metric)
        title = f"{about.title}, {'lower' if about.lower else 'higher'} is better"
        desc = f"Bars for each member: {', '.join(ways)}. The same numbers are in the table below."
        drawing = bars(
            groups, title, desc, f"bars-{metric}",
            lower_is_better=about.lower, full=about.full, guide=about.guide,
        )  # fmt: skip
        charts += f"<figure><h3>{title}</h3>{drawing}</figure>"
    missing = [way for way in WAYS if way not in ways]
    note = (
        "<b>alone</b>: trained on the member's own rows only, same rounds and epochs. <b>federated</b>: the"
        " model of this run. <b>personalised</b>: the same with one private number fitted at the member."
        " <b>pooled</b>: one model on all rows in one place, which nobody can have here; for comparison."
        " * best of its group. One run with one seed: small differences, above all on few test rows, may be chance."
    )
    guessed = [measure(name) for name in shown(known) if measure(name).guide is not None and name in known]
    if guessed:
        note += f" Dotted line: {listed([f'{one.label} of {one.guide:g}' for one in guessed])} is guessing."
    if missing:
        note += f" Not known here: {listed(missing)}."
    if unseen:
        note += f" No numbers of {escaped(listed(unseen))}: a member's numbers stay with the member."
    return (
        f'<p class="note">Each member is judged on its own test rows here.</p>'
        f'<ul class="plain">{sentences}</ul><div class="charts three">{charts}</div>'
        f'<p class="note">{note}</p><details><summary>The same numbers as a table</summary>'
        f"{_members_table(result, ways)}</details>"
    )


def _members_table(result: Mapping[str, Any], ways: Sequence[str]) -> str:
    overall, body = part(result, "overall"), ""
    names = whole_table(measured([part(one, w) for one in (*items(result, "members"), overall) for w in WAYS]))
    heads = "".join(f'<th scope="col" class="num">{escaped(measure(metric).label)}</th>' for metric in names)
    subjects = [(m, ways) for m in items(result, "members") if any(part(m, way) for way in ways)]
    subjects.append(({"name": EVERYBODY, **overall}, [w for w in WAYS if part(overall, w)]))
    for subject, trained in subjects:
        columns = {m: {way: number(part(subject, way).get(m)) for way in trained} for m in names}
        winners = {m: best(values, measure(m).lower) for m, values in columns.items()}
        rows = number(subject.get("rows"))
        head = escaped(subject.get("name")) + (f'<br /><span class="note">{rows:,.0f} rows</span>' if rows else "")
        lines: list[str] = []
        for way in trained:
            cells = "".join(
                f'<td class="num best">{fixed(columns[m][way])}*</td>'
                if way in winners[m]
                else f'<td class="num">{fixed(columns[m][way])}</td>'
                for m in names
            )
            first = f'<th scope="rowgroup" rowspan="{len(trained)}">{head}</th>' if not lines else ""
            lines.append(f'<tr>{first}<th scope="row">{way}</th>{cells}</tr>')
        body += f"<tbody>{''.join(lines)}</tbody>" if lines else ""
    return scrolled(
        "Members' numbers",
        f'<thead><tr><th scope="col">member</th><th scope="col">model</th>{heads}</tr></thead>{body}',
    )


def _rounds_html(result: Mapping[str, Any]) -> str:
    rounds = items(result, "rounds")
    if not rounds:
        return '<p class="none">There was no round.</p>'
    drawn = [
        (metric, f"{measure(metric).title} over rounds", marks_of(result, _of(metric), measure(metric).label))
        for metric in ("loss", beside(measured([part(r, "metrics") for r in rounds])))
    ]
    if gate := gate_marks(result):
        drawn.insert(0, ("validation", "Loss on validation rows over rounds", gate))
    charts = ""
    for ident, title, marks in drawn:
        desc = f"{len(rounds)} rounds: {tally(rounds)}. The numbers are in the table of rounds."
        charts += f"<figure><h3>{title}</h3>{over_rounds(marks, title, desc, f'rounds-{ident}')}</figure>"
    kinds = [s for s in STATUSES if any(r.get("status") == s for r in rounds)]
    kinds += ["member named"] if any(r.get("named") for r in rounds) else []
    events = [*setbacks(rounds), *(f"named: {entry}" for entry in exclusions(rounds))]
    events += [f"warning: {entry}" for entry in exclusions(rounds, "warnings")]
    how = ending(result)
    events = [f"end: {how}", *events] if how else events
    bullets = "".join(f"<li>{escaped(event)}</li>" for event in events)
    is_open = ' open="open"' if len(rounds) <= 30 else ""
    return (
        f'<div class="charts">{charts}</div>{legend(kinds)}'
        + (f'<ul class="plain">{bullets}</ul>' if bullets else "<p>Nothing was refused and nobody was named.</p>")
        + f"<details{is_open}><summary>{counted(len(rounds), 'round')} as a table</summary>"
        + _rounds_table(result, rounds)
        + "</details>"
        + '<p class="note">“no.” counts over the whole federation and is never reused. Votes: what members found of'
        " the candidate beside the best version, each on its own rows kept for validation. Promoted: the new best"
        " version. Kept: the next base, no better than the best version; never released. Loss on validation rows: on"
        " those of all members, by which they vote; only a simulation knows it.</p>"
    )


def _rounds_table(result: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    names = [plain(m.get("name")) for m in items(result, "members")]
    words = ("status", "code", "votes", "members", "named", "warnings")
    known = shown(measured([part(r, "metrics") for r in rounds]))
    numbers = [measure(metric).label for metric in known]
    heads = '<th scope="col" class="num">round</th><th scope="col" class="num">no.</th>'
    heads += "".join(f'<th scope="col">{word}</th>' for word in words)
    heads += "".join(f'<th scope="col" class="num">{word}</th>' for word in numbers)
    body = ""
    for r in rounds:
        members = [plain(m) for m in r.get("members") or []]
        cells = (
            r.get("code") or UNDEFINED,
            votes(part(r, "votes")),
            _present(members, names),
            ", ".join(who(entry) for entry in items(r, "named")) or UNDEFINED,
            ", ".join(who(entry) for entry in items(r, "warnings")) or UNDEFINED,
        )
        scores = [fixed(part(r, "metrics").get(metric)) for metric in known]
        status = plain(r.get("status"))
        body += (
            f'<tr class="{status if status in STATUSES else ""}">'
            f'<th scope="row" class="num">{escaped(r["round"])}</th>'
            f'<td class="num">{whole(r.get("number"))}</td><td class="status">{escaped(status)}</td>'
            + "".join(f"<td>{escaped(text)}</td>" for text in cells)
            + "".join(f'<td class="num">{text}</td>' for text in scores)
            + "</tr>"
        )
    return scrolled("Rounds", f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>")


def _present(members: Sequence[str], names: Sequence[str]) -> str:
    """Return the members of a round's sum: ``all 4``, or their names if the result has other members."""
    return f"all {len(names)}" if members and {*members} == {*names} else ", ".join(members) or UNDEFINED


def _wire_html(result: Mapping[str, Any]) -> str:
    wire = part(result, "wire")
    params = number(wire.get("params"))
    shown = (
        ("Upload, per member and round", in_bytes(wire.get("upload_bytes"))),
        ("Upload, per parameter", per_param(wire)),
        ("Download, per member and round", in_bytes(wire.get("download_bytes"))),
        ("Parameters", whole(params)),
        ("Sealing, at a member", in_seconds(wire.get("seal_s"))),
        ("Adding, at the coordinator", in_seconds(wire.get("add_s"))),
        ("Answering, at a member", in_seconds(wire.get("answer_s"))),
        ("Opening, at a member", in_seconds(wire.get("open_s"))),
    )
    note = ""
    if params is not None and params < _SMALL_MODEL:
        note = (
            '<p class="note">This model is small and a ciphertext has a fixed size: look at the bytes of a'
            " round, not at bytes for each parameter.</p>"
        )
    return pairs((label, escaped(text)) for label, text in shown) + note


def _log_html(result: Mapping[str, Any]) -> str:
    audit, model = part(result, "audit"), part(result, "model")
    path = model.get("path")
    return pairs(
        (
            ("Audit log", _verified(audit)),
            ("Entries", escaped(whole(audit.get("entries")))),
            ("Root", f"<code>{escaped(audit.get('root') or UNDEFINED)}</code>"),
            ("Model version", escaped(whole(model.get("version")))),
            ("Model SHA-256", f"<code>{escaped(model.get('sha256') or UNDEFINED)}</code>"),
            ("Model file", f"<code>{escaped(PurePath(path).name if path else UNDEFINED)}</code>"),
        )
    )


def _recipe_html(result: Mapping[str, Any]) -> str:
    """Return the lines that a simulation proposes for the recipe."""
    lines = recipe_lines(result)
    if not lines:
        return '<p class="none">Only a simulation, which has all rows at hand, proposes anything.</p>'
    shown = "".join(f"<li><code>{escaped(line)}</code></li>" for line in lines)
    return (
        f'<ul class="plain">{shown}</ul><p class="note">Constants that bound what one member can do. A recipe for real'
        " rows states them, and all members sign it; none of them moves from one run to the next.</p>"
    )


def _limits_html(result: Mapping[str, Any]) -> str:
    text = f'<ul class="plain">{"".join(f"<li>{fact}</li>" for fact in _LIMITS)}</ul>'
    if any(part(m, "pooled") for m in items(result, "members")):
        text += (
            '<p class="note">This report compares with models trained alone and pooled, which needs all rows'
            " in one place: it comes from a simulation. A simulation shows how a federation would do; it"
            " protects nobody from the machine that ran it.</p>"
        )
    return text


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _verified(audit: Mapping[str, Any]) -> str:
    if audit.get("verified") is True:
        return "verified ✓"
    return f'<span class="bad">{"✕ NOT VERIFIED" if audit.get("verified") is False else "not checked"}</span>'


def _of(metric: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda one: number(part(one, "metrics").get(metric))
