"""Measure what docs/training.md and docs/costs.md claim about training: `python tools/training.py [WHAT…]`.

WHAT: digits, personal, own_part, hospitals, alike, images, resnet; all by default.
`make figures` runs them, too.
"""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch
from moonflower import simulate
from moonflower.federation.simulate import prepare
from support import CONFIGS
from support.plain import fedavg
from torch import nn

SKEWED = (
    *("simulate.members=10", "simulate.alpha=0.1", "data.min_count=2", "training.max_rows=0"),
    *("training.report_every=0", 'crypto.clip="auto"', "gate.max_step=0.0", "gate.progress=0"),
    "gate.max_regression=1.0",
)
FINDINGS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak"]


def run(config: Path, *overrides: str) -> dict[str, Any]:
    """Return the result of a simulation without baselines."""
    with tempfile.TemporaryDirectory() as folder:
        return simulate(config, out=Path(folder) / "o", overrides=overrides, baselines=False).result


def digits() -> None:
    """Server optimisers on ten members that each have mostly a few of the digits."""
    for name, rate in {"average": 0, "momentum": 0, "adam": 0, "yogi": 0, "adagrad": 0.1}.items():
        chosen = (f"training.server_optimizer={name}", f"training.server_lr={float(rate)}")
        result = run(CONFIGS / "digits.toml", *SKEWED, *chosen)
        print(f"digits, Dirichlet .1, {name}: accuracy {result['overall']['federated']['accuracy']:.3f}", flush=True)


def personal() -> None:
    """A private last layer on the same members: accuracy on their own test rows."""
    result = run(CONFIGS / "digits.toml", *SKEWED, 'training.personal=["7.*"]')
    own = [one["personalised"]["accuracy"] for one in result["members"] if one["personalised"]["accuracy"] is not None]
    print(f"digits, Dirichlet .1, private head: mean accuracy on own test rows {np.mean(own):.3f}")


def own_part() -> None:
    """The same private last layer over real processes: at each member, after the federation has ended.

    Each command is a process of its own. `predict` scores the member's own test rows twice: by what the node holds, and
    by the one file that `member model` wrote.
    """
    settings = (*SKEWED, 'training.personal=["7.*"]')
    tests = {name: part.test for name, part in prepare(CONFIGS / "digits.toml", settings).splits.items()}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "o"
        command("up", CONFIGS / "digits.toml", "--out", out, *(f"--set={one}" for one in settings), "--json")
        reported, held, exported = [], [], []
        for name, rows in tests.items():
            if not len(rows):
                continue
            client, table, model = out / "clients" / name / "client.toml", out / f"{name}.csv", out / f"{name}.model"
            pixels = (rows.inputs.reshape(len(rows), -1) * 16).round().int().numpy()
            pd.DataFrame(pixels, columns=[f"pixel_{a}_{b}" for a in range(8) for b in range(8)]).to_csv(
                table, index=False
            )
            reported.append(json.loads(command("member", "report", client, "--json"))["federated"]["accuracy"])
            command("member", "model", client, "--out", model)
            held.append(right(command("predict", table, "--client", client), rows))
            exported.append(right(command("predict", table, "--model", model), rows))
    for way, found in {"member report": reported, "predict --client": held, "predict of its export": exported}.items():
        print(
            f"digits, Dirichlet .1, private head, live, {way}: {np.mean(found):.3f} ({len(found)} members)", flush=True
        )


def right(scores: str, rows: Any) -> float:
    """Return the share of rows whose class has the highest score in the table that `predict` printed."""
    table = pd.read_csv(io.StringIO(scores))
    return float((table.filter(regex="[0-9]$").to_numpy().argmax(axis=1) == rows.targets.numpy()).mean())


def command(*words: object) -> str:
    """Run a command of moonflower in a process of its own; return what it printed."""
    line = [sys.executable, "-m", "moonflower", *map(str, words)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def hospitals() -> None:
    """Fed-Heart's setting on the bundled hospitals: 15 rounds of 100 steps, ten splits."""
    with tempfile.TemporaryDirectory() as folder:
        config = fed_heart(Path(folder))
        for name, more in {
            "FedAvg": (),
            "FedAdam": ("training.server_optimizer=adam", "training.server_lr=0.1"),
        }.items():
            found = [run(config, f"training.seed={seed}", *more)["overall"]["federated"] for seed in range(1, 11)]
            accuracy, auc = (float(np.mean([one[metric] for one in found])) for metric in ("accuracy", "auc"))
            print(f"hospitals as in Fed-Heart, {name}: accuracy {accuracy:.3f}, AUC {auc:.3f}, 10 splits", flush=True)


def fed_heart(folder: Path) -> Path:
    """Write the hospitals as FLamby has them: ten findings, an empty cholesterol is 0, rows with other gaps dropped."""
    table = pd.read_csv(CONFIGS / "data" / "heart.csv.gz")[[*FINDINGS, "site", "y"]]
    table["chol"] = table["chol"].fillna(0)
    table.dropna().to_csv(folder / "heart.csv", index=False)
    schema = tomllib.loads((CONFIGS / "data" / "heart.schema.toml").read_text())
    schema["columns"] = [one for one in schema["columns"] if one["name"] in FINDINGS]
    for column in schema["columns"]:
        if column["name"] in ("chol", "trestbps"):
            column["min"] = 0
            del column["missing"]
    (folder / "schema.toml").write_text(tomli_w.dumps(schema))
    tables: dict[str, Any] = tomllib.loads((CONFIGS / "heart.toml").read_text())
    tables["data"] = {"path": "heart.csv", "label": "y", "site": "site", "schema": "schema.toml"}
    tables["data"] |= {"test_fraction": 0.2, "validation_fraction": 0.1}
    tables["task"] = {"ref": "moonflower.client.tasks.tabular:task"}
    tables["training"] = {"rounds": 15, "local_epochs": 20, "parts": 5, "lr": 0.1}
    tables["crypto"] = {"clip": "auto"}
    tables["gate"] = {"max_step": 0.0, "progress": 0, "max_regression": 1.0, "min_gain": 0.0}
    (folder / "run.toml").write_text(tomli_w.dumps(tables))
    return folder / "run.toml"


def alike() -> None:
    """The largest gap between a metric here and in plain torch with the same batches, optimiser by optimiser."""
    free = ('crypto.clip="auto"', "gate.max_step=0.0", "gate.progress=0", "training.report_every=0")
    for name, rate in {"sgd": 0.1, "adam": 0.003, "adamw": 0.003, "rmsprop": 0.001, "nadam": 0.003}.items():
        settings = (*free, "task.hidden=[8]", f"training.optimizer={name}", f"training.lr={rate}", "training.rounds=8")
        result = run(CONFIGS / "heart.toml", *settings)
        best = max(one["round"] for one in result["rounds"] if one["status"] == "promoted")
        plain = fedavg(CONFIGS / "heart.toml", (*settings, f"training.rounds={best}"))
        found = result["overall"]["federated"]
        gap = max(abs(found[metric] - plain[metric]) for metric in ("loss", "accuracy", "auc", "average_precision"))
        print(f"heart, {name}: largest gap of a metric to plain torch {gap:.5f}", flush=True)


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = stride == 1 and inputs == outputs
        self.past = nn.Sequential() if same else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norms[0](self.first(images)))
        return torch.relu(self.norms[1](self.second(inner)) + self.past(images))


def deep() -> nn.Module:
    """Return a residual network of 18 layers, 11.2 million parameters, for images of 32 × 32."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


DEEP = """
[federation]
name = "deep"
[task]
ref = "deep_task:task"
[data]
test_fraction = 0.02
validation_fraction = 0.05
[simulate]
partition = "random"
members = 3
[training]
rounds = 1
local_epochs = 1
parts = 16
lr = 0.05
max_rows = 512
[crypto]
clip = {"*.running_var" = 1000.0, "*.running_mean" = 100.0, "*" = 8.0}
[gate]
max_step = 1e6
max_regression = 1.0
"""
DEEP_TASK = """
import torch
from moonflower.client.tasks import Task
from moonflower.configs.schema import Label, Schema
from torch.nn.functional import cross_entropy
from training import deep

class task(Task):
    def schema(self):
        return Schema((), Label("label", tuple(range(10))))
    def data(self, settings, schema):
        labels = torch.arange(3 * 556) % 10
        images = torch.rand(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(1))
        images[torch.arange(len(labels)), 0, labels] += 1
        return images, labels
    def model(self, schema, generator):
        return deep()
    def loss(self, model, batch):
        return cross_entropy(model(batch.inputs), batch.targets)
    def metrics(self, outputs, targets):
        return {"loss": cross_entropy(outputs, targets).item()}
"""


def resnet() -> None:
    """A round of 11.2 million parameters through moonflower, against the same loop without it, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        (Path(folder) / "deep_task.py").write_text(DEEP_TASK)
        (Path(folder) / "run.toml").write_text(DEEP)
        cast = prepare(Path(folder) / "run.toml")
        parts = [split.train for split in cast.splits.values()]

        def plain() -> None:
            for rows in parts:
                model = deep().train()
                optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
                for part in torch.tensor_split(torch.randperm(len(rows)), 16):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(rows.inputs[part]), rows.targets[part]).backward()
                    optimizer.step()

        told: dict[str, float] = {}

        def note(entry: dict[str, Any]) -> None:
            told.setdefault(entry["event"], time.perf_counter())

        def federated() -> None:
            simulate(Path(folder) / "run.toml", out=Path(folder) / "o", on_event=note, baselines=False)

        first, ours, second = (seconds(call) for call in (plain, federated, plain))
    loop = (first + second) / 2
    rows = "/".join(str(len(part)) for part in parts)
    round_ = told["promoted"] - told["round_began"]
    print(f"ResNet-18's shape, {rows} images: plain {first:.0f} s, {second:.0f} s")
    print(f"ResNet-18's shape: a round {round_:.0f} s, {round_ / loop - 1:+.0%}: trained, sealed, opened, judged")
    print(f"ResNet-18's shape: a run of one round {ours:.0f} s, {ours / loop - 1:+.0%}: also enrolment and the report")


STREAM = """
import resource, sys
sys.path[:0] = [sys.argv[1]]
from moonflower import simulate
settings = (f"data.path={sys.argv[2]}", "training.rounds=1", "training.local_epochs=1")
done = simulate(sys.argv[1] + "/run.toml", out=sys.argv[3], overrides=settings, baselines=False)
print(done.result["rounds"][0]["status"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def images() -> None:
    """The peak of a process that has three members with 4 GB of images between them, over a round."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        made, out = f"{folder}/images", f"{folder}/o"
        maker = [sys.executable, str(root / "tools" / "make_images.py"), made, "--megabytes", "4000", "--size", "512"]
        subprocess.run(maker, check=True, capture_output=True)
        line = [sys.executable, "-W", "ignore", "-c", STREAM, str(root / "examples" / "images"), made, out]
        began = time.perf_counter()
        said = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
        took = time.perf_counter() - began
        size = sum(file.stat().st_size for file in Path(made).rglob("*.ppm"))
    print(f"images: {size / 1e9:.1f} GB, a round {said[0]} in {took:.0f} s, peak {int(said[1]) / 2**20:.2f} GiB")


def seconds(call: Callable[[], None]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


ALL: dict[str, Callable[[], None]] = {
    "digits": digits, "personal": personal, "own_part": own_part, "hospitals": hospitals,
    "alike": alike, "images": images, "resnet": resnet,
}  # fmt: skip


def main(wanted: Iterable[str]) -> None:
    """Print the figures."""
    for name in wanted or ALL:
        ALL[name]()
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main(sys.argv[1:])
