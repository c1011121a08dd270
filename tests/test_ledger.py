"""The member's ledger: what it keeps over a restart, what it lets go, and who may read it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from moonflower.client.guard import Remembered
from moonflower.client.ledger.ledger import Epoch, Ledger
from moonflower.crypto.identity import Identity
from moonflower.crypto.schemes.deal import EpochKey, EpochTerms
from moonflower.errors import InputError
from moonflower.server.records.database import FILE_NAME, CoordinatorStore
from sqlalchemy.exc import IntegrityError

from protocol import context, identity

TERMS = EpochTerms("heart", 1, "a" * 64, "b" * 64)
CARDS = [identity("anna").card.as_dict(), identity("bert").card.as_dict()]
EPOCH = Epoch("run", CARDS, EpochKey(TERMS, b"he-key", b"secret"))
UPDATE = context(run="run", number=1)
SEALED = Remembered("context", "header", 0.05, b"envelope")
SAID = {"sha256": "d" * 64, "members": ["anna", "bert"]}


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db" if request.param == "file" else None)) as opened:
        yield opened


def test_an_epoch_counts_once_all_members_confirmed_it(ledger: Ledger) -> None:
    assert ledger.epoch(1) is None
    ledger.keep_epoch(EPOCH)
    ledger.confirm_epoch(2)
    assert ledger.epoch(1) == EPOCH
    assert ledger.cards() == []
    ledger.confirm_epoch(1)
    assert ledger.epoch(1) == replace(EPOCH, confirmed=True)
    assert ledger.cards() == CARDS


def test_the_cards_of_all_confirmed_epochs_are_kept_once_each(ledger: Ledger) -> None:
    later = replace(EPOCH.key, terms=replace(TERMS, epoch=2))
    another = Identity.generate("anna").card.as_dict()
    ledger.keep_epoch(EPOCH)
    ledger.keep_epoch(Epoch("run", [another, CARDS[1]], later))
    ledger.confirm_epoch(1)
    assert ledger.cards() == CARDS
    ledger.confirm_epoch(2)
    assert ledger.cards() == [another, CARDS[1], CARDS[0]]


def test_a_run_is_agreed_to_once(ledger: Ledger) -> None:
    assert ledger.agreement("run") is None
    ledger.keep_agreement("run", {"training": {"lr": 0.1}})
    ledger.keep_agreement("run", {"training": {"lr": 0.2}})
    assert ledger.agreement("run") == {"training": {"lr": 0.1}}


def test_another_deal_of_an_epoch_is_to_be_confirmed_again(ledger: Ledger) -> None:
    ledger.keep_epoch(EPOCH)
    ledger.confirm_epoch(1)
    other = replace(EPOCH, key=replace(EPOCH.key, secret=b"another"))
    ledger.keep_epoch(other)
    assert ledger.epoch(1) == other


def test_an_envelope_is_remembered_once(ledger: Ledger) -> None:
    assert ledger.sealed(UPDATE) is None
    ledger.remember_sealed(UPDATE, SEALED)
    assert ledger.sealed(UPDATE) == SEALED
    with pytest.raises(IntegrityError):
        ledger.remember_sealed(replace(UPDATE, base="c" * 64), replace(SEALED, envelope=b"another"))
    assert ledger.sealed(UPDATE) == SEALED, "rule 7: a second envelope for one round leaves no trace"


def test_older_rounds_keep_their_digests_and_lose_their_bytes(ledger: Ledger) -> None:
    tallies, other = replace(UPDATE, purpose="tallies"), replace(UPDATE, run="other")
    following, rekeyed = replace(UPDATE, number=2), replace(tallies, epoch=2)
    for about in (UPDATE, tallies, other, following, rekeyed):
        ledger.remember_sealed(about, SEALED)
    for about in (UPDATE, tallies):
        assert ledger.sealed(about) == replace(SEALED, envelope=None)
    for about in (following, rekeyed, other):
        assert ledger.sealed(about) == SEALED


def test_a_base_is_opened_for_its_first_set_for_good(ledger: Ledger) -> None:
    assert ledger.opened("update", "base") is None
    ledger.remember_opening(UPDATE, "base", ["C", "A", "B"])
    ledger.remember_opening(UPDATE, "base", ["A", "B"])
    ledger.remember_opening(replace(UPDATE, purpose="statistics"), "base", ["A"])
    assert ledger.opened("update", "base") == ["A", "B", "C"]
    assert ledger.opened("statistics", "base") == ["A"]


def test_only_the_newest_model_keeps_its_bytes_and_all_their_metrics(ledger: Ledger) -> None:
    assert (ledger.model("m1"), ledger.metric("m1")) == (None, None)
    ledger.remember_sealed(replace(UPDATE, base="m1"), SEALED, b"one", {"m1": 0.5})
    ledger.remember_sealed(replace(UPDATE, base="m2", number=2), SEALED, b"two", {"m2": None})
    ledger.remember_sealed(replace(UPDATE, purpose="statistics"), SEALED)
    assert (ledger.model("m1"), ledger.metric("m1")) == (None, 0.5)
    assert (ledger.model("m2"), ledger.metric("m2")) == (b"two", None)


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
    ledger.keep_agreement("run", {"a": 1})
    ledger.keep_epoch(EPOCH)
    ledger.confirm_epoch(1)
    ledger.remember_sealed(UPDATE, SEALED, b"one", {UPDATE.base: 0.5})
    ledger.remember_opening(UPDATE, UPDATE.base, ["bert", "anna"])
    ledger.remember_opened(UPDATE, SAID, vote={"vote": -0.01})
    ledger.remember_refusal("seal", "seal.already", run="run", epoch=1, number=1, purpose="update")
    journal = ledger.journal()
    place = ("run", UPDATE.epoch, 1, "update")
    assert [(e["event"], e["run"], e["epoch"], e["number"], e["purpose"]) for e in journal] == [
        ("agreed", "run", None, None, ""),
        ("dealt", "run", 1, None, ""),
        ("confirmed", "run", 1, None, ""),
        ("sealed", *place),
        ("opening", *place),
        ("opened", *place),
        ("judged", *place),
        ("refused", "run", 1, 1, "update"),
    ]
    assert [entry["idx"] for entry in journal] == [*range(1, 9)]
    assert [entry["code"] for entry in journal] == [""] * 7 + ["seal.already"]
    assert journal[3]["what"] == {"base": UPDATE.base, "context": "context", "header": "header"}
    assert journal[4]["what"] == {"context": UPDATE.digest, "members": ["anna", "bert"]}
    assert (journal[5]["what"], journal[6]["what"]) == (SAID, {"vote": -0.01})
    assert journal[0]["time"].endswith("Z")


def test_who_is_asked_again_does_nothing_new(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.keep_agreement("run", {"a": 1})
        ledger.remember_opening(UPDATE, UPDATE.base, ["anna", "bert"])
        ledger.remember_opened(UPDATE, SAID, vote={"vote": None})
        ledger.remember_refusal("open", "open.set")
        ledger.confirm_epoch(1)
    assert [entry["event"] for entry in ledger.journal()] == ["agreed", "opening", "opened", "judged", "refused"]
    ledger.remember_opening(replace(UPDATE, number=2), UPDATE.base, ["anna", "bert"])
    assert [entry["number"] for entry in ledger.journal()][-1] == 2, "the same base in another round is another deed"


def test_what_is_not_remembered_is_not_in_the_journal_either(ledger: Ledger) -> None:
    ledger.remember_sealed(UPDATE, SEALED)
    with pytest.raises(IntegrityError):
        ledger.remember_sealed(UPDATE, replace(SEALED, header="another"), b"model", {"m": 1.0})
    assert len(ledger.journal()) == 1
    assert (ledger.model(UPDATE.base), ledger.metric("m")) == (None, None)


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
            one.keep_epoch(EPOCH)
            one.remember_opened(UPDATE, SAID, facts={"rows:run": 1})
        for other in (b, d):
            assert other.epoch(1) is None
            assert other.fact("rows:run") is None
            assert other.journal() == []


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as before:
        before.keep_agreement("run", {"a": 1})
        before.keep_epoch(EPOCH)
        before.confirm_epoch(1)
        before.remember_sealed(replace(UPDATE, base="m1"), SEALED, b"one", {"m1": 0.25})
        before.remember_opening(UPDATE, "base", ["A"])
        before.remember_opened(UPDATE, SAID, facts={"rows:run": 7})
        journal = before.journal()
    with closing(Ledger(tmp_path / "ledger.db")) as after:
        assert after.agreement("run") == {"a": 1}
        assert after.epoch(1) == replace(EPOCH, confirmed=True)
        assert after.sealed(UPDATE) == SEALED
        assert after.opened("update", "base") == ["A"]
        assert (after.model("m1"), after.metric("m1"), after.fact("rows:run")) == (b"one", 0.25, 7)
        assert after.journal() == journal != []


def test_what_was_written_is_on_disk_before_the_call_returns(tmp_path: Path) -> None:
    """Another process sees it while the first is still open: as after a kill."""
    with closing(Ledger(tmp_path / "ledger.db")) as one, closing(Ledger(tmp_path / "ledger.db")) as two:
        one.remember_sealed(UPDATE, SEALED)
        assert two.sealed(UPDATE) == SEALED


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
        ledger.keep_epoch(EPOCH)
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
