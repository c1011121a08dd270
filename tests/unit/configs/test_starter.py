"""``schema infer --config``: a run config that trains, for every kind of label."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from moonflower.__main__ import main
from moonflower.client.learning.cast import prepare
from moonflower.configs.settings import load_run
from support import CONFIGS

TABLES = CONFIGS / "data"


def infer(monkeypatch: pytest.MonkeyPatch, *more: str) -> object:
    monkeypatch.setattr(sys, "argv", ["moonflower", "schema", "infer", *more])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("table", "options", "members"),
    [
        ("cars", ("--label", "mpg", "--kind", "number", "--site", "site"), 3),
        ("rand", ("--label", "mdvis", "--kind", "count"), 5),
        ("actg", ("--label", "days", "--event", "event"), 5),
        ("anes", ("--label", "party", "--kind", "classes"), 5),
        ("heart", ("--label", "y", "--site", "site"), 4),
    ],
)
def test_what_it_writes_can_be_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str, options: tuple[str, ...], members: int
) -> None:
    monkeypatch.chdir(tmp_path)
    file = TABLES / f"{table}.csv.gz"
    (tmp_path / "runs").mkdir()
    written = ("--out", "schema.toml", "--config", "runs/run.toml", "--drop", "fold")
    assert infer(monkeypatch, str(file), *options, *written) == 0
    cast = prepare(tmp_path / "runs" / "run.toml")
    assert len(cast.names) == members
    assert cast.settings.federation.name == table
    assert cast.settings.data.path == file
    assert all(len(part.validation) for part in cast.splits.values())


def test_a_rare_class_gets_weights_of_one_digit_and_few_sites_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = 2000
    frame = pd.DataFrame({"a": [float(n % 89) for n in range(rows)], "y": [int(n % 37 == 0) for n in range(rows)]})
    frame.assign(clinic=["p" if n % 3 else "q" for n in range(rows)]).to_csv("My table.csv", sep=";", index=False)
    out = ("--out", "s.toml", "--config", "r.toml", "--separator", ";")
    assert infer(monkeypatch, "My table.csv", "--label", "y", "--site", "clinic", *out) == 0
    settings = load_run(tmp_path / "r.toml")
    assert settings.task.options["class_weights"] == [0.5, 20.0]
    assert (settings.data.separator, settings.data.site, settings.simulate.partition) == (";", None, "random")
    assert settings.federation.name == "my-table"


def test_nothing_is_written_if_one_file_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text("mine", encoding="utf-8")
    options = ("--label", "y", "--site", "site", "--drop", "fold", "--out", "s.toml", "--config", "r.toml")
    assert infer(monkeypatch, str(TABLES / "heart.csv.gz"), *options) == 2
    assert (tmp_path / "r.toml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "s.toml").exists()
