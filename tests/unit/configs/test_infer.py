"""What infer makes of tables: columns, labels, what it refuses to guess, and what it gives away."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.client.learning.tables import Format, batches, look
from moonflower.configs.facts import Facts
from moonflower.configs.hints import late_date
from moonflower.configs.infer import Inferred, Wanted, infer
from moonflower.configs.schema import Categorical, CountTarget, Date, Label, NumberTarget, Numeric, TimeTarget
from moonflower.configs.survey import survey
from moonflower.errors import InputError

ROWS = 900
rng = np.random.default_rng(11)
AGE, MARKER = rng.integers(20, 90, ROWS), rng.normal(5, 2, ROWS).round(2)
SICK = rng.random(ROWS) < 0.4
SITE = np.array(["Zürich", "Győr", "Köln"])[np.arange(ROWS) % 3]


def frame(**more: Any) -> pd.DataFrame:
    return pd.DataFrame({"age": AGE, "marker": MARKER, "site": SITE, "y": SICK.astype(int)} | more)


def inferred(table: pd.DataFrame, *, typed: bool = False, **wanted: Any) -> Inferred:
    """Infer from a table, as text unless ``typed``, in several batches."""
    asked = Wanted(**{"label": "y", "site": "site" if "site" in table else None} | wanted)
    cells = table if typed else pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)
    parts = pa.Table.from_pandas(cells, preserve_index=False).to_batches(max_chunksize=250)
    return infer(survey(parts, exact=asked.exact, dates=asked.date, site=asked.site), asked)


def codes(found: Inferred) -> set[tuple[str, str]]:
    return {(hint.column, hint.code) for hint in found.hints}


def column(found: Inferred, name: str) -> Any:
    return next(one.column for one in found.columns if one.name == name)


def refusal(table: pd.DataFrame, **wanted: Any) -> InputError:
    with pytest.raises(InputError) as refused:
        inferred(table, **wanted)
    assert refused.value.code == "data.column"
    return refused.value


@pytest.mark.parametrize("typed", [False, True])
def test_a_plain_table(typed: bool) -> None:
    found = inferred(frame(), typed=typed)
    assert [one.name for one in found.schema.columns] == ["age", "marker"]
    assert column(found, "age").min <= 20
    assert column(found, "marker").max > MARKER.max()
    assert found.schema.label == Label("y", (0, 1))
    assert (found.label.positive, codes(found)) == ("1", set())


# Columns


def test_words_among_numbers_are_proposed_as_missing_or_counted() -> None:
    cells = MARKER.astype(str).astype(object)
    cells[::30] = [".", "<0.5", "unknown"] * 10
    cells[[7, 19]] = ["typo1", "inf"]
    found = inferred(frame(marker=cells))
    assert column(found, "marker").missing == (".", "<0.5", "unknown")
    said = {hint.code: hint.message for hint in found.hints}
    assert said["missing"] == "words among numbers: '.' (10 rows), '<0.5' (10 rows), 'unknown' (10 rows)"
    assert said["odd"] == "2 cells that are no number, in rows 8, 20"
    assert next(one.missing for one in found.columns if one.name == "marker") == 30
    read = column(found, "marker").read(pd.Series(cells).drop([7, 19]), "d")
    assert np.isnan(read).sum() == 30


def test_a_column_in_between_is_not_guessed() -> None:
    mixed = np.where(np.arange(ROWS) % 3 == 0, "A", (np.arange(ROWS) % 5).astype(str))
    told = str(refusal(frame(grade=mixed, other=mixed)))
    assert told == "; ".join(
        f"column '{name}' holds numbers in 67% of its filled cells and words in the others; "
        f"expected --numeric {name}, --category {name} or --drop {name}"
        for name in ("grade", "other")
    )
    assert column(inferred(frame(grade=mixed), category=["grade"]), "grade").categories == (*"01234", "A")
    assert column(inferred(frame(grade=mixed), numeric=["grade"]), "grade").missing == ("A",)
    assert column(inferred(frame(grade=mixed), drop=["grade"]), "grade") is None
    assert column(inferred(frame(), category=["age"]), "age").other


@pytest.mark.parametrize(
    ("shape", "order"), [("%Y-%m-%d", ""), ("%d.%m.%Y", ""), ("%m/%d/%Y", "mdy"), ("%d/%m/%Y", "dmy"), (None, "")]
)
def test_dates_are_left_out_or_become_days(shape: str | None, order: str) -> None:
    days = pd.Series(pd.Timestamp("2021-01-05") + pd.to_timedelta(np.arange(ROWS) % 700, "D"))
    cells = days.dt.strftime(shape) if shape else days
    found = inferred(frame(admitted=cells), typed=shape is None)
    assert column(found, "admitted") is None
    assert ("admitted", "date") in codes(found)
    kept = column(inferred(frame(admitted=cells), typed=shape is None, date=["admitted"]), "admitted")
    assert kept == Date.between("admitted", "2021-01-01", "2022-12-31", order=order)
    assert kept.read(cells, "d")[:3].tolist() == [4, 5, 6]


def test_dates_that_are_two_days_are_refused() -> None:
    unsure = frame(admitted=[f"{1 + i % 12:02d}/{1 + i % 11:02d}/2020" for i in range(ROWS)])
    assert "--date-order dmy or --date-order mdy" in str(refusal(unsure, date=["admitted"]))
    assert column(inferred(unsure, date=["admitted"], order="dmy"), "admitted").order == "dmy"
    assert "holds no dates" in str(refusal(frame(), date=["age"]))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("record", [100000 + i for i in range(ROWS)]),
        ("code", [f"P{i:05d}" for i in range(ROWS)]),
        ("zip_code", [str(10000 + 7 * (i % 300)) for i in range(ROWS)]),
        ("homePhone", [str(3612345600 + i % 300) for i in range(ROWS)]),
        ("area", [f"0{1000 + i % 300}" for i in range(ROWS)]),
        ("patient_id", [f"p{i % 100}" for i in range(ROWS)]),
    ],
)
def test_ids_are_left_out_unless_kept(name: str, cells: list[Any]) -> None:
    found = inferred(frame(**{name: cells}))
    assert column(found, name) is None
    assert (name, "id") in codes(found)
    if str(cells[0]).isdigit():
        assert isinstance(column(inferred(frame(**{name: cells}), keep=[name]), name), Numeric)


def test_measurements_and_few_words_are_no_ids() -> None:
    found = inferred(frame(exact=rng.normal(0, 1, ROWS), phone=np.where(SICK, "yes", "no")))
    assert isinstance(column(found, "exact"), Numeric)
    assert isinstance(column(found, "phone"), Categorical)


def test_what_is_empty_constant_or_of_one_site() -> None:
    local = np.where(SITE == "Köln", MARKER.astype(str), "")
    case = np.where(rng.random(ROWS) < 0.5, "Yes", np.where(rng.random(ROWS) < 0.5, "yes", "No"))
    found = inferred(
        frame(gone="", same="a", five=5, local=local, case=case, text=[f"t {i % 450}" for i in range(ROWS)])
    )
    assert codes(found) == {
        ("gone", "empty"), ("same", "same"), ("five", "same"), ("local", "site"), ("case", "case"), ("text", "text"),
    }  # fmt: skip
    assert column(found, "gone") is None
    assert column(found, "text") is None
    assert column(found, "five") is not None


@pytest.mark.parametrize(
    ("label", "copy"),
    [
        (SICK.astype(int), 10 * SICK + rng.random(ROWS)),
        (SICK.astype(int), np.where(SICK, "ward 7", "home")),
        (MARKER, MARKER * 3 + rng.normal(0, 0.01, ROWS)),
        (np.digitize(MARKER, [3, 5, 7]), np.digitize(MARKER, [3, 5, 7]) + 1),
    ],
)
def test_a_copy_of_the_label_is_warned_of(label: Any, copy: Any) -> None:
    found = inferred(frame(y=label, after=copy, marker=rng.permutation(MARKER)))
    assert codes(found) == {("after", "copy")}


# Labels


@pytest.mark.parametrize(
    ("no", "yes", "why"),
    [
        ("nein", "ja", "meaning"), ("control", "case", "meaning"), ("no", "yes", "meaning"), ("0", "1", "meaning"),
        ("False", "True", "meaning"), ("healthy", "sick", "meaning"), ("alive", "dead", "meaning"),
        ("negativ", "positiv", "meaning"), ("non", "oui", "meaning"), ("nie", "tak", "meaning"),
        ("benign", "malignant", "meaning"), ("f", "m", "rarer"), ("b", "a", "rarer"), ("1", "2", "rarer"),
    ],
)  # fmt: skip
def test_the_positive_class_is_the_second(no: str, yes: str, why: str) -> None:
    table = frame(y=np.where(SICK, yes, no))
    found = inferred(table)
    assert [str(word) for word in found.schema.label.classes] == [no, yes]
    assert found.label.positive == yes
    assert why in found.label.why_positive
    assert found.label.classes == {no: int((~SICK).sum()), yes: int(SICK.sum())}
    turned = inferred(table, positive=no)
    assert [str(word) for word in turned.schema.label.classes] == [yes, no]
    assert "is no class" in str(refusal(table, positive="other"))


def test_kinds_of_labels() -> None:
    four = inferred(frame(y=np.digitize(MARKER, [3, 5, 7])))
    assert four.schema.label == Label("y", (0, 1, 2, 3))
    number = inferred(frame(y=(2 + 0.1 * AGE + MARKER).round(1)))
    assert isinstance(number.schema.label, NumberTarget)
    assert number.schema.label.max > (2 + 0.1 * AGE + MARKER).max()
    many = rng.permutation(700)[np.arange(ROWS) % 700]
    assert isinstance(inferred(frame(y=many)).schema.label, NumberTarget)
    for mean in (1.5, 40.0):
        visits = rng.poisson(rng.gamma(1, mean, ROWS))
        target = inferred(frame(y=visits)).schema.label
        assert isinstance(target, CountTarget)
        assert target.max >= visits.max()
    ten = inferred(frame(y=np.arange(ROWS) % 10))
    assert ten.schema.label == Label("y", tuple(range(10)))
    assert isinstance(inferred(frame(y=np.arange(ROWS) % 10), kind="number").schema.label, NumberTarget)
    assert len(inferred(frame(y=np.arange(ROWS) % 30), kind="classes").schema.label.classes) == 30


def test_a_time_with_an_event_gets_a_public_grid() -> None:
    time = rng.exponential(20, ROWS).round(1).clip(0.1)
    seen = (time < 25).astype(int)
    table = frame(time=time.clip(max=25), event=seen).drop(columns="y")
    found = inferred(table, label="time", event="event")
    target = found.schema.label
    assert isinstance(target, TimeTarget)
    assert (target.event, target.happened, target.grid[-1]) == ("event", "1", 25)
    assert 10 <= len(target.grid) <= 20
    assert [one.name for one in found.schema.columns] == ["age", "marker"]
    open_end = inferred(table.assign(time=time), label="time", event="event").schema.label
    assert isinstance(open_end, TimeTarget)
    assert open_end.grid[-1] > time.max()
    died = inferred(table.assign(event=np.where(seen, "dead", "alive")), label="time", event="event").schema.label
    assert isinstance(died, TimeTarget)
    assert died.happened == "dead"
    assert ("time", "event") in codes(inferred(table, label="time"))
    assert "is a time without --event" in str(refusal(table, label="time", kind="time"))
    assert "has 70 different values" in str(refusal(table, label="time", event="age"))


def test_rare_classes_and_empty_labels() -> None:
    rare = (np.arange(ROWS) < 18).astype(int)
    assert codes(inferred(frame(y=rare))) == set()
    assert codes(inferred(frame(y=(np.arange(ROWS) < 5).astype(int)))) == {("y", "rare")}
    cells = np.where(SICK, "a", "b").astype(object)
    cells[:4], cells[4:7] = "secret", ""
    found = inferred(frame(y=cells))
    assert found.schema.label.classes == ("b", "a")
    said = {hint.code: hint.message for hint in found.label.hints}
    assert said == {"rare": "1 class has fewer than 10 rows, 4 in all", "label": "3 rows have no label"}


@pytest.mark.parametrize(
    ("change", "wanted", "message"),
    [
        ({}, {"label": "yy"}, "the table has no column 'yy'; did you mean 'y'?"),
        ({}, {"label": "cost"}, "the table has no column 'cost'; expected the name of one of its 4 columns"),
        ({}, {"drop": ["ages"]}, "the table has no column 'ages'; did you mean 'age'?"),
        ({}, {"drop": ["age"], "numeric": ["age"]}, "column 'age' is named by two options; expected one"),
        ({}, {"drop": ["age", "marker"]}, "no column is left as a feature; expected one, or --keep COLUMN"),
        ({"y": "1"}, {}, "label 'y' holds the same in all rows; expected two classes or more, or numbers that differ"),
        ({"y": ""}, {}, "label 'y' has no values; expected a value in every row"),
        ({"y": [f"w{i % 40}" for i in range(ROWS)]}, {},
            "label 'y' has 40 different words; expected at most 20, or numbers"),
        ({"y": [f"2020-01-{1 + i % 28:02d}" for i in range(ROWS)]}, {},
            "label 'y' holds dates; expected classes or numbers"),
        ({}, {"kind": "tiem"}, "--kind tiem is unknown; did you mean 'time'? (one of: classes, count, number, time)"),
        ({}, {"kind": "number", "positive": "1"},
            "label 'y' is of kind number, and has --positive; expected --positive for two classes only"),
        ({"y": MARKER - 9}, {"kind": "count"},
            "label 'y' has numbers below 0 or with a fraction; expected whole numbers from 0, for a count"),
        ({"y": ["secret"] * 3 + ["b"] * (ROWS - 3)}, {},
            "label 'y' has 1 classes with 10 or more rows, of 2 in all; expected 2 to 1000"),
        ({"job": [f"id{i % 400}" for i in range(ROWS)]}, {"category": ["job"]},
            "column 'job' has 0 values with 10 or more rows; expected 1 to 1024, or --drop job"),
        ({"job": "x"}, {"numeric": ["job"]}, "column 'job' holds no number; expected numbers, or --category job"),
    ],
)  # fmt: skip
def test_what_infer_refuses(change: dict[str, Any], wanted: dict[str, Any], message: str) -> None:
    assert str(refusal(frame(**change), **wanted)) == message


# What is given away


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), st.sampled_from([2, 100]))
def test_inferred_ranges_hold_every_value(values: list[float], min_count: int) -> None:
    rows = pd.DataFrame({"x": [*values, *values], "y": ["no", *["yes"] * (2 * len(values) - 1)]})
    found = column(inferred(rows, min_count=min_count, keep=["x"]), "x")
    assert isinstance(found, Numeric)
    assert not np.isnan(found.read(rows["x"].astype(str), "d")).any()
    if min_count == 100 and min(values) != 0:
        assert found.min < min(values)
        assert found.max > max(values)


@settings(max_examples=25)
@given(
    st.integers(1, 9), st.sampled_from(["age", "marker", "job", "y", "day", "flag"]),
    st.sampled_from(["MARK", "1.2MARK", "mark-2020", "2020-01-01MARK"]), st.integers(0, 2**32),
)  # fmt: skip
def test_a_word_of_few_rows_is_neither_written_nor_said(count: int, where: str, word: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = frame(job=np.where(SICK, "a", "b"), day="2020-02-02", flag=np.where(SICK, "YES", "no")).astype(object)
    table["y"] = generator.integers(0, 3, ROWS).astype(object)
    table.loc[generator.choice(ROWS, count, replace=False), where] = word
    found = inferred(table, date=["day"] if where == "flag" else [])
    told = [str(one) for one in (found.schema.dump(), found.label, found.columns, found.hints)]
    assert not any("mark-" in one.lower() or word in one for one in told)


def from_file(path: Path, **wanted: Any) -> Inferred:
    asked = Wanted(**{"label": "y", "site": "site"} | wanted)
    fmt = look(path)
    table = survey(batches(path, fmt), exact=asked.exact, site=asked.site, decimal=fmt.decimal)
    return infer(table, asked)


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [(";", ",", "utf-8"), (";", ",", "cp1252"), ("\t", ".", "utf-8"), (",", ".", "utf-8-sig"), ("|", ",", "utf-8")],
)
def test_formats_of_csv(tmp_path: Path, separator: str, decimal: str, encoding: str) -> None:
    table = frame(site=np.where(SITE == "Győr", "Bräu", SITE))
    path = tmp_path / "t.csv"
    table.to_csv(path, sep=separator, decimal=decimal, encoding=encoding, index=False)
    found = from_file(path)
    assert found.schema == inferred(table).schema
    assert isinstance(column(found, "marker"), Numeric)
    assert found.rows == ROWS


def test_a_point_is_no_decimal_mark_where_a_comma_is(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    cells = [f"{value:.2f}".replace(".", ",") for value in MARKER]
    cells[3] = "1.250"
    frame(marker=cells).to_csv(path, sep=";", index=False)
    fmt = look(path, Format(";", ",", "utf-8"))
    table = survey(batches(path, fmt), exact=["y"], site="site", decimal=",")
    assert (table.facts["marker"].numbers, dict(table.facts["marker"].odd)) == (ROWS - 1, {"1.250": (4,)})
    found = infer(table, Wanted("y", "site"))
    assert [hint.message for hint in found.hints] == ["1 cell that is no number, in row 4"]


def test_large_tables_are_sampled_and_ids_are_found() -> None:
    rows = 60_000
    generator = np.random.default_rng(2)
    y = generator.integers(0, 2, rows)
    table = pd.DataFrame({
        "number": generator.normal(0, 1, rows), "code": [f"c{i}" for i in range(rows)], "record": np.arange(rows),
        "after": y + generator.random(rows) / 2, "y": y,
    })  # fmt: skip
    found = survey(pa.Table.from_pandas(table).to_batches(max_chunksize=10_000), exact=["y"])
    assert 10_000 < found.sample.num_rows <= 20_000
    assert found.facts["code"].words is None
    assert found.facts["code"].differ
    assert not found.facts["number"].differ
    assert found.facts["record"].high == rows - 1
    assert codes(infer(found, Wanted("y"))) == {("code", "id"), ("record", "id"), ("after", "copy")}


def test_dates_after_the_outcome_are_warned_of() -> None:
    outcome = rng.uniform(0, 100, 50)
    hint = late_date(Facts("discharged", 50), outcome, outcome + 3)
    assert hint is not None
    assert (hint.code, hint.todo) == ("late", "--drop discharged: it is not known before")
    assert late_date(Facts("admitted", 50), outcome, outcome - 3) is None
    assert late_date(Facts("discharged", 9), outcome[:9], outcome[:9] + 3) is None
