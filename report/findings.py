"""What a result says: in sentences, and its numbers in words.

An undefined or unknown value becomes a dash: a live run, for example, knows neither the members' rows nor the models
that they trained alone. The sentences say where federation does not help as plainly as where it does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import UNDEFINED, fixed, number, plain
from .measures import WAYS, beside, measure, measured

STATUSES = ("promoted", "kept", "refused", "failed")
VOTES = {"better": "better", "same": "same", "worse": "worse", "abstain": "abstained"}
EVERYBODY = "all members' test rows"
FEW = 10
"""Rows of a class below which an AUC says little."""
MOST_NAMES = 6
"""Most members that a caution names, and one more."""
NO_MODEL = "No version was promoted; there is no model to use."


def summary(result: Mapping[str, Any]) -> str:
    """Return the run in one sentence: how many members, how many rounds, and how good the model is."""
    members, rounds = items(result, "members"), items(result, "rounds")
    start = f"{counted(len(members), 'member')} trained one model together in {counted(len(rounds), 'round')}"
    start += f" ({tally(rounds, zeros=False)})" if rounds else ""
    if not result.get("model"):
        return f"{start}. {NO_MODEL}"
    overall = part(result, "overall")
    federated, alone = part(overall, "federated"), part(overall, "alone")
    if number(federated.get("loss")) is None:
        return f"{start}; how well the model does on {EVERYBODY} is not known here."
    text = f"{start}; on {EVERYBODY} it reaches {_reached(federated)}"
    if number(alone.get("loss")) is not None:
        text += f", against {_reached(alone)} for the members' own models on average"
    return text + "."


def ending(result: Mapping[str, Any]) -> str:
    """Return how the run ended, or "" if it reached its planned end or goes on.

    >>> ending({"ended": "converged", "rounds": [{"round": 7, "status": "promoted"}, {"round": 8, "status": "kept"}]})
    'converged: nothing better since round 7'
    """
    how = plain(result.get("ended") or "")
    if how != "converged":
        return "" if how in ("", "done") else f"early: {how}"
    better = [r["round"] for r in items(result, "rounds") if r.get("status") == "promoted"]
    return f"converged: nothing better since round {plain(better[-1])}" if better else "converged: nothing was better"


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """Return whom federation helps and whom it does not, by loss on each member's own test rows.

    Members that do better alone come first, with their numbers and whether personalising closes the gap. A single
    one gets a sentence; several get a line each below a sentence. Last come the cautions. The list is empty if there is
    no model.
    """
    if "model" in result and not result["model"]:
        return []
    helped: list[str] = []
    same: list[str] = []
    unknown: list[str] = []
    worse: list[tuple[str, str, str]] = []
    for member in items(result, "members"):
        name = plain(member.get("name"))
        alone, federated = (number(part(member, way).get("loss")) for way in ("alone", "federated"))
        if alone is None or federated is None:
            unknown.append(name)
        elif alone < federated:
            personalised = number(part(member, "personalised").get("loss"))
            a, f = _apart(alone, federated)
            worse.append((name, f"{a} alone, {f} federated", _gap(alone, federated, personalised)))
        else:
            (helped if federated < alone else same).append(name)
    if len(worse) == 1:
        name, numbers, gap = worse[0]
        reason = f"on its own test rows its own model has the lower loss ({numbers}); {gap}"
        lines = [f"Federation does not help {name}: {reason}."]
    elif worse:
        count = f"{len(worse)} of {len(items(result, 'members'))} members"
        lines = [f"Federation does not help {count}: on each one's own test rows its own model has the lower loss."]
        lines += [f"{name}: {numbers}; {gap}." for name, numbers, gap in worse]
    else:
        lines = []
    if helped:
        lines.append(f"Federation helps {listed(helped)}: lower loss than alone on their own test rows.")
        if len(helped) == 1:
            lines[-1] = f"Federation helps {helped[0]}: lower loss than alone on its own test rows."
    if same:
        lines.append(f"Federation makes no difference to {listed(same)}: the same loss as alone.")
    if unknown and (lines or not result.get("members")):
        lines.append(f"Whether federation helps {listed(unknown)} is not known here.")
    elif unknown:
        lines.append(
            "This run cannot say whether federation helps a member: it has no loss of models that"
            " members trained alone."
        )
    return [*lines, *cautions(result)]


def rare(result: Mapping[str, Any]) -> bool:
    """Return whether at most a tenth of all test rows are positive, as far as ``evidence`` knows."""
    found = part(result, "evidence")
    counts = part(found, "overall").get("per_class") or []
    return found.get("positive") is not None and 0 < 10 * counts[-1] <= sum(counts)


def still_falling(result: Mapping[str, Any]) -> str:
    """Return that more rounds may help, or "".

    A run that reached its planned end is meant whose loss on validation rows is lowest at the end, and fell by more
    than a hundredth over the last quarter of its rounds.
    """
    curve = part(part(result, "evidence"), "validation").get("by_round") or []
    losses = [number(loss) for _, loss in curve]
    known = [loss for loss in losses if loss is not None]
    if result.get("ended") not in (None, "", "done") or len(known) < 4 or len(known) < len(losses):
        return ""
    before, last = known[-1 - len(known) // 4], known[-1]
    if last > min(known) or before - last <= abs(last) / 100:
        return ""
    return (
        f"The loss on validation rows still fell at the end ({fixed(before)} to {fixed(last)} over the last "
        f"{counted(len(known) // 4, 'round')}): more rounds or more local_epochs may help."
    )


def cautions(result: Mapping[str, Any]) -> list[str]:
    """Return where a difference may be chance, where an AUC rests on few rows, and whether training ended too early.

    Without ``evidence`` there is none.
    """
    found, spans, few = part(result, "evidence"), [], []
    for one in items(found, "members"):
        name, loss = plain(one.get("name")), part(part(one, "difference"), "loss")
        low, high = number(loss.get("low")), number(loss.get("high"))
        if low is not None and high is not None and low <= 0 <= high:
            ends = _apart(low, high)
            spans.append(f"{name} ({ends[0]} to {ends[1]}, {counted(one.get('rows'), 'test row')})")
    for one in (*items(found, "members"), {**part(found, "overall"), "name": EVERYBODY}):
        known = any(part(part(one, "intervals"), way) for way in WAYS) and found.get("positive") is not None
        counts = dict(zip(found.get("classes") or [], one.get("per_class") or [], strict=False))
        for which, rows in counts.items() if known else ():
            if 0 < rows < FEW:
                few.append(f"{plain(one['name'])} ({counted(rows, 'test row')} of class {plain(which)!r})")
    lines = []
    if spans:
        share = f"{100 * (number(found.get('confidence')) or 0):.0f} %"
        lines.append(
            f"The difference may be chance for {_few(spans)}: the {share} interval of federated loss minus own"
            " loss includes 0."
        )
    if falling := still_falling(result):
        lines.append(falling)
    if few:
        lines.append(f"The AUC says little of {_few(few)}: fewer than {FEW} rows of a class.")
    return lines


def _few(names: Sequence[str]) -> str:
    """Return the first names of a long list, and how many more there are."""
    left = len(names) - MOST_NAMES
    return listed([*names[:MOST_NAMES], f"{left} more"] if left > 1 else names, "; ")


def tally(rounds: Sequence[Mapping[str, Any]], zeros: bool = True) -> str:
    """Return ``16 promoted, 2 kept, 2 refused, 0 failed``; without ``zeros``, leave out what did not happen."""
    counts = Counter(r.get("status") for r in rounds)
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status] or zeros)


def setbacks(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the refused and failed rounds by code: ``refused gate.worse (round 7)``."""
    places: dict[str, list[int]] = {}
    for r in rounds:
        if r.get("status") not in ("promoted", "kept"):
            places.setdefault(f"{plain(r.get('status'))} {plain(r.get('code') or 'without a code')}", []).append(
                r["round"]
            )
    return [f"{what} ({_rounds(numbers)})" for what, numbers in places.items()]


def exclusions(rounds: Sequence[Mapping[str, Any]], key: str = "named") -> list[str]:
    """Return the members that rounds named (or, by ``key``, warned of): ``Hungary circle.away (round 9)``."""
    places: dict[str, list[int]] = {}
    for r in rounds:
        for entry in items(r, key):
            places.setdefault(who(entry), []).append(r["round"])
    return [f"{what} ({_rounds(numbers)})" for what, numbers in places.items()]


def votes(counts: Mapping[str, Any]) -> str:
    """Return the members' votes on a candidate, or a dash if there was no vote.

    >>> votes({"better": 3, "same": 1, "worse": 0, "abstain": 1})
    '3 better, 1 same, 1 abstained'
    """
    pairs = ((number(counts.get(word)), word) for word in VOTES)
    return ", ".join(f"{whole(count)} {VOTES[word]}" for count, word in pairs if count) or UNDEFINED


def part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object at ``key``; an empty object if it is null or absent."""
    return value.get(key) or {}


def items(value: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    """Return the list at ``key``; an empty list if it is null or absent."""
    return value.get(key) or []


def who(entry: Mapping[str, Any]) -> str:
    """Return a member and a code: ``Hungary circle.away``."""
    return f"{plain(entry.get('member'))} {plain(entry.get('code') or '')}".strip()


def listed(names: Sequence[str], mark: str = "") -> str:
    """Return names as a list in prose. Semicolons separate them if a name contains a comma; or ``mark`` does."""
    mark = mark or ("; " if any("," in name for name in names) else ", ")
    return names[0] if len(names) == 1 else f"{mark.join(names[:-1])} and {names[-1]}"


def _apart(a: float, b: float) -> tuple[str, str]:
    """Return both numbers with three decimals, or with as many (up to six) as it takes to tell them apart."""
    digits = next((d for d in (3, 4, 5) if fixed(a, d) != fixed(b, d)), 6)
    return fixed(a, digits), fixed(b, digits)


def _gap(alone: float, federated: float, personalised: float | None) -> str:
    """Return whether personalising closes the gap of a member that does better alone."""
    if personalised is None:
        return "there is no personalised model to compare"
    if personalised <= alone:
        return f"the personalised model closes the gap ({fixed(personalised)})"
    if personalised < federated:
        return f"the personalised model narrows the gap but does not close it ({fixed(personalised)})"
    return f"the personalised model does not close the gap ({fixed(personalised)})"


def _reached(scores: Mapping[str, Any]) -> str:
    name = beside(measured([scores]))
    other, value = measure(name), number(scores.get(name))
    article = "an" if other.label[:1] in "AaRM" else "a"
    return f"a loss of {fixed(scores.get('loss'))}" + (
        f" and {article} {other.label} of {fixed(value)}" if value is not None else ""
    )


def _rounds(numbers: Sequence[int]) -> str:
    few = numbers if len(numbers) <= 6 else numbers[:5]
    shown = ", ".join(plain(n) for n in few)
    more = f" and {len(numbers) - len(few)} more" if len(few) < len(numbers) else ""
    return f"{'round' if len(numbers) == 1 else 'rounds'} {shown}{more}"


def counted(value: object, singular: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 round``, ``1,200 entries``."""
    return f"{whole(value)} {singular if value == 1 else plural or singular + 's'}"


def whole(value: object) -> str:
    """Return a whole number with commas, or a dash."""
    count = number(value)
    return f"{count:,.0f}" if count is not None else UNDEFINED


def per_param(wire: Mapping[str, Any]) -> str:
    """Return the bytes of an upload per parameter."""
    size = number(wire.get("upload_bytes_per_param"))
    return f"{size:,.1f} bytes" if size is not None else UNDEFINED


def in_bytes(value: object) -> str:
    """Return the exact number of bytes, from 10,000 on also in a rounded unit: ``62,180 bytes (62.2 kB)``."""
    count = number(value)
    if count is None:
        return UNDEFINED
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("", 0)) if count >= s)
    return f"{count:,.0f} bytes" + (f" ({count / size:.1f} {unit})" if count >= 1e4 else "")


def in_seconds(value: object) -> str:
    """Return a time in seconds, or in milliseconds if it is short; or a dash."""
    seconds = number(value)
    if seconds is None:
        return UNDEFINED
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def recipe_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what a simulation proposes for the recipe: lines of a config, each with its table.

    >>> recipe_lines({"proposal": {"training": {"max_rows": 250}, "crypto": {"clip": {"*": 1.5}}}})
    ['[training] max_rows = 250', '[crypto] clip = {"*" = 1.5}']
    """
    tables = part(result, "proposal")
    return [f"[{table}] {key} = {toml(value)}" for table, keys in tables.items() for key, value in keys.items()]


def toml(value: Any) -> str:
    """Return a value of a config on one line, in TOML.

    >>> toml({"*": 1.5}), toml([True, "a"])
    ('{"*" = 1.5}', '[true, "a"]')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{name}" = {toml(inner)}' for name, inner in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)
