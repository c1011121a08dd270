"""Rule 9, the node's floor: what a node says nothing of is refused with the line to add; a day, and an envelope."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moonflower.client.app import Member
from moonflower.client.circles import DAY_S, Own, check_day, check_envelope, check_recipe
from moonflower.client.learning.cast import prepare
from moonflower.client.live import member_of
from moonflower.client.own_rows import OwnRows
from moonflower.client.secret import NodeSecret
from moonflower.configs.floor import floor_sentences, missing, refused
from moonflower.configs.roles import CircleSettings, ClientConfig, load_config
from moonflower.configs.settings import FloorSettings
from moonflower.errors import InputError, Refused
from moonflower.federation import practice
from moonflower.protocol.messages import Enrol
from support import CONFIGS, circles
from support.circles import heart_recipe, lives_in
from support.federation import NAMES, Federation
from support.protocol import identity
from support.superlink import client_config

TASK = "moonflower.client.tasks.tabular:task"
LINES = {"min_members": "min_members = 3", "runs_a_day": "runs_a_day = 20", "max_envelope_mb": "max_envelope_mb = 64"}
WHOLE = CircleSettings(min_members=3, runs_a_day=20, max_envelope_mb=64)
NOON = 1_700_000_000.0
ANNA = NAMES[0]


def refusal(code: str, call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(Refused) as raised:
        call(*arguments)
    assert raised.value.code == code, str(raised.value)
    return str(raised.value)


def own(circle: CircleSettings = WHOLE, *tasks: str) -> Own:
    return Own(identity("anna"), False, FloorSettings(tasks=tasks or (TASK,)), circle)


# What is missing


def test_a_whole_floor_refuses_nothing_that_it_bounds() -> None:
    assert missing(WHOLE) == ()
    check_recipe(heart_recipe(), 3, own())


@pytest.mark.parametrize("key", LINES)
def test_a_key_that_is_missing_refuses_with_the_line_to_add(key: str) -> None:
    lacking = WHOLE.model_copy(update={key: None})
    said = refusal(f"config.{key}", check_recipe, heart_recipe(), 3, own(lacking))
    assert said.startswith("this node's client.toml has no line for ")
    assert said.endswith(f", add under [circle]: {LINES[key]}")
    added = CircleSettings(**{**lacking.model_dump(exclude_none=True), **tomllib.loads(LINES[key])})
    check_recipe(heart_recipe(), 3, own(added))


def test_a_day_and_an_envelope_without_a_bound_are_none() -> None:
    """As where a circle was signed before the line went."""
    assert refusal("config.runs_a_day", check_day, own(CircleSettings()), ()).endswith(LINES["runs_a_day"])
    said = refusal("config.max_envelope_mb", check_envelope, own(CircleSettings()), 1)
    assert said.endswith(LINES["max_envelope_mb"])


@pytest.mark.parametrize(("tasks", "words"), [((), "names no tasks"), (("my.own:task",), "is not among the tasks")])
def test_a_task_that_is_not_listed_is_refused_with_the_line(tasks: tuple[str, ...], words: str) -> None:
    node = replace(own(), floor=FloorSettings(tasks=tasks))
    said = refusal("task.refused", check_recipe, heart_recipe(), 3, node)
    line = re.search(r"under \[client\]: (tasks = .*)$", said)
    assert words in said
    assert line is not None, said
    assert tomllib.loads(line[1]) == {"tasks": [*tasks, TASK]}


@pytest.mark.parametrize("change", [("^tasks = .*\n", ""), ("^tasks = .*", 'tasks = ["my.own:task"]')])
def test_a_task_that_left_the_list_is_not_imported_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: tuple[str, str]
) -> None:
    """The node starts, says so in its log, and refuses runs; nothing of the task's code runs."""
    path = client_config(tmp_path, CONFIGS / "data")
    lives_in(path)
    path.write_text(re.sub(*change, path.read_text(), flags=re.MULTILINE))
    monkeypatch.setattr("moonflower.client.own_rows.load_task", lambda *_: pytest.fail("it was imported"))
    with caplog.at_level("WARNING"):
        member = member_of(load_config(ClientConfig, path))
    member.ledger.close()
    (said,) = (record.getMessage() for record in caplog.records if "under [client]" in record.getMessage())
    assert said.endswith(f'"{TASK}"]')
    with pytest.raises(InputError) as raised:
        OwnRows(load_config(ClientConfig, path), NodeSecret.fresh()).check(heart_recipe())
    assert raised.value.code == "task.refused"


def test_a_node_without_a_floor_starts_and_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = client_config(tmp_path, CONFIGS / "data")
    text = path.read_text()
    path.write_text(text[: text.index("[circle]")] + text[text.index("[oauth]") :])
    with caplog.at_level("WARNING"):
        member_of(load_config(ClientConfig, path)).ledger.close()
    said = [record.getMessage() for record in caplog.records]
    assert [one.rpartition(": ")[2] for one in said] == [*LINES.values()]


# A day


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    yield made
    made.close()


def node(one: Federation, now: float, **circle: Any) -> Member:
    """Return a member at a moment of its own clock, with other limits."""
    member = one.members[ANNA]
    member._clock = lambda: now
    own = member.circles.own
    member.circles.own = replace(own, circle=own.circle.model_copy(update=circle))
    return member


def enrol(member: Member, one: Federation, run: str) -> None:
    member.enrol(Enrol(**circles.enrolment(run, one.signed, one.offer())))


def test_a_day_is_the_last_24_hours_of_the_nodes_own_clock(one: Federation) -> None:
    enrol(node(one, NOON, runs_a_day=2), one, "run-1")
    enrol(node(one, NOON + 100), one, "run-2")
    for moment in (NOON + 100, NOON + DAY_S - 0.001):
        said = refusal("config.runs_a_day", enrol, node(one, moment), one, "run-3")
        assert said.startswith("2 runs began here within 24 hours, and this node allows 2")
        assert "may begin at 2023-11-15 22:13 UTC" in said
    enrol(node(one, NOON + DAY_S), one, "run-3")
    refusal("config.runs_a_day", enrol, node(one, NOON + DAY_S + 99), one, "run-4")
    enrol(node(one, NOON + DAY_S + 100), one, "run-4")


def test_a_run_that_was_agreed_to_counts_once(one: Federation) -> None:
    for moment in (NOON, NOON + 1, NOON + 3 * DAY_S):
        enrol(node(one, moment, runs_a_day=1), one, "run-1")
    enrol(node(one, NOON + DAY_S), one, "run-2")
    assert one.members[ANNA].ledger.runs.agreed_since(0) == (NOON, NOON + DAY_S)


def test_a_refused_run_counts_as_none(one: Federation) -> None:
    enrol(node(one, NOON, runs_a_day=1), one, "run-1")
    for run in ("run-2", "run-3"):
        refusal("config.runs_a_day", enrol, node(one, NOON + 1), one, run)
    refusal("config.min_members", enrol, node(one, NOON + 2 * DAY_S, min_members=5), one, "run-4")
    assert one.members[ANNA].ledger.runs.agreed_since(0) == (NOON,)


def test_a_restart_remembers_the_day(one: Federation) -> None:
    enrol(node(one, NOON), one, "run-1")
    one.start(ANNA)
    refusal("config.runs_a_day", enrol, node(one, NOON + 60, runs_a_day=1), one, "run-2")
    enrol(node(one, NOON + 60), one, "run-1")
    enrol(node(one, NOON + DAY_S), one, "run-2")


def test_a_clock_that_was_set_back_opens_no_door(one: Federation) -> None:
    enrol(node(one, NOON, runs_a_day=1), one, "run-1")
    for moment in (NOON - 60, NOON - DAY_S, NOON - 400 * DAY_S):
        refusal("config.runs_a_day", enrol, node(one, moment), one, "run-2")


def test_one_run_too_many_fails_and_the_log_says_whose_floor_it_was(one: Federation) -> None:
    member = node(one, NOON, runs_a_day=1)
    member.ledger.runs.agree("another run", {}, NOON)
    one.queue()
    assert one.carry_out() == "failed config.runs_a_day"
    (entry,) = one.events("refused_member")
    assert (entry["member"], entry["code"]) == (ANNA, "config.runs_a_day")
    assert one.events("envelope_accepted") == []


# An envelope


def test_a_run_whose_envelopes_are_too_large_is_refused_before_anything_is_sealed(one: Federation) -> None:
    node(one, NOON, max_envelope_mb=0.001)
    one.queue()
    assert one.carry_out() == "failed config.max_envelope_mb"
    assert one.events("envelope_accepted") == []
    assert [entry["event"] for entry in one.members[ANNA].ledger.journal()][-1] == "refused"
    said = refusal("config.max_envelope_mb", enrol, node(one, NOON), one, "run-1")
    found = re.search(
        r"takes up to ([\d.]+) MB, and this node seals at most 0.001 MB; to allow it, set under (.*)$", said
    )
    assert found is not None, said
    line = re.fullmatch(r"\[circle\]: (max_envelope_mb = [\d.]+)", found[2])
    assert line is not None, said
    enrol(node(one, NOON, **tomllib.loads(line[1])), one, "run-1")


def test_no_envelope_is_larger_than_what_enrolment_reckons_with(one: Federation) -> None:
    one.queue()
    assert one.carry_out() == "done"
    most = one.members[ANNA]._agreement("run-1").envelope_bytes
    sealed = [entry["details"]["bytes"] for entry in one.events("envelope_accepted")]
    assert most - 4200 <= max(sealed) <= most


@pytest.mark.parametrize(
    ("size", "limit", "line"),
    [(64_000_001, 64, "65"), (1_234_567_890, 64, "1235"), (4_201, 0.001, "0.005"), (1_000_000, 0.5, "1")],
)
def test_the_line_admits_what_was_refused(size: int, limit: float, line: str) -> None:
    node = own(WHOLE.model_copy(update={"max_envelope_mb": limit}))
    said = refusal("config.max_envelope_mb", check_envelope, node, size)
    assert said.endswith(f"[circle]: max_envelope_mb = {line}")
    check_envelope(own(WHOLE.model_copy(update={"max_envelope_mb": float(line)})), size)


def test_a_limit_is_in_millions_of_bytes() -> None:
    check_envelope(own(), 64_000_000)
    refusal("config.max_envelope_mb", check_envelope, own(), 64_000_001)


# In words, and in practice


def config(tmp_path: Path, **changes: str) -> ClientConfig:
    path = client_config(tmp_path, CONFIGS / "data")
    text = path.read_text()
    for key, value in changes.items():
        text, count = re.subn(rf"^{key} = .*$", value, text, flags=re.MULTILINE)
        assert count == 1
    path.write_text(text)
    return load_config(ClientConfig, path)


def test_a_floor_is_sentences(tmp_path: Path) -> None:
    said = floor_sentences(config(tmp_path))
    assert said["What may run at this node"] == [
        f"Only this task runs here: {TASK}.",
        "At most 20 runs a day train here.",
        "No circle has fewer than 3 members.",
        "No envelope is larger than 64 MB.",
        "No recipe gives a member more than 3600 seconds to train in a round.",
        "No model is released unless approvers of one member have signed.",
        "This node's operator signs every circle by hand.",
        "The coordinator's log is accepted under the first key that it shows.",
    ]
    assert said["What is not allowed here"] == [
        "Everything is refused that neither this floor nor a recipe signed by this node allows."
    ]


def test_what_a_floor_says_nothing_of_is_a_sentence_with_its_line(tmp_path: Path) -> None:
    said = floor_sentences(config(tmp_path, tasks="", min_members="", runs_a_day="", max_envelope_mb=""))
    assert not any(word in " ".join(said["What may run at this node"]) for word in ("task", "a day", "fewer", "larger"))
    assert said["What is not allowed here"][:-1] == [
        "No task runs here: this node's client.toml names no tasks; to allow this one, add under [client]: "
        f'tasks = ["{TASK}"]',
        "No circle is signed here: this node's client.toml has no line for the smallest circle; to be in one, add "
        "under [circle]: min_members = 3",
        "No run trains here: this node's client.toml has no line for runs a day; to allow some, add under [circle]: "
        "runs_a_day = 20",
        "No envelope is sealed here: this node's client.toml has no line for the largest envelope; to seal some, add "
        "under [circle]: max_envelope_mb = 64",
    ]


def test_other_floors_are_other_sentences(tmp_path: Path) -> None:
    key = "log_key = 'a key'\nmin_approvals = 0"
    made = config(tmp_path, runs_a_day="runs_a_day = 1", min_members='min_members = 3\nsign = "same-names"', poll_s=key)
    said = floor_sentences(made, "my.own:task")
    told = said["What may run at this node"]
    assert "At most one run a day trains here." in told
    assert "A model may be released without any approval." in told
    assert "The coordinator's log is accepted under the one key that client.toml names." in told
    assert any(
        line.startswith("This node signs by itself a circle with the same members and other settings") for line in told
    )
    first = said["What is not allowed here"][0]
    assert first.startswith("The circle's task does not run here: ")
    assert first.endswith(f'tasks = ["{TASK}", "my.own:task"]')
    assert refused(made) == []


def test_a_practice_has_a_floor_too() -> None:
    assert missing(practice.floor(3)) == ()
    cast = prepare(CONFIGS / "heart.toml", ())
    assert practice.floor(cast.settings.federation.min_members).min_members == 3
    assert json.loads(practice.floor(3).model_dump_json(exclude_defaults=True)).keys() == LINES.keys()
