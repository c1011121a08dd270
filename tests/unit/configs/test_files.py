"""Files that are there whole or not at all, and what happens to an update before it is sealed."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from moonflower import files
from moonflower.client.steps import STEPS, Update, clip, finite, walk
from moonflower.crypto.quantise import Scale, Stretch
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


ABOUT = RoundContext("f", "r", 1, 1, "update", NONE, {}, NONE, {}, "0", {}, NONE, NONE, NONE, NONE, NONE, "")


def update_of(values: list[float], *clips: float, share: float = 1.0) -> Update:
    """One group of values for each clip, equally long."""
    each = len(values) // len(clips)
    stretches = tuple(Stretch(each, f"group-{at}", bound) for at, bound in enumerate(clips))
    return Update(np.array(values, dtype=np.float32), Scale(stretches, 16), share)


def test_the_clip_cuts_one_value_of_a_group_and_says_so_in_the_own_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cut = clip(update_of([0.5, -3.0, 1e-9, 0.5, 40.0, 2.0], 2.0, 8.0), ABOUT)
    assert cut.vector.tolist() == [0.5, -2.0, np.float32(1e-9), 0.5, 8.0, 2.0]
    assert caplog.messages == [
        "update, group-0: 33.3 % cut, 33 % below half a step",
        "update, group-1: 33.3 % cut, 0 % below half a step",
    ]


def test_an_update_that_does_not_fit_is_not_sealed_and_the_own_log_names_the_clip_that_would_do() -> None:
    values = [0.1] * 60
    clip(update_of([*values[:57], 5.0, -5.0, 5.0], 2.0), ABOUT)
    with pytest.raises(Refused, match=r"7% of the update's values in 'group-0' are above the clip, 2;") as refused:
        clip(update_of([*values[:56], 5.0, -5.0, 5.0, 7.123], 2.0), ABOUT)
    assert refused.value.code == "update.failed"
    assert "ask the proposer of the recipe for crypto.clip = 7.2 or more" in str(refused.value)
    with pytest.raises(Refused, match="group-1"):
        clip(update_of([*values, *values[:56], 5.0, 5.0, 5.0, 5.0], 2.0, 2.0), ABOUT)
    with pytest.raises(Refused, match="100%"):
        clip(update_of([5.0, 5.0], 2.0), ABOUT)


@pytest.mark.parametrize("bound", [0.1, 0.3, 1 / 3, 2.0, 7.7])
def test_nothing_beyond_the_clip_is_left_though_it_is_no_float32(bound: float) -> None:
    cut = clip(update_of([100.0, 0.0], bound), ABOUT).vector
    assert float(cut.max()) <= bound < float(np.nextafter(cut.max(), np.float32(np.inf)))


def test_what_is_not_finite_goes_no_further() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(Refused) as refused:
            walk(update_of([1.0, value], 2.0), STEPS, ABOUT)
        assert refused.value.code == "update.failed"
    update = update_of([1.0, 1.0], 2.0)
    assert finite(update, ABOUT) is update
