"""Examples that use others' frameworks: a Lightning script that trains in a federation, and LoRA with peft."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from support import PATIENCE_S, ROOT, peers

LIGHTNING = ("lightning", "lightning-utilities", "torchmetrics", "tqdm")
LORA = ("peft", "transformers", "accelerate", "huggingface-hub", "tokenizers", "regex", "psutil", "tqdm")
"""What the environment of tests lacks: it is installed beside it."""
ROUNDS = ("--no-baselines", "--json", "--set", "training.rounds=2", "--set", "training.report_every=1")


def _install(packages: tuple[str, ...], folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    peers.done([*pip, "--no-deps", "--constraint", str(ROOT / "constraints.txt"), "--target", ".", *packages], folder)


def said(name: str, packages: tuple[str, ...], folder: Path, *line: str | Path) -> str:
    """Return what Python prints in a folder, with packages of others."""
    site = peers.installed(name, partial(_install, packages))
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(folder), str(site)]
    done = subprocess.run(
        [sys.executable, *map(str, line)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, cwd=folder, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def learned(result: dict[str, Any]) -> bool:
    """Return whether the last round's version is better than that of the first."""
    losses = [one["metrics"]["loss"] for one in result["rounds"]]
    return len(losses) > 1 and losses[-1] < losses[0]


def copied(name: str, folder: Path) -> Path:
    return Path(
        shutil.copytree(ROOT / "examples" / name, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    )


def test_a_plain_lightning_script_trains_in_a_federation(tmp_path: Path) -> None:
    here = partial(said, "lightning", LIGHTNING, copied("lightning", tmp_path))
    few = ("--set", "simulate.members=3", "--set", "data.test_fraction=0.6")
    assert learned(json.loads(here("-m", "moonflower", "simulate", "run.toml", "--out", "out", *ROUNDS, *few)))


def test_only_adapters_and_head_travel(tmp_path: Path) -> None:
    folder = copied("lora", tmp_path)
    here = partial(said, "lora", LORA, folder)
    assert "base.safetensors" in here("pretrain.py", "2")
    counted = "import adapters; m = adapters.Adapters().model(None, None); n = list(m.named_parameters()); print("
    counted += "*[sum(p.numel() for k, p in n if part in k and p.requires_grad) for part in ('', 'lora_', 'class')])"
    trained, lora, head = map(int, here("-c", counted).split())
    assert trained == lora + head
    few = (*ROUNDS, "--set", "training.local_epochs=1", "--set", "simulate.members=3")
    whole = json.loads(here("-m", "moonflower", "simulate", "run.toml", "--out", "out", *few))
    assert whole["wire"]["params"] == lora + head
    assert learned(whole)
    own = ("--set", 'training.personal=["*classifier*"]')
    private = json.loads(here("-m", "moonflower", "simulate", "run.toml", "--out", "private", *few, *own))
    assert private["wire"]["params"] == lora
    assert all(one["personalised"]["loss"] is not None for one in private["members"])
