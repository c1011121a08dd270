"""Which rows a node uses: a part of them changes by enough rows or not at all, and a deleted row leaves at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.splits import row_hashes, split
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.secret import NodeSecret
from moonflower.client.snapshots import FOLDER, Hashes, Snapshots, apart, index_of, may_replace
from moonflower.configs.settings import DataSettings
from moonflower.errors import Refused

SECRET = NodeSecret(bytes(range(32)), practice=False)
LEAST = 10
PARTS = ("train", "validation", "test")
Numbers = list[int]


def table(numbers: Numbers) -> Split:
    """Return a table whose rows are told by a number; all equal ones are equal rows."""
    values = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1)
    return split(Rows(values, torch.zeros(len(numbers))), DataSettings(), secret=SECRET, member="anna")


def numbers(rows: Rows) -> Numbers:
    return sorted(int(value) for value in rows.inputs.flatten().tolist())


def hashes(values: Numbers) -> Hashes:
    return np.array([[value, 0] for value in values], dtype=np.uint64).reshape(-1, 2)


class Node:
    """A node's ledger and state folder; it can be started again."""

    def __init__(self, folder: Path, append_only: bool = False, most: int = 0) -> None:
        self.folder, self.append_only, self.most, self.let_go = folder, append_only, most, 0
        self.start()

    def start(self) -> None:
        self.ledger = Ledger(self.folder / "ledger.db")

        def let_go() -> None:
            self.let_go += 1

        self.snapshots = Snapshots(
            self.ledger.row_sets,
            self.folder / FOLDER,
            SECRET,
            least=LEAST,
            append_only=self.append_only,
            let_go=let_go,
            most=self.most,
        )

    def run(self, name: str, values: Numbers) -> dict[str, Numbers]:
        """Return the rows of each part that a run uses over a table."""
        found = self.snapshots.of_run(name, table(values))
        return {part: numbers(getattr(found, part)) for part in PARTS}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def parts_of(values: Numbers) -> dict[str, Numbers]:
    return {part: numbers(getattr(table(values), part)) for part in PARTS}


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_sets_differ_by_added_and_removed_rows_each_as_often_as_it_occurs(one: Numbers, other: Numbers) -> None:
    counted = Counter(one)
    counted.subtract(other)
    assert apart(hashes(one), hashes(other)) == sum(abs(count) for count in counted.values())
    found = index_of(hashes(one), hashes(other)).tolist()
    assert sorted(other[at] for at in found) == sorted((Counter(one) & Counter(other)).elements())


def test_a_set_may_be_used_that_was_before_or_that_differs_from_every_one_by_enough() -> None:
    before = [hashes([*range(50)]), hashes([*range(10, 60)])]
    assert may_replace(hashes([*range(50)]), before, LEAST)
    assert not may_replace(hashes([*range(49)]), before, LEAST)
    assert not may_replace(hashes([*range(9, 60)]), before, LEAST), "it differs enough from one of them only"
    assert may_replace(hashes([*range(20, 70)]), before, LEAST)
    assert may_replace(hashes([]), [], LEAST)


def test_a_table_that_grows_by_three_rows_a_day_for_a_month(node: Node) -> None:
    """Whatever day by day is added, two sets of a part that were used are the same or differ by ten rows or more."""
    values, used = [*range(400)], dict[str, list[Numbers]]({part: [] for part in PARTS})
    for day in range(31):
        found = node.run(f"day-{day}", values)
        for part in PARTS:
            used[part].append(found[part])
        assert node.run(f"day-{day}", [*values, *range(9000, 9500)]) == found, "a run keeps its rows"
        values += [1000 + 3 * day + n for n in range(3)]
    for part, sets in used.items():
        different = {tuple(one) for one in sets}
        assert all(apart(hashes([*a]), hashes([*b])) >= LEAST for a in different for b in different if a != b), part
        assert set(sets[-1]) <= set(parts_of(values)[part])
    assert len({tuple(one) for one in used["train"]}) in range(4, 8), "it does grow"


def test_rows_come_and_go_and_no_two_sets_differ_by_a_few(node: Node) -> None:
    """A hostile history: rows that are added, taken away again and added once more."""
    chance, values = random.Random(1), [*range(300)]
    used = dict[str, set[tuple[int, ...]]]({part: set() for part in PARTS})
    for n in range(60):
        for _ in range(chance.randrange(1, 12)):
            fresh = chance.randrange(500)
            values.remove(fresh) if fresh in values else values.append(fresh)
        found = node.run(f"run-{n}", values)
        for part in PARTS:
            used[part].add(tuple(found[part]))
    for part, sets in used.items():
        assert all(apart(hashes([*a]), hashes([*b])) >= LEAST for a in sets for b in sets if a != b), part


def test_a_run_keeps_its_rows_over_a_restart_whatever_becomes_of_the_table(node: Node) -> None:
    found = node.run("r", [*range(100)])
    node.start()
    assert node.run("r", [*range(500, 700)]) == found
    order = [table([*range(100)]).train.inputs, node.snapshots.of_run("r", table([*range(90)])).train.inputs]
    assert torch.equal(*order), "in the same order, so that training is the same to the bit"


def test_the_state_folder_keeps_the_rows_in_use_for_their_owner_only_and_no_others(node: Node) -> None:
    node.run("one", [*range(100)])
    node.run("two", [*range(1000, 1200)])
    files = sorted((node.folder / FOLDER).iterdir())
    assert [file.name.partition("-")[0] for file in files] == sorted(PARTS)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (node.folder / FOLDER).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-8])])
def test_rows_that_are_lost_come_from_the_table_or_the_run_is_refused(
    node: Node, harm: Callable[[Path], object]
) -> None:
    found = node.run("r", [*range(100)])
    for file in (node.folder / FOLDER).iterdir():
        harm(file)
    assert node.run("r", [*range(105)]) == found, "they are all in the table"
    for file in (node.folder / FOLDER).iterdir():
        file.unlink()
    with pytest.raises(Refused) as refusal:
        node.run("r", [*range(99)])
    assert refusal.value.code == "snapshot.lost"


def test_a_patient_is_deleted_at_once_with_others_of_the_same_part(node: Node) -> None:
    before = node.run("r", [*range(200)])
    victim = before["train"][5]
    rest = [value for value in range(200) if value != victim]
    assert node.run("s", rest) == before, "until its operator says so, or enough others change"
    (state,) = [one for one in node.snapshots.states(table(rest)) if one.gone]
    assert (state.name, state.changed, state.least, state.gone) == ("train", 1, LEAST, 1)
    assert node.snapshots.delete_gone(table(rest)) == ["train"]
    assert node.let_go == 1, "what was sealed with it and not opened is deleted too"
    after = node.run("s", rest)
    assert victim not in after["train"]
    assert len(before["train"]) - len(after["train"]) == LEAST
    assert {part: after[part] for part in ("validation", "test")} == {p: before[p] for p in ("validation", "test")}
    kept = b"".join(file.read_bytes() for file in (node.folder / FOLDER).glob("train-*"))
    assert np.float64(victim).tobytes() not in kept
    assert node.run("t", rest) == after, "and stays so in later runs"
    assert node.snapshots.delete_gone(table(rest)) == []
    assert [e["what"] for e in node.ledger.journal()] == [{"kind": "rows", "parts": ["train"]}], "no count"


def test_who_is_deleted_with_too_few_others_there_says_so(node: Node) -> None:
    before = node.run("r", [*range(12)])
    rest = [value for value in range(12) if value != before["train"][0]]
    with pytest.raises(Refused) as refusal:
        node.snapshots.delete_gone(table(rest))
    assert refusal.value.code == "snapshot.small"
    assert node.run("r", rest) == before, "nothing has changed"


def test_of_a_table_that_only_grows_no_rows_are_kept(tmp_path: Path) -> None:
    node = Node(tmp_path, append_only=True)
    before = node.run("r", [*range(200)])
    assert not (tmp_path / FOLDER).exists()
    assert node.run("s", [*range(203)]) == before, "three more are not read"
    victim = before["test"][0]
    after = node.run("s", [value for value in range(203) if value != victim])
    assert victim not in after["test"]
    assert len(before["test"]) - len(after["test"]) == LEAST, "what is gone was deleted, in the run that goes on too"
    assert after["train"] == before["train"]


@pytest.mark.parametrize("append_only", [False, True])
def test_of_more_rows_than_count_those_beyond_are_there_and_not_used(tmp_path: Path, append_only: bool) -> None:
    node, values = Node(tmp_path, append_only, most=50), [*range(200)]
    first = node.run("one", values)
    assert first["train"] == numbers(table(values).train.take(np.arange(50)))
    assert {part: first[part] for part in ("validation", "test")} == {p: parts_of(values)[p] for p in PARTS[1:]}
    more = [*values, *range(1000, 1005)]  # some of them come before others that counted
    assert node.run("two", more)["train"] == first["train"]
    state = node.snapshots.states(table(more))[0]
    assert (state.in_use, state.gone, state.table - state.beyond) == (50, 0, 50)
    assert node.let_go == 0, "a row that others displaced was not deleted"
    later = node.run("three", [*values, *range(1000, 1200)])["train"]
    assert len(later) == 50
    assert len(set(first["train"]) - set(later)) * 2 >= LEAST


def test_a_bound_that_is_lowered_by_a_few_rows_leaves_out_more_of_them(node: Node) -> None:
    first = node.run("one", [*range(200)])["train"]
    node.most = len(first) - 3
    node.start()
    later = node.run("two", [*range(200)])["train"]
    assert set(later) < set(first)
    assert len(later) == len(first) - LEAST
    node.most = 4
    node.start()
    assert len(node.run("three", [*range(200)])["train"]) == 4
    node.most = 3
    node.start()
    with pytest.raises(Refused) as refusal:
        node.run("four", [*range(200)])
    assert refusal.value.code == "snapshot.small"


def test_hashes_of_snapshots_are_not_those_that_deal_rows_out() -> None:
    rows = table([*range(50)]).train
    assert not (row_hashes(rows, SECRET, "snapshot") == row_hashes(rows, SECRET, "split")).any()
