"""Files that are there whole or not at all, and what happens to an update before it is sealed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from moonflower import files
from moonflower.client.steps import STEPS, Update, clip, finite, walk
from moonflower.errors import Refused
from moonflower.protocol.context import RoundContext

NONE = "0" * 64


def left(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    files.create(tmp_path / "a", b"one", 0o600)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "a", b"two")
    assert (left(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"one")


def test_a_file_that_is_removed_is_gone_and_one_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    files.create(tmp_path / "a", b"one")
    for _ in range(2):
        files.remove(tmp_path / "a")
        assert left(tmp_path) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        files.remove(tmp_path / "folder")
    assert left(tmp_path) == ["folder"]


def test_several_new_files_are_all_there_or_none(tmp_path: Path) -> None:
    files.create_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    with pytest.raises(FileExistsError):
        files.create_all({tmp_path / "c": b"3", tmp_path / "b": b"4"})
    with pytest.raises(OSError, match="absent"):
        files.create_all({tmp_path / "c": b"3", tmp_path / "absent" / "d": b"4"})
    assert left(tmp_path) == ["a", "b"]
    assert (tmp_path / "b").read_bytes() == b"2"


def test_a_file_in_pieces_is_there_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    with files.writing(tmp_path / "a") as file:
        file.write(b"one")
        assert left(tmp_path) != ["a"]
    assert (left(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"one")
    with pytest.raises(RuntimeError):
        _break_off(tmp_path / "b")
    with pytest.raises(FileExistsError), files.writing(tmp_path / "a"):
        pytest.fail("nothing is written over what is there")
    assert (left(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"one")


def _break_off(place: Path) -> None:
    with files.writing(place) as file:
        file.write(b"half")
        raise RuntimeError


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_disk_without_links_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    files.create(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "a", b"two")
    assert (left(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"one")


# Steps.


def about(bound: float) -> RoundContext:
    return RoundContext(
        "f", "r", 1, 1, "update", NONE, bound, {}, NONE, {}, "0", {}, NONE, NONE, NONE, NONE, NONE, ""
    )  # fmt: skip


def test_the_clip_cuts_and_counts() -> None:
    update = clip(Update(np.array([0.5, -3.0, 2.0, 2.5], dtype=np.float32)), about(2.0))
    assert (update.vector.tolist(), update.clipped_share) == ([0.5, -2.0, 2.0, 2.0], 0.5)
    assert clip(Update(np.zeros(0, dtype=np.float32)), about(2.0)).clipped_share == 0.0


@pytest.mark.parametrize("bound", [0.1, 0.3, 1 / 3, 2.0, 7.7])
def test_nothing_beyond_the_clip_is_left_though_it_is_no_float32(bound: float) -> None:
    cut = clip(Update(np.full(4, 100.0, dtype=np.float32)), about(bound)).vector
    assert float(cut.max()) <= bound < float(np.nextafter(cut.max(), np.float32(np.inf)))


def test_what_is_not_finite_goes_no_further() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(Refused) as refused:
            walk(Update(np.array([1.0, value], dtype=np.float32)), STEPS, about(2.0))
        assert refused.value.code == "update.nonfinite"
    update = Update(np.ones(2, dtype=np.float32))
    assert finite(update, about(2.0)) is update
