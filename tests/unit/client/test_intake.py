"""Rows of a table as ``[data]`` says: rows that are left out, all faults at once, no cell in a message, and spools."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from moonflower.client import kept_rows as kept_rows_module
from moonflower.client.kept_rows import kept_rows
from moonflower.client.learning import intake, spool
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.splits import join, partition, row_hashes, split
from moonflower.client.learning.spool import SpooledRows, SpoolWriter, spools_in
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.snapshots import Snapshots, index_of
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.schema import Categorical, CountTarget, Date, Label, NumberTarget, Numeric, Schema, TimeTarget
from moonflower.configs.settings import DataSettings, OwnDataSettings, SimulateSettings
from moonflower.errors import InputError, MoonflowerError, RowFaults
from support.learners import TRAINING, secret_of

MARKER = "Wxyzzy"
SEX = Categorical("sex", ("f", "m"))
SCHEMA = Schema((Numeric("age", 0, 100, (0,)), Numeric("dose", 0, 9), SEX), Label("y", (0, 1)))


def settings(path: Path, **changes: Any) -> DataSettings:
    return DataSettings.model_validate({"path": path, **changes})


def table(count: int = 60, **changes: Any) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "age": rng.integers(1, 100, count).astype(str),
            "dose": [f"{number:.3f}" for number in rng.uniform(0, 9, count)],
            "sex": rng.choice(["f", "m", ""], count),
            "site": rng.choice(["Bern", "Genf", "Chur"], count),
            "y": rng.integers(0, 2, count).astype(str),
        }
    )
    for name, cells in changes.items():
        for at, cell in cells.items():
            frame.loc[at, name] = cell
    return frame


def read(folder: Path, frame: pd.DataFrame, schema: Schema = SCHEMA, **changes: Any) -> Rows:
    frame.to_csv(folder / "t.csv", index=False)
    rows: Rows = Tabular().data(settings(folder / "t.csv", **changes), schema)
    return rows


BAD = {"age": {1: "x", 2: "400", 3: "7,5"}, "dose": {2: "-1"}, "sex": {5: "F", 6: "w"}, "y": {1: "", 8: "2"}}


def test_all_faults_are_told_at_once_and_their_rows_apart(tmp_path: Path) -> None:
    with pytest.raises(RowFaults) as refusal:
        read(tmp_path, table(**BAD))
    assert str(refusal.value).splitlines() == [
        "t.csv: column 'age' has 2 cells without a number; expected numbers from 0 to 100, or empty cells; 1 of them "
        'would be right with [data] decimal = ","',
        "t.csv: column 'age' has 1 cell outside the range; expected numbers from 0 to 100",
        "t.csv: column 'dose' has 1 cell outside the range; expected numbers from 0 to 9",
        "t.csv: column 'sex' has 2 cells with words that the schema does not list; expected one of: f, m; 1 of them "
        "would be right but for capital letters",
        "t.csv: column 'y' has 1 cell with words that the schema does not list; expected one of: 0, 1",
        "t.csv: column 'y' has 1 empty cell; expected a class in every row",
    ]
    assert refusal.value.rows["t.csv: age: without a number"] == (2, 4)
    assert refusal.value.rows["t.csv: y: empty"] == (2,)
    assert 'on_bad = "drop"' in refusal.value.hint


def test_rows_at_fault_are_left_out_and_only_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = table(**BAD)
    with caplog.at_level(logging.INFO):
        found = read(tmp_path, frame, on_bad="drop", site="site")
    assert [record.getMessage() for record in caplog.records] == [
        "6 rows of the table are left out: column 'age' had 2 cells without a number; column 'age' had 1 cell outside "
        "the range; column 'dose' had 1 cell outside the range; column 'sex' had 2 cells with words that the schema "
        "does not list; column 'y' had 1 cell with words that the schema does not list; column 'y' had 1 empty cell"
    ]
    good = frame.drop(index=[1, 2, 3, 5, 6, 8]).reset_index(drop=True)
    plain = read(tmp_path, good, site="site")
    assert torch.equal(found.inputs.nan_to_num(-1), plain.inputs.nan_to_num(-1))
    assert torch.equal(found.targets, plain.targets)
    assert found.groups["site"].tolist() == plain.groups["site"].tolist()
    with pytest.raises(InputError, match="no row that can be used"):
        read(tmp_path, frame.assign(y=""), on_bad="drop")


@pytest.mark.parametrize(
    ("label", "bad", "reason"),
    [
        (NumberTarget("y", 0, 5), "9", "outside the range"),
        (NumberTarget("y", 0, 5), "x", "without a number"),
        (CountTarget("y", 5), "0.5", "without a whole number"),
        (CountTarget("y", 5), "", "empty"),
        (TimeTarget("y", "sex", (1, 2), "f"), "-1", "outside the range"),
    ],
)
def test_every_kind_of_target_is_checked(tmp_path: Path, label: Any, bad: str, reason: str) -> None:
    schema = Schema((Numeric("age", 0, 100),), label)
    frame = table(y={4: bad}).assign(sex=["f", "m"] * 30)
    with pytest.raises(RowFaults, match=f"1 {reason} cell" if reason == "empty" else f"1 cell {reason}"):
        read(tmp_path, frame, schema)
    assert len(read(tmp_path, frame, schema, on_bad="drop")) == 59
    if isinstance(label, TimeTarget):
        with pytest.raises(InputError, match="has 3 different values; expected 'f' and one other"):
            read(tmp_path, frame.assign(sex=["f", "m", "w"] * 20), schema, on_bad="drop")


def test_dates_become_days_and_words_among_numbers_are_missing(tmp_path: Path) -> None:
    days = Date.between("day", "2020-01-01", "2020-12-31", ("unknown",))
    schema = Schema((Numeric("dose", 0, 9, (".",)), days), Label("y", (0, 1)))
    frame = pd.DataFrame(
        {"dose": ["1.5", "."] * 30, "day": ["2020-01-03", "04.01.2020", "Unknown"] * 20, "y": ["0", "1"] * 30}
    )
    rows = read(tmp_path, frame, schema)
    assert np.array_equal(rows.inputs[:3].numpy(), [[1.5, 2], [np.nan, 3], [1.5, np.nan]], equal_nan=True)
    frame.loc[5, "day"] = MARKER
    with pytest.raises(RowFaults, match="column 'day' has 1 cell without a date") as refused:
        read(tmp_path, frame, schema)
    assert MARKER not in str(refused.value)
    assert len(read(tmp_path, frame, schema, on_bad="drop").inputs) == 59


def test_a_column_of_lists_is_told(tmp_path: Path) -> None:
    frame = table().assign(age=[[MARKER]] * 60)
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'age' has lists or tables in it; expected a number or a word a cell"):
        Tabular().data(settings(tmp_path / "t.parquet"), SCHEMA)


def test_the_sites_own_keys_are_not_of_the_recipe() -> None:
    own = OwnDataSettings(decimal=",", separator=";", encoding="cp1252", on_bad="drop")
    both = own.under(DataSettings().rules)
    assert (both.decimal, both.separator, both.encoding, both.on_bad) == (",", ";", "cp1252", "drop")
    assert not {"decimal", "separator", "encoding", "on_bad"} & {*both.rules.model_dump()}


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    marks=st.lists(st.tuples(st.integers(-1, 59), st.integers(0, 4)), min_size=1, max_size=6),
    shape=st.sampled_from([MARKER, MARKER + "1", f'"{MARKER}', f"{MARKER},{MARKER}", f"4{MARKER}", f"{MARKER}\n1,2"]),
    on_bad=st.sampled_from(["refuse", "drop"]),
    form=st.sampled_from(["csv", "parquet", "folder"]),
    site=st.sampled_from([None, "site"]),
)
def test_no_message_and_no_log_line_holds_a_cell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, marks: Any, shape: str, on_bad: str, form: str, site: str | None
) -> None:
    """Cells and names of columns are marked, as where a row is taken for the header."""
    caplog.clear()
    frame = table()
    for row, column in marks:
        if row < 0:
            frame.columns = [shape if at == column else name for at, name in enumerate(frame.columns)]
        else:
            frame.iat[row, column] = shape
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        if frame.columns.has_duplicates:
            return
        frame.to_parquet(path)
    elif form == "csv":
        path.write_text("\n".join([",".join(frame.columns), *(",".join(map(str, row)) for row in frame.to_numpy())]))
    else:
        path.mkdir(exist_ok=True)
        frame.to_csv(path / "a.csv", index=False)
        table().to_csv(path / "b.csv", index=False)
    told = []
    with caplog.at_level(logging.DEBUG):
        try:
            data = settings(path, on_bad=on_bad, site=site)
            rows = Tabular().data(data, SCHEMA)
            if site:
                partition(rows, data, SimulateSettings(), 1)
        except MoonflowerError as error:
            told = [str(error), error.hint]
    said = "\n".join([*told, *(record.getMessage() for record in caplog.records)])
    assert MARKER not in said


# Spools


def spooled(folder: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> SpooledRows:
    monkeypatch.setattr(intake, "SPOOL_BYTES", 100)
    monkeypatch.setattr(spool, "WINDOW_BYTES", 200)
    rows = read(folder, frame, **changes)
    assert isinstance(rows, SpooledRows)
    return rows


def test_a_spool_gives_rows_in_any_order_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "WINDOW_BYTES", 5000)
    cells = torch.from_numpy(np.random.default_rng(1).standard_normal((1000, 7)))
    with spools_in(tmp_path):
        writer = SpoolWriter()
    assert os.fstat(writer._file.fileno()).st_mode & 0o777 == 0o600
    for part in cells.split(300):
        writer.add(part)
    made = writer.finish()
    index = np.random.default_rng(2).integers(0, 1000, 500)
    assert torch.equal(made.read(index), cells[index])
    assert made.read(np.empty(0, dtype=np.int64)).shape == (0, 7)
    assert list(tmp_path.iterdir()) == []
    other = SpoolWriter()
    other.add(cells)
    with pytest.raises(InputError, match="change their shape or type"):
        other.add(cells[:, :3])
    other.close()


def test_spooled_rows_are_dealt_and_trained_with_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, secret = table(120), secret_of("a")
    near = read(tmp_path, frame, site="site")
    far = spooled(tmp_path, frame, monkeypatch, site="site")
    assert (row_hashes(near, secret, "split") == row_hashes(far, secret, "split")).all()
    data = settings(tmp_path / "t.csv", site="site")
    dealt = [split(rows, data, secret=secret, member="a") for rows in (near, far)]
    learners = [
        TorchLearner(Tabular(personalise="intercept", missing_indicator=True), parts, SCHEMA, seed=7, secret=secret)
        for parts in dealt
    ]
    for made in learners:
        made.prepare(made.scaling(made.summary().tolist()))
    base = learners[0].start()
    for training in (TRAINING, TRAINING.model_copy(update={"chunk_rows": 5, "parts": 2})):
        vectors = [made.train(base, training, 1).vector.tobytes() for made in learners]
        assert vectors[0] == vectors[1]
    assert learners[0].summary().tolist() == learners[1].summary().tolist()
    assert learners[0].evaluate(base, "test") == learners[1].evaluate(base, "test")
    assert learners[0].personalised(base) == learners[1].personalised(base)
    members = [partition(rows, data, SimulateSettings(), 1) for rows in (near, far)]
    assert {name: len(one) for name, one in members[0].items()} == {name: len(one) for name, one in members[1].items()}
    whole = join([split(one, data, secret=secret, member=name) for name, one in members[1].items()])
    assert isinstance(whole.train, SpooledRows)
    assert len(whole.train) + len(whole.validation) + len(whole.test) == 120


def test_a_large_part_is_taken_in_chunks_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = spooled(tmp_path, table(), monkeypatch)
    monkeypatch.setattr(spool, "CHUNK_BYTES", 10 * 24)
    assert [far.most(0), far.most(4), read(tmp_path, table(3)).most(0)] == [10, 4, 0]
    wide = far.ready(lambda rows: Rows(rows.inputs.repeat(1, 5), rows.targets))
    assert wide.most(0) == 2


def test_snapshots_keep_spooled_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = spooled(tmp_path, table(90), monkeypatch)
    near = far.loaded()
    monkeypatch.setattr(kept_rows_module, "SPOOL_BYTES", 300)
    ledger = Ledger(None)
    about: Any = {"least": 5, "append_only": False, "let_go": lambda: None}
    snapshots = Snapshots(ledger.row_sets, tmp_path / "snapshot", secret_of("a"), **about)
    parts = Split(*(far.take(np.arange(at, at + 30)) for at in (0, 30, 60)))
    snapshots.of_run("r", parts)
    files = sorted((tmp_path / "snapshot").iterdir())
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    moved = Split(*(far.take(np.arange(at, at + 29)) for at in (0, 30, 60)))
    again = snapshots.of_run("r", moved)
    ledger.close()
    assert isinstance(again.train, SpooledRows)
    assert torch.equal(again.train.loaded().inputs.nan_to_num(-1), near.inputs[:30].nan_to_num(-1))
    assert torch.equal(again.test.targets, near.targets[60:])
    whole = kept_rows(files[0])
    monkeypatch.setattr(kept_rows_module, "SPOOL_BYTES", 1 << 20)
    plain = kept_rows(files[0])
    assert whole is not None
    assert plain is not None
    assert torch.equal(whole.loaded().inputs.nan_to_num(-1), plain.inputs.nan_to_num(-1))
    assert kept_rows(tmp_path / "none") is None


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_rows_are_found_as_often_as_they_are_wanted(wanted: list[int], rows: list[int]) -> None:
    left, expected = list(wanted), []
    for at, row in enumerate(rows):
        if row in left:
            left.remove(row)
            expected.append(at)
    pairs = [np.array([[one, one // 2] for one in some], dtype=np.uint64).reshape(-1, 2) for some in (wanted, rows)]
    assert index_of(*pairs).tolist() == expected


def test_a_spool_that_finds_no_room_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: object) -> None:
            raise OSError(28, "No space left on device")

    writer = SpoolWriter()
    writer.close()
    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(InputError, match=r"cannot be copied to .*: No space left on device; expected room"):
        writer.add(torch.zeros(2, 2))
