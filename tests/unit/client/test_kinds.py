"""Every kind of model travels and comes back: trained a step, written to a file, and loaded in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from moonflower.client.bases import check_start
from moonflower.client.learning.export import torch_file
from moonflower.client.learning.predict import open_version
from moonflower.client.learning.tensors import as_array, as_tensor, check_fits, flatten, fresh_model, load
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.schema import Schema
from moonflower.configs.settings import TrainingSettings
from moonflower.errors import InputError
from moonflower.protocol.model_version import BFLOAT16, TensorSpec, build, candidate, parse
from support import PATIENCE_S
from support.kinds import MODELS, WIDTH, between, typed
from support.learners import SCHEMA, learner, rows
from support.tasks import KINDS, Kinds, version_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations

TESTS = Path(__file__).parents[2]
STEP = TrainingSettings(rounds=1, local_epochs=1, parts=1, lr=0.5)
HALVES = ["float16", "bfloat16"]


def table() -> pd.DataFrame:
    """The learners' test rows, as a table."""
    inputs = rows(20, 3).inputs.numpy()
    return pd.DataFrame({"x": inputs[:, 0], "c": [("a", "b")[int(which)] for which in inputs[:, 1]]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """A folder with a version of every kind after a step, its state dict, and the scores that each gave in its run."""
    folder, scores = tmp_path_factory.mktemp("kinds"), {}
    table().to_csv(folder / "rows.csv", index=False)
    for kind in MODELS:
        made = learner(task=Kinds(kind))
        start = made.start()
        vector = made.train(start, STEP, 1).vector
        assert not np.array_equal(vector, start)
        version = candidate(version_of(made, start, kind), vector)
        (folder / f"{kind}.safetensors").write_bytes(version.data)
        predictor = open_version(version, allow=[KINDS])
        (folder / f"{kind}.pt").write_bytes(torch_file(predictor))
        np.save(folder / "prepared.npy", predictor.prepared(table()).numpy())
        scores[kind] = made.scores(vector, "test").tolist()
    return folder, scores


LOADS = f"""
import json, sys
from pathlib import Path
import numpy as np, torch
folder = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from kinds import MODELS
alone, rows = {{}}, torch.from_numpy(np.load(folder / "prepared.npy"))
for kind, make in MODELS.items():
    model = make()
    model.load_state_dict(torch.load(folder / f"{{kind}}.pt", weights_only=True), strict=True)
    alone[kind] = torch.sigmoid(model.eval()(rows).double()).reshape(-1).tolist()
assert not [name for name in sys.modules if name.startswith("moonflower")]

import pandas as pd
from moonflower import load_model
rows = pd.read_csv(folder / "rows.csv")
found = {{
    file.stem: load_model(file, allow=["{KINDS}"]).predict(rows).tolist() for file in folder.glob("*.safetensors")
}}
print(json.dumps([alone, found]))
"""


def test_a_fresh_process_scores_as_the_run_did(trained: tuple[Path, dict[str, list[float]]]) -> None:
    """From a state dict with torch alone, and from the version."""
    folder, scores = trained
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(folder), str(TESTS / "support")],
        capture_output=True, text=True, cwd=TESTS, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for found in json.loads(done.stdout):
        assert sorted(found) == sorted(MODELS)
        for kind, expected in scores.items():
            assert found[kind] == pytest.approx(expected, abs=1e-6), kind


def test_a_state_dict_has_every_name_in_its_own_type_and_no_other_memory(
    trained: tuple[Path, dict[str, list[float]]],
) -> None:
    for kind, make in MODELS.items():
        state, plain = torch.load(trained[0] / f"{kind}.pt", weights_only=True), make().state_dict()
        assert [(name, value.dtype, value.shape) for name, value in state.items()] == [
            (name, value.dtype, value.shape) for name, value in plain.items()
        ]
    tied = torch.load(trained[0] / "tied.pt", weights_only=True)
    assert tied["first.weight"].data_ptr() == tied["second.weight"].data_ptr() != tied["head.weight"].data_ptr()


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_comes_back(kind: str, trained: tuple[Path, dict[str, list[float]]]) -> None:
    version = parse((trained[0] / f"{kind}.safetensors").read_bytes())
    made = learner(task=Kinds(kind))
    made.evaluate(version.vector, "test")
    mine, there = made.model.state_dict(), open_version(version, allow=[KINDS]).model.state_dict()
    assert list(mine) == list(there) == list(MODELS[kind]().state_dict())
    for name, value in mine.items():
        assert (value.dtype, value.shape) == (there[name].dtype, there[name].shape)
        assert torch.equal(value, there[name]), name
    check_fits(version, fresh_model(Kinds(kind), SCHEMA, made.draw))
    assert check_start(version.data, version.sha256, None, made).sha256 == version.sha256, "runs can start from it"
    read = safetensors.torch.load(version.data)
    assert {*read} == {*version.tensors(), *version.frozen}
    for name, array in version.frozen.items():
        assert read[name].dtype == mine[name].dtype
        assert torch.equal(read[name], mine[name]), "and any reader finds its numbers"
        assert as_array(as_tensor(array)).tobytes() == array.tobytes()


def test_a_tied_tensor_travels_once_and_both_names_have_it() -> None:
    made = learner(task=Kinds("tied"))
    names = [spec.name for spec in made.layout]
    assert names == ["table", "first.weight", "first.bias", "second.bias", "head.weight", "head.bias"]
    assert made.frozen == {}
    vector = np.arange(sum(spec.size for spec in made.layout), dtype=np.float32)
    model = open_version(version_of(made, vector, "tied"), allow=[KINDS]).model
    for one, other in (("first.weight", "second.weight"), ("again", "head.weight"), ("table", "copy")):
        assert torch.equal(model.state_dict()[one], model.state_dict()[other])
    assert model.get_parameter("first.weight") is model.get_parameter("second.weight")
    assert model.get_parameter("again").tolist() == [vector[17:20].tolist()]


def test_a_file_in_which_tied_tensors_disagree_is_refused() -> None:
    made = learner(task=Kinds("tied"))
    base = version_of(made, made.start(), "tied")
    layout = (*base.layout, TensorSpec("second.weight", (WIDTH, WIDTH)))
    other = build(layout, np.append(base.vector, np.ones(WIDTH * WIDTH, np.float32)), base.manifest)
    frozen = build(base.layout, base.vector, base.manifest, frozen={"second.weight": np.ones((WIDTH, WIDTH), "f4")})
    for hostile, words in ((other, "its tensors are not those"), (frozen, "has a frozen tensor 'second.weight'")):
        with pytest.raises(InputError, match=words) as raised:
            open_version(hostile, allow=[KINDS])
        assert raised.value.code == "data.model"


@pytest.mark.parametrize("kind", HALVES)
def test_rounding_to_half_precision_is_no_update_and_loses_nothing(kind: str) -> None:
    """The step is too small for a number in half precision to change; float32 in the same model moves."""
    made = learner(task=Kinds(kind))
    base = made.start() + np.float32(1e-5)
    update = made.train(base, STEP.model_copy(update={"lr": 1e-7}), 1).vector - base
    assert update.any()
    start = 0
    for spec in made.layout:
        if made.model.state_dict()[spec.name].dtype != torch.float32:
            assert not update[start : start + spec.size].any(), spec.name
        start += spec.size
    assert made.evaluate(base, "test")["loss"] is not None
    rounded = flatten(made.model.state_dict(), made.layout)
    assert not np.array_equal(rounded, base), "the model itself holds rounded numbers"


@pytest.mark.parametrize("kind", HALVES)
def test_what_training_changed_in_half_precision_is_added_to_the_base(kind: str) -> None:
    made = learner(task=Kinds(kind))
    base = made.start() + np.float32(1e-5)
    vector = made.train(base, STEP, 1).vector
    after = flatten(made.model.state_dict(), made.layout)
    load(made.model, {}, made.layout, base)
    loaded = flatten(made.model.state_dict(), made.layout)
    start = 0
    for spec in made.layout:
        piece = slice(start, start + spec.size)
        if made.model.state_dict()[spec.name].dtype == torch.float32:
            expected = after[piece]
        else:
            expected = base[piece] + (after[piece] - loaded[piece])
        assert np.array_equal(vector[piece], expected), spec.name
        start += spec.size


def test_float64_travels_as_float32_and_stays_whole_when_it_is_frozen() -> None:
    made = learner(task=Kinds("float64"))
    vector = made.start() + np.float32(1 / 3)
    made.evaluate(vector, "test")
    assert np.array_equal(flatten(made.model.state_dict(), made.layout), vector)
    assert {value.dtype for value in learner(task=Kinds("frozen float64")).frozen.values()} == {np.dtype("f8")}


def test_bfloat16_is_a_pattern_and_no_whole_number() -> None:
    value = torch.tensor([1.0, -2.5, float("inf"), -0.0]).bfloat16()
    array = as_array(value)
    assert array.dtype == BFLOAT16 != np.dtype("<u2")
    assert array["bfloat16"].tolist() == [0x3F80, 0xC020, 0x7F80, 0x8000]
    assert torch.equal(as_tensor(array).view(torch.int16), value.view(torch.int16))
    assert as_tensor(as_array(torch.tensor(1.5).bfloat16())).item() == 1.5
    made = learner(task=Kinds("frozen bfloat16"))
    kept = version_of(made, made.start(), "frozen bfloat16")
    frozen = {name: value.view("<u2") for name, value in kept.frozen.items()}
    with pytest.raises(InputError, match=r"its frozen tensor '2.bias' is not of the type and shape"):
        open_version(build(kept.layout, kept.vector, kept.manifest, frozen=frozen), allow=[KINDS])


# What cannot be trained, sent and brought back


class Given(Tabular):
    """A model that a test makes."""

    def __init__(self, model: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._model = model

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        return self._model()


def linear(**more: Any) -> nn.Module:
    """A linear layer with more parameters, buffers and plain attributes."""
    net = nn.Linear(WIDTH, 1)
    for name, value in more.items():
        if isinstance(value, nn.Parameter) or not isinstance(value, Tensor):
            setattr(net, name, value)
        else:
            net.register_buffer(name, value)
    return net


class Forgets(nn.Linear):
    """Leaves its bias out of the state dict."""

    def state_dict(self, *args: Any, **more: Any) -> Any:
        state = super().state_dict(*args, **more)
        state.pop(f"{more.get('prefix', '')}bias")
        return state


class Copies(nn.Linear):
    """Gives copies away: what is loaded into them does not come back."""

    def state_dict(self, *args: Any, **more: Any) -> Any:
        return {name: value.clone() for name, value in super().state_dict(*args, **more).items()}


class Hides(nn.Linear):
    """Gives a copy of what is not trained away."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__(WIDTH, 1)
        self.register_parameter("kept", kept) if isinstance(kept, nn.Parameter) else self.register_buffer("kept", kept)

    def state_dict(self, *args: Any, **more: Any) -> Any:
        state = super().state_dict(*args, **more)
        return {**state, "kept": state["kept"].clone()}


class Extra(nn.Linear):
    """Has more in its state dict than tensors."""

    def get_extra_state(self) -> Any:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None: ...


BACK = torch.rand(4, 4)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: linear(turn=nn.Parameter(torch.rand(2) * 1j)), "tensor 'turn' .* is complex64 and to be trained"),
        (lambda: linear(turn=torch.rand(2) * 1j), "tensor 'turn' .* is complex64; expected one of float64, float32, "),
        (lambda: nn.Sequential(nn.LazyLinear(1)), "tensor '0.weight' .* is not initialised"),
        (lambda: linear(small=torch.rand(2).to(torch.float8_e4m3fn)), "'small' .* is float8_e4m3fn and to be trained"),
        (lambda: linear(q=torch.quantize_per_tensor(torch.rand(2), 0.1, 0, torch.qint8)), "tensor 'q' .* is qint8"),
        (lambda: linear(sparse=torch.eye(3).to_sparse()), "tensor 'sparse' .* is sparse"),
        (lambda: nn.Linear(3, 1, device="meta"), "tensor 'weight' .* has no numbers"),
        (lambda: linear(wide=torch.rand(3, 1).expand(3, 5)), "tensor 'wide' .* repeats its memory"),
        (lambda: linear(a=BACK[:2], b=BACK[1:]), "tensor 'b' .* shares a part of its memory"),
        (lambda: linear(a=BACK, b=BACK.T), "tensor 'b' .* shares a part of its memory"),
        (lambda: linear(odd=torch.tensor([1, float("nan")]).requires_grad_(False)), ""),
        (
            lambda: linear(odd=nn.Parameter(torch.tensor([float("nan")]).bfloat16(), requires_grad=False)),
            "tensor 'odd' .* holds NaN and is not trained",
        ),
        (lambda: Forgets(WIDTH, 1), "tensor 'bias' .* is not in the state dict itself"),
        (lambda: Copies(WIDTH, 1), "tensor 'weight' .* is not in the state dict itself"),
        (lambda: Hides(torch.rand(2)), "tensor 'kept' .* is not in the state dict itself"),
        (lambda: Hides(nn.Parameter(torch.rand(2), requires_grad=False)), "tensor 'kept' .* is not in the state dict"),
        (lambda: nn.Sequential(Extra(WIDTH, 1)), "tensor '0._extra_state' .* is of type dict"),
        (lambda: linear(more=[nn.Parameter(torch.rand(2))]), "tensor 'more' .* is not in the state dict itself"),
        (lambda: linear(more={"a": torch.rand(2, requires_grad=True)}), "tensor 'more' .* is not in the state dict"),
        (lambda: nn.Linear(WIDTH, 1).requires_grad_(False), "no trainable parameter"),
        (lambda: nn.Linear(0, 1, bias=False), "no trainable parameter"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_no_version_brings_back_is_refused_by_name(model: Callable[[], nn.Module], words: str) -> None:
    if not words:  # a buffer that travels may begin as anything; the gate sees what becomes of it
        learner(task=Given(model))
        return
    with pytest.raises(InputError, match=words) as raised:
        learner(task=Given(model))
    assert raised.value.code == "config.task"


def test_memory_may_be_shared_side_by_side_and_parts_may_be_listed() -> None:
    def model() -> nn.Module:
        whole = torch.rand(4, 6)
        net = linear(left=whole[:, :3], right=whole[:, 3:])
        net.parts = [net.weight, net.bias]
        return net

    assert [spec.name for spec in learner(task=Given(model)).layout] == ["weight", "bias", "left", "right"]
    assert [spec.name for spec in learner(task=Given(lambda: nn.Sequential(nn.GRU(3, 2)))).layout][:1] == [
        "0.weight_ih_l0"
    ]


def test_layers_whose_weight_is_made_of_others_send_what_it_is_made_of() -> None:
    spectral = learner(task=Given(lambda: between(parametrizations.spectral_norm)))
    names = [spec.name for spec in spectral.layout]
    assert [name for name in names if name.startswith("1.param")] == [
        "1.parametrizations.weight.original", "1.parametrizations.weight.0._u", "1.parametrizations.weight.0._v",
    ]  # fmt: skip
    assert typed(torch.float32, trained=True)(torch.rand(2, WIDTH)).shape == (2, 1)
