"""A model card as Markdown, for people."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...report.findings import votes


def markdown(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown."""
    gate = card["gate"]
    named = f"no version: {gate['verdict']}" if card["version"] is None else f"version {card['version']}"
    parts = [
        f"# Model card: {_plain(card['federation'])}, {named}",
        "",
        f"**{_status(card['release'])}**",
        "",
        *_facts(card),
        "",
        "## Members that took part",
        "",
        *(f"- {_plain(member)}" for member in card["members"]),
        "",
        "## Quality",
        "",
        *_metrics(card["metrics"]),
        "",
        f"Gate: {gate['verdict']}" + (f" ({gate['code']})" if gate["code"] else "") + ". " + _verdict(gate),
        "",
        *_crypto(card["crypto"]),
        "",
        "## Known limits",
        "",
        *(f"- {sentence}" for sentence in card["limits"]),
        "",
        "## Release",
        "",
        *_released(card["release"]),
    ]
    return "\n".join(parts) + "\n"


def _facts(card: Mapping[str, Any]) -> list[str]:
    own = card["round"]
    return _table(
        ("", ""),
        [
            ("SHA-256 of the version", _code(card["sha256"])),
            *([("this file", _file(card["file"]))] if "file" in card else []),
            ("made", card["created"]),
            ("task", _code(card["task"]["ref"])),
            ("schema", _code(card["schema"])),
            ("parameters", "–" if card["parameters"] is None else f"{card['parameters']:,}"),
            ("moonflower", _plain(card["package"] or "–")),
            ("run", _code(card["run"])),
            ("started from", _origins(card["origins"])),
            ("round", _round(own)),
            ("base", _code(own["base"]) if own["base"] else "–"),
        ],
    )


def _origins(origins: Sequence[Mapping[str, Any]]) -> str:
    steps = [
        f"{_code(origin['sha256'])}, {'imported' if origin['imported'] else 'promoted in an earlier run'}"
        for origin in origins
    ]
    last = [] if origins and origins[-1]["imported"] else ["version 0"]
    return "; that one from ".join(steps + last)


def _crypto(crypto: Mapping[str, Any]) -> list[str]:
    return [
        "## Crypto",
        "",
        f"Security: {crypto['security']}. Every sum was over all members of the circle, {crypto['min_members']} at "
        "least. There is no differential privacy.",
        "",
        f"- {_parameters(crypto['parameters'])}",
        "",
        "Protects against:",
        "",
        *(f"- {attack['against']}: {attack['how']}." for attack in crypto["protects"]),
        "",
        "What it does not protect against:",
        "",
        *(f"- {sentence}" for sentence in crypto["does_not_protect"]),
    ]


def _parameters(plan: Mapping[str, Any] | None) -> str:
    if plan is None:
        return "parameters are unknown"
    bits = math.prod(plan["primes"]).bit_length()
    return (
        f"N = {plan['degree']}, log2 q = {bits}, {plan['lanes']} lanes of {plan['lane_bits']} bits, "
        f"values of {plan['value_bits']} bits, {plan['members']} members"
    )


def _status(release: Mapping[str, Any]) -> str:
    have = f"{len(release['approvals'])} of {release['required']} approvals"
    return {
        "released": "Released.",
        "replaced": "Was released; another version is now.",
        "rejected": "Rejected. It must not be used.",
        "kept": "Not released, and never will be: it was no better than the best version.",
        "promoted": f"Not released: {have if release['step'] else 'older than the released version'}.",
    }.get(release["status"], "Not released.")


def _file(exported: Mapping[str, Any]) -> str:
    mark = ", a copy marked as unreleased" if exported["unreleased"] else ""
    if kind := exported.get("format"):
        mark = f", made from the version in the format {kind}"
        mark += "; **unreleased**: it must not be used as released" if exported["unreleased"] else ""
    return f"{_code(exported['name'])}, SHA-256 {_code(exported['sha256'])}{mark}"


def _round(own: Mapping[str, Any]) -> str:
    if not own["number"]:
        return "none: the start"
    before = f"after {own['promoted_before']} promoted ones"
    return f"{own['planned']} of {own['of']} (number {own['number']}), {before}, with {len(own['members'])} members"


def _verdict(gate: Mapping[str, Any]) -> str:
    text = "No vote was taken. "
    if gate["votes"]:
        text = f"Votes: {votes(gate['votes'])} than the best version before it, by {gate['metric']} on members' own "
        text += f"rows (better from {gate['min_gain']:.2%} less on, worse from {gate['max_regression']:.2%} more). "
    counts = ", ".join(f"{count} {status}" for status, count in sorted(gate["rounds"].items()))
    warned = ", ".join(f"{count} × {code}" for code, count in sorted(gate["warnings"].items()))
    return text + f"Rounds of the run so far: {counts or 'none'}. Warnings in this round: {warned or 'none'}."


def _metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["No metrics over all members' test rows were reported for this version."]
    rows = [(_plain(name), "–" if value is None else str(value)) for name, value in metrics.items()]
    return _table(("over all members' test rows", ""), rows)


def _released(release: Mapping[str, Any]) -> list[str]:
    policy = release["policy"]
    lines = ["By itself, at the run's planned end." if policy["release"] == "automatic" else ""]
    if policy["release"] == "manual":
        many = policy["approvals_required"]
        lines = [f"By people: approvers of {many} members, each signing this version's SHA-256."]
    by, rejected = release["by"], release["rejected"]
    if by:
        how = "by itself" if by["automatic"] else f"with {len(by['approvals'])} approvals"
        lines += ["", f"{by['event'].replace('_', ' ')} {by['time']}, {how} (log entry {by['index']})."]
    decisions = [*(by["approvals"] if by else ()), *release["approvals"], *([rejected] if rejected else [])]
    if decisions:
        lines += ["", *_table(("", "member", "approver", "key", "time", "reason"), map(_signed, decisions))]
    return lines


def _signed(decision: Mapping[str, Any]) -> tuple[str, ...]:
    who = (_plain(decision["member"]), _plain(decision["approver"]), _code(decision["key"]))
    return decision["action"], *who, decision["time"], _plain(decision["reason"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _plain(text: str) -> str:
    """Return text of a member or an approver, escaped so that it is only text in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", "".join(c if c.isprintable() else " " for c in text))


def _code(text: str) -> str:
    return f"`{re.sub(r'[^A-Za-z0-9._:/+=-]', '?', text)}`"
