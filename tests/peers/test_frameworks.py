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

from support import PATIENCE_S, ROOT, SUPPORT, peers

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
    losses = [one["metrics"]["loss"] for one in result["rounds"] if one["metrics"]]
    return len(losses) > 1 and losses[-1] < losses[0]


def copied(name: str, folder: Path) -> Path:
    return Path(
        shutil.copytree(ROOT / "examples" / name, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    )


def test_a_plain_lightning_script_trains_in_a_federation(tmp_path: Path) -> None:
    here = partial(said, "lightning", LIGHTNING, copied("lightning", tmp_path))
    assert "accuracy" in here("plain.py"), "it runs by itself"
    few = ("--set", "simulate.members=3", "--set", "data.test_fraction=0.6")
    assert learned(json.loads(here("-m", "moonflower", "simulate", "run.toml", "--out", "out", *ROUNDS, *few)))


def test_only_adapters_and_head_travel(tmp_path: Path) -> None:
    printed = said("lora", LORA, copied("lora", tmp_path), SUPPORT / "run_lora.py")
    found = json.loads(printed.splitlines()[-1])
    lora, head = found["lora"], found["head"]
    assert found["common"]["wire"]["params"] == lora + head < found["all"] / 5
    assert learned(found["common"])
    assert found["own"]["wire"]["params"] == lora, "with a private head, adapters alone travel"
    assert all(one["personalised"]["loss"] is not None for one in found["own"]["members"])
