"""The log's entries about one sum, with their Merkle paths: the content of a round certificate, unchecked.

This module is pure: it takes the log's records and touches no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...canonical import parse_stored
from ...crypto import merkle
from ...errors import AuditError, InputError, Refused
from ...protocol.context import context_digest
from ...protocol.purposes import UPDATE
from ..records.source import Record

STEPS = (
    "circle_proposed",
    "circle_signed",
    "run_began",
    "enrolled",
    "seats_taken",
    "set_closed",
    "opened",
    "judged",
    "promoted",
    "kept",
    "refused",
    "failed",
)
"""Events that a certificate relies on, in the order in which a round logs them. Only one of the last four occurs."""
OF_CIRCLE, OF_RUN, ENDS = STEPS[:2], STEPS[2:5], STEPS[8:]
ODD = (LookupError, TypeError, ValueError, AttributeError, RecursionError)  # raised when JSON has another form


@dataclass(frozen=True)
class LogEntry:
    """One entry of the log: its index, its bytes, and their content."""

    index: int
    data: bytes
    value: Mapping[str, Any]

    @property
    def event(self) -> str:
        """What happened."""
        return str(self.value["event"])

    @property
    def details(self) -> Mapping[str, Any]:
        """The details of the event."""
        details: Mapping[str, Any] = self.value["details"]
        return details


def gather(
    records: Iterable[Record],
    number: int,
    purpose: str,
    run: str = "",
    last: Literal["set_closed", "opened"] = "opened",
) -> dict[str, Any]:
    """Return the entries about a sum with their Merkle paths, unchecked; see ``certificate.build_certificate``.

    ``last`` is the step that the sum must have reached; ``set_closed`` is enough to add it up again. If a sum was
    closed or opened more than once, after a restart, the last time counts.
    """
    tree, note, entries = merkle.Tree(), "", list[LogEntry]()
    for at, record in enumerate(records):
        try:
            value = parse_stored(record.entry)
            if record.fault or not isinstance(value, dict):
                raise ValueError("not an entry")
        except ValueError:
            raise AuditError(record.fault or "audit.entry", f"entry {at} cannot be read", first_bad=at) from None
        tree.append(merkle.leaf_hash(record.entry))
        note = record.note
        event = value.get("event")
        if event in OF_CIRCLE or event in OF_RUN or (event in STEPS and value.get("number") == number):
            entries.append(LogEntry(at, record.entry, value))
    try:
        chosen = _choose(entries, number, purpose, run, last)
        growth = tree.consistency(_witnessed(named(chosen, "set_closed")))
    except ODD:
        raise bad(f"the log's entries of round {number} have an unexpected form; another version wrote them") from None
    return {
        "entries": [
            {
                "index": entry.index,
                "entry": entry.data.decode(),
                "proof": [node.hex() for node in tree.inclusion(entry.index)],
            }
            for entry in chosen
        ],
        "growth": [node.hex() for node in growth],
        "checkpoint": note,
    }


def _choose(entries: Sequence[LogEntry], number: int, purpose: str, run: str, last: str) -> list[LogEntry]:
    sums = [
        entry
        for entry in entries
        if entry.event == last and run in ("", entry.value["run"]) and purpose_of(entry) == purpose
    ]
    runs = list(dict.fromkeys(str(entry.value["run"]) for entry in sums))
    if len(runs) != 1:
        done = {"set_closed": "closed", "opened": "opened"}[last]
        where = f" of run {run!r}" if run else ""
        if runs:
            raise InputError(
                "config.round", f"{len(runs)} runs {done} {purpose} of round {number}; choose one: {', '.join(runs)}"
            )
        what = f"no sum was {done} as {purpose} of round {number}{where}"
        raise InputError("config.round", f"{what}; see moonflower audit show")
    of_run = [entry for entry in entries if entry.value.get("run") == runs[0]]
    opened = [sums[-1]] if last == "opened" else []
    if opened:
        wanted = parse_stored(opened[0].details["statement"].encode())["context"]
        of_run = [entry for entry in of_run if entry.event != "set_closed" or _context_of(entry) == wanted]
    closed = [entry for entry in of_run if entry.event == "set_closed" and purpose_of(entry) == purpose][-1]
    began = [entry for entry in of_run if entry.event == "seats_taken" and entry.index < _witnessed(closed)][-1]
    cards = {
        entry.value["member"]: entry for entry in of_run if entry.event == "enrolled" and entry.index < began.index
    }
    ended = [
        entry
        for entry in of_run
        if opened and purpose == UPDATE.name and entry.event in ("judged", *ENDS) and entry.index > opened[0].index
    ]
    roster = [cards[member] for member in began.details["members"]]
    wanted = closed.details["context"]["circle"]
    circle = [entry for entry in entries if entry.event in OF_CIRCLE and entry.details["circle"] == wanted]
    return sorted(
        [*circle, named(of_run, "run_began"), *roster, began, closed, *opened, *ended], key=lambda entry: entry.index
    )


def _witnessed(closed: LogEntry) -> int:
    """Return how much of the log a sum is bound to. Members may have taken seats again later, after a restart."""
    return int(closed.details["context"]["checkpoint"].split(" ", 1)[0])


def named(entries: Iterable[LogEntry], event: str) -> LogEntry:
    """Return the one entry of an event; see :func:`only`."""
    return only([entry for entry in entries if entry.event == event], f"one entry {event!r}")


def only(entries: Sequence[LogEntry], what: str) -> LogEntry:
    """Return the only entry that was found.

    Raises:
        Refused: ``audit.certificate``: no entry, or several.
    """
    if len(entries) != 1:
        raise bad(f"expected {what}, got {len(entries)}")
    return entries[0]


def purpose_of(entry: LogEntry) -> Any:
    """Return the purpose of the sum that an entry is about."""
    return entry.details["purpose"]


def _context_of(entry: LogEntry) -> str:
    return context_digest(entry.details["context"])


def bad(reason: str) -> Refused:
    """Return the refusal of an invalid certificate."""
    return Refused("audit.certificate", f"not a valid certificate: {reason}")
