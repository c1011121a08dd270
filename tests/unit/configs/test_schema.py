"""The schema: round trips, what cells mean, and every refusal."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.configs.schema import MISSING, Categorical, Date, Label, Numeric, Schema, load_schema, text
from moonflower.errors import InputError
from support import CONFIGS

AGE = Numeric("age", 18, 100, missing=(0,))
SEX = Categorical("sex", ("Female", "Male"))
SCHEMA = Schema((AGE, SEX), Label("y", (0, 1)))

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
words = names.map(text).filter(lambda w: w == text(w))
numbers = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    columns: list[Numeric | Categorical] = []
    missing = st.lists(st.one_of(numbers, words), max_size=2)
    label, *rest = draw(st.lists(names, min_size=2, max_size=6, unique=True))
    for name in rest:
        if draw(st.booleans()):
            low, width = draw(numbers), draw(st.floats(1e-3, 1e6))
            columns.append(Numeric(name, low, low + width, tuple(draw(missing))))
            if draw(st.booleans()):
                first, last = sorted(draw(st.sets(st.dates(), min_size=2, max_size=2)))
                columns[-1] = Date.between(name, first, last, tuple(draw(st.lists(words, max_size=2))), "dmy")
        else:
            categories = draw(st.lists(words, min_size=1, max_size=4, unique=True))
            columns.append(Categorical(name, tuple(categories), other=draw(st.booleans())))
    ints = st.lists(st.integers(-9, 9), min_size=2, max_size=4, unique=True)
    classes: list[Any] = draw(st.one_of(ints, st.lists(words, min_size=2, max_size=4, unique=True)))
    return Schema(tuple(columns), Label(label, tuple(classes)))


@given(schemas())
def test_toml_and_dict_round_trip(schema: Schema) -> None:
    assert Schema.from_dict(tomllib.loads(schema.dump())) == schema
    assert Schema.from_dict(schema.to_dict()).digest() == schema.digest()


def test_digest_sees_every_field_and_no_spelling_of_numbers() -> None:
    same = Schema((Numeric("age", 18.0, 100.0, (0.0,)), SEX), Label("y", (0, 1)))
    others = [
        Schema((Numeric("age", 19, 100, (0,)), SEX), Label("y", (0, 1))),
        Schema((Numeric("age", 18, 100), SEX), Label("y", (0, 1))),
        Schema((SEX, AGE), Label("y", (0, 1))),
        Schema((AGE, Categorical("sex", ("Female", "Male"), other=True)), Label("y", (0, 1))),
        Schema((AGE, SEX), Label("y", (1, 0))),
    ]
    assert same.digest() == SCHEMA.digest()
    assert len({s.digest() for s in [SCHEMA, *others]}) == 1 + len(others)


@pytest.mark.parametrize("name", ["heart", "sba"])
def test_bundled_schemas_load_and_say_that_they_are_shared(name: str) -> None:
    path = CONFIGS / "data" / f"{name}.schema.toml"
    schema = load_schema(path)
    assert schema.label == Label("y", (0, 1))
    assert path.read_text().startswith("# All members of the federation share this file.")
    assert not {"site", "fold"} & {column.name for column in schema.columns}
    assert load_schema(path).dump().startswith("# All members of the federation share this file.")


OUTSIDE = "d.csv: column 'age' has 2 cells outside the range; expected numbers from 18 to 100"


def raw(**changes: Any) -> dict[str, Any]:
    return {**SCHEMA.to_dict(), **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the schema holds list; expected a table with columns, label"),
        (raw(colums=[]),
            "the schema has an unknown key 'colums'; did you mean 'columns'? (one of: columns, "
            "label)"),
        ({"label": {}}, "the schema has no 'columns'; expected columns, label"),
        (
            raw(columns=[{"name": str(at), "min": 0, "max": 1} for at in range(4097)]),
            "the schema lists 4097 columns; expected at most 4096",
        ),
        (raw(columns={}), "columns holds {}; expected a list"),
        (raw(columns=[3]), "columns holds int; expected a table with max, min, name"),
        (
            raw(columns=[{"name": "age", "mim": 0, "max": 1}]),
            "column 'age' has an unknown key 'mim'; did you mean 'min'? (one of: categories, max, min, "
            "missing, name, other)",
        ),
        (raw(columns=[{"name": "age", "min": 0}]), "column 'age' has no 'max'; expected max, min, name"),
        (raw(columns=[{"name": "a", "min": 2, "max": 2}]), "column 'a': min 2 is not below max 2"),
        (raw(columns=[{"name": "a", "min": "0", "max": 2}]),
            "column 'a': min holds '0'; expected a finite "
            "number"),
        (raw(columns=[{"name": "a", "min": 0, "max": math.inf}]),
            "column 'a': max holds inf; expected a finite "
            "number"),
        (raw(columns=[{"name": "a", "min": 0, "max": True}]),
            "column 'a': max holds True; expected a finite "
            "number"),
        (
            raw(columns=[{"name": "a", "categories": [0, 1]}]),
            "column 'a': expected categories in quotes, such as [\"0\", \"1\"]",
        ),
        (
            raw(columns=[{"name": "a", "categories": ["1", "1.0"]}]),
            "column 'a' lists 2 categories, 1 of them different; expected 1 to 1024, each once",
        ),
        (
            raw(columns=[{"name": "a", "categories": []}]),
            "column 'a' lists 0 categories, 0 of them different; expected 1 to 1024, each once",
        ),
        (raw(columns=[AGE.__dict__ | {"missing": []}] * 2),
            "column 'age' is listed twice; expected every column, and the label, "
            "once"),
        (raw(columns=[{"name": "a", "kind": "dat", "min": 0, "max": 1}]),
            "column 'a' has kind = 'dat'; expected 'date', or no kind"),
        (raw(columns=[{"name": "a", "kind": "date", "min": 0, "max": 1}]),
            "column 'a': min holds 0; expected a day such as 2020-12-31"),
        (raw(columns=[{"name": "a", "kind": "date", "min": "2020-01-02", "max": "2020-01-02"}]),
            "column 'a': min 2020-01-02 is not before max 2020-01-02"),
        (raw(columns=[{"name": "a", "kind": "date", "min": "2020-01-01", "max": "2020-01-02", "order": "ymd"}]),
            "column 'a': order = 'ymd'; expected \"dmy\" or \"mdy\""),
        (raw(columns=[{"name": "a", "kind": "date", "min": "2020-01-01", "max": "2020-01-02", "missing": [0]}]),
            "column 'a': missing of a date holds words, such as '0000-00-00'"),
        (raw(label={"name": "age", "classes": [0, 1]}),
            "column 'age' is listed twice; expected every column, and the label, "
            "once"),
        (raw(label={"name": "y", "classes": [0, 0]}), "label 'y': expected 2 to 1000 different classes"),
        (raw(label={"name": "y", "classes": [0, 0.5]}),
            "label 'y': expected whole numbers or strings as "
            "classes"),
        (raw(label={"name": "", "classes": [0, 1]}),
            "a column is called ''; expected a name of 1 to 256 "
            "characters"),
    ],
)  # fmt: skip
def test_wrong_schemas_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Schema.from_dict(value, "s.toml")
    assert (refusal.value.code, str(refusal.value)) == ("config.schema", f"s.toml: {message}")


def test_files_that_are_no_schema(tmp_path: Path) -> None:
    (tmp_path / "heart.toml").write_text("columns = [")
    (tmp_path / "raw.toml").write_bytes(b"\xff")
    for name, code, part in [
        ("hart.toml", "config.file", "did you mean 'heart.toml'?"),
        ("heart.toml", "config.toml", "is not TOML"),
        ("raw.toml", "config.toml", "is not text in UTF-8"),
    ]:
        with pytest.raises(InputError, match=part) as refusal:
            load_schema(tmp_path / name)
        assert refusal.value.code == code


def test_cells_mean_the_same_from_text_and_from_types() -> None:
    flag = Categorical("f", ("0", "1"))
    truth = Categorical("t", ("True", "False"))
    for cells in (["0", "1", ""], [0.0, 1.0, None], ["0.0", " 1.00 ", "NA"], [0, 1, None]):
        assert np.array_equal(flag.read(pd.Series(cells), "d"), [0, 1, math.nan], equal_nan=True)
    assert np.array_equal(truth.read(pd.Series([True, False]), "d"), truth.read(pd.Series(["TRUE", "false"]), "d"))
    for cells in (["20", "", "0"], [20, None, 0], [20.0, math.nan, 0.0], [" 2e1 ", "?", "0.0"]):
        assert np.array_equal(AGE.read(pd.Series(cells), "d"), [20, math.nan, math.nan], equal_nan=True)
    assert Label("y", ("no", "yes")).read(pd.DataFrame({"y": [" yes", "no"]}), "d").tolist() == [1, 0]
    assert Label("y", (0, 1)).read(pd.DataFrame({"y": ["1.0", "0"]}), "d").tolist() == [1, 0]


def test_words_among_numbers_that_mean_not_measured() -> None:
    column = Numeric("x", 0, 10, missing=(9, ".", "Unknown ", "inf"))
    for cells in (["1", " . ", "UNKNOWN", "9", "inf"], [1.0, math.nan, None, 9, math.inf]):
        read = column.read(pd.Series(cells), "d")
        assert np.array_equal(read, [1, math.nan, math.nan, math.nan, math.nan], equal_nan=True)
    assert column.missing == (9.0, ".", "Unknown", "inf")
    with pytest.raises(InputError, match="expected numbers from 0 to 10"):
        column.read(pd.Series(["-inf"]), "d")


NO_DATE = "without a date; expected dates such as 2020-12-31, 31.12.2020 or 12/31/2020, or empty cells"
DAYS = Date.between("day", "2020-01-01", "2020-12-31", ("unknown",), "mdy")


def test_dates_are_days_since_the_first() -> None:
    cells = ["2020-01-01", "2020-01-02T12:00:00", "03.01.2020", "01/04/2020", "", "Unknown", "2020-12-31 23:59"]
    assert np.array_equal(DAYS.read(pd.Series(cells), "d"), [0, 1.5, 2, 3, math.nan, math.nan, 365], equal_nan=True)
    typed = pd.Series(pd.to_datetime(["2020-01-02 06:00", None]))
    assert np.array_equal(DAYS.read(typed, "d"), [1.25, math.nan], equal_nan=True)
    assert isinstance(DAYS, Numeric)
    assert (DAYS.min, DAYS.max, DAYS.last) == (0, 365, "2020-12-31")


@pytest.mark.parametrize(
    ("order", "cell", "message"),
    [
        ("", "2019-12-31", "outside the range; expected days from 2020-01-01 to 2020-12-31"),
        ("", "2021-01-01", "outside the range; expected days from 2020-01-01 to 2020-12-31"),
        ("", "31.02.2020", NO_DATE),
        ("", "soon", NO_DATE),
        ("mdy", "31/01/2020", NO_DATE),
        ("", "01/02/2020", f'{NO_DATE}; 1 of them would be right with order = "dmy" or "mdy" in the schema'),
    ],
)
def test_wrong_dates_are_refused_without_the_cell(order: str, cell: str, message: str) -> None:
    column = Date.between("day", "2020-01-01", "2020-12-31", order=order)
    with pytest.raises(InputError) as refusal:
        column.read(pd.Series([cell]), "d.csv")
    assert (refusal.value.code, str(refusal.value)) == ("data.value", f"d.csv: column 'day' has 1 cell {message}")


def test_a_missing_word_that_is_a_category_is_one() -> None:
    column = Categorical("country", ("NA", "ZA"))
    assert np.array_equal(column.read(pd.Series(["NA", "", "ZA"]), "d"), [0, math.nan, 1], equal_nan=True)


@pytest.mark.parametrize(
    ("column", "cell", "code", "message"),
    [
        (AGE, "101", "data.value", OUTSIDE),
        (AGE, 17.5, "data.value", OUTSIDE),
        (AGE, "inf", "data.value", OUTSIDE),
        (
            AGE, "6O", "data.value",
            "d.csv: column 'age' has 2 cells without a number; expected numbers from 18 to 100, or empty cells",
        ),
        (
            AGE, "4_0", "data.value",
            "d.csv: column 'age' has 2 cells without a number; expected numbers from 18 to 100, or empty cells",
        ),
        (
            AGE, "40,5", "data.value",
            "d.csv: column 'age' has 2 cells without a number; expected numbers from 18 to 100, or empty cells; 2 of "
            'them would be right with [data] decimal = ","',
        ),
        (
            SEX, "Mal", "data.category",
            "d.csv: column 'sex' has 2 cells with words that the schema does not list; expected one of: Female, Male",
        ),
        (
            SEX, "MALE", "data.category",
            "d.csv: column 'sex' has 2 cells with words that the schema does not list; expected one of: Female, Male; "
            "2 of them would be right but for capital letters",
        ),
        (
            SCHEMA.label, "2", "data.category",
            "d.csv: column 'y' has 2 cells with words that the schema does not list; expected one of: 0, 1",
        ),
        (SCHEMA.label, "", "data.value", "d.csv: column 'y' has 2 empty cells; expected a class in every row"),
    ],
)  # fmt: skip
def test_wrong_cells_are_refused_by_column_and_count(
    column: Numeric | Categorical | Label, cell: object, code: str, message: str
) -> None:
    cells = pd.Series([cell, cell])
    with pytest.raises(InputError) as refusal:
        column.read(pd.DataFrame({column.name: cells}) if isinstance(column, Label) else cells, "d.csv")  # type: ignore[arg-type]
    assert (refusal.value.code, str(refusal.value)) == (code, message)


def test_other_lets_unknown_words_count_as_missing() -> None:
    column = Categorical("sex", ("Female", "Male"), other=True)
    assert np.array_equal(column.read(pd.Series(["Male", "x"]), "d"), [1, math.nan], equal_nan=True)


def test_missing_words_are_lower_case() -> None:
    assert all(word == word.lower() for word in MISSING)
