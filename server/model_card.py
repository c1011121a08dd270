"""The model card of a version: where it comes from, who took part, what protects whom, and who released it.

A pure function of the records, as JSON-able values and as Markdown. It holds no row counts, no member's own numbers and
no votes, for it leaves the federation with the model. What it holds besides is enough to check the release without
trusting the coordinator that wrote it: the openers' signatures, the approvals, and the cards of those who signed
(``crypto/released.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..configs.settings import Offer
from ..crypto.identity import Card
from ..crypto.version import Version
from ..errors import Refused
from .records.models import Entry
from .records.releases import Change, Releases
from .release import Standing

FORMAT = 1
SECURITY = "128 bits, classical, by the table of IACR eprint 2024/463; the lattice estimator was not run"
PROTECTS = (
    (
        "a coordinator that follows the protocol, however curious",
        "it sees no member's update and is told no member's row count. It learns the mean update of each round, the "
        "federation's means, spreads and metrics, and each member's votes, sizes and times",
    ),
    (
        "a coordinator that does not follow it, as long as no member helps it",
        "members open nothing but the exact sum of the listed envelopes, each once (any other gets past a check with a "
        "chance of at most 2^-96 an attempt); it can leave members out of a round, and stop everything",
    ),
    ("an outsider", "it sees ciphertexts, over TLS"),
    (
        "broken or hostile updates",
        "a candidate that was not finite, far out of the norm, or worse on the members' own rows was thrown away",
    ),
)
EXPOSED = (
    "Any one member together with the coordinator can read every update: all members hold the key.",
    "A member that left can read recorded envelopes of its time.",
    "All members of a round but one, together, know the update of that one.",
    "If all members ran on one machine (simulate, up), whoever ran it saw all rows and all keys.",
)
LIMITS = (
    "No differential privacy: the model, like any model, can leak whether a record was among the training rows.",
    "The gate bounds damage; it does not prove that anybody was honest. A small, patient bias passes.",
    "Row counts, and so the weights of the members, are each member's word.",
    "Metrics are over the members' own test rows; rows from elsewhere may be different.",
    "Approvals say who agreed that the model may be used, by keys on the members' cards. They say nothing about a "
    "purpose that these people did not have in mind.",
    "Nobody outside the project has reviewed the protocol or the code.",
)


def model_card(
    entry: Entry,
    *,
    offer: Offer,
    lineage: Sequence[Entry],
    rounds: Iterable[Mapping[str, Any]],
    plans: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any] | None,
    parameters: int | None,
    standing: Standing,
    releases: Releases,
    cards: Mapping[str, Card],
) -> dict[str, Any]:
    """Return the card of a version.

    Args:
        entry: the version.
        offer: what its run carried.
        lineage: good versions of its run up to it, oldest first.
        rounds: of its run, in the form of result.json.
        plans: different crypto parameters of its run's epochs.
        manifest, parameters: of its file; None where that is gone, as for a refused candidate.
        standing: how it stands with the approvers.
        releases: all decisions and changes.
        cards: member → card, of those who left too.
    """
    so_far = [one for one in rounds if one["number"] <= entry.number]
    own = next((one for one in so_far if one["number"] == entry.number), None)
    signers = {*entry.proof["signatures"]} | {one.decision.member for one in releases.decisions}
    gate = offer.gate
    return {
        "format": FORMAT,
        "federation": offer.federation.name,
        "version": entry.version,
        "sha256": entry.sha256,
        "created": entry.created,
        "task": offer.task.model_dump(mode="json"),
        "schema": offer.schema_digest,
        "parameters": parameters,
        "package": None if manifest is None else manifest.get("package"),
        "members": sorted({member for one in (*lineage, entry) for member in one.members}),
        "run": entry.run,
        "round": {
            "number": entry.number,
            "planned": own["round"] if own else 0,
            "of": offer.training.rounds,
            "members": list(entry.members),
            "base": entry.base,
            "promoted_before": sum(one.verdict == "promoted" for one in lineage if one.number < entry.number),
        },
        "training": offer.training.model_dump(mode="json"),
        "gate": {
            "verdict": entry.verdict,
            "code": entry.code,
            "metric": gate.metric,
            "median": entry.median,
            "max_regression": gate.max_regression,
            "warnings": dict(Counter(warning["code"] for warning in (own["warnings"] if own else ()))),
            "rounds": dict(Counter(one["status"] for one in so_far)),
        },
        "metrics": None if entry.metrics is None else dict(entry.metrics),
        "crypto": {
            "security": SECURITY,
            "parameters": [dict(plan) for plan in plans],
            "min_members": offer.federation.min_members,
            "open_quorum": offer.crypto.open_quorum,
            "protects": [{"against": who, "how": how} for who, how in PROTECTS],
            "does_not_protect": list(EXPOSED),
            "differential_privacy": None,
        },
        "limits": list(LIMITS),
        "release": _release(entry, offer, standing, releases),
        "proof": dict(entry.proof),
        "cards": [cards[name].as_dict() for name in sorted(signers & cards.keys())],
    }


def _release(entry: Entry, offer: Offer, standing: Standing, releases: Releases) -> dict[str, Any]:
    """Return how the version stands, what is missing, and what released it."""
    current = releases.current
    return {
        "status": standing.status,
        "policy": {"release": offer.gate.release, "approvals_required": offer.gate.approvals_required},
        "released": None if current is None else {"version": current.version, "sha256": current.sha256},
        "after": standing.after,
        "step": standing.step,
        "required": standing.required,
        "approvals": [one.as_dict() for one in standing.approvals],
        "missing": standing.required - len(standing.approvals) if standing.step else None,
        "by": None if standing.change is None else _change(standing.change, releases),
        "rejected": None if standing.rejection is None else standing.rejection.as_dict(),
    }


def _change(change: Change, releases: Releases) -> dict[str, Any]:
    return {
        "event": change.event,
        "index": change.index,
        "time": change.time,
        "after": change.after,
        "required": change.required,
        "automatic": not change.approvals,
        "approvals": [one.as_dict() for one in releases.behind(change)],
    }


def beside(card: Mapping[str, Any], name: str, version: Version) -> dict[str, Any]:
    """Return a card as it goes with a file that was written out.

    Raises:
        Refused: ``release.outdated``: the file is of another moment; ``release.digest``: it is another version's.
    """
    if not version.unreleased and version.sha256 != card["sha256"]:
        raise Refused("release.digest", f"expected version {card['sha256']}, got {version.sha256}")
    if version.unreleased != (card["release"]["status"] != "released"):
        raise Refused("release.outdated", "what is released has changed in this moment; try again")
    about = {"name": name, "sha256": version.sha256, "unreleased": version.unreleased}
    return {**card, "file": about}


def markdown(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown."""
    gate, crypto, own = card["gate"], card["crypto"], card["round"]
    named = "no version: refused" if card["version"] is None else f"version {card['version']}"
    parts = [
        f"# Model card: {_plain(card['federation'])}, {named}",
        "",
        f"**{_status(card['release'])}**",
        "",
        *_table(
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
                ("round", _round(own)),
                ("base", _code(own["base"]) if own["base"] else "–"),
            ],
        ),
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
        "## Crypto",
        "",
        f"Security: {crypto['security']}. No sum over fewer than {crypto['min_members']} "
        "members was opened. There is no differential privacy.",
        "",
        *(
            f"- N = {plan['degree']}, log2 q = {plan['modulus'].bit_length()}, {plan['lanes']} lanes of "
            f"{plan['lane_bits']} bits, values of {plan['value_bits']} bits, at most {plan['max_members']} members"
            for plan in crypto["parameters"]
        ),
        "",
        "Protects against",
        "",
        *(f"- {one['against']}: {one['how']}." for one in crypto["protects"]),
        "",
        "What it does not protect against:",
        "",
        *(f"- {sentence}" for sentence in crypto["does_not_protect"]),
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


def _status(release: Mapping[str, Any]) -> str:
    have = f"{len(release['approvals'])} of {release['required']} approvals"
    return {
        "released": "Released.",
        "replaced": "Was released; another version is now.",
        "rejected": "Rejected. It must not be used.",
        "promoted": f"Not released: {have if release['step'] else 'older than the released version'}.",
    }.get(release["status"], "Not released.")


def _file(exported: Mapping[str, Any]) -> str:
    mark = ", a copy marked as unreleased" if exported["unreleased"] else ""
    return f"{_code(exported['name'])}, SHA-256 {_code(exported['sha256'])}{mark}"


def _round(own: Mapping[str, Any]) -> str:
    if not own["number"]:
        return "none: the start"
    before = f"after {own['promoted_before']} promoted ones"
    return f"{own['planned']} of {own['of']} (number {own['number']}), {before}, with {len(own['members'])} members"


def _verdict(gate: Mapping[str, Any]) -> str:
    said = "No vote was taken. "
    if gate["median"] is not None:
        said = f"Median of the votes: {gate['median']:+.4f} (relative worsening of {gate['metric']}; at most "
        said += f"{gate['max_regression']:g} was allowed). "
    counts = ", ".join(f"{count} {status}" for status, count in sorted(gate["rounds"].items()))
    warned = ", ".join(f"{count} × {code}" for code, count in sorted(gate["warnings"].items()))
    return said + f"Rounds of the run so far: {counts or 'none'}. Warnings in this round: {warned or 'none'}."


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
    found = [*(by["approvals"] if by else ()), *release["approvals"], *([rejected] if rejected else [])]
    if found:
        lines += ["", *_table(("", "member", "approver", "key", "time", "reason"), map(_signed, found))]
    return lines


def _signed(one: Mapping[str, Any]) -> tuple[str, ...]:
    who = (_plain(one["member"]), _plain(one["approver"]), _code(one["key"]))
    return one["action"], *who, one["time"], _plain(one["reason"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _plain(text: str) -> str:
    """Return what a member or an approver wrote, so that it is text and nothing else to a reader of Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", "".join(c if c.isprintable() else " " for c in text))


def _code(text: str) -> str:
    return f"`{re.sub(r'[^A-Za-z0-9._:/+=-]', '?', text)}`"
