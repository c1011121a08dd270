"""The model card of a version: its origin, who took part, what is protected against whom, and who released it.

It is a pure function of the records, as JSON-able values and as Markdown. It leaves the federation with the model, so
it holds no row counts and no member's own numbers; of votes it holds only the words. It also holds everything that
checks the release without trusting the coordinator that wrote it: the openers' signatures, the approvals, and the cards
of those who signed (``protocol/released.py``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...configs.settings import Offer
from ...crypto.identity import Card
from ...errors import Refused
from ...protocol.model_version import Version
from ..records.decisions import Change, Releases
from ..records.models import Entry
from .board import Standing

FORMAT = 1
SECURITY = (
    "128 bits, classical, on the widths that remain once the sums of keys and errors are known; the lattice "
    "estimator's lowest figure over the limits of q is 137.5 bits (docs/protocol.md)"
)
PROTECTS = (
    (
        "a coordinator that follows the protocol, however curious",
        "it sees no member's update and is told no member's row count. It learns the mean update of each round, the "
        "federation's means, spreads and metrics, and each member's votes, sizes and times",
    ),
    (
        "a coordinator that does not follow it, as long as no member helps it",
        "nobody holds a key that opens one member's update: a sum is over everybody in the circle, and only the "
        "answers of all of them together open it (experimental until somebody outside the project has reviewed it)",
    ),
    (
        "a coordinator together with all members but two",
        "they learn the sum of the last two members' updates, and no more (experimental until somebody outside the "
        "project has reviewed it)",
    ),
    ("an outsider", "it sees ciphertexts, over TLS"),
    (
        "broken or hostile updates",
        "a candidate that was not finite, was too long a step, or that most members found worse on their own rows was "
        "thrown away; one that most did not find better did not become a version",
    ),
)
EXPOSED = (
    "All members but one, together, know the update of that one.",
    "Every opened sum is known to all members, and every version to the coordinator.",
    "A member that is away or answers junk holds everybody up, and so can the coordinator. Who sent junk is not named.",
    "What only one member changed between two sums is that member's.",
    "All members signed the settings. A run chose its seed and where it started: many seeds over the same rows can "
    "tell the one record in a short last batch.",
    "Recorded traffic opens to whoever breaks X25519.",
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
    plan: Mapping[str, Any] | None,
    manifest: Mapping[str, Any] | None,
    parameters: int | None,
    standing: Standing,
    releases: Releases,
    cards: Mapping[str, Card],
    origins: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the card of a version.

    Args:
        entry: the version.
        offer: the offer of its run.
        lineage: the good versions of its run up to it, oldest first.
        rounds: of its run, in the form of result.json.
        plan: crypto parameters of its run's sums; None if unknown.
        manifest, parameters: of its file; None if that is gone, as for a candidate that was not promoted.
        standing: its status with the approvers.
        releases: all decisions and changes.
        cards: member → card, including members that left.
        origins: the version from which its run started, the version from which the run that made that one started, and
            so on: ``sha256``, and whether it was ``imported``; empty if the run started at version 0.
    """
    so_far = [outcome for outcome in rounds if outcome["number"] <= entry.number]
    own = next((outcome for outcome in so_far if outcome["number"] == entry.number), None)
    signers = {*entry.proof["signatures"]} | {taken.decision.member for taken in releases.decisions}
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
        "members": sorted({member for version in (*lineage, entry) for member in version.members}),
        "run": entry.run,
        "origins": [dict(origin) for origin in origins],
        "round": _round(entry, offer, lineage, own),
        "training": offer.training.model_dump(mode="json"),
        "gate": _gate(entry, offer, so_far, own),
        "metrics": None if entry.metrics is None else dict(entry.metrics),
        "crypto": _crypto(offer, plan),
        "limits": list(LIMITS),
        "release": _release(entry, offer, standing, releases),
        "proof": dict(entry.proof),
        "cards": [cards[name].as_dict() for name in sorted(signers & cards.keys())],
    }


def _crypto(offer: Offer, plan: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "security": SECURITY,
        "parameters": None if plan is None else dict(plan),
        "min_members": offer.federation.min_members,
        "protects": [{"against": who, "how": how} for who, how in PROTECTS],
        "does_not_protect": list(EXPOSED),
        "differential_privacy": None,
    }


def _round(entry: Entry, offer: Offer, lineage: Sequence[Entry], own: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "number": entry.number,
        "planned": own["round"] if own else 0,
        "of": offer.training.rounds,
        "members": list(entry.members),
        "base": entry.base,
        "promoted_before": sum(version.verdict == "promoted" for version in lineage if version.number < entry.number),
    }


def _gate(
    entry: Entry, offer: Offer, so_far: Sequence[Mapping[str, Any]], own: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "verdict": entry.verdict,
        "code": entry.code,
        "metric": offer.gate.metric,
        "votes": dict(entry.votes),
        "min_gain": offer.gate.min_gain,
        "max_regression": offer.gate.max_regression,
        "warnings": dict(Counter(warning["code"] for warning in (own["warnings"] if own else ()))),
        "rounds": dict(Counter(outcome["status"] for outcome in so_far)),
    }


def _release(entry: Entry, offer: Offer, standing: Standing, releases: Releases) -> dict[str, Any]:
    """Return the version's status, the missing approvals, and what released it."""
    current = releases.current
    return {
        "status": standing.status,
        "policy": {"release": offer.gate.release, "approvals_required": offer.gate.approvals_required},
        "released": None if current is None else {"version": current.version, "sha256": current.sha256},
        "after": standing.after,
        "step": standing.step,
        "required": standing.required,
        "approvals": [approval.as_dict() for approval in standing.approvals],
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
        "approvals": [approval.as_dict() for approval in releases.behind(change)],
    }


def beside(
    card: Mapping[str, Any], name: str, version: Version, other: tuple[str, bytes] | None = None
) -> dict[str, Any]:
    """Return the card for an exported file.

    Args:
        card: of the version.
        name: of the file.
        version: what was exported.
        other: format and content of the file, where it is not the version's own.

    Raises:
        Refused: ``release.outdated``: the release changed in between; ``release.digest``: the file is another version.
    """
    if not version.unreleased and version.sha256 != card["sha256"]:
        raise Refused("release.digest", f"expected version {card['sha256']}, got {version.sha256}")
    if version.unreleased != (card["release"]["status"] != "released"):
        raise Refused("release.outdated", "the released version changed just now; try again")
    about = {"name": name, "sha256": version.sha256, "unreleased": version.unreleased}
    if other is not None:
        kind, data = other
        about |= {"sha256": hashlib.sha256(data).hexdigest(), "format": kind}
    return {**card, "file": about}
