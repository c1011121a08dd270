"""Rows: reading tables, splitting them, dealing them to members, and every refusal."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moonflower.client.learning.rows import Rows, features, read_groups
from moonflower.client.learning.sources import load_frame, read_table
from moonflower.client.learning.splits import join, partition, split
from moonflower.configs.schema import Categorical, Label, Numeric, Schema
from moonflower.configs.settings import DataSettings, SimulateSettings
from moonflower.errors import InputError

SCHEMA = Schema((Numeric("age", 0, 100), Categorical("sex", ("f", "m"))), Label("y", (0, 1)))


def settings(**changes: Any) -> DataSettings:
    return DataSettings.model_validate(changes)


def rows(count: int, sites: list[str | None] | None = None) -> Rows:
    """Rows whose only input is their own number."""
    numbers = torch.arange(count).double()[:, None]
    groups = {"site": np.array(sites, dtype=object)} if sites is not None else {}
    return Rows(numbers, torch.arange(count) % 2, groups)


def numbers(part: Rows) -> list[int]:
    return [int(number) for number in part.inputs[:, 0]]


def refused(code: str, message: str, call: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises(InputError) as refusal:
        call(*arguments, **named)
    assert (refusal.value.code, str(refusal.value)) == (code, message)


# Reading


def test_csv_gz_and_parquet_read_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [1.0, np.nan], "sex": ["f", None], "y": [0, 1], "site": [1.0, 2.0]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    (tmp_path / "bom.CSV").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    found = ["a.csv", "a.csv.gz", "bom.CSV"]
    try:
        frame.to_parquet(tmp_path / "a.parquet")
        found.append("a.parquet")
    except ImportError:
        pass
    expected = np.array([[1, 0], [np.nan, np.nan]])
    for name in found:
        table = load_frame(settings(path=tmp_path / name, site="site"))
        assert np.array_equal(features(table, SCHEMA, name), expected, equal_nan=True)
        assert SCHEMA.label.read(table["y"], name).tolist() == [0, 1]
        assert [float(s) for s in read_groups(table, settings(site="site"))["site"]] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("empty.csv", b"", "data.empty", "data file {} is empty; expected a header and rows"),
        ("header.csv", b"a,b\n", "data.empty", "data file {} has no row; expected at least one"),
        ("x.xlsx", b"a", "data.file", "data file {} is of no known kind; expected .csv, .csv.gz, .parquet"),
        ("x.csv.gz", b"a,b\n1,2\n", "data.file",
            "data file {} is not compressed as its name says; expected a whole "
            "table"),
        ("x.csv", b"a\xff,b\n1,2\n", "data.file",
            "data file {} is not text in UTF-8; expected a whole "
            "table"),
        ("x.csv", b"a,b\n1,2\n1,2,3\n", "data.file",
            "data file {} has a row with more cells than the header; expected a whole "
            "table"),
        ("x.csv", b"a,b\n1,2,3\n", "data.file",
            "data file {} has a row with more cells than the header; expected a whole "
            "table"),
        ("x.csv", b"a,b,a\n1,2,3\n", "data.column", "data file {} has two columns 'a'; expected one"),
        (
            "cut.csv.gz", gzip.compress(np.random.default_rng(1).bytes(9999).hex().encode())[:5000],
            "data.file", "data file {} is cut off; expected a whole table",
        ),
    ],
)  # fmt: skip
def test_files_that_are_no_table(tmp_path: Path, name: str, content: bytes, code: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(code, message.format(path), read_table, path)


def test_missing_files_and_columns_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "heart.csv"
    path.write_text("age,sex,y,site\n1,f,0,a\n")
    refused(
        "data.file",
        f"data file {tmp_path / 'hart.csv'} does not exist; did you mean 'heart.csv'? (one of: heart.csv)",
        read_table, tmp_path / "hart.csv",
    )  # fmt: skip
    choices = "(one of: age, sex, site, y)"
    for key in ("label", "site", "test_column"):
        given_ = {key: "sitee", **({"test_value": 1} if key == "test_column" else {})}
        refused(
            "data.column", f"heart.csv has no column 'sitee'; did you mean 'site'? {choices}",
            load_frame, settings(path=path, **given_),
        )  # fmt: skip
    refused("data.file", "[data] path is missing; expected a CSV or Parquet file", load_frame, settings())
    frame = read_table(path).drop(columns="sex")
    refused(
        "data.column",
        "d has no column 'sex'; did you mean 'site'? (one of: age, site, y)",
        features,
        frame,
        SCHEMA,
        "d",
    )


# Splitting


@given(
    count=st.integers(1, 60),
    test=st.floats(0, 0.99),
    validation=st.floats(0, 0.99),
    seed=st.integers(0, 2**63 - 1),
    member=st.text(max_size=5),
)
def test_every_row_is_in_one_part_and_training_has_one(
    count: int, test: float, validation: float, seed: int, member: str
) -> None:
    wanted = settings(test_fraction=test, validation_fraction=validation)
    parts = split(rows(count), wanted, seed=seed, member=member)
    found = [numbers(part) for part in (parts.train, parts.validation, parts.test)]
    assert sorted(itertools.chain(*found)) == list(range(count))
    assert len(parts.train) >= 1
    again = split(rows(count), wanted, seed=seed, member=member)
    assert [numbers(part) for part in (again.train, again.validation, again.test)] == found
    other = split(rows(count), wanted.model_copy(update={"validation_fraction": 0.5}), seed=seed, member=member)
    assert numbers(other.test) == numbers(parts.test)


def test_split_depends_on_seed_and_member() -> None:
    drawn = {
        tuple(numbers(split(rows(100), settings(), seed=seed, member=member).test))
        for seed in (1, 2)
        for member in ("a", "b")
    }
    assert len(drawn) == 4


def test_marked_rows_are_the_test_rows() -> None:
    marked = settings(test_column="fold", test_value=0)
    some = Rows(rows(6).inputs, rows(6).targets, {"fold": np.array(["0", "1", "0.0", None, "2", "0"], dtype=object)})
    parts = split(some, marked, seed=1, member="a")
    assert numbers(parts.test) == [0, 2, 5]
    assert len(parts.validation) == 1
    all_marked = some.take(np.array([0, 2, 5]))
    assert len(split(all_marked, marked, seed=1, member="a").train) == 1  # training always has a row
    refused("data.column", "the rows come without a column 'fold'; there is none to choose from",
            split, rows(3), marked, seed=1, member="a")  # fmt: skip
    refused(
        "data.empty",
        "member 'a' has no row; expected at least one",
        split,
        rows(0),
        settings(),
        seed=1,
        member="a",
    )


def test_join_keeps_every_row_of_every_part() -> None:
    parts = [split(rows(n), settings(), seed=1, member=str(n)) for n in (1, 2, 30)]
    whole = join(parts)
    assert [len(whole.train), len(whole.validation), len(whole.test)] == [
        sum(len(getattr(p, name)) for p in parts) for name in ("train", "validation", "test")
    ]


# Members


SITE = settings(site="site")


def test_partition_by_site_sorts_names_and_keeps_rows() -> None:
    parts = partition(rows(5, ["b", "a ", "b", "C", "a "]), SITE, SimulateSettings(), 1)
    assert list(parts) == ["C", "a", "b"]
    assert [numbers(part) for part in parts.values()] == [[3], [1, 4], [0, 2]]


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["a", None], "the table: column 'site' has an empty cell; expected a member's name in every row"),
        (["Bern", "Bern "],
            "the table: column 'site' holds both 'Bern' and 'Bern '; expected one way to write a member's "
            "name"),
        (["BERN", "Bern"],
            "the table: column 'site' holds both 'BERN' and 'Bern'; expected one way to write a member's "
            "name"),
        (
            ["a", "b!"],
            "the table: column 'site' holds 'b!'; expected a name of 1 to 64 letters, digits, "
            "blanks or ._&,'()/- that begins with a letter or digit",
        ),
    ],
)  # fmt: skip
def test_sites_that_are_no_members(sites: list[str | None], message: str) -> None:
    refused("data.site", message, partition, rows(2, sites), SITE, SimulateSettings(), 1)


def test_partition_needs_its_column() -> None:
    refused("data.site", 'partition = "site" needs [data] site; expected the column that names the member',
            partition, rows(2), settings(), SimulateSettings(), 1)  # fmt: skip
    refused("data.site", "the rows come without a column 'site'; there is none to choose from",
            partition, rows(2), SITE, SimulateSettings(), 1)  # fmt: skip


@given(
    kind=st.sampled_from(["random", "dirichlet"]),
    members=st.integers(2, 12),
    spare=st.integers(0, 50),
    alpha=st.sampled_from([0.01, 0.5, 100.0]),
    seed=st.integers(0, 1000),
)
def test_every_dealt_row_has_one_member_and_every_member_a_row(
    kind: str, members: int, spare: int, alpha: float, seed: int
) -> None:
    simulate = SimulateSettings.model_validate({"partition": kind, "members": members, "alpha": alpha})
    dealt = partition(rows(members + spare), settings(), simulate, seed)
    assert len(dealt) == members
    assert list(dealt) == sorted(dealt)
    assert all(len(part) for part in dealt.values())
    assert sorted(itertools.chain(*map(numbers, dealt.values()))) == list(range(members + spare))
    again = partition(rows(members + spare), settings(), simulate, seed)
    assert [numbers(part) for part in again.values()] == [numbers(part) for part in dealt.values()]


def test_dealing_too_few_rows_or_rows_without_classes() -> None:
    simulate = SimulateSettings(partition="dirichlet", members=3)
    refused("data.empty", "the table has 2 rows; expected at least one for each of 3",
            partition, rows(2), settings(), simulate, 1)  # fmt: skip
    refused("config.value", 'partition = "dirichlet" needs one class label a row; expected "random"',
            partition, Rows(torch.zeros(9, 1), torch.zeros(9, 2)), settings(), simulate, 1)  # fmt: skip
