"""Rows: reading tables, splitting them, dealing them to members, and every refusal."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moonflower.client.learning import splits
from moonflower.client.learning.intake import Intake, table_rows
from moonflower.client.learning.rows import Rows, features, read_groups
from moonflower.client.learning.sources import read_table
from moonflower.client.learning.splits import join, partition, split
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks.tabular import Tabular
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
    frame.to_parquet(tmp_path / "a.parquet")
    found = ["a.csv", "a.csv.gz", "bom.CSV", "a.parquet"]
    expected = np.array([[1, 0], [np.nan, np.nan]])
    for name in found:
        table = read_table(tmp_path / name)
        assert np.array_equal(features(table, SCHEMA, name), expected, equal_nan=True)
        assert SCHEMA.label.read(table, name).tolist() == [0, 1]
        assert [float(s) for s in read_groups(table, settings(site="site"))["site"]] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("empty.csv", b"", "data.empty", "data file {} is empty; expected a header and rows"),
        ("header.csv", b"a,b\n", "data.empty", "data file {} has no rows; expected at least one"),
        ("x.xlsx", b"a", "data.file", "data file {} has an unknown ending; expected .csv, .csv.gz, .tsv, .tsv.gz, "
            ".parquet"),
        ("x.csv.gz", b"a,b\n1,2\n", "data.file",
            "data file {} is not compressed as its name says; expected a whole "
            "table"),
        ("x.csv", b"a\0,b\n1,2\n", "data.file", "data file {} holds bytes of value 0; expected text"),
        ("x.csv", b"a,b\n1,2\n1,2,3\n", "data.file",
            "data file {} has 1 row with more cells than the header; expected 2 cells in every "
            "row"),
        ("x.csv", b"a,b\n1,2,3\n", "data.file",
            "data file {} has 1 row with more cells than the header; expected 2 cells in every "
            "row"),
        ("x.csv", b"a,b,a\n1,2,3\n", "data.column", "data file {}: columns 1 and 3 have the same name; expected "
            "different names"),
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
    for key in ("label", "site", "test_column"):
        given_ = {key: "sitee", **({"test_value": 1} if key == "test_column" else {})}
        refused(
            "data.column",
            "heart.csv has 4 columns and not 'sitee', which [data] names; column 4 has a name like 'sitee'",
            Intake, path, settings(path=path, **given_), SCHEMA,
        )  # fmt: skip
    refused(
        "data.file", "[data] path is missing; expected a CSV or Parquet file", table_rows, Tabular(), settings(), SCHEMA
    )
    frame = read_table(path).drop(columns="sex")
    refused(
        "data.column",
        "d has 3 columns and not 'sex', which the schema lists",
        features,
        frame,
        SCHEMA,
        "d",
    )


# Splitting

A = NodeSecret.for_practice(1, "a")


def parts_of(some: Rows, wanted: DataSettings, secret: NodeSecret = A) -> tuple[list[int], list[int], list[int]]:
    """The numbers of the training, validation and test rows."""
    parts = split(some, wanted, secret=secret, member="a")
    return numbers(parts.train), numbers(parts.validation), numbers(parts.test)


fractions = st.builds(
    lambda test, validation: settings(test_fraction=test, validation_fraction=validation),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
)


@given(count=st.integers(1, 60), wanted=fractions, secret=st.binary(min_size=32, max_size=32))
def test_every_row_is_in_one_part_and_training_has_one(count: int, wanted: DataSettings, secret: bytes) -> None:
    own = NodeSecret(secret, practice=False)
    found = parts_of(rows(count), wanted, own)
    assert sorted(itertools.chain(*found)) == list(range(count))
    assert found[0]
    assert parts_of(rows(count), wanted, own) == found
    other = parts_of(rows(count), wanted.model_copy(update={"validation_fraction": 0.5}), own)
    assert other[2] == found[2]


@given(count=st.integers(2, 60), wanted=fractions, random=st.randoms(use_true_random=False))
def test_the_order_of_the_table_does_not_matter(count: int, wanted: DataSettings, random: Any) -> None:
    order = list(range(count))
    random.shuffle(order)
    assert parts_of(rows(count).take(np.array(order)), wanted) == parts_of(rows(count), wanted)


@given(count=st.integers(40, 80), more=st.integers(1, 9))
def test_a_row_more_moves_no_other_row(count: int, more: int) -> None:
    for before, after in zip(parts_of(rows(count), settings()), parts_of(rows(count + more), settings()), strict=True):
        assert [number for number in after if number < count] == before


def test_another_secret_deals_otherwise() -> None:
    secrets = [NodeSecret.for_practice(seed, name) for seed in (1, 2) for name in ("a", "b")]
    secrets += [NodeSecret.fresh(), NodeSecret.fresh()]
    assert len({tuple(map(tuple, parts_of(rows(100), settings(), secret))) for secret in secrets}) == len(secrets)


def test_the_parts_are_about_as_large_as_asked_for() -> None:
    train, validation, test = map(len, parts_of(rows(20_000), settings(test_fraction=0.3, validation_fraction=0.1)))
    deviation = math.sqrt(20_000) / 2
    assert abs(test - 6000) < 6 * deviation
    assert abs(validation - 1400) < 6 * deviation
    assert train + validation + test == 20_000
    train, validation, test = map(len, parts_of(rows(100), settings(test_fraction=0, validation_fraction=0)))
    assert (train, validation, test) == (100, 0, 0)


def test_equal_rows_are_in_one_part_and_all_there() -> None:
    """What a row is: its cells as read, however they are typed; not its place, and not its other columns."""
    some = rows(40, sites=["x"] * 40)
    found = parts_of(some, settings())
    thrice = Rows.concat([some, rows(40, sites=["y"] * 40), some])
    assert parts_of(thrice, settings()) == tuple([n for n in part for _ in range(3)] for part in found)
    typed = Rows(some.inputs.to(torch.uint8), some.targets.to(torch.int32))
    assert parts_of(typed, settings()) == found
    cells = torch.tensor([[0.0, math.nan], [-0.0, -math.nan]] * 50, dtype=torch.float64)
    parts = split(Rows(cells, torch.zeros(100, dtype=torch.int64)), settings(), secret=A, member="a")
    assert sorted([len(parts.train), len(parts.validation), len(parts.test)]) == [0, 0, 100]


def test_inputs_of_any_shape_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Rows(torch.arange(50 * 12, dtype=torch.uint8).reshape(50, 3, 2, 2), torch.arange(50) % 3)
    whole = split(images, settings(), secret=A, member="a")
    monkeypatch.setattr(splits, "_CELLS", 30)
    pieces = split(images, settings(), secret=A, member="a")
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(pieces, part).inputs, getattr(whole, part).inputs)
        assert torch.equal(getattr(pieces, part).targets, getattr(whole, part).targets)


def test_marked_rows_are_the_test_rows() -> None:
    marked = settings(test_column="fold", test_value=0, validation_fraction=0.5)
    some = Rows(rows(6).inputs, rows(6).targets, {"fold": np.array(["0", "1", "0.0", None, "2", "0"], dtype=object)})
    train, validation, test = parts_of(some, marked)
    assert sorted(test) == [0, 2, 5]
    assert sorted(train + validation) == [1, 3, 4]
    plain = parts_of(rows(6), settings(test_fraction=0, validation_fraction=0.5))
    assert set(validation) == {*plain[1]} - {*test}  # a mark changes nothing for the others
    all_marked = some.take(np.array([0, 2, 5]))
    assert len(parts_of(all_marked, marked)[0]) == 1  # training always has a row
    refused("data.column", "the rows have no column 'fold'; there is nothing to choose from",
            split, rows(3), marked, secret=A, member="a")  # fmt: skip
    refused("data.empty", "member 'a' has no rows; expected at least one",
            split, rows(0), settings(), secret=A, member="a")  # fmt: skip


def test_a_row_for_training_comes_from_validation_first() -> None:
    marked = settings(test_column="fold", test_value=0, validation_fraction=0.999999)
    some = Rows(rows(6).inputs, rows(6).targets, {"fold": np.array(["0", "1", "0", "1", "1", "0"], dtype=object)})
    train, validation, test = parts_of(some, marked)
    assert (len(train), len(validation), sorted(test)) == (1, 2, [0, 2, 5])
    assert parts_of(some.take(np.array([5, 4, 3, 2, 1, 0])), marked)[0] == train


def test_join_keeps_every_row_of_every_part() -> None:
    parts = [split(rows(n), settings(), secret=A, member=str(n)) for n in (1, 2, 30)]
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
            "the table: column 'site' has 1 of 1 names in several spellings, which differ in capital letters or "
            "blanks; expected one spelling of a member's name"),
        (["BERN", "Bern"],
            "the table: column 'site' has 1 of 1 names in several spellings, which differ in capital letters or "
            "blanks; expected one spelling of a member's name"),
        (
            ["a", "b!"],
            "the table: column 'site' has 1 of 2 names that are not allowed; expected a name of 1 to 64 letters, "
            "digits, blanks or ._&,'()/- that begins with a letter or digit",
        ),
    ],
)  # fmt: skip
def test_sites_that_are_no_members(sites: list[str | None], message: str) -> None:
    refused("data.site", message, partition, rows(2, sites), SITE, SimulateSettings(), 1)


def test_partition_needs_its_column() -> None:
    refused("data.site", 'partition = "site" needs [data] site; expected the column that names the member',
            partition, rows(2), settings(), SimulateSettings(), 1)  # fmt: skip
    refused("data.site", "the rows have no column 'site'; there is nothing to choose from",
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
    refused("config.value", 'partition = "dirichlet" needs one class label for each row; expected "random"',
            partition, Rows(torch.zeros(9, 1), torch.zeros(9, 2)), settings(), simulate, 1)  # fmt: skip
