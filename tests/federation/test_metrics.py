"""The metrics against the log and the rows, and who may read them."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower import simulate
from moonflower.oauth.refusal import CODES
from moonflower.protocol.gate import VOTES
from moonflower.protocol.messages import Enrolled, Refusal
from moonflower.protocol.records import kind_of, to_records
from moonflower.server.records import history
from moonflower.server.records import members as roster
from moonflower.server.records.log import EVENTS
from moonflower.server.records.members import RosterMember
from moonflower.server.records.state import State
from moonflower.server.watch.catalogue import CATALOGUE, PREFIX
from moonflower.server.watch.figures import BUCKETS_S, ENDS, KNOWN_ROUNDS, MAX_CODES, OTHER, Durations, Figures
from moonflower.server.watch.metrics import Metrics, Process, registry
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import ROOT
from support.federation import THREE, Federation, without_update
from support.federation import cast as heart_cast
from support.gateway import HERE, PULL, Door, door, run

__all__ = ["door"]  # a fixture
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Return what a scrape says: (name, labels) → value."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scraped(metrics: Metrics) -> Samples:
    made = CollectorRegistry()
    made.register(metrics)
    return samples(generate_latest(made).decode())


def of(found: Samples, name: str) -> dict[Any, float]:
    """Return a metric's samples by the values of its labels, in the catalogue's order; one without labels by ()."""
    (metric,) = [one for one in CATALOGUE if one.name == name]
    mine = {labels: value for (full, labels), value in found.items() if full == metric.full_name}
    return {tuple(dict(labels)[label] for label in metric.labels): value for labels, value in mine.items()}


def grown(counts: Mapping[Any, float]) -> dict[Any, float]:
    """Return the counters that are not 0."""
    return {labels: value for labels, value in counts.items() if value}


# A log made by hand


class Script:
    """Entries as the server writes them, with times of our own."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.now_s = 1_800_000_000.0

    def add(self, event: str, *, after_s: float = 0.0, details: Any = None, **about: Any) -> None:
        self.now_s += after_s
        said = datetime.fromtimestamp(self.now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = {"index": len(self.entries), "time": said, "event": event, **about}
        self.entries.append(entry | ({"details": details} if details else {}))

    def round(self, number: int, end: str, code: str = "", *, collect_s: float = 4.0) -> None:
        update = {"purpose": "update"}
        self.add("round_began", number=number, run="r", details={"round": number})
        self.add("envelope_accepted", number=number, run="r", member="anna", details={**update, "bytes": 100})
        self.add("envelope_refused", number=number, run="r", member="bert", code="update.failed", details=update)
        if end != "failed":
            self.add("set_closed", after_s=collect_s, number=number, run="r", details=update)
            self.add("opened", after_s=0.2, number=number, run="r", details=update)
            warned = {"warnings": [["bert", "gate.worse"]] if end == "promoted" else []}
            self.add("judged", after_s=0.05, number=number, run="r", code=code, details=warned)
        self.add(end, number=number, run="r", code=code, details={"named": {}})

    @property
    def figures(self) -> Figures:
        figures = Figures()
        for entry in self.entries:
            figures.take(entry)
        return figures


def test_a_script_adds_up() -> None:
    script = Script()
    script.add("run_began", run="r", details={"offer": {}})
    script.add("refused_member", run="r", member="carl", code="config.task")
    script.add("seats_taken", run="r", details={"members": ["anna", "bert", "dora"]})
    script.add("set_closed", number=0, run="r", details={"purpose": "statistics"})
    script.add("opened", after_s=9, number=0, run="r", details={"purpose": "statistics"})
    script.round(1, "promoted")
    promoted_s = script.now_s
    script.add("opened", after_s=50, number=1, run="r", details={"purpose": "tallies"})
    script.round(2, "refused", "gate.worse", collect_s=40)
    script.round(3, "refused", "gate.step", collect_s=5000)
    script.round(4, "failed", "round.too_few")
    script.round(5, "failed", "run.interrupted")
    for event, code in (
        ("opening_refused", "open.tau"),
        ("answer_refused", "open.list"),
        ("answer_refused", "open.list"),
    ):
        script.add(event, number=4, run="r", member="dora", code=code, details={"purpose": "update"})
    script.add("refused_member", code="auth.no_token", details={"path": "/api/runs", "more": 0})
    script.add("refused_member", code="auth.no_token", details={"path": "/api/runs", "more": 41})
    script.add("refused_member", member="anna", code="auth.scope", details={"path": "/api/runs", "more": 2})
    script.add("warned", run="r", code="circle.differs", details={"what": "seats"})
    script.add("warned", run="r", details={"what": "retention", "hours": 3})
    script.add("released", run="r", details={"version": 4})
    said = script.figures
    assert grown(said.rounds) == {
        ("promoted", ""): 1,
        ("refused", "gate.worse"): 1,
        ("refused", "gate.step"): 1,
        ("failed", "round.too_few"): 1,
        ("failed", "run.interrupted"): 1,
    }
    assert (said.refused_in_a_row, said.failed_in_a_row) == (2, 2), "a round that failed, and seats; a kill is neither"
    assert (said.promoted_s, said.circle, said.released) == (promoted_s, 3, 4)
    assert said.phase_s["collect"].counts == at(4.0, 40.0, 5000.0), "neither statistics nor reports are rounds"
    assert said.phase_s["collect"].total_s == pytest.approx(5044)
    assert said.phase_s["open"].counts == at(0.2, 0.2, 0.2)
    assert said.phase_s["judge"].counts == at(0.05, 0.05, 0.05)
    assert [sum(said.round_s[status].counts) for status in ("promoted", "refused", "failed")] == [1, 2, 2]
    assert said.round_s["promoted"].total_s == pytest.approx(4.25)
    assert said.turned_away == {"auth.no_token": 43, "auth.scope": 3}
    assert said.unseated == {("carl", "config.task"): 1}
    assert said.unopened == {("dora", "open.tau"): 1, ("dora", "open.list"): 2}
    assert said.left_out == {("bert", "update", "update.failed"): 5}
    assert (said.accepted, said.envelope_bytes) == ({("anna", "update"): 5}, {"update": 500})
    assert grown(said.warnings) == {
        ("round", "gate.worse"): 1,
        ("seats", "circle.differs"): 1,
        ("retention", ""): 1,
    }


def at(*seconds: float) -> list[int]:
    """Return the buckets of these durations, by their definition: the first bound that is not less."""
    counts = [0] * (len(BUCKETS_S) + 1)
    for one in seconds:
        counts[sum(bound < one for bound in BUCKETS_S)] += 1
    return counts


@given(st.lists(st.one_of(st.sampled_from(BUCKETS_S), st.floats(0, 1e5, allow_nan=False))))
def test_a_duration_is_in_the_bucket_of_the_first_bound_that_is_not_less(seconds: list[float]) -> None:
    durations = Durations()
    for one in seconds:
        durations.add(one)
    assert durations.counts == at(*seconds)
    assert durations.total_s == pytest.approx(sum(seconds))


def test_a_clock_that_was_set_back_makes_no_negative_seconds() -> None:
    script = Script()
    script.round(1, "promoted", collect_s=-3600)
    said = script.figures
    assert said.phase_s["collect"].total_s == 0
    assert said.phase_s["collect"].counts == at(0)


def test_a_new_run_begins_with_patience_of_its_own() -> None:
    script = Script()
    script.add("run_began", run="r", details={"offer": {}})
    script.round(1, "refused", "gate.step")
    script.round(2, "refused", "gate.step")
    script.round(3, "failed", "open.key")
    assert (script.figures.refused_in_a_row, script.figures.failed_in_a_row) == (2, 1)
    script.add("run_began", run="s", details={"offer": {}})
    assert (script.figures.refused_in_a_row, script.figures.failed_in_a_row) == (0, 0)
    script.round(4, "failed", "open.key")
    script.round(5, "refused", "gate.step")
    assert (script.figures.refused_in_a_row, script.figures.failed_in_a_row) == (1, 0), "as Patience counts"
    promoted_s = script.figures.promoted_s
    script.round(6, "failed", "open.key")
    script.round(7, "kept")
    assert (script.figures.refused_in_a_row, script.figures.failed_in_a_row) == (0, 0), "what is kept is not refused"
    assert script.figures.promoted_s == promoted_s


def test_a_member_cannot_make_up_labels_without_end() -> None:
    script = Script()
    for number in range(MAX_CODES + 100):
        for member in ("anna", "bert"):
            code = f"made.up_{'a' * number}" if member == "anna" else "update.failed"
            script.add("envelope_refused", number=1, run="r", member=member, code=code, details={"purpose": "update"})
        script.add("failed", number=number, run="r", code=f"made.up_{'b' * number}")
    said = script.figures
    assert len([key for key in said.left_out if key[0] == "anna"]) == MAX_CODES + 1
    assert said.left_out["anna", "update", OTHER] == 100
    assert said.left_out["bert", "update", "update.failed"] == MAX_CODES + 100, "the others keep theirs"
    assert sum(said.rounds.values()) == MAX_CODES + 100
    assert len(said.rounds) <= MAX_CODES + 1 + len(KNOWN_ROUNDS)


def test_an_entry_is_taken_once_and_in_its_turn() -> None:
    script = Script()
    script.round(1, "promoted")
    figures = script.figures
    for index in (0, figures.size + 1):
        with pytest.raises(ValueError, match="expected entry"):
            figures.take({**script.entries[0], "index": index})
    assert figures.size == len(script.entries)


# A federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A member without an update once, a coordinator that is killed once, a failed run, refusals at the door."""
    made = Federation(tmp_path_factory.mktemp("federation"), of=THREE)
    with made.state.store.transaction() as db:
        for name, pin in made.pins.items():
            roster.add(db, made.state.log, RosterMember(name, "https://idp.example.org", f"client of {name}", pin))
        for more in (0, 17):
            made.state.log.append(db, "refused_member", code="auth.no_token", path="/api/runs", more=more)
    made.queue()
    closed: list[int] = []

    def kill(entry: dict[str, Any]) -> bool:
        """Kill the coordinator under the third number."""
        closed.extend([1] if entry["event"] == "set_closed" else [])
        return entry["event"] == "set_closed" and len(closed) == 3

    made.handled = without_update("Hungary", lambda number: number == 1)
    made.kill_at = kill
    assert made.carry_out() == "killed"
    assert made.carry_out() == "done"

    def refuse(member: str, handle: Callable[[], Any]) -> Any:
        reply = handle()
        if member in ("Hungary", "Cleveland") and kind_of(reply.content) == Enrolled.kind:
            reply.content = to_records(Refusal(code="task.refused"))
        return reply

    made.handled = refuse
    made.queue("run-2")
    assert made.carry_out("run-2").startswith("failed")
    version = made.model("run-1").version
    with made.state.store.transaction() as db:
        made.state.log.append(db, "released", run="run-1", version=version)
    yield made
    made.close()


def check_counters(state: State) -> list[dict[str, Any]]:
    """Count again, in another way, whatever a counter counts; nothing is left out or made up. Returns the log."""
    log = list(state.log.entries())
    found = scraped(Metrics(state))

    def about(event: str) -> list[dict[str, Any]]:
        return [one for one in log if one["event"] == event]

    came, late, turned = about("envelope_accepted"), about("envelope_refused"), about("refused_member")
    minorities = [("round", code) for one in about("judged") for _, code in one["details"]["warnings"]]
    refused: Counter[Any] = Counter()
    for one in turned:
        if "run" not in one:
            refused[one["code"],] += 1 + one["details"]["more"]
    counted: dict[str, Mapping[Any, float]] = {
        "rounds_total": Counter((event, one.get("code", "")) for event in ENDS for one in about(event)),
        "runs_ended_total": Counter((one["details"]["status"],) for one in about("run_ended")),
        "envelopes_accepted_total": Counter((one["member"], one["details"]["purpose"]) for one in came),
        "envelopes_refused_total": Counter((one["member"], one["details"]["purpose"], one["code"]) for one in late),
        "envelope_bytes_total": {
            (purpose,): sum(one["details"]["bytes"] for one in came if one["details"]["purpose"] == purpose)
            for purpose in ("statistics", "update", "tallies")
        },
        "openings_refused_total": Counter(
            (one["member"], one["code"]) for one in (*about("opening_refused"), *about("answer_refused"))
        ),
        "members_refused_total": Counter((one["member"], one["code"]) for one in turned if "run" in one),
        "token_refusals_logged_total": refused,
        "warnings_total": Counter(
            [(one["details"]["what"], one.get("code", "")) for one in about("warned")] + minorities
        ),
        "log_events_total": {(event,): len(about(event)) for event in EVENTS},
    }
    counters = {one.name for one in CATALOGUE if one.kind == "counter" and one.source == "log"}
    assert counters == counted.keys(), "a counter of the log that this test does not know"
    for name, expected in counted.items():
        assert grown(of(found, name)) == grown(expected), name
    assert of(found, "log_entries") == {(): len(log)}
    assert sum(of(found, "log_events_total").values()) == len(log)
    with state.store.read() as db:
        rows = [one for run in history.runs(db) for one in history.rounds(db, run.run)]
    assert grown(of(found, "rounds_total")) == Counter((one["status"], one["code"]) for one in rows)
    return log


def check_durations(state: State) -> None:
    """Measure rounds and phases again, from the entries of each round, and count each bucket by its definition."""
    expected: dict[tuple[str, str], list[float]] = {}
    rounds: dict[int, dict[str, float]] = {}
    for entry in state.log.entries():
        now_s = datetime.fromisoformat(entry["time"]).timestamp()
        if entry.get("number") and entry.get("details", {}).get("purpose", "update") == "update":
            rounds.setdefault(entry["number"], {})[entry["event"]] = now_s
    for times in rounds.values():
        for first, then, phase in (
            ("round_began", "set_closed", "collect"),
            ("set_closed", "opened", "open"),
            ("opened", "judged", "judge"),
        ):
            if then in times:
                expected.setdefault(("round_phase_seconds", phase), []).append(times[then] - times[first])
        for status in {*ENDS} & times.keys():
            expected.setdefault(("round_seconds", status), []).append(times[status] - times["round_began"])
    found = scraped(Metrics(state))
    for (name, value), seconds in expected.items():
        label = "phase" if "phase" in name else "status"
        mine = {
            (full.removeprefix(PREFIX + name), dict(labels).get("le", "")): count
            for (full, labels), count in found.items()
            if full.startswith(PREFIX + name + "_") and dict(labels).get(label) == value
        }
        assert mine["_count", ""] == mine["_bucket", "+Inf"] == len(seconds), (name, value)
        assert mine["_sum", ""] == pytest.approx(sum(seconds), abs=1e-3)
        for bound in BUCKETS_S:
            assert mine["_bucket", str(bound)] == sum(one <= bound for one in seconds), (name, value, bound)
    assert ("round_phase_seconds", "judge") in expected


def test_every_counter_is_what_the_log_says(federation: Federation) -> None:
    check_durations(federation.state)
    happened = Counter(entry["event"] for entry in check_counters(federation.state))
    for event in ("failed", "run_resumed", "envelope_refused", "refused_member", "promoted", "released"):
        assert happened[event], event


def test_every_counter_is_what_the_log_says_under_drills(tmp_path: Path) -> None:
    drills = ["nan@1:1", "overflow@2:2", "shift@3:3", "flip@4:4"]
    overrides = ("training.rounds=5", "training.local_epochs=1")
    simulate(ROOT / "configs/heart.toml", out=tmp_path / "out", overrides=overrides, drills=drills)
    state = State(tmp_path / "out", "heart")
    check_durations(state)
    happened = Counter(entry["event"] for entry in check_counters(state))
    state.close()
    for event in ("refused", "failed", "envelope_refused", "opening_refused", "promoted"):
        assert happened[event], event


def test_every_gauge_is_what_the_rows_say(federation: Federation) -> None:
    found = scraped(Metrics(federation.state))
    with federation.state.store.read() as db:
        runs = history.runs(db)
    released = federation.model("run-1").version
    assert grown(of(found, "runs_ended_total")) == Counter((run.status,) for run in runs)
    assert of(found, "runs_open") == {("queued",): 0, ("running",): 0}
    assert of(found, "run_info") == {("run-2", runs[-1].status, runs[-1].code): 1}
    assert of(found, "run_rounds") == {("planned",): 3, ("done",): 0}
    assert "round_votes" not in {one.name for one in CATALOGUE if of(found, one.name)}, "that run has none"
    assert of(found, "members") == {("active",): len(THREE), ("revoked",): 0}
    assert of(found, "model_released_version") == {(): released}
    assert of(found, "model_versions") == {(): released + 1}
    seen = of(found, "witness_entries")
    assert set(seen) == {(name,) for name in federation.pins}
    assert of(found, "log_unwitnessed_entries") == {(): len(federation.entries) - max(seen.values())}
    oldest = federation.entries[int(max(seen.values()))]
    (unwitnessed_s,) = of(found, "log_unwitnessed_timestamp_seconds").values()
    assert unwitnessed_s == pytest.approx(datetime.fromisoformat(oldest["time"]).timestamp())
    assert of(found, "log_intact") == {(): 1}
    assert of(found, "circle_members") == {(): len(federation.events("seats_taken")[-1]["details"]["members"])}


def test_the_gate_is_that_of_the_newest_round_that_ended(tmp_path: Path) -> None:
    made = Federation(tmp_path, of=THREE)
    made.queue()
    rounds: list[int] = []

    def kill(entry: dict[str, Any]) -> bool:
        rounds.extend([1] if entry["event"] == "round_began" else [])
        return len(rounds) == 3

    made.kill_at = kill
    assert made.carry_out() == "killed"
    found, row = scraped(Metrics(made.state)), made.rounds()[1]
    assert made.rounds()[2]["status"] == "running"
    assert of(found, "round_number") == {(): row["number"]}
    assert of(found, "round_votes") == {(word,): count for word, count in row["votes"].items()}
    assert {*row["votes"]} == {*VOTES}
    assert of(found, "round_members") == {(): len(THREE)}
    assert of(found, "run_rounds") == {("planned",): 3, ("done",): 2}
    assert of(found, "runs_open") == {("queued",): 0, ("running",): 1}
    assert set(of(found, "run_step_seconds")) == {("seal",), ("add",), ("answer",), ("open",)}
    assert of(found, "run_message_bytes")["upload",] == made.row().summary["upload_bytes"]
    made.close()


def test_a_restart_gives_the_same_and_a_scrape_reads_only_what_is_new(federation: Federation, monkeypatch: Any) -> None:
    old = Metrics(federation.state)
    before = scraped(old)
    asked: list[int] = []
    after = federation.state.log.after

    def watched(index: int, limit: int, **more: Any) -> Any:
        asked.append(index)
        return after(index, limit, **more)

    monkeypatch.setattr(federation.state.log, "after", watched)
    size = len(federation.entries)
    assert unchanging(scraped(old)) == unchanging(before)
    assert min(asked) >= size - 2 - int(of(before, "log_unwitnessed_entries")[()])
    with federation.state.store.transaction() as db:
        federation.state.log.append(db, "refused_member", code="auth.no_token", path="/api/runs", more=2)
    told = of(before, "token_refusals_logged_total")["auth.no_token",]
    assert of(scraped(old), "token_refusals_logged_total")["auth.no_token",] == told + 3
    assert unchanging(scraped(Metrics(federation.state))) == unchanging(scraped(old))


def unchanging(found: Samples) -> Samples:
    """Return what does not depend on the machine."""
    machine = ("disk_free_bytes", "disk_size_bytes", "database_bytes")
    return {key: value for key, value in found.items() if key[0].removeprefix(PREFIX) not in machine}


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(ENDS), st.sampled_from(["", "gate.step", "x.y"]))),
    st.integers(1, 7),
)
def test_a_log_that_is_read_in_pieces_adds_up_to_the_same(ends: list[tuple[str, str]], piece: int) -> None:
    script, whole = Script(), Figures()
    for number, (end, code) in enumerate(ends, start=1):
        script.round(number, end, code)
    for start in range(0, len(script.entries), piece):
        for entry in script.entries[start : start + piece]:
            whole.take(entry)
    assert whole == script.figures
    assert grown(whole.rounds) == Counter(ends)
    assert sum(sum(one.counts) for one in whole.round_s.values()) == len(ends)


def test_an_edited_log_is_not_intact(tmp_path: Path) -> None:
    state = State(tmp_path, "heart")
    with state.store.transaction() as db:
        state.log.append(db, "warned", what="report", code="open.key")
    metrics = Metrics(state)
    assert of(scraped(metrics), "log_intact") == {(): 1}
    with state.store.transaction() as db:
        db.exec_driver_sql("UPDATE log_tree SET nodes = zeroblob(32)")
    assert of(scraped(metrics), "log_intact") == {(): 0}
    state.close()


def test_an_empty_state_has_metrics_too(tmp_path: Path) -> None:
    state = State(tmp_path, "heart")
    found = scraped(Metrics(state))
    assert of(found, "log_entries") == {(): 0}
    assert of(found, "round_promoted_timestamp_seconds") == {(): 0}
    assert of(found, "circle_members") == {}
    assert set(of(found, "rounds_total")) == set(KNOWN_ROUNDS), "0 before it happened: growth is seen from the first"
    state.close()


# What they look like, and what is not in them


def test_the_documented_metrics_are_the_real_ones() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(f"| `{PREFIX}")]
    expected = [
        [f"`{one.full_name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels) or "–", one.source, one.help]
        for one in CATALOGUE
    ]
    assert rows == expected


def test_names_are_as_prometheus_wants_them() -> None:
    labels = {"code", "event", "member", "part", "phase", "purpose", "run", "status", "step", "version", "vote", "way"}
    labels |= {"what"}
    names = [one.name for one in CATALOGUE]
    assert len(names) == len(set(names))
    for one in CATALOGUE:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", one.name)
        assert one.name.endswith("_total") == (one.kind == "counter"), one.name
        assert one.help.endswith("."), one.name
        assert labels.issuperset(one.labels)


def test_every_code_of_a_refused_token_is_there_from_the_start() -> None:
    made = set()
    for file in (ROOT / "server/door").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name == "TokenRefused" and isinstance(node.args[0], ast.Constant):  # type: ignore[attr-defined]
                made.add(node.args[0].value)  # type: ignore[attr-defined]
    missing = made - {*CODES}
    assert not missing
    assert list(CODES) == sorted(CODES)


def test_no_secret_no_digest_no_count_of_rows(federation: Federation) -> None:
    """Whatever may be told apart is a known word, a member or the run; numbers are none of the row counts."""
    process = Process(lambda: frozenset(), lambda: 0, lambda: {})
    text = generate_latest(registry(Metrics(federation.state, process))).decode()
    for secret in (*federation.pins.values(), (federation.folder / "log.key").read_text().strip(), "client of", "idp."):
        assert secret not in text
    words = {*federation.pins, *EVENTS, "run-2", "other", "active", "revoked", "planned", "done", "queued", "running"}
    words |= {*ENDS, *VOTES, "policy", "stopped", "collect", "open", "judge", "seal", "add", "answer"}
    words |= {"upload", "download", "statistics", "update", "tallies", ""}
    words |= {"witness", "model", "round", "seats", "report", "retention", "release"}
    found = samples(text)
    for name, labels in found:
        for label, value in labels:
            known = value in words or re.fullmatch(r"[a-z]+\.[a-z_]+", value)
            assert known or (label, name) in (("version", "moonflower_build_info"),) or label == "le", (name, label)
    learners = {name: heart_cast().learner(name, heart_cast().splits[name]) for name in federation.pins}
    counts = {float(learner.rows) for learner in learners.values()}
    counts |= {sum(counts), *(float(len(split)) for one in heart_cast().splits.values() for split in parts(one))}
    counted = {one.full_name for one in CATALOGUE if one.kind == "counter" and one.source == "log"}  # of events: above
    events = {"", *(f"{PREFIX}log_{name}" for name in ("entries", "unwitnessed_entries"))}
    told = {value for (name, _), value in found.items() if name.startswith(PREFIX) and name not in counted | events}
    assert len(counts) > 4
    assert counts & told == set()


def parts(split: Any) -> list[Any]:
    """Return the parts of a member's rows."""
    return [value for value in vars(split).values() if hasattr(value, "__len__")]


def test_whose_vote_it_was_and_metrics_of_the_model_are_not_told(federation: Federation) -> None:
    found = scraped(Metrics(federation.state))
    metrics = {value for one in federation.events("tallies_opened") for value in one["details"]["metrics"].values()}
    assert metrics
    assert not metrics & {*found.values()}
    assert not [labels for _, labels in found if {"vote", "member"} <= {*dict(labels)}]


# The door's refusals


def test_refusals_are_counted_also_where_the_log_is_silent(door: Door) -> None:
    process = Process(door.link.online, lambda: 0, lambda: dict(door.app.refusals))
    metrics = Metrics(door.state, process)

    async def knock(times: int) -> None:
        for _ in range(times):
            await door.ask("GET", "/api/runs", address=HERE)
            await door.ask("POST", PULL, [(b"authorization", b"Bearer junk")], address=HERE)

    run(knock(30))
    found = scraped(metrics)
    assert grown(of(found, "token_refusals_total")) == {("auth.no_token",): 30, ("auth.malformed",): 30}
    assert grown(of(found, "token_refusals_logged_total")) == {("auth.no_token",): 1, ("auth.malformed",): 1}
    assert len(door.refusals()) == 2


def test_a_throttled_address_is_counted_and_a_good_request_is_not(tmp_path: Path) -> None:
    made = Door(tmp_path, refusals_per_minute=5)

    async def knock() -> int:
        for _ in range(9):
            await made.ask("GET", "/api/runs", address=HERE)
        return (await made.fleet(made.anna, address="192.0.2.8")).status

    assert run(knock()) == 200
    assert made.app.refusals == {"auth.no_token": 5, "auth.throttled": 4}
    found = scraped(Metrics(made.state, Process(made.link.online, lambda: 0, lambda: dict(made.app.refusals))))
    assert of(found, "member_online") == {("Anna's hospital",): 1, ("Bert's hospital",): 0}
    made.state.close()


def test_a_revoked_member_is_not_missed(door: Door) -> None:
    door.revoke(door.bert)
    found = scraped(Metrics(door.state, Process(door.link.online, lambda: 0, lambda: {})))
    assert of(found, "member_online") == {("Anna's hospital",): 0}
    assert of(found, "members") == {("active",): 1, ("revoked",): 1}
