"""The catalogue of metrics: names, kinds, labels and meanings, in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "moonflower_"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: without :data:`PREFIX`.
        kind: of Prometheus.
        source: ``log``: the audit log's entries; ``registry``: rows; ``process``: this server since its start.
        help: one sentence.
        labels: their names.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    source: Literal["log", "registry", "process"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The name in Prometheus."""
        return PREFIX + self.name


CATALOGUE = (
    # rounds
    Metric("rounds_total", "counter", "log", "Rounds that ended, by outcome and code.", ("status", "code")),
    Metric("round_seconds", "histogram", "log", "Time from a round's begin to its end, by outcome.", ("status",)),
    Metric(
        "round_phase_seconds",
        "histogram",
        "log",
        "Time of a phase: collect (train, seal, send, add), open (answer, open), judge (up to the verdict).",
        ("phase",),
    ),
    Metric("rounds_refused_in_a_row", "gauge", "log", "Rounds of the newest run refused in a row."),
    Metric("rounds_failed_in_a_row", "gauge", "log", "Rounds of the newest run failed in a row."),
    Metric("round_promoted_timestamp_seconds", "gauge", "log", "When a round was promoted last; 0 for never."),
    Metric("round_number", "gauge", "registry", "Number of the newest run's newest round that ended."),
    Metric("round_members", "gauge", "registry", "Members in that round's sum: all members, or 0."),
    Metric("round_votes", "gauge", "registry", "How many of them voted what on that round's candidate.", ("vote",)),
    # runs
    Metric("runs_open", "gauge", "registry", "Runs that are not over.", ("status",)),
    Metric("runs_ended_total", "counter", "log", "Runs that ended, by status.", ("status",)),
    Metric("run_began_timestamp_seconds", "gauge", "log", "When a run began last; 0 for never."),
    Metric("run_info", "gauge", "registry", "The newest run: 1.", ("run", "status", "code")),
    Metric("run_rounds", "gauge", "registry", "Rounds of the newest run: planned, and done so far.", ("part",)),
    Metric("run_step_seconds", "gauge", "registry", "Median time of a step in the newest run's rounds.", ("step",)),
    Metric(
        "run_message_bytes",
        "gauge",
        "registry",
        "Median size of what a member sent and received in those rounds.",
        ("way",),
    ),
    # members
    Metric("members", "gauge", "registry", "Members on the roster.", ("status",)),
    Metric("member_online", "gauge", "process", "1 if the member's node is connected, else 0.", ("member",)),
    Metric(
        "waiting_seconds",
        "gauge",
        "registry",
        "How long the run has waited for a member, once that is long; no sample where it waits for nobody.",
        ("member", "step"),
    ),
    Metric("envelopes_accepted_total", "counter", "log", "Envelopes that joined a sum.", ("member", "purpose")),
    Metric(
        "envelopes_refused_total",
        "counter",
        "log",
        "Envelopes that were refused, or that a member refused to send.",
        ("member", "purpose", "code"),
    ),
    Metric("envelope_bytes_total", "counter", "log", "Bytes of the accepted envelopes.", ("purpose",)),
    Metric("openings_refused_total", "counter", "log", "Times a member did not answer or open.", ("member", "code")),
    Metric(
        "members_refused_total", "counter", "log", "Times a member did not enrol or take a seat.", ("member", "code")
    ),
    # models and keys
    Metric("model_versions", "gauge", "registry", "Versions that were promoted, and starts of runs."),
    Metric("model_released_version", "gauge", "log", "Number of the released version."),
    Metric("circle_members", "gauge", "log", "Members of the circle, when it took its seats last."),
    # log
    Metric("log_entries", "gauge", "log", "Entries of the audit log."),
    Metric("log_events_total", "counter", "log", "Entries of the audit log by event.", ("event",)),
    Metric("log_intact", "gauge", "log", "1 if the log's key signed what is stored as its newest state, else 0."),
    Metric("log_checkpoint_timestamp_seconds", "gauge", "log", "When the newest checkpoint was signed."),
    Metric("log_unwitnessed_entries", "gauge", "registry", "Newest entries that no member has countersigned."),
    Metric(
        "log_unwitnessed_timestamp_seconds",
        "gauge",
        "registry",
        "Time of the oldest entry that no member has countersigned.",
    ),
    Metric("witness_entries", "gauge", "registry", "Entries of the log that the member countersigned.", ("member",)),
    Metric(
        "witness_timestamp_seconds",
        "gauge",
        "registry",
        "When the member countersigned last, by its own clock.",
        ("member",),
    ),
    Metric(
        "warnings_total", "counter", "log", "Warnings: something to look at that stopped nothing.", ("what", "code")
    ),
    # door and machine
    Metric(
        "token_refusals_total", "counter", "process", "Requests refused for their token since the start.", ("code",)
    ),
    Metric(
        "token_refusals_logged_total",
        "counter",
        "log",
        "Requests refused for their token, of any time, that the log tells of.",
        ("code",),
    ),
    Metric("connections_open", "gauge", "process", "Open connections of the public listener."),
    Metric("disk_free_bytes", "gauge", "process", "Free space where the state folder is."),
    Metric("disk_size_bytes", "gauge", "process", "Size of the disk where the state folder is."),
    Metric("database_bytes", "gauge", "process", "Size of moonflower.db and its write-ahead log."),
    Metric("build_info", "gauge", "process", "This server: 1.", ("version",)),
)
