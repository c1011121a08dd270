"""Version 0 from a checkpoint file: the same file at every member, its tensors in the model, nothing run from it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moonflower import load_model, simulate
from moonflower.client.bases import check_start
from moonflower.client.learning.cast import prepare
from moonflower.client.learning.pretrained import Pretrained, load_pretrained, start_model
from moonflower.client.learning.tensors import check_fits
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.own_rows import OwnRows
from moonflower.client.secret import NodeSecret
from moonflower.configs.recipe import draw_of
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.configs.sentences import sentences
from moonflower.configs.settings import load_run
from moonflower.crypto.identity import Identity
from moonflower.errors import InputError
from moonflower.federation import stage
from moonflower.protocol.act import Act
from moonflower.protocol.circle import Circle
from moonflower.server.records.models import Models
from safetensors.torch import save, save_file
from support import CONFIGS
from support.circles import circles, heart_recipe, live_in, pins_of, signed_by
from support.learners import SCHEMA, learner
from support.superlink import client_config
from support.tasks import Kinds, version_of
from torch import Tensor

CONFIG = CONFIGS / "heart.toml"
DIGEST = "ab" * 32
PINS = {name: name * 43 for name in "abc"}


def file_of(folder: Path, tensors: dict[str, Tensor], name: str = "w.safetensors") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of(tensors: dict[str, Tensor]) -> Pretrained:
    return Pretrained(Path("w.safetensors"), DIGEST, tensors)


def refused(call: Callable[..., Any], *given: Any) -> str:
    with pytest.raises(InputError) as raised:
        call(*given)
    assert raised.value.code == "config.checkpoint"
    return str(raised.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_tensors_of_the_file_replace_drawn_ones_and_the_others_stay(name: str, tmp_path: Path) -> None:
    weight = torch.arange(24, dtype=torch.float32).reshape(8, 3)
    path = file_of(tmp_path, {"0.weight": weight.bfloat16()}, name)
    found = load_pretrained(path, digest(path))
    assert found is not None
    drawn, made = start_model(Kinds("frozen"), SCHEMA, "d", None), start_model(Kinds("frozen"), SCHEMA, "d", found)
    for key, value in made.state_dict().items():
        assert torch.equal(value, weight if key == "0.weight" else drawn.state_dict()[key])
    assert made.state_dict()["0.weight"].dtype == torch.float32, "converted"


def test_a_learner_starts_there_and_frozen_tensors_are_in_the_digests() -> None:
    whole = start_model(Kinds("frozen"), SCHEMA, "another", None).state_dict()
    task, plain = Kinds("frozen"), learner(task=Kinds("frozen"))
    made = type(plain)(task, plain._raw, SCHEMA, seed=7, secret=plain.secret, draw="7", pretrained=of(whole))
    assert np.array_equal(made.start(), np.concatenate([whole["2.weight"].ravel(), whole["2.bias"]]))
    assert torch.equal(torch.from_numpy(made.frozen["0.weight"]), whole["0.weight"])
    differ = {name for name, one in plain.frozen_digests.items() if made.frozen_digests[name] != one}
    assert differ == {"0.weight", "0.bias"}
    version = version_of(made, made.start(), "frozen")
    check_fits(version, start_model(task, SCHEMA, "8", of(whole)))
    assert check_start(version.data, version.sha256, None, made).sha256 == version.sha256
    with pytest.raises(InputError, match=r"'0\.weight' differs"):
        check_fits(version, start_model(task, SCHEMA, "8", None))


def tied(second: Tensor) -> dict[str, Tensor]:
    return {"first.weight": torch.eye(3), "second.weight": second}


def test_tied_names_may_all_be_in_the_file() -> None:
    made = start_model(Kinds("tied"), SCHEMA, "d", of(tied(torch.eye(3)))).state_dict()
    assert torch.equal(made["first.weight"], torch.eye(3))
    assert torch.equal(made["second.weight"], torch.eye(3))


@pytest.mark.parametrize(
    ("kind", "tensors", "words"),
    [
        ("frozen", {"0.wieght": torch.eye(3)}, "'0.wieght', which the task's model does not have; did you mean '0.w"),
        ("frozen", {"0.weight": torch.eye(3)}, r"'0.weight' has the shape \[3, 3\]; the task's model has \[8, 3\]"),
        ("frozen", {"0.bias": torch.arange(8)}, "'0.bias' is torch.int64; the task's model has torch.float32"),
        ("scalars", {"steps": torch.tensor(1.0)}, "'steps' is torch.float32; the task's model has torch.int64"),
        ("scalars", {"steps": torch.tensor([1])}, r"the shape \[1\]; the task's model has \[\]"),
        ("frozen", {"0.bias": torch.full((8,), float("nan"))}, "'0.bias' holds NaN"),
        ("frozen", {"2.bias": torch.full((1,), float("inf"))}, "'2.bias' holds a number that is not finite"),
        ("float16", {"2.bias": torch.full((8,), 1e6)}, "'2.bias' holds a number that is too large for torch.float16"),
        ("tied", tied(torch.ones(3, 3)), "'first.weight' and 'second.weight' differ"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_its_tensor(
    kind: str, tensors: dict[str, Tensor], words: str
) -> None:
    with pytest.raises(InputError, match=words) as raised:
        start_model(Kinds(kind), SCHEMA, "d", of(tensors))
    assert raised.value.code == "config.checkpoint"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/moonflower-was-here",)


def test_a_file_is_read_without_running_anything_and_is_what_its_name_says(tmp_path: Path) -> None:
    for name, content, words in (
        ("a.pt", {"0.weight": Evil()}, "is not what its name says"),
        ("b.pt", [torch.eye(3)], "holds a list; expected a state_dict"),
        ("c.pt", {}, "holds a dict; expected a state_dict"),
        ("d.pt", {"model": {"0.weight": torch.eye(3)}}, "'model' is not a plain tensor"),
        ("e.pt", {"a": torch.eye(3).to_sparse()}, "'a' is not a plain tensor"),
    ):
        torch.save(content, tmp_path / name)
        assert words in refused(load_pretrained, tmp_path / name, digest(tmp_path / name))
    assert not Path("/tmp/moonflower-was-here").exists()
    good = save({"a": torch.eye(3)})
    huge = (2**40).to_bytes(8, "little") + good[8:]
    for name, data in (("f.safetensors", b"x" * 100), ("g.safetensors", huge), ("h.safetensors", good[:-1]),
                       ("i.pt", good), ("j.pt", b"")):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        assert "is not what its name says" in refused(load_pretrained, tmp_path / name, digest(tmp_path / name))


def test_every_member_has_the_same_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"a": torch.eye(3)})
    own = digest(path)
    said = refused(load_pretrained, path, DIGEST)
    assert f"has SHA-256 {own[:16]}…; the recipe expects {DIGEST[:16]}…" in said
    assert 'expected the line checkpoint = "FILE"' in refused(load_pretrained, None, own)
    assert "cannot be read: No such file" in refused(load_pretrained, tmp_path / "none.pt", own)
    assert load_pretrained(path, "") is None, "a recipe without a file takes none"


# The recipe and the circle


def with_file(path: Path, *overrides: str) -> Any:
    return heart_recipe.__wrapped__(f'data.checkpoint="{path}"', *overrides)  # a file changes, and its path does not


def heart_weights() -> dict[str, Tensor]:
    width = prepare(CONFIG).learner("Cleveland", prepare(CONFIG).splits["Cleveland"]).layout[0].shape
    return {"0.weight": torch.linspace(-0.1, 0.1, width[1]).reshape(width)}


def test_the_recipe_names_the_file_by_its_digest_alone(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"0.weight": torch.eye(3)})
    plain, recipe = heart_recipe(), with_file(path)
    assert (plain.checkpoint, recipe.checkpoint) == ("", digest(path))
    assert str(path) not in str(recipe.as_dict())
    assert draw_of(plain, ("a", "b")) != draw_of(recipe, ("a", "b")) != draw_of(recipe, ("a", "c"))
    words = sentences(recipe, 3)["What is trained"]
    assert f"Version 0 has the tensors of the checkpoint file with the digest {digest(path)[:16]}." in words[2]
    assert len(words) == len(sentences(plain, 3)["What is trained"]) + 1
    assert "cannot be read" in refused(with_file, tmp_path / "none.pt")
    assert "unknown ending; expected .safetensors, .pt, .pth" in refused(with_file, tmp_path / "w.bin")


def test_a_start_from_a_file_is_signed_by_hand_and_a_second_one_says_what_it_gives_away(tmp_path: Path) -> None:
    """Version 0 is drawn anew in every circle, so that no two sums of different circles begin at one base."""
    path = file_of(tmp_path, {"0.weight": torch.eye(3)})
    first = Circle.of(with_file(path), PINS)
    assert Act.between(None, first).words()[0].startswith("STARTS FROM A FILE: version 0 has the tensors of the check")
    second = Circle.of(with_file(path, "training.parts=3", "training.init_seed=8"), PINS, number=2, counted=1)
    act, plain = Act.between(first, second), Act.between(Circle.of(heart_recipe(), PINS), second)
    assert (act.by_rule, plain.by_rule) == (False, False)
    assert Act.between(Circle.of(heart_recipe(), PINS), Circle.of(heart_recipe("training.parts=3"), PINS, number=2,
                       counted=1)).by_rule  # fmt: skip
    words = act.words(spent=True)
    assert words[0].startswith("MAY START WHERE SUMS WERE OPENED: an earlier circle began with this file.")
    assert "Version 0 is drawn anew, except the tensors of the file." in words


def test_a_node_knows_which_circles_began_with_a_file(tmp_path: Path) -> None:
    path, everybody = file_of(tmp_path, {"0.weight": torch.eye(3)}), [Identity.generate(name) for name in "abc"]
    made = [Circle.of(with_file(path, f"training.init_seed={at}"), pins_of(everybody), number=at, counted=1)
            for at in (1, 2)]  # fmt: skip
    plain = Circle.of(heart_recipe("training.init_seed=9"), pins_of(everybody), number=3, counted=1)
    with closing(Ledger(None)) as ledger:
        mine = circles(everybody[0], ledger, made[0].recipe)
        assert not mine.start(made[0]).summed
        live_in(mine, signed_by(made[0], everybody))
        assert (mine.start(made[1]).summed, mine.start(plain).summed) == (True, False)
        live_in(mine, signed_by(made[1], everybody))


def test_a_node_needs_the_file_before_anything_is_signed(tmp_path: Path) -> None:
    path = file_of(tmp_path, heart_weights())
    recipe = with_file(path)
    config = client_config(tmp_path, CONFIG.parent / "data", member="Cleveland")
    rows = OwnRows(load_config(ClientConfig, config), NodeSecret.fresh())
    assert "names none" in refused(rows.check, recipe)
    config.write_text(config.read_text().replace("[data]", '[data]\ncheckpoint = "w.safetensors"'))
    OwnRows(load_config(ClientConfig, config), NodeSecret.fresh()).check(recipe)
    file_of(tmp_path, {"0.weight": torch.eye(3)})
    rows = OwnRows(load_config(ClientConfig, config), NodeSecret.fresh())
    assert "another file" in refused(rows.check, recipe)
    assert "has the shape [3, 3]" in refused(rows.check, with_file(path))
    own = load_run(CONFIG, (f'data.checkpoint="{path}"',))
    assert stage._client(own, "a", "https://x", {})["data"]["checkpoint"] == str(path)


def test_a_federation_starts_there_and_its_model_needs_no_file_any_more(tmp_path: Path) -> None:
    path = file_of(tmp_path, heart_weights())
    overrides = (f'data.checkpoint="{path}"', "training.rounds=1", "training.local_epochs=1")
    cast = prepare(CONFIG, overrides)
    done = simulate(CONFIG, out=tmp_path / "run", overrides=overrides)
    base = Models(tmp_path / "run" / "models")
    versions = [base.read(file.stem) for file in (tmp_path / "run" / "models").glob("*.safetensors")]
    weight = heart_weights()["0.weight"].numpy()
    assert any(np.array_equal(one.tensors()["0.weight"], weight) for one in versions)
    assert cast.recipe.checkpoint == digest(path)
    path.unlink()
    assert load_model(done.result["model"]["path"]).version.sha256 == done.result["model"]["sha256"]
