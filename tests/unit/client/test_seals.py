"""What a member sealed and did not answer: private, whole or not at all, and gone once it is answered."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from moonflower import files
from moonflower.client.seals import FOLDER, HeldSeal, Seals
from moonflower.crypto.pairs import public_mask
from moonflower.crypto.sealed import Secrets
from moonflower.protocol import envelope
from support.protocol import context, identity


def seal(body: bytes = b"body", number: int = 3, seed: bytes = b"s" * 32) -> tuple[str, HeldSeal]:
    """Return a context's digest, and what anna sealed in it."""
    about = context(number=number)
    made = envelope.seal(identity("anna"), about, body, public_mask(Secrets(seed).mask_key))
    return about.digest, HeldSeal(seed, made.data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["folder", "memory"])
def seals(request: pytest.FixtureRequest, tmp_path: Path) -> Seals:
    return Seals(tmp_path / FOLDER if request.param == "folder" else None)


def test_a_seal_is_kept_read_and_dropped(seals: Seals) -> None:
    about, kept = seal()
    assert seals.read(about) is None
    assert seals.contexts() == []
    seals.drop(about)
    seals.keep(about, kept)
    found = seals.read(about)
    assert found == kept
    assert found is not None
    assert bytes(found.body) == b"body"
    assert found.signed.verify(identity("anna").card).context == about
    assert seals.contexts() == [about]
    seals.drop(about)
    assert (seals.read(about), seals.contexts()) == (None, [])


def test_contexts_are_apart_and_the_newest_seal_of_one_counts(seals: Seals) -> None:
    (about, first), (other, second) = seal(), seal(number=4)
    again = seal(b"another", seed=b"t" * 32)[1]
    seals.keep(about, first)
    seals.keep(other, second)
    seals.keep(about, again)
    assert (seals.read(about), seals.read(other)) == (again, second)
    assert seals.contexts() == sorted([about, other])
    seals.drop(other)
    assert (seals.read(about), seals.read(other)) == (again, None)


def test_nobody_else_may_read_a_seal(tmp_path: Path) -> None:
    """Whoever has the seed has the vector."""
    os.umask(0)
    held = Seals(tmp_path / "state" / FOLDER)
    assert not (tmp_path / "state").exists(), "made when there is something to keep"
    about, kept = seal()
    held.keep(about, kept)
    assert mode(tmp_path / "state" / FOLDER) == 0o700
    assert [mode(path) for path in (tmp_path / "state" / FOLDER).iterdir()] == [0o600]


def test_the_seed_does_not_show() -> None:
    assert repr(seal()[1]) == "HeldSeal()"


def test_a_seal_outlives_its_process(tmp_path: Path) -> None:
    about, kept = seal()
    Seals(tmp_path / FOLDER).keep(about, kept)
    assert Seals(tmp_path / FOLDER).read(about) == kept


def test_a_kill_while_it_is_written_leaves_the_one_before_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, (about, first) = Seals(tmp_path / FOLDER), seal()
    held.keep(about, first)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            held.keep(about, seal(b"another")[1])
        with pytest.raises(KeyboardInterrupt):
            held.keep(*seal(number=4))
    assert held.read(about) == first
    assert held.contexts() == [about]


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    """It may hold a seed."""
    folder, (about, kept) = tmp_path / FOLDER, seal()
    Seals(folder).keep(about, kept)
    left = folder / f"{'a' * 64}.tmp-{os.getpid()}-0123abcd"
    left.write_bytes(b"MFS2" + b"s" * 32)
    held = Seals(folder)
    assert [path.name for path in folder.iterdir()] == [about]
    assert held.read(about) == kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:3],
        lambda data: data[:36],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"MFS1" + data[4:],
        lambda data: data[:4] + b"t" * 32 + data[36:],
        lambda data: data[:36] + b"MFE1" + data[40:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.replace(b'"context":"', b'"context":!'),
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "cut", "no envelope", "short", "long", "magic", "seed", "format", "body", "header", "zeros"],
)
def test_a_damaged_file_is_none(tmp_path: Path, damage: object) -> None:
    """So the node seals anew, under a fresh key, instead of answering with what opens to noise."""
    held, (about, kept) = Seals(tmp_path / FOLDER), seal()
    held.keep(about, kept)
    path = tmp_path / FOLDER / about
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert held.read(about) is None
    held.keep(about, kept)
    assert held.read(about) == kept


def test_the_file_of_another_context_is_none(tmp_path: Path) -> None:
    held, (about, kept), (other, _) = Seals(tmp_path / FOLDER), seal(), seal(number=4)
    held.keep(about, kept)
    (tmp_path / FOLDER / about).rename(tmp_path / FOLDER / other)
    assert held.read(other) is None


def test_what_else_lies_in_the_folder_is_no_seal(tmp_path: Path) -> None:
    held, (about, kept) = Seals(tmp_path / FOLDER), seal()
    held.keep(about, kept)
    (tmp_path / FOLDER / "README").write_text("mine")
    assert held.contexts() == [about]
