"""Counts over the audit log: everything that the metrics take from it.

Rules:
1. Each entry is taken once, in order. The same log always gives the same figures. So a counter cannot disagree with the
   log, and a process that was started again continues counting where the last one was.
2. The number of names that a stranger or a member can choose is bounded. Members are those of the roster. Of the codes
   that a member gives, the first :data:`MAX_CODES` keep their names and all others become :data:`OTHER`.
3. Figures are counts of events and their times. They hold no vote, no digest and no metric of a model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..records.history import INTERRUPTED
from ..records.log import EVENTS

Labels = tuple[str, ...]
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
MAX_CODES = 50  # our own members can give about forty
OTHER = "other"
PHASES = {"set_closed": "collect", "opened": "open", "judged": "judge"}
"""Event → the phase of a round that it ends. A phase begins at the event before, or at the round's begin."""
KNOWN_ROUNDS = (
    ("promoted", ""),
    ("kept", ""),
    ("refused", "gate.step"),
    ("refused", "gate.worse"),
    ("failed", "round.too_few"),
    ("failed", "open.key"),
    ("failed", "open.disagree"),
    ("failed", "open.list"),
    ("failed", "open.tau"),
    ("failed", "update.failed"),
    ("failed", "gate.forked"),
    ("failed", INTERRUPTED),
    ("failed", "run.crashed"),
    ("failed", "run.stopped"),
)
KNOWN_WARNINGS = (
    ("witness", "audit.fork"),
    ("model", "data.model"),
    ("round", "gate.worse"),
    ("round", "update.coins"),
    ("retention", ""),
)
"""What is shown as 0 before it happens: Prometheus does not see a counter that appears with 1 as growth."""
ENDS = ("promoted", "kept", "refused", "failed")
RUN_ENDS = ("done", "failed", "policy", "stopped")


@dataclass
class Durations:
    """A histogram.

    Attributes:
        counts: how many were at most as long as each of :data:`BUCKETS_S` and longer than the one before; then longer.
        total_s: all seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count something that took this long. A negative time, after a clock was set back, counts as 0."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += max(0.0, seconds)


def _known() -> set[str]:
    return {code for _, code in (*KNOWN_ROUNDS, *KNOWN_WARNINGS)}


@dataclass
class _Course:
    """A round in progress: when it began, and when its present phase did."""

    began_s: float
    since_s: float


@dataclass
class Figures:
    """The figures of a log so far.

    Attributes:
        size: entries taken.
        newest_s: time of the last one, and so of the newest checkpoint; as all times here in seconds since 1970, or 0.
        events: by event.
        rounds: that ended, by (status, code).
        round_s, phase_s: how long rounds took by status, and their phases.
        runs: that ended, by status.
        accepted: envelopes by (member, purpose); ``left_out``: by (member, purpose, code).
        envelope_bytes: of the accepted ones, by purpose.
        unopened: refused answers and openings, by (member, code).
        unseated: members that did not enrol or take a seat, by (member, code).
        turned_away: requests that the gateway refused and the log tells of, by code.
        warnings: by (what, code).
        refused_in_a_row, failed_in_a_row: rounds of the newest run, as ``Patience`` counts them.
        promoted_s, began_s: when a round was promoted last, and when a run began.
        circle: members of the circle, when it took its seats last.
        released: number of the released version, or None.
    """

    size: int = 0
    newest_s: float = 0.0
    events: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(EVENTS, 0)))
    rounds: Counter[Labels] = field(default_factory=lambda: Counter(dict.fromkeys(KNOWN_ROUNDS, 0)))
    round_s: defaultdict[str, Durations] = field(default_factory=lambda: defaultdict(Durations))
    phase_s: defaultdict[str, Durations] = field(default_factory=lambda: defaultdict(Durations))
    runs: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(RUN_ENDS, 0)))
    accepted: Counter[Labels] = field(default_factory=Counter)
    left_out: Counter[Labels] = field(default_factory=Counter)
    envelope_bytes: Counter[str] = field(default_factory=Counter)
    unopened: Counter[Labels] = field(default_factory=Counter)
    unseated: Counter[Labels] = field(default_factory=Counter)
    turned_away: Counter[str] = field(default_factory=Counter)
    warnings: Counter[Labels] = field(default_factory=lambda: Counter(dict.fromkeys(KNOWN_WARNINGS, 0)))
    refused_in_a_row: int = 0
    failed_in_a_row: int = 0
    promoted_s: float = 0.0
    began_s: float = 0.0
    circle: int = 0
    released: int | None = None
    _courses: dict[int, _Course] = field(default_factory=dict)
    _codes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set, {"": _known()}))

    def take(self, entry: Mapping[str, Any]) -> None:
        """Count the next entry of the log.

        Raises:
            ValueError: it is not the next one.
        """
        if entry["index"] != self.size:
            raise ValueError(f"expected entry {self.size}, got entry {entry['index']}")
        event, now_s = entry["event"], datetime.fromisoformat(entry["time"]).timestamp()
        code, member, details = entry.get("code", ""), entry.get("member", ""), entry.get("details", {})
        self.size, self.newest_s = self.size + 1, now_s
        self.events[event] += 1
        match event:
            case "round_began":
                self._courses[entry["number"]] = _Course(now_s, now_s)
            case "set_closed" | "opened" | "judged":
                self._went_on(entry, now_s)
            case "promoted" | "kept" | "refused" | "failed":
                self._ended(entry, code, now_s)
            case "envelope_accepted":
                self.accepted[member, details["purpose"]] += 1
                self.envelope_bytes[details["purpose"]] += details["bytes"]
            case "envelope_refused":
                self.left_out[member, details["purpose"], self._bounded(member, code)] += 1
            case "opening_refused" | "answer_refused":
                self.unopened[member, self._bounded(member, code)] += 1
            case "refused_member" if "run" in entry:
                self.unseated[member, self._bounded(member, code)] += 1
            case "refused_member":  # one entry a minute for each code and member stands for the others, too
                self.turned_away[code] += 1 + details.get("more", 0)
            case "warned":
                self.warnings[details.get("what", ""), self._bounded("", code)] += 1
                self.failed_in_a_row += details.get("what") == "seats"
            case "run_began":
                self.began_s, self.refused_in_a_row, self.failed_in_a_row = now_s, 0, 0
            case "run_ended":
                self.runs[details["status"]] += 1
            case "seats_taken":
                self.circle = len(details["members"])
            case "released" | "rolled_back":
                self.released = details["version"]

    def _went_on(self, entry: Mapping[str, Any], now_s: float) -> None:
        """Measure a phase of a round. Statistics and reports have the same events, but no round in progress."""
        course = self._courses.get(entry["number"])
        if course is not None:
            self.phase_s[PHASES[entry["event"]]].add(now_s - course.since_s)
            course.since_s = now_s
        for _, code in entry["details"].get("warnings", ()):
            self.warnings["round", code] += 1

    def _ended(self, entry: Mapping[str, Any], code: str, now_s: float) -> None:
        """Count a round's end."""
        status = entry["event"]
        self.rounds[status, self._bounded("", code)] += 1
        course = self._courses.pop(entry["number"], None)
        if course is not None:
            self.round_s[status].add(now_s - course.began_s)
        match status:
            case "promoted":
                self.promoted_s, self.refused_in_a_row, self.failed_in_a_row = now_s, 0, 0
            case "kept":
                self.refused_in_a_row = self.failed_in_a_row = 0
            case "refused":
                self.refused_in_a_row, self.failed_in_a_row = self.refused_in_a_row + 1, 0
            case _ if code != INTERRUPTED:
                self.failed_in_a_row += 1

    def _bounded(self, member: str, code: str) -> str:
        """Return a code, or :data:`OTHER` if the member gave too many different ones (rule 2)."""
        known = self._codes[member]
        if code not in known and len(known) >= MAX_CODES:
            return OTHER
        known.add(code)
        return code
