"""Logs what goes into the audit log, one line each in words, for people who watch the server."""

from __future__ import annotations

import logging
from typing import Any

from ...protocol.words import STEPS, WHY

logger = logging.getLogger(__name__)
SAID = {
    "member_added": "added to the roster",
    "member_revoked": "revoked",
    "circle_proposed": "a circle waits for signatures: moonflower circle show",
    "circle_signed": "signed a circle",
    "circle_began": "all members signed: a circle begins",
    "farewell": "leaves its circle",
    "card_taken": "an operator entered a new card; whose approvals count may have changed",
    "refused_member": "refused",
    "run_began": "began",
    "run_resumed": "continues after its process died",
    "run_ended": "ended",
    "seats_taken": "all members take part",
    "answer_refused": "answer refused",
    "waited_for": "is waited for",
    "came_back": "is back, and has answered",
    "envelope_refused": "envelope refused",
    "opening_refused": "opening refused",
    "promoted": "promoted",
    "kept": "kept as the next base, no better than the best version",
    "refused": "refused by the gate; the last good model stays",
    "failed": "failed; the last good model stays",
    "approved": "an approver signed",
    "rejected": "an approver rejected a model version",
    "released": "a model version was released",
    "rolled_back": "an earlier model version is released again",
    "warned": "warning",
}
WARNED = {
    "seats": "seats could not be taken",
    "report": "the report could not be made",
    "witness": "holds another history of this log; was the state restored from an older copy?",
}
BAD = frozenset(
    {
        "refused_member",
        "envelope_refused",
        "answer_refused",
        "opening_refused",
        "refused",
        "failed",
        "warned",
        "waited_for",
    }
)


def sentence(entry: dict[str, Any]) -> str:
    """Return an entry of the log in words, without what it is about; "" for an entry that people need not see.

    >>> sentence({"event": "envelope_refused", "run": "r", "number": 3, "member": "a", "code": "update.failed"})
    'envelope refused'
    """
    words = SAID.get(entry["event"])
    if words is None:
        return ""
    details = entry.get("details", {})
    what = details.get("what", "") if entry["event"] == "warned" else ""
    words = WARNED.get(what, words)
    if entry["event"] == "waited_for":
        words += f" to {STEPS.get(details['step'], details['step'])}: {WHY.get(details['why'], details['why'])}"
    why = ", ".join(word for word in (details.get("status"), "" if what in WARNED else what) if word)
    return words + (f" ({why})" if why else "")


def tell(entry: dict[str, Any]) -> None:
    """Log an entry, if it has words."""
    if words := sentence(entry):
        level = logging.WARNING if entry["event"] in BAD else logging.INFO
        named = {name: entry[name] for name in ("run", "member", "code") if entry.get(name)}
        logger.log(level, "%s", words, extra={**named, "round": entry.get("number", 0), "entry": entry["event"]})
