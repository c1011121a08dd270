"""Scripts of data scientists: they run by themselves, few lines federate them, and what the page shows is real."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_images
import pytest
import torch
from moonflower.configs.training import TrainingSettings
from support import ROOT
from support.commands import called
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES = ROOT / "examples"
LINES = 15
SCRIPTS = ("pytorch", "lightning", "images")
PAGE = ROOT / "docs/your-script.md"


def compared(name: str, *options: str) -> str:
    """Return what git says about an example's two scripts."""
    files = [str(EXAMPLES / name / file) for file in ("plain.py", "script.py")]
    said = subprocess.run(["git", "diff", "--no-index", *options, *files], capture_output=True, text=True, check=False)
    assert said.returncode == 1, said.stderr
    return said.stdout


def simulated(name: str, out: Path, *settings: str) -> dict[str, Any]:
    """Return the result of a simulation of an example, whose modules are forgotten afterwards."""
    paths, modules = list(sys.path), set(sys.modules)
    words = [word for one in settings for word in ("--set", one)]
    try:
        done = called("simulate", EXAMPLES / name / "run.toml", "--out", out, "--no-baselines", "--json", *words)
    finally:
        sys.path[:] = paths
        for module in {*sys.modules} - modules:
            if str(getattr(sys.modules[module], "__file__", None)).startswith(str(EXAMPLES)):
                del sys.modules[module]
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def learned(result: dict[str, Any]) -> bool:
    """Return whether the last round's version is better than that of the first."""
    losses = [one["metrics"]["loss"] for one in result["rounds"] if one["metrics"]]
    return len(losses) > 1 and losses[-1] < losses[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_needs_few_lines_to_be_federated(name: str) -> None:
    added, removed, _ = compared(name, "--numstat").split("\t")
    config = (EXAMPLES / name / "run.toml").read_text(encoding="utf-8").splitlines()
    assert int(added) + int(removed) + len(config) <= LINES, (added, removed, len(config))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_shows_the_real_difference(name: str) -> None:
    lines = compared(name, "--unified=2").splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("@@"))
    page = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"^```diff\n(.*?)^```", page, flags=re.M | re.S)
    assert "\n".join(line.rstrip() for line in lines[first:]) + "\n" in shown
    assert f"```toml\n{(EXAMPLES / name / 'run.toml').read_text(encoding='utf-8')}```" in page


def test_the_page_says_how_many_lines_they_are() -> None:
    said = {}
    for row in re.findall(r"^\| `examples/(\w+)` \|.*\| (\d+) \| (\d+) \|$", PAGE.read_text(encoding="utf-8"), re.M):
        said[row[0]] = (int(row[1]), int(row[2]))
    real = {}
    for name in SCRIPTS:
        added, removed, _ = compared(name, "--numstat").split("\t")
        real[name] = (int(added) + int(removed), len((EXAMPLES / name / "run.toml").read_text().splitlines()))
    assert said == real


def test_the_plain_scripts_run_by_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "pytorch" / "plain.py"), run_name="__main__")
    assert float(capsys.readouterr().out.split()[-1]) > 0.97
    make_images.main([str(tmp_path / "images"), "--count", "200"])
    plain = runpy.run_path(str(EXAMPLES / "images" / "plain.py"))
    plain["main"](tmp_path / "images")
    assert float(capsys.readouterr().out.split()[-1]) > 0.5


def test_the_equal_parts_of_the_page_are_equal() -> None:
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)[0]
    rows = TensorDataset(torch.arange(97.0), torch.zeros(97))
    names = {"torch": torch, "DataLoader": DataLoader, "rows": rows, "settings": TrainingSettings(parts=8)}
    exec(code, names | {"generator": torch.Generator()}, found := {})
    batches = [inputs for inputs, _ in found["loader"]]
    assert {len(batch) for batch in batches} == {12, 13}
    assert sorted(torch.cat(batches).tolist()) == list(range(97))


def test_a_plain_pytorch_script_trains_in_a_federation(tmp_path: Path) -> None:
    few = ("training.rounds=2", "simulate.members=3", "training.report_every=1", "data.test_fraction=0.6")
    assert learned(simulated("pytorch", tmp_path / "out", *few))


def test_a_plain_script_over_a_folder_of_images_trains_in_a_federation(tmp_path: Path) -> None:
    make_images.main([str(tmp_path / "images"), "--count", "60", "--size", "16"])
    few = (
        f"data.path={tmp_path / 'images'}", "training.rounds=2", "training.local_epochs=20", "training.report_every=1",
        "simulate.members=2", "federation.min_members=2", "data.test_fraction=0.3",
    )  # fmt: skip
    assert learned(simulated("images", tmp_path / "out", *few))


def test_a_transformer_trains_in_moonflowers_loop(tmp_path: Path) -> None:
    few = ("training.rounds=2", "training.local_epochs=1", "training.report_every=1", "simulate.members=3")
    assert learned(simulated("transformer", tmp_path / "out", *few, "data.test_fraction=0.6"))


def test_made_images_follow_from_the_seed_and_fill_what_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        make_images.main([str(tmp_path / folder), "--megabytes", "1", "--size", "100"])
    assert capsys.readouterr().out.startswith("34 images of 100 x 100 pixels, 1.0 MB, in ")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.ppm"))
    assert len(files) == 34
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert len({(tmp_path / "a" / file).read_bytes() for file in files}) == 34
    assert {file.parent.name for file in files} == {*make_images.CLASSES}
