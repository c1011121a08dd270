"""Rows that are read when they are used, and folders of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moonflower.client.learning.datasets import DatasetRows, rows_of
from moonflower.client.learning.images import ImageFolder
from moonflower.client.learning.rows import Rows, Split
from moonflower.client.learning.splits import join, partition, row_hashes, split
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.snapshots import Snapshots
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.settings import DataSettings, SimulateSettings
from moonflower.errors import InputError
from PIL import Image
from support.learners import SCHEMA, TRAINING, learner, rows, secret_of
from torch.utils.data import Dataset, IterableDataset, TensorDataset


class Counted(Dataset[Any]):
    """The rows of a table, which counts what was read of it."""

    def __init__(self, table: Rows) -> None:
        self.table, self.read = table, 0
        self.targets = table.targets

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, at: int) -> Any:
        self.read += 1
        return self.table[at]


def test_they_train_and_judge_as_the_same_rows_in_memory() -> None:
    parts = {"train": rows(40), "validation": rows(10, 2), "test": rows(20, 3)}
    near = learner(**parts)
    far = TorchLearner(
        Tabular(personalise="intercept"),
        Split(**{name: rows_of(Counted(part)) for name, part in parts.items()}),
        SCHEMA,
        seed=7,
        secret=secret_of("a"),
    )
    far.prepare(far.scaling(far.summary().tolist()))
    assert far.summary().tolist() == near.summary().tolist()
    base = near.start()
    for training in (TRAINING, TRAINING.model_copy(update={"chunk_rows": 3})):
        vectors = [made.train(base, training, 1).vector.tobytes() for made in (near, far)]
        assert vectors[0] == vectors[1]
    assert far.evaluate(base, "test") == near.evaluate(base, "test")
    assert far.tally(base, 8).tolist() == near.tally(base, 8).tolist()


def test_nothing_is_read_before_it_is_used_and_little_at_a_time() -> None:
    data = Counted(rows(1000))
    far = rows_of(data)
    assert data.read == 1  # to see that it can be read
    taken = far.take(np.arange(500, 700)).take(np.array([3, 1]))
    assert (data.read, len(taken)) == (1, 2)
    assert taken.targets.tolist() == rows(1000).targets[[503, 501]].tolist()
    assert taken[0][0].nan_to_num().tolist() == rows(1000).inputs[503].nan_to_num().tolist()
    assert [len(chunk) for chunk in far.chunks(400)] == [400, 400, 200]
    with pytest.raises(TypeError, match="not in memory as a whole"):
        _ = far.inputs


def test_they_are_dealt_as_the_same_rows_in_memory() -> None:
    table, data = rows(60), DataSettings()
    far, secret = rows_of(Counted(table)), secret_of("a")
    assert (row_hashes(far, secret, "split") == row_hashes(table, secret, "split")).all()
    near_parts, far_parts = (split(one, data, secret=secret, member="a") for one in (table, far))
    for name in ("train", "validation", "test"):
        there = getattr(far_parts, name).loaded()
        assert torch.equal(there.inputs.nan_to_num(), getattr(near_parts, name).inputs.nan_to_num())
    members = partition(far, data, SimulateSettings(partition="random", members=3), 1)
    whole = join([split(one, data, secret=secret, member=name) for name, one in members.items()])
    assert isinstance(whole.train, DatasetRows)
    assert len(whole.train) + len(whole.validation) + len(whole.test) == 60


def test_they_are_not_copied_into_the_state_folder(tmp_path: Path) -> None:
    used: Any = None
    parts = Split(*[rows_of(Counted(rows(30, seed))) for seed in (1, 2, 3)])
    from moonflower.client.ledger.ledger import Ledger

    def snapshots(append_only: bool) -> Snapshots:
        about: Any = {"least": 5, "append_only": append_only, "let_go": lambda: None}
        return Snapshots(used, tmp_path / "snapshot", secret_of("a"), **about)

    ledger = Ledger(None)
    used = ledger.row_sets
    with pytest.raises(InputError, match="expected append_only = true under"):
        snapshots(False).of_run("r", parts)
    found = snapshots(True).of_run("r", parts)
    assert len(found.train) == 30
    assert not (tmp_path / "snapshot").exists()
    ledger.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "int; expected a dataset with length and index, or two tensors"),
        ((torch.zeros(3), torch.zeros(2)), "3 inputs and 2 targets; expected as many"),
        (
            type("Endless", (IterableDataset,), {"__iter__": lambda _: iter(())})(),
            "Endless; expected a dataset with length and index",
        ),
        (["a", "b"], "its items cannot be read"),
    ],
)
def test_what_is_no_dataset_is_told(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        rows_of(data)
    assert refusal.value.code == "data.value"


def test_tensors_are_rows_in_memory() -> None:
    pair = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])
    for data in (pair, TensorDataset(*pair), Rows(*pair)):
        assert type(rows_of(data)) is Rows
        assert torch.equal(rows_of(data).inputs, pair[0])


# Images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for site in ("north", "south"):
        for name, shade in (("cat", 200), ("dog", 40)):
            place = tmp_path / "images" / site / name
            place.mkdir(parents=True)
            for at in range(3):
                Image.new("RGB", (12 + at, 9), (shade, at, 0)).save(place / f"{at}.png")
    (tmp_path / "images" / "north" / "cat" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def test_a_folder_of_images_is_a_dataset(folder: Path) -> None:
    data = ImageFolder(folder, 8, ["cat", "dog"], sites=True)
    assert len(data) == 12
    image, label = data[0]
    assert (image.shape, image.dtype, label) == ((3, 8, 8), torch.float32, 0)
    assert image[0].mean() == pytest.approx(200 / 255)
    found = rows_of(data)
    members = partition(found, DataSettings(site="site"), SimulateSettings(), 1)
    assert {name: len(one) for name, one in members.items()} == {"north": 6, "south": 6}
    plain = rows_of(ImageFolder(folder / "north", 8, ["cat", "dog"], channels=1))
    assert plain.loaded().inputs.shape == (6, 1, 8, 8)


def test_an_image_is_told_apart_by_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolder(folder, 8, ["cat", "dog"], sites=True)
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda *_: 1 / 0)  # no image is decoded to deal it
    found = DatasetRows(data, data.targets, np.arange(len(data)))
    hashes = row_hashes(found, secret_of("a"), "split")
    assert len(np.unique(hashes, axis=0)) == 6  # the two sites have the same files
    assert (hashes == row_hashes(found, secret_of("a"), "split")).all()
    assert (hashes != row_hashes(found, secret_of("b"), "split")).any()


def test_what_is_wrong_with_a_folder_is_told(folder: Path, tmp_path: Path) -> None:
    for path, classes, message in [
        (tmp_path / "nowhere", ["cat"], "does not exist; expected a folder of folders"),
        (folder, ["cat", "dog"], "has no images in folders of classes"),
        (folder / "north", ["cat"], "has 1 folder that is no class; expected cat"),
    ]:
        with pytest.raises(InputError, match=message):
            ImageFolder(path, 8, classes)
    (folder / "north" / "cat" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"^an image cannot be read \(UnidentifiedImageError\)$"):
        ImageFolder(folder / "north", 8, ["cat", "dog"])[0]  # a file's name may be a patient's


def test_rows_move_to_a_device_and_stay_themselves() -> None:
    table = rows(4)
    assert table.to(torch.device("cpu")) is table
    assert replace(table, inputs=table.inputs).loaded().targets is table.targets
