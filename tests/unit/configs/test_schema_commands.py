"""``moonflower schema`` in people's hands: infer, check and merge on files; every fault in one run, and no cell."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from moonflower.__main__ import main
from moonflower.configs.inspection import Finding, inspect
from moonflower.configs.merge import merge
from moonflower.configs.schema import (
    Categorical,
    CountTarget,
    Date,
    Label,
    NumberTarget,
    Numeric,
    Schema,
    Target,
    TimeTarget,
    load_schema,
)
from moonflower.errors import InputError

ROWS = 300
Y = Label("y", (0, 1))


@dataclass(frozen=True)
class Result:
    status: object
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``moonflower schema …`` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["moonflower", "schema", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code, *capsys.readouterr())

    return run


def table(**more: Any) -> pd.DataFrame:
    generator = np.random.default_rng(3)
    columns = {
        "age": generator.integers(20, 90, ROWS), "marker": generator.normal(5, 2, ROWS).round(2),
        "site": np.array(["a", "b"])[np.arange(ROWS) % 2], "y": generator.choice(["ja", "nein"], ROWS),
    }  # fmt: skip
    return pd.DataFrame(columns | more)


def test_infer_says_what_it_found_and_what_comes_next(schema: Cli) -> None:
    table(record=range(ROWS)).to_csv("t.csv", index=False)
    ended = schema("infer", "t.csv", "--label", "y", "--site", "site", "--out", "s.toml")
    assert ended.status in (None, 0)
    assert "positive: ja (by the meaning of the words)" in ended.out
    assert "record: all values differ: an id?; it is left out; --keep record keeps it" in ended.out
    assert "next: moonflower schema check s.toml t.csv" in ended.err
    assert load_schema(Path("s.toml")).label == Label("y", ("nein", "ja"))
    assert schema("check", "s.toml", "t.csv").status in (None, 0)
    again = schema("infer", "t.csv", "--label", "y", "--out", "s.toml")
    assert (again.status, "cannot be written" in again.err) == (2, True)


def test_infer_as_json(schema: Cli) -> None:
    table(day="2020-01-05").to_csv("t.csv", index=False)
    arguments = ("infer", "t.csv", "--label", "y", "--drop", "site", "--date", "day", "--positive", "nein")
    told = json.loads(schema(*arguments, "--out", "s.toml", "--json").out)
    assert {one["name"]: (one["kind"], one["kept"]) for one in told["columns"]} == {
        "age": ("number", True), "marker": ("number", True), "site": ("left out: --drop", False), "day": ("date", True),
    }  # fmt: skip
    assert told["columns"][3]["range"] == ["2020-01-01", "2020-01-31"]
    assert (told["label"]["kind"], told["label"]["positive"], told["rows"]) == ("classes", "nein", ROWS)
    assert told["next"] == "moonflower schema check s.toml t.csv"


def test_formats_are_passed_on(schema: Cli) -> None:
    table(site="Köln").to_csv("t.csv", sep=";", decimal=",", encoding="cp1252", index=False)
    formats = ("--separator", ";", "--decimal", ",", "--encoding", "cp1252")
    assert schema("infer", "t.csv", "--label", "y", *formats, "--out", "s.toml").status in (None, 0)
    marker = load_schema(Path("s.toml")).columns[1]
    assert isinstance(marker, Numeric)
    assert schema("check", "s.toml", "t.csv", *formats).status in (None, 0)
    assert "--decimal ; is unknown" in schema("check", "s.toml", "t.csv", "--decimal", ";").err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("55,5.2,SECRET,1\n61,4.8,SECRET,0\n44,3.9,SECRET,1\n", 2),  # no header
        ("age,marker,site,y\n", 2),  # nothing but a header
        ("", 2),
        ("age,age,y\nSECRET,1,2\n", 2),
        ("age,y\nSECRET,1,2\n3,4\n", 2),
        ("age,y\nSECRET,1\n", 2),  # one row
        ("SECRET,low,ja\nBerta,high,nein\nCarl,low,ja\n", 2),  # no header, and no numbers
    ],
)
def test_nothing_of_a_broken_file_is_said_or_written(schema: Cli, text: str, code: int) -> None:
    Path("t.csv").write_text(text)
    ended = schema("infer", "t.csv", "--label", "y", "--out", "s.toml")
    assert ended.status == code
    assert "SECRET" not in ended.out + ended.err
    assert "55" not in ended.out + ended.err
    assert not Path("s.toml").exists()


def test_check_lists_all_faults_without_a_cell(schema: Cli) -> None:
    rules = Schema(
        (
            Numeric("age", 18, 80, (".",)), Categorical("sex", ("Female", "Male")), Categorical("gone", ("a",)),
            Date.between("day", "2020-01-01", "2020-12-31"), Numeric("marker", -9, 99),
        ),
        Label("y", ("nein", "ja")),
    )  # fmt: skip
    Path("s.toml").write_text(rules.dump())
    cells = table(sex="Male", day="2020-05-05", age=30).astype(object).drop(columns="site")
    cells.loc[3:4, "age"], cells.loc[5, "age"], cells.loc[6, "age"] = "SECRET", "97", "."
    cells.loc[7:9, "sex"], cells.loc[10, "day"], cells.loc[11, "day"] = "MalSECRET", "SECRET", "2021-03-03"
    cells.loc[12, "y"], cells.loc[13, "y"] = "SECRET", ""
    cells.to_csv("t.csv", index=False)
    ended = schema("check", "s.toml", "t.csv")
    assert ended.status == 2
    assert "SECRET" not in ended.out + ended.err
    assert "97" not in ended.out
    assert "t.csv: 300 rows, 8 faults" in ended.err
    told = json.loads(schema("check", "s.toml", "t.csv", "--json").out)
    assert told["rows"] == ROWS
    assert [Finding(**(fault | {"rows": tuple(fault["rows"])})) for fault in told["faults"]] == [
        Finding("y", "with words that the schema does not list", 1, "one of: ja, nein", (13,),
            'data.on_bad = "drop" leaves such rows out'),
        Finding("y", "empty", 1, "a class in every row", (14,), 'data.on_bad = "drop" leaves such rows out'),
        Finding("age", "without a number", 2, "numbers from 18 to 80, or empty cells", (4, 5),
            "empty cells, or their word in missing"),
        Finding("age", "outside the range", 1, "numbers from 18 to 80", (6,), "a range from 18 to 100"),
        Finding("sex", "with words that the schema does not list", 3, "one of: Female, Male", (8, 9, 10),
            "the nearest is 'Male'; other = true counts them as missing"),
        Finding("gone", "not in the table", ROWS, "a column of this name", (),
            "expected the name of one of its 5 columns"),
        Finding("day", "without a date", 1, "dates such as 2020-12-31, 31.12.2020 or 12/31/2020, or empty cells", (11,),
            "empty cells, or their word in missing"),
        Finding("day", "outside the range", 1, "days from 2020-01-01 to 2020-12-31", (12,),
            "a range from 2020-01-01 to 2021-03-31"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "cells", "found"),
    [
        (NumberTarget("t", 0, 5), ["1", "6", ""], {("t", "outside the range"), ("t", "empty")}),
        (CountTarget("t", 5), ["1", "1.5", "x"], {("t", "without a whole number"), ("t", "without a number")}),
        (TimeTarget("t", "e", (1, 2), "yes"), ["1", "-1", "2"],
            {("t", "outside the range"), ("e", "empty"), ("e", "with a third value")}),
    ],
)  # fmt: skip
def test_faults_of_labels(target: Target, cells: list[str], found: set[tuple[str, str]]) -> None:
    frame = pd.DataFrame({"x": ["1"] * 4, "t": [*cells, "1"], "e": ["yes", "no", "", "maybe"]})
    batches = pa.Table.from_pandas(frame).to_batches()
    rows, told = inspect(batches, Schema((Numeric("x", 0, 9),), target))
    assert (rows, {(fault.column, fault.problem) for fault in told}) == (4, found)
    assert all(fault.count == 1 for fault in told)


def test_faults_are_those_that_reading_finds() -> None:
    frame = table().assign(age=[str(age) for age in range(ROWS)])
    rules = Schema((Numeric("age", 0, 99),), Label("y", ("ja", "nein")))
    rows, told = inspect(pa.Table.from_pandas(frame).to_batches(max_chunksize=120), rules)
    assert (rows, told[0].count, told[0].rows) == (ROWS, 200, (101, 102, 103, 104, 105))
    with pytest.raises(InputError):
        rules.columns[0].read(frame["age"], "d")


# Merge

ONE = Schema((Numeric("age", 20, 80, (0, ".")), Categorical("job", ("b", "a"))), Y)
TWO = Schema((Numeric("age", 30, 90, (".", "x")), Categorical("job", ("a", "d", "c"), other=True)), Y)


def test_merge_joins_ranges_and_categories(schema: Cli) -> None:
    for name, one in (("a", ONE), ("b", TWO)):
        Path(f"{name}.toml").write_text(one.dump())
    ended = schema("merge", "a.toml", "b.toml", "--out", "s.toml")
    assert ended.status in (None, 0)
    assert load_schema(Path("s.toml")) == Schema(
        (Numeric("age", 20, 90, (0, ".", "x")), Categorical("job", ("b", "a", "c", "d"), other=True)), Y
    )
    assert "expected two or more" in schema("merge", "a.toml", "--out", "t.toml").err
    assert "expected one of them" in schema("merge", "a.toml", "b.toml", "--all", "--common", "--out", "t.toml").err


def test_columns_of_some_are_refused_until_said() -> None:
    wide = Schema((*TWO.columns, Numeric("bmi", 10, 60)), Y)
    with pytest.raises(InputError) as refused:
        merge([("a", ONE), ("b", wide)])
    assert str(refused.value) == "1 columns are in some of the schemas only: 'bmi'; expected --common or --all"
    assert [one.name for one in merge([("a", ONE), ("b", wide)], "common").columns] == ["age", "job"]
    assert [one.name for one in merge([("a", ONE), ("b", wide)], "all").columns] == ["age", "job", "bmi"]


def days(first: str, last: str, order: str = "") -> Date:
    return Date.between("age", first, last, order=order)


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (Label("y", (0, 1, 2)), Label("y", (0, 1, 4, 3)), Label("y", (0, 1, 2, 3, 4))),
        (Label("y", ("a", "b", "c")), Label("y", ("d", "a", "c")), Label("y", ("a", "b", "c", "d"))),
        (NumberTarget("y", 0, 5), NumberTarget("y", -1, 4), NumberTarget("y", -1, 5)),
        (CountTarget("y", 5), CountTarget("y", 7), CountTarget("y", 7)),
        (TimeTarget("y", "e", (1, 2)), TimeTarget("y", "e", (1, 3, 5)), TimeTarget("y", "e", (1, 2, 3, 5))),
    ],
)
def test_labels_merge(one: Target, other: Target, merged: Target) -> None:
    columns = (days("2020-01-01", "2020-12-31"),), (days("2019-01-01", "2020-01-31", "dmy"),)
    found = merge([("a", Schema(columns[0], one)), ("b", Schema(columns[1], other))])
    assert found == Schema((days("2019-01-01", "2020-12-31", "dmy"),), merged)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (Y, Label("z", (0, 1)), "the label is 'y' or 'z' in a and b; expected one label"),
        (Y, CountTarget("y", 3), "label 'y' is of kind classes or count in a and b; expected one kind"),
        (Y, Label("y", (1, 0)),
            "label 'y' has 1 or 0 as its positive class in a and b; expected one, see --positive of schema infer"),
        (Y, Label("y", ("no", "yes")),
            "label 'y' has two classes in a and b, which differ; expected the same words at each site"),
        (TimeTarget("y", "e", (1, 2)), TimeTarget("y", "f", (1, 2)),
            "label 'y' has event 'e' or 'f' in a and b; expected the same"),
        (TimeTarget("y", "e", tuple(range(1, 60))), TimeTarget("y", "e", tuple(range(50, 90))),
            "label 'y' has 89 intervals together; expected at most 64"),
    ],
)  # fmt: skip
def test_labels_that_differ_are_refused(one: Target, other: Target, message: str) -> None:
    with pytest.raises(InputError) as refused:
        merge([("a", Schema(ONE.columns, one)), ("b", Schema(ONE.columns, other))])
    assert (refused.value.code, str(refused.value)) == ("config.schema", message)


def test_all_columns_that_differ_are_named_at_once() -> None:
    many = [Categorical("job", tuple(f"{site}{at}" for at in range(600))) for site in "ab"]
    pairs = [(Schema((days("2020-01-01", "2020-12-31", "dmy"), many[0]), Y)),
             (Schema((days("2020-01-01", "2020-12-31", "mdy"), many[1]), Y))]  # fmt: skip
    with pytest.raises(InputError) as refused:
        merge([("a", pairs[0]), ("b", pairs[1])])
    assert str(refused.value) == (
        "column 'age' has order dmy and mdy in a and b; expected one order; "
        "column 'job' has 1200 categories together; expected at most 1024"
    )
    with pytest.raises(InputError, match="column 'age' is a number or a date in a and b; expected one kind"):
        merge([("a", ONE), ("b", Schema((days("2020-01-01", "2020-12-31"), ONE.columns[1]), Y))])
