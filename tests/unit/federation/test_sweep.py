"""Sweeps: how lists of values are read, what is checked before the first run, what is chosen, and what goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moonflower.__main__ import main
from moonflower.errors import Ended, InputError
from moonflower.federation import sweep
from moonflower.federation.combinations import combinations
from moonflower.federation.outcome import Simulation
from support import CONFIGS

HEART = CONFIGS / "heart.toml"


def test_values_are_split_outside_brackets_and_quotes() -> None:
    assert combinations(["task.hidden=[],[32],[8, 4]", "crypto.clip={a = 1, b = 2},3"]) == [
        (f"task.hidden={hidden}", f"crypto.clip={clip}")
        for hidden in ("[]", "[32]", "[8, 4]")
        for clip in ("{a = 1, b = 2}", "3")
    ]
    assert combinations(['data.label="a,b", c']) == [('data.label="a,b"',), ("data.label=c",)]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ([], "nothing to vary"),
        (["training.lr"], "expected table.key=a,b,c"),
        (["training.lr="], "a value is empty"),
        (["training.lr=0.1,,0.2"], "a value is empty"),
        (["task.hidden=[1,2"], "] is missing"),
        (["data.label='a,b"], "' is missing"),
        (["training.lr=1", " training.lr =2"], "training.lr is given twice"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_error(sets: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says.replace("[", r"\[")) as raised:
        combinations(sets)
    assert raised.value.code == "config.set"


def a_result(loss: float | None, test_loss: float) -> dict[str, Any]:
    model = None if loss is None else {"version": 1, "sha256": "0" * 64, "path": "x"}
    return {
        "version": 1,
        "rounds": [{"round": 1, "number": 1, "status": "refused" if loss is None else "promoted"}],
        "ended": "done",
        "overall": {"federated": {"loss": test_loss, "accuracy": 0.5}, "alone": None, "pooled": None},
        "evidence": {"validation": {"rows": 5, "loss": loss, "by_round": []}},
        "model": model,
        "proposal": {"training": {"max_rows": 250}, "crypto": {"clip": 2.0}},
    }


@dataclass(frozen=True)
class Done:
    status: object
    out: str
    err: str


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``moonflower sweep`` in an empty folder, where simulations end at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "prepare", lambda config, overrides: None)

    def simulated(config: Path, *, out: Path, overrides: tuple[str, ...], **more: Any) -> Simulation:
        assert (more.get("baselines", True), out.parent.is_dir()) == (out.name == "best", True)
        text = overrides[0].partition("=")[2]
        if text == "0.3":
            raise ValueError("a task may\nraise anything")
        if text == "0.4":
            error = Ended("run.patience", "too many rounds were refused")
            return Simulation(a_result(None, 0.0), out, error)
        return Simulation(a_result({"0.1": 0.45, "0.2": 0.44}[text], {"0.1": 0.2, "0.2": 0.9}[text]), out, None)

    monkeypatch.setattr(sweep, "simulate", simulated)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["moonflower", "sweep", str(HEART), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code, *capsys.readouterr())

    return run


def test_validation_rows_choose_and_a_combination_that_fails_is_a_line(cli: Callable[..., Done]) -> None:
    """The first combination has the lower loss on test rows, and is not chosen."""
    done = cli("--set", "training.lr=0.1,0.2,0.3,0.4", "--set", 'task.personalise="none"', "--out", "o", "--json")
    told = json.loads(done.out)
    assert done.status == 0
    assert json.loads(Path("o/sweep.json").read_text()) == told
    assert told["best"] == 1
    assert [one["validation_loss"] for one in told["runs"]] == [0.45, 0.44, None, None]
    assert [one["error"] for one in told["runs"]] == [
        None,
        None,
        "ValueError: a task may",
        "too many rounds were refused",
    ]
    assert told["runs"][1]["settings"] == {"training.lr": 0.2, "task.personalise": "none"}
    assert [Path(one["out"]).name for one in told["runs"]] == ["01", "best", "03", "04"]
    assert told["recipe"] == {
        "task": {"personalise": "none"},
        "training": {"max_rows": 250, "lr": 0.2},
        "crypto": {"clip": 2.0},
    }


def test_the_table_marks_the_chosen_one_and_ends_with_its_recipe(cli: Callable[..., Done]) -> None:
    done = cli("--set", "training.lr=0.1,0.2,0.3", "--set", "simulate.alpha=1.0")
    assert done.status == 0
    assert "0.4400*" in done.out
    assert "ValueError: a task may" in done.out
    assert "best: lowest loss on all members' validation rows (0.4400). Test rows chose nothing." in done.out
    assert done.out.rstrip().endswith("[training]\nmax_rows = 250\nlr = 0.2\n[crypto]\nclip = 2.0")
    assert "alpha = " not in done.out, "how rows are dealt is no part of a recipe"
    assert "3 of 3: training.lr=0.3 simulate.alpha=1.0" in done.err
    assert next(Path("runs").iterdir()).name.startswith("heart-sweep-")


def test_without_a_model_nothing_is_chosen(cli: Callable[..., Done]) -> None:
    done = cli("--set", "training.lr=0.3,0.4")
    assert (done.status, "No combination gave a model" in done.out, "*" in done.out) == (1, True, False)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["training.lr=0.1,-1"], "with training.lr=-1: "),
        (["task.hidden=[8]", "task.hiden=1,2"], "has no option 'hiden'; did you mean 'hidden'?"),
        (["training.seed=" + ",".join(map(str, range(65)))], "65 combinations; expected at most 64, or --yes"),
    ],
)
def test_everything_is_checked_before_the_first_run(cli: Callable[..., Done], sets: list[str], says: str) -> None:
    done = cli(*(word for one in sets for word in ("--set", one)))
    assert (done.status, done.out, says in done.err) == (2, "", True), done.err
    assert [*Path().iterdir()] == [], "nothing was begun"


def test_many_combinations_run_with_a_further_word(cli: Callable[..., Done]) -> None:
    values = ",".join(["0.1"] * 65)
    assert cli("--set", f"training.lr={values}", "--yes", "--json").status == 0
