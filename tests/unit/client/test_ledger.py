"""The member's ledger: what it keeps over a restart, what it lets go, and who may read it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moonflower.client.guard import OwnAnswer
from moonflower.client.ledger.circle_book import MAX_IDLE
from moonflower.client.ledger.ledger import Base, Ledger
from moonflower.client.ledger.run_book import Agreement
from moonflower.errors import InputError
from moonflower.protocol.answer import list_digest
from moonflower.protocol.circle import Circle
from moonflower.protocol.context import RoundContext
from moonflower.server.records.database import FILE_NAME, CoordinatorStore
from sqlalchemy.exc import IntegrityError
from support.circles import circles, heart_recipe
from support.protocol import context, identity

CARDS = [identity("anna").card.as_dict(), identity("bert").card.as_dict()]
UPDATE = context(run="run", number=1)
TALLIES = replace(UPDATE, purpose="tallies")
HEADERS = {"anna": "a" * 64, "bert": "b" * 64}
ANSWER = OwnAnswer(UPDATE.digest, HEADERS, "d" * 64, b"document", b"signature", b"answer")
SAID = {"sha256": "d" * 64, "members": ["anna", "bert"]}


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def base(data: bytes = b"model", number: int = 0, norm: float = 0.0, trained: bool = True) -> Base:
    return Base(named(data), named(b"identity" + data), data, trained, number > 0, number, norm)


def sealed_from(ledger: Ledger, about: RoundContext, one: Base | None = None, header: str = "header") -> None:
    ledger.remember_sealed(about, header, base=one)


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db" if request.param == "file" else None)) as opened:
        yield opened


def test_a_run_is_agreed_to_once(ledger: Ledger) -> None:
    assert ledger.runs.agreement("run") is None
    ledger.runs.agree("run", {"training": {"lr": 0.1}}, 0.0)
    ledger.runs.agree("run", {"training": {"lr": 0.2}}, 0.0)
    assert ledger.runs.agreement("run") == Agreement({"training": {"lr": 0.1}}, [])


def test_the_newest_seat_of_a_run_counts(ledger: Ledger) -> None:
    ledger.runs.agree("run", {"a": 1}, 0.0)
    ledger.runs.agree("other", {"a": 2}, 0.0)
    for cards, key in ((CARDS[:1], "one"), (CARDS, "two")):
        ledger.runs.seat("run", cards, key)
        assert ledger.runs.agreement("run") == Agreement({"a": 1}, cards, key)
    assert ledger.runs.agreement("other") == Agreement({"a": 2}, [])


def test_a_seat_in_a_run_that_was_not_agreed_to_is_none(ledger: Ledger) -> None:
    ledger.runs.seat("run", CARDS, "key")
    assert ledger.runs.agreement("run") is None


def test_a_circles_key_is_for_its_use(ledger: Ledger) -> None:
    assert ledger.circle_key("use") is None
    ledger.keep_key("use", b"first")
    ledger.keep_key("another", b"another")
    ledger.keep_key("use", b"second")
    assert (ledger.circle_key("use"), ledger.circle_key("another")) == (b"second", b"another")


def test_what_was_sealed_anew_in_a_context_is_the_only_one_that_counts(ledger: Ledger) -> None:
    """A member that lost the file of a seal makes another; the first can be answered no more."""
    assert ledger.sealed(UPDATE.digest) is None
    ledger.remember_sealed(UPDATE, "first")
    assert ledger.sealed(UPDATE.digest) == "first"
    ledger.remember_sealed(UPDATE, "second")
    ledger.remember_sealed(TALLIES, "third")
    assert ledger.sealed(UPDATE.digest) == "second"
    assert [e["what"]["header"] for e in ledger.journal()] == ["first", "second", "third"]


def test_a_context_is_about_the_run_and_purpose_that_it_was_sealed_for(ledger: Ledger) -> None:
    sealed_from(ledger, UPDATE)
    assert ledger.is_about(UPDATE.digest, "run", "update")
    assert not ledger.is_about(UPDATE.digest, "other", "update")
    assert not ledger.is_about(UPDATE.digest, "run", "tallies")
    assert not ledger.is_about(TALLIES.digest, "run", "tallies")


def test_an_answer_is_given_once_in_a_context(ledger: Ledger) -> None:
    """Rule 2: not even a caller that forgot to look can write another one."""
    assert ledger.answered(UPDATE.digest) is None
    ledger.remember_answered(UPDATE, ANSWER)
    assert ledger.answered(UPDATE.digest) == ANSWER
    for other in (ANSWER, replace(ANSWER, total="e" * 64)):
        with pytest.raises(IntegrityError):
            ledger.remember_answered(UPDATE, other)
    assert ledger.answered(UPDATE.digest) == ANSWER
    assert [e["event"] for e in ledger.journal()] == ["answered"]


# What was trained from (rule 3)


def test_nothing_was_done_before_the_first_round(ledger: Ledger) -> None:
    before = ledger.before(UPDATE)
    assert (before.number, before.trained, dict(before.norms), before.newest) == (-1, False, {}, None)


def test_the_bases_of_a_run_are_known_by_their_number_and_norm(ledger: Ledger) -> None:
    for number, norm in ((0, 0.0), (2, 0.5), (1, 0.25)):
        about = replace(UPDATE, number=number + 10, round=number + 1, base=f"{number:0>64}")
        sealed_from(ledger, about, base(number=number, norm=norm))
    sealed_from(ledger, replace(UPDATE, run="other"), base(number=9, norm=9.0))
    before = ledger.before(UPDATE)
    assert (before.number, dict(before.norms)) == (2, {1: 0.25, 2: 0.5}), "version 0 has no norm"


def test_a_base_that_is_only_judged_is_not_trained_from(ledger: Ledger) -> None:
    sealed_from(ledger, TALLIES, base(number=5, trained=False))
    assert ledger.before(UPDATE).number == -1
    assert ledger.model(named(b"model")) == b"model"


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"number": 7}, True),
        ({"number": 7, "round": 4}, False),
        ({"base": "c" * 64}, False),
        ({"run": "other"}, False),
        ({"purpose": "tallies"}, False),
    ],
)
def test_the_same_base_in_the_same_round_is_a_repetition(ledger: Ledger, changed: dict[str, Any], again: bool) -> None:
    sealed_from(ledger, UPDATE, base())
    assert ledger.before(replace(UPDATE, **changed)).trained is again


def test_the_newest_candidate_of_a_run_is_remembered(ledger: Ledger) -> None:
    for number, sha256 in ((1, "one"), (3, "three"), (2, "two")):
        ledger.remember_opened(replace(UPDATE, number=number), SAID, candidate=sha256)
    ledger.remember_opened(replace(UPDATE, number=3), SAID, candidate="another")
    ledger.remember_opened(replace(UPDATE, number=4), SAID)
    ledger.remember_opened(replace(UPDATE, number=5, run="other"), SAID, candidate="other")
    assert ledger.before(UPDATE).newest == (3, "three")


def test_only_the_newest_model_keeps_its_bytes_and_all_their_metrics(ledger: Ledger) -> None:
    one, two = named(b"one"), named(b"two")
    assert (ledger.model(one), ledger.metric("m1")) == (None, None)
    first, second = replace(UPDATE, base="m1"), replace(UPDATE, base="m2", number=2)
    ledger.remember_sealed(first, "header", base=base(b"one"), metrics={"m1": 0.5})
    ledger.remember_sealed(second, "header", base=base(b"two"), metrics={"m2": None})
    ledger.remember_sealed(replace(UPDATE, purpose="statistics"), "header")
    assert (ledger.model(one), ledger.metric("m1")) == (None, 0.5)
    assert (ledger.model(two), ledger.metric("m2")) == (b"two", None)


def test_the_total_of_rows_is_the_runs_own_and_the_last_one_holds(ledger: Ledger) -> None:
    assert ledger.fact("rows:run") is None
    for rows in (3, 4):
        ledger.remember_opened(UPDATE, SAID, facts={"rows:run": rows})
        assert ledger.fact("rows:run") == rows
    ledger.remember_opened(UPDATE, SAID)
    assert ledger.fact("rows:run") == 4
    assert ledger.fact("rows:other") is None


# The journal


def test_every_transition_leaves_its_entry(ledger: Ledger) -> None:
    ledger.runs.agree("run", {"a": 1}, 0.0)
    ledger.runs.seat("run", CARDS, "key")
    ledger.remember_sealed(UPDATE, "header", base=base(), metrics={UPDATE.base: 0.5})
    ledger.remember_answered(UPDATE, ANSWER)
    ledger.remember_opened(UPDATE, SAID, vote={"vote": -0.01})
    ledger.remember_refusal("seal", "seal.already", run="run", number=1, purpose="update")
    journal = ledger.journal()
    place = ("run", 1, "update")
    assert [(e["event"], e["run"], e["number"], e["purpose"]) for e in journal] == [
        ("agreed", "run", None, ""),
        ("seated", "run", None, ""),
        ("sealed", *place),
        ("answered", *place),
        ("opened", *place),
        ("judged", *place),
        ("refused", *place),
    ]
    assert [entry["idx"] for entry in journal] == [*range(1, 8)]
    assert [entry["code"] for entry in journal] == [""] * 6 + ["seal.already"]
    assert journal[1]["what"] == {"key": "key", "members": ["anna", "bert"]}
    assert journal[2]["what"] == {"base": UPDATE.base, "context": UPDATE.digest, "header": "header"}
    listed = list_digest(HEADERS.values())
    assert journal[3]["what"] == {"context": UPDATE.digest, "headers": listed, "total": ANSWER.total}
    assert (journal[4]["what"], journal[5]["what"]) == (SAID, {"vote": -0.01})
    assert journal[0]["time"].endswith("Z")


def test_who_is_asked_again_does_nothing_new(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.runs.agree("run", {"a": 1}, 0.0)
        ledger.runs.seat("run", CARDS, "key")
        ledger.remember_opened(UPDATE, SAID, vote={"vote": None})
        ledger.remember_refusal("open", "open.list")
    assert [entry["event"] for entry in ledger.journal()] == ["agreed", "seated", "opened", "judged", "refused"]
    ledger.remember_opened(replace(UPDATE, number=2), SAID)
    assert [entry["number"] for entry in ledger.journal()][-1] == 2, "the same in another round is another deed"


def test_what_is_not_remembered_is_not_in_the_journal_either(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moonflower.client.ledger.journal.note", broken)
    with pytest.raises(OSError, match="No space"):
        ledger.remember_sealed(UPDATE, "header", base=base(), metrics={"m": 1.0}, facts={"f": 1})
    with pytest.raises(OSError, match="No space"):
        ledger.remember_answered(UPDATE, ANSWER)
    assert ledger.journal() == []
    assert (ledger.model(named(b"model")), ledger.metric("m"), ledger.fact("f")) == (None, None, None)
    assert (ledger.sealed(UPDATE.digest), ledger.answered(UPDATE.digest)) == (None, None)
    assert ledger.before(UPDATE).number == -1


def test_refusals_without_end_do_not_fill_the_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonflower.client.ledger.journal.REFUSALS", 3)
    for number in range(5):
        ledger.remember_refusal("seal", "envelope.context", run="r" * 10_000, number=number << 62, purpose="p" * 99)
    journal = ledger.journal()
    assert len(journal) == 3
    assert {(len(entry["run"]), len(entry["purpose"])) for entry in journal} == {(80, 20)}
    assert [entry["number"] for entry in journal] == [0, 1 << 62, None]


def test_two_ledgers_share_nothing(tmp_path: Path) -> None:
    with (
        closing(Ledger(tmp_path / "a.db")) as a,
        closing(Ledger(tmp_path / "b.db")) as b,
        closing(Ledger(None)) as c,
        closing(Ledger(None)) as d,
    ):
        for one in (a, c):
            one.keep_key("use", b"key")
            one.remember_opened(UPDATE, SAID, facts={"rows:run": 1})
        for other in (b, d):
            assert other.circle_key("use") is None
            assert other.fact("rows:run") is None
            assert other.journal() == []


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as before:
        before.runs.agree("run", {"a": 1}, 0.0)
        before.runs.seat("run", CARDS, "digest")
        before.keep_key("use", b"key")
        about = replace(UPDATE, base="m1")
        before.remember_sealed(about, "header", base=base(b"one", 3, 0.5), metrics={"m1": 0.25})
        before.remember_answered(UPDATE, ANSWER)
        before.remember_opened(UPDATE, SAID, facts={"rows:run": 7}, candidate="c")
        journal, done = before.journal(), before.before(about)
    with closing(Ledger(tmp_path / "ledger.db")) as after:
        assert after.runs.agreement("run") == Agreement({"a": 1}, CARDS, "digest")
        assert after.circle_key("use") == b"key"
        assert after.sealed(about.digest) == "header"
        assert after.answered(UPDATE.digest) == ANSWER
        assert after.before(about) == done
        assert (done.number, done.trained, done.newest) == (3, True, (1, "c"))
        assert (after.model(named(b"one")), after.metric("m1"), after.fact("rows:run")) == (b"one", 0.25, 7)
        assert after.journal() == journal != []


def test_what_was_written_is_on_disk_before_the_call_returns(tmp_path: Path) -> None:
    """Another process sees it while the first is still open: as after a kill."""
    with closing(Ledger(tmp_path / "ledger.db")) as one, closing(Ledger(tmp_path / "ledger.db")) as two:
        sealed_from(one, UPDATE)
        one.remember_answered(UPDATE, ANSWER)
        assert two.sealed(UPDATE.digest) == "header"
        assert two.answered(UPDATE.digest) == ANSWER


# It holds keys


@pytest.fixture
def open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.usefixtures("open_umask")
def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        ledger.keep_key("use", b"key")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666])
def test_one_that_others_could_read_is_refused_and_left_alone(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    path.chmod(mode)
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"expected mode 0600, got {mode:04o}") as refusal:
        Ledger(path)
    assert (refusal.value.code, refusal.value.hint) == ("config.state", f"chmod 600 {path}")
    assert path.read_bytes() == before


def test_rooms_do_not_open_each_others_files(tmp_path: Path) -> None:
    rooms: list[tuple[Callable[[Path], object], Callable[[Path], object]]] = [
        (Ledger, CoordinatorStore),
        (CoordinatorStore, Ledger),
    ]
    for number, (mine, theirs) in enumerate(rooms):
        path = tmp_path / f"{number}-{FILE_NAME}"
        with closing(mine(path)):  # type: ignore[type-var]
            pass
        path.chmod(0o600)
        with pytest.raises(InputError, match="expected a moonflower database, got application id 0x6d666c") as refusal:
            theirs(path)
        assert refusal.value.code == "config.state"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened as a database"):
        Ledger(tmp_path / "missing" / "ledger.db")


def test_circles_without_end_do_not_fill_a_ledger(ledger: Ledger) -> None:
    """Nobody has to sign what a coordinator shows; what the node did something about stays."""
    mine = identity("anna")
    pins = {name: identity(name).card.node.pin for name in ("anna", "bert", "cleo")}
    made = [Circle.of(heart_recipe(), pins, number=number) for number in range(1, MAX_IDLE + 20)]
    own = circles(mine, ledger, heart_recipe())
    ledger.circles.see(made[0], 0.0)
    own.sign(made[0], (), by_hand=True)
    ledger.circles.see(made[1], 1.0)
    ledger.circles.consent(made[1])
    for at, one in enumerate(made[2:], start=2):
        ledger.circles.see(one, float(at))
    known = [one.circle.number for one in ledger.circles.standing().known]
    assert sorted(known) == [1, 2, *range(len(made) - MAX_IDLE + 1, len(made) + 1)]
    ledger.circles.see(made[-1], 1e9)
    assert next(one.seen_s for one in ledger.circles.standing().known if one.circle == made[-1]) == len(made) - 1
