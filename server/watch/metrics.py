"""The server's metrics for Prometheus: the present values of the catalogue's metrics.

Rules:
1. Counters come from the audit log alone (``figures.py``), which is read from where the last scrape stopped. Only
   ``token_refusals_total`` is the process's own, because the log has one entry a minute in a flood.
2. Gauges come from the log, from the newest rows of the registry, or from the process. An unknown value has no sample.
3. No secret, key, pin, digest or address; no member's vote; nothing that counts rows. A label's value is one of a few
   words, a member of the roster, or the newest run. ``docs/metrics.md`` lists all of it; a test compares.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from ...configs.settings import Offer, parse
from ...errors import AuditError
from ...oauth.refusal import CODES
from ...version import __version__
from ..records import countersigned, history
from ..records import members as roster
from ..records.database import FILE_NAME
from ..records.state import State
from ..records.waiting import waited_for
from .catalogue import CATALOGUE, Metric
from .figures import BUCKETS_S, ENDS, PHASES, Durations, Figures, Labels
from .follow import Follower

FAILED = "update.failed"
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Samples = Mapping[Labels, float]
Values = dict[str, Samples]


@dataclass(frozen=True)
class Process:
    """What only the running server knows.

    Attributes:
        online: returns the pins of the nodes that are connected.
        connections: returns how many connections the public listener has open.
        refusals: returns how many requests were refused for their token since the start, by code.
    """

    online: Callable[[], frozenset[str]]
    connections: Callable[[], int]
    refusals: Callable[[], Mapping[str, int]]


class Metrics(Collector):
    """Collects the metrics of :data:`CATALOGUE`; thread-safe.

    Args:
        state: the coordinator's records.
        process: the server; None if it does not run.
        follower: of the log; None for a new one.
    """

    def __init__(self, state: State, process: Process | None = None, follower: Follower | None = None) -> None:
        self._state, self._process, self._follower = state, process, follower or Follower(state.log)
        self._figures = Figures()
        self._follower.join(self._figures.take)
        self._turn = threading.Lock()

    def collect(self) -> Iterator[Family]:
        """Yield every metric that has samples now."""
        with self._turn:
            self._follower.read_on()
            values, durations = self._values(), self._durations()
            families: list[Family] = []
            for metric in CATALOGUE:
                if metric.kind == "histogram":
                    families.append(_histogram(metric, durations[metric.name]))
                elif samples := values.get(metric.name):
                    families.append(_family(metric, samples))
        yield from families

    def _durations(self) -> dict[str, dict[str, Durations]]:
        figures = self._figures
        return {
            "round_seconds": {status: figures.round_s[status] for status in ENDS},
            "round_phase_seconds": {phase: figures.phase_s[phase] for phase in PHASES.values()},
        }

    def _values(self) -> Values:
        with self._state.store.read() as db:
            everybody = roster.members(db)
            pins = {member.name: member.pin for member in everybody if not member.revoked}
            signed = {name: signature for name, signature in countersigned.witnesses(db).items() if name in pins}
            values = self._of_runs(db)
            now_s = time.time()
            values["waiting_seconds"] = {
                (member.member, member.step): max(0.0, now_s - datetime.fromisoformat(member.since).timestamp())
                for member in waited_for(db)
                if member.member in pins
            }
            values["model_versions"] = {(): self._state.models.next_version(db)}
        values["members"] = {("active",): len(pins), ("revoked",): len(everybody) - len(pins)}
        values |= self._of_log()
        values |= self._of_members(list(pins))
        values |= self._of_witnesses(signed)
        values |= self._of_machine()
        if self._process is not None:
            online, refused = self._process.online(), self._process.refusals()
            values["member_online"] = {(name,): pin in online for name, pin in pins.items()}
            values["token_refusals_total"] = _named(dict.fromkeys(CODES, 0) | dict(refused))
            values["connections_open"] = {(): self._process.connections()}
        return values

    def _of_runs(self, db: Connection) -> Values:
        """Return what the rows say about all runs, the newest run, and its newest round that ended."""
        counts = history.statuses(db)
        values: Values = {"runs_open": {(status,): counts.get(status, 0) for status in ("queued", "running")}}
        run = history.newest_run(db)
        if run is None:
            return values
        offer, outcome = parse(Offer, run.offer, where="the run's offer"), history.newest_ended(db, run.run)
        known: dict[str, dict[Labels, float | None]] = {
            "run_info": {(run.run, run.status, run.code): 1},
            "run_rounds": {("planned",): offer.training.rounds, ("done",): outcome.round if outcome else 0},
            "run_step_seconds": {(step,): run.summary.get(f"{step}_s") for step in ("seal", "add", "answer", "open")},
            "run_message_bytes": {(way,): run.summary.get(f"{way}_bytes") for way in ("upload", "download")},
        }
        if outcome is not None:
            known["round_number"] = {(): outcome.number}
            known["round_members"] = {(): len(outcome.members)}
            known["round_votes"] = {(word,): count for word, count in outcome.votes.items()}
        for name, samples in known.items():
            values[name] = {labels: value for labels, value in samples.items() if value is not None}
        return values

    def _of_log(self) -> Values:
        figures = self._figures
        values: Values = {
            "rounds_total": figures.rounds,
            "rounds_refused_in_a_row": {(): figures.refused_in_a_row},
            "rounds_failed_in_a_row": {(): figures.failed_in_a_row},
            "round_promoted_timestamp_seconds": {(): figures.promoted_s},
            "runs_ended_total": _named(figures.runs),
            "run_began_timestamp_seconds": {(): figures.began_s},
            "envelope_bytes_total": {("update",): 0, **_named(figures.envelope_bytes)},
            "log_entries": {(): figures.size},
            "log_events_total": _named(figures.events),
            "log_intact": {(): self._is_intact()},
            "warnings_total": figures.warnings,
            "token_refusals_logged_total": _named(dict.fromkeys(CODES, 0) | figures.turned_away),
        }
        if figures.size:
            values["log_checkpoint_timestamp_seconds"] = {(): figures.newest_s}
        if figures.circle:
            values["circle_members"] = {(): figures.circle}
        if figures.released is not None:
            values["model_released_version"] = {(): figures.released}
        return values

    def _of_members(self, names: Sequence[str]) -> Values:
        """Return what the log says of each member; the usual counters of those that may take part are there at once."""
        figures = self._figures
        return {
            "envelopes_accepted_total": {**{(name, "update"): 0 for name in names}, **figures.accepted},
            "envelopes_refused_total": {**{(name, "update", FAILED): 0 for name in names}, **figures.left_out},
            "openings_refused_total": {**{(name, FAILED): 0 for name in names}, **figures.unopened},
            "members_refused_total": {**{(name, FAILED): 0 for name in names}, **figures.unseated},
        }

    def _of_witnesses(self, signed: Mapping[str, countersigned.Countersigned]) -> Values:
        """Return how far members have countersigned the log."""
        seen = max((checkpoint.size for checkpoint in signed.values()), default=0)
        values: Values = {
            "witness_entries": {(name,): checkpoint.size for name, checkpoint in signed.items()},
            "witness_timestamp_seconds": {(name,): checkpoint.time_s for name, checkpoint in signed.items()},
            "log_unwitnessed_entries": {(): max(0, self._figures.size - seen)},
        }
        if seen < self._figures.size:
            oldest = datetime.fromisoformat(self._state.log.after(seen - 1, 1)[0]["time"])
            values["log_unwitnessed_timestamp_seconds"] = {(): oldest.timestamp()}
        return values

    def _of_machine(self) -> Values:
        folder = self._state.folder
        disk = shutil.disk_usage(folder)
        files = [folder / f"{FILE_NAME}{end}" for end in ("", "-wal")]
        return {
            "disk_free_bytes": {(): disk.free},
            "disk_size_bytes": {(): disk.total},
            "database_bytes": {(): sum(file.stat().st_size for file in files if file.is_file())},
            "build_info": {(__version__,): 1},
        }

    def _is_intact(self) -> bool:
        try:
            self._state.log.checkpoint()
        except AuditError:
            return False
        return True


def registry(metrics: Metrics) -> CollectorRegistry:
    """Return what a scrape shows: our metrics, and memory, CPU time and open files of this process."""
    collectors = CollectorRegistry()
    collectors.register(metrics)
    ProcessCollector(registry=collectors)
    return collectors


def _named(counts: Mapping[str, float]) -> Samples:
    return {(name,): count for name, count in counts.items()}


def _family(metric: Metric, samples: Samples) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.full_name, metric.help, labels=metric.labels)
    for labels, value in sorted(samples.items()):
        family.add_metric(labels, float(value))
    return family


def _histogram(metric: Metric, samples: Mapping[str, Durations]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for label, durations in samples.items():
        buckets, so_far = [], 0
        for bound, count in zip((*BUCKETS_S, math.inf), durations.counts, strict=True):
            so_far += count
            buckets.append((str(bound) if math.isfinite(bound) else "+Inf", float(so_far)))
        family.add_metric([label], buckets, durations.total_s)
    return family
