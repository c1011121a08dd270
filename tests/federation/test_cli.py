"""The command line in the hands of a tired operator: one sentence, status 2, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moonflower.__main__ import main
from moonflower.cli import compare as compare_command
from moonflower.errors import InputError
from moonflower.federation.folder import fresh
from moonflower.federation.simulate import simulate
from moonflower.federation.up import check_installed
from support import CONFIGS, PATIENCE_S

HEART = CONFIGS / "heart.toml"
SHORT = ("--set", "training.rounds=3", "--set", "training.local_epochs=1")
MEMBERS = "Cleveland, Hungary, Switzerland, VA Long Beach"


@dataclass(frozen=True)
class Ended:
    status: object
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``moonflower …`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands add folders for a person's own tasks

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["moonflower", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., None]:
    """Run a command that must end with one sentence and status 2, and change no file."""

    def check(*arguments: object, says: str) -> None:
        before = tree(tmp_path)
        done = cli(*arguments)
        assert (done.status, done.out) == (2, "")
        sentence, *more = done.err.splitlines()
        assert sentence.startswith("error: "), done.err
        assert says in sentence
        assert sentence.lower().count("did you mean") <= 1
        assert not more or (len(more) == 1 and more[0].startswith("hint: "))
        assert tree(tmp_path) == before

    return check


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"/" for p in folder.rglob("*")}


# The config


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.rounds=0", "training.rounds = 0; expected a whole number at least 1 and at most 100000"),
        ("training.rounds=2.5", "training.rounds = 2.5; expected a whole number"),
        ("training.rounds=true", "training.rounds = True; expected a whole number"),
        ('training.rounds="5"', "training.rounds = '5'; expected a whole number"),
        ("training.lr=-1", "training.lr = -1; expected a number above 0 and at most 100"),
        ("training.lr=nan", "training.lr = nan; expected a number"),
        ("training.parts=0", "training.parts = 0; expected a whole number at least 1"),
        ("training.seed=-1", "training.seed = -1; expected a whole number at least 0"),
        ("training.rouds=5", "unknown key 'training.rouds'; did you mean 'rounds'?"),
        ("trainng.rounds=5", "unknown table 'trainng'; did you mean 'training'?"),
        ("crypto.clip=0", "crypto.clip = 0; expected a number above 0"),
        ("crypto.value_bits=60", "crypto.value_bits = 60; expected a whole number at least 8 and at most 24"),
        ("crypto.value_bits=99", "crypto.value_bits = 99; expected a whole number at least 8 and at most 24"),
        ("federation.min_members=1", "federation.min_members = 1; expected a whole number at least 2"),
        (
            "federation.min_members=5",
            f"federation.min_members = 5; expected at most 4, the members in the data ({MEMBERS}",
        ),
        ("federation.name=../x", "federation.name = '../x'; expected a name of 1 to 64 letters"),
        ("gate.metric=auroc", "gate.metric = 'auroc'; expected one of: loss"),
        ("gate.patience=0", "gate.patience = 0; expected a whole number at least 1"),
        ("simulate.partition=randon", "simulate.partition = 'randon'; did you mean 'random'?"),
        ("simulate.partition=random", 'simulate: partition = "random" needs members'),
        ("simulate.members=8", 'simulate: members = 8 needs partition = "random" or "dirichlet"'),
        ("data.path=nope.csv", "configs/nope.csv does not exist"),
        ("data.path=.", "configs has no tables; expected files that end in .csv"),
        ("data.schema=nope.toml", "schema "),
        ("data.schema=.", "configs is not a file"),
        ("data.label=yy", "[data] label = 'yy'; expected the schema's, 'y'"),
        ("data.site=sit", "and not 'sit', which [data] names; column 14 has a name like 'sit'"),
        ('data.drop=["fol"]', "and not 'fol', which [data] names; column 16 has a name like 'fol'"),
        ('data.drop="fold"', "data.drop = 'fold'; expected a list"),
        ("data.test_fraction=1", "data.test_fraction = 1; expected a number at least 0 and below 1"),
        ("data.test_column=fold", "data: test_column and test_value go together"),
        ("data.validation_fraction=0", "data.validation_fraction = 0 leaves no member a validation row"),
        ("task.ref=tabular", "there is no task 'tabular'; expected one of: moonflower.client.tasks"),
        ("task.ref=nowhere:task", "there is no task 'nowhere:task'; expected one of: moonflower.client.tasks"),
        ("task.ref=moonflower.client.tasks.tabula:task", "did you mean 'moonflower.client.tasks.tabular:task'?"),
        (
            "task.ref=moonflower.client.tasks.tabular:tusk",
            "has no task 'tusk'; did you mean 'task'? (one of: Tabular, task)",
        ),
        ("task.ref=json:dumps", "task 'json:dumps' refuses its options: dumps() missing 1 required"),
        ("task.hiden=[4]", "has no option 'hiden'; did you mean 'hidden'?"),
        ("task.hidden=[0]", "[task] hidden holds 0; expected whole numbers from 1 to 4096"),
        ("training.rounds", "--set training.rounds: expected table.key=value"),
        ("rounds=5", "--set rounds=5: expected table.key=value"),
        ("training.rounds.x=5", "--set training.rounds.x=5: 'rounds' is not a table"),
    ],
)
def test_a_wrong_setting(refused: Any, setting: str, says: str) -> None:
    refused("simulate", HEART, "--out", "o", "--set", setting, says=says)


def test_settings_that_contradict_the_data(refused: Any) -> None:
    dealt = ("simulate", HEART, "--set", "simulate.partition=random", "--set")
    refused(*dealt, "simulate.members=1000", says="the table has 920 rows; expected at least one for each of 1000")
    refused(*dealt, "simulate.members=2", says="federation.min_members = 3; expected at most 2")
    marked = ("simulate", HEART, "--set", "data.test_column=fold", "--set")
    refused(*marked, "data.test_value=9", says="no row has in column 'fold'; the column has 5 other values")


def test_a_config_that_is_none(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.toml").touch()
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.toml").write_text("[training\nrounds = ")
    (tmp_path / "number.toml").write_text("training = 5\n[federation]\nname = 'x'\n[task]\nref = 'a:b'\n")
    for name, says in {
        "brken.toml": "brken.toml does not exist; did you mean 'broken.toml'?",
        "folder": "folder is not a file",
        "empty.toml": "empty.toml: federation is missing; expected a table with let_go_days, min_members, name",
        "bytes.toml": "bytes.toml is not text in UTF-8",
        "broken.toml": "broken.toml is not TOML: ",
        "number.toml": "number.toml: training = 5; expected a table with chunk_rows, ditto, init_seed",
    }.items():
        refused("simulate", name, says=says)


def test_a_task_module_that_fails(refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_task.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    says = "task module 'own_task' cannot be imported: ZeroDivisionError: division by zero"
    refused("simulate", HEART, "--set", "task.ref=own_task:task", says=says)


@pytest.mark.parametrize("place", ["beside the config", "in the current folder"])
def test_a_task_that_is_not_installed_is_found(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "folder").mkdir()
    config = Path(shutil.copy(HEART, tmp_path / "folder/own.toml"))
    name = f"my_task_{place.split()[0]}"
    source = "from moonflower.client.tasks.tabular import Tabular\n\nclass task(Tabular): pass\n"
    ((config.parent if place.startswith("beside") else tmp_path) / f"{name}.py").write_text(source)
    says = f"task '{name}:task' has no option 'hiden'; did you mean 'hidden'?"
    refused("simulate", config, "--set", f"task.ref={name}:task", "--set", "task.hiden=[8]", says=says)


def test_up_says_at_once_that_its_nodes_would_not_find_the_task(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = "from moonflower.client.tasks.tabular import Tabular\n\nclass task(Tabular): pass\n"
    (tmp_path / "my_task_up.py").write_text(source)
    says = "task module 'my_task_up' is not installed; expected an installed one, because up starts real nodes"
    refused("up", HEART, "--set", "task.ref=my_task_up:task", "--set", "training.rounds=1", says=says)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    check_installed("my_task_up:task")


@pytest.mark.parametrize(
    ("command", "looks"),
    [
        *((command, True) for command in ("simulate", "sweep --set training.rounds=1", "up", "run", "circle propose")),
        *((command, False) for command in ("client", "server", "issuer", "circle sign", "member journal")),
    ],
)
def test_only_what_a_person_runs_looks_for_tasks_where_one_stands(
    cli: Cli, tmp_path: Path, command: str, looks: bool
) -> None:
    installed = [*sys.path]
    done = cli(*command.split(), "folder/none.toml")
    assert (done.status, "none.toml does not exist" in done.err) == (2, True), done.err
    added = [str(tmp_path), str(tmp_path / "folder")] if looks else []
    assert sys.path == [*installed, *added], "behind all that is installed"


# Results that were written before


def a_result(rounds: int = 2, **more: Any) -> dict[str, Any]:
    listed = [{"round": i, "number": i, "status": "promoted"} for i in range(1, rounds + 1)]
    overall = {"alone": None, "federated": {"loss": 0.5, "auc": 0.8}, "pooled": None}
    config = {"training": {"rounds": rounds, "lr": 0.1}}
    return {
        "version": 1,
        "rounds": listed,
        "members": [],
        "overall": overall,
        "ended": "done",
        "config": config,
        **more,
    }


def test_runs_are_shown_side_by_side(cli: Cli, tmp_path: Path) -> None:
    for name, rounds in (("one", 2), ("two", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(a_result(rounds)))
    told = json.loads(cli("compare", "one", "two/result.json", "--json").out)
    assert [one["name"] for one in told["runs"]] == ["one", "two"]
    assert told["differing"] == ["training.rounds"]
    shown = {line.split("  ")[0]: line.split() for line in cli("compare", "one", "two").out.splitlines()}
    assert shown["promoted"][1:] == ["2", "of", "2", "3", "of", "3"]
    assert shown["loss, federated"][2:] == ["0.500", "0.500"]
    assert shown["training.rounds"][1:] == ["2", "3"]
    assert "The settings are the same" in cli("compare", "one", "one/result.json").out


def test_runs_of_a_server_are_compared_with_those_of_this_machine(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Server:
        def show(self, run: str) -> dict[str, Any]:
            return {"result": a_result(5) if run == "20261122T154820-00000000" else {"rounds": []}}

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(compare_command, "_remote", lambda operator: Server())
    (tmp_path / "one").mkdir()
    (tmp_path / "one/result.json").write_text(json.dumps(a_result()))
    told = json.loads(cli("compare", "one", "20261122T154820-00000000", "--as", "operator.toml", "--json").out)
    assert [(one["name"], one["rounds"]) for one in told["runs"]] == [("one", 2), ("20261122T154820-00000000", 5)]
    wrong = cli("compare", "other", "--as", "operator.toml")
    assert (wrong.status, "run other is not the result of a run" in wrong.err) == (2, True)
    assert closed == [True, True]


def test_a_folder_without_a_result_is_no_run(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("compare", "empty", says="empty holds no result.json; expected the folder of a run that is over")


# The rows


def lines() -> list[list[str]]:
    text = gzip.decompress((CONFIGS / "data" / "heart.csv.gz").read_bytes()).decode()
    return [line.split(",") for line in text.splitlines()]


def heart_with(folder: Path, rows: list[list[str]] | bytes, name: str = "rows.csv") -> Path:
    """Write a heart config whose table is ``rows``."""
    shutil.copy(CONFIGS / "data" / "heart.schema.toml", folder)
    data = rows if isinstance(rows, bytes) else "".join(",".join(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(data)
    text = HEART.read_text().replace("data/heart.csv.gz", name).replace("data/heart.schema", "heart.schema")
    config = folder / "own.toml"
    config.write_text(text)
    return config


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("age", "abc", "rows.csv: column 'age' has 1 cell without a number; expected numbers from 18 to 100"),
        ("age", "250", "rows.csv: column 'age' has 1 cell outside the range; expected numbers from 18 to 100"),
        (
            "cp",
            "typical",
            "column 'cp' has 1 cell with words that the schema does not list; expected one of: asymptomatic",
        ),
        ("y", "2", "column 'y' has 1 cell with words that the schema does not list; expected one of: 0, 1"),
        ("y", "", "column 'y' has 1 empty cell; expected a class in every row"),
        ("site", "", "rows.csv: column 'site' has an empty cell; expected a member's name in every row"),
        ("site", "cleveland", "has 1 of 4 names in several spellings, which differ in capital letters"),
        ("site", "*", "column 'site' has 1 of 5 names that are not allowed; expected a name of 1 to 64 letters"),
    ],
)
def test_a_wrong_cell(refused: Any, tmp_path: Path, column: str, cell: str, says: str) -> None:
    rows = lines()
    rows[5][rows[0].index(column)] = cell
    refused("simulate", heart_with(tmp_path, rows), "--out", "o", says=says)


def test_a_table_that_is_none(refused: Any, tmp_path: Path) -> None:
    rows = lines()
    packed = (CONFIGS / "data" / "heart.csv.gz").read_bytes()
    for name, content, says in [
        ("rows.csv", b"", "rows.csv is empty; expected a header and rows"),
        ("rows.csv", rows[:1], "rows.csv has no rows; expected at least one"),
        ("rows.csv", b"\x00\xff\x01" * 100, "rows.csv holds bytes of value 0; expected text"),
        ("rows.csv.gz", packed[:4000], "rows.csv.gz is cut off"),
        ("rows.csv.gz", b"a,b\n", "rows.csv.gz is not compressed as its name says"),
        ("rows.xls", rows, "rows.xls has an unknown ending; expected .csv, .csv.gz, .tsv, .tsv.gz, .parquet"),
        ("rows.csv", [*rows, rows[1][:3]], "rows.csv has 1 row with fewer cells than the header"),
        ("rows.csv", [*rows, rows[1] * 2], "rows.csv has 1 row with more cells than the header"),
        (
            "rows.csv",
            [["sex", *rows[0][1:]], *rows[1:]],
            "columns 1 and 2 have the same name; expected different names",
        ),
        (
            "rows.csv",
            [["aeg", *rows[0][1:]], *rows[1:]],
            "and not 'age', which the schema lists; column 1 has a name like 'age'",
        ),
    ]:
        refused("simulate", heart_with(tmp_path, content, name), says=says)


@pytest.mark.parametrize("kept", ["one row", "three rows", "one class"])
def test_a_small_member_still_takes_part(cli: Cli, tmp_path: Path, kept: str) -> None:
    head, *rows = lines()
    site, label = head.index("site"), head.index("y")
    hungary = [row for row in rows if row[site] == "Hungary"]
    chosen = {"one row": hungary[:1], "three rows": hungary[:3], "one class": [r for r in hungary if r[label] == "0"]}[
        kept
    ]
    config = heart_with(tmp_path, [head, *(row for row in rows if row[site] != "Hungary"), *chosen])
    done = cli("simulate", config, "--out", "o", "--json", *SHORT)
    assert done.status == 0
    result = json.loads(done.out)
    assert [r["status"] for r in result["rounds"]] == ["promoted"] * 3
    assert all("Hungary" in r["members"] for r in result["rounds"])
    member = next(m for m in result["members"] if m["name"] == "Hungary")
    assert member["rows"] == len(chosen)
    for way in ("alone", "federated", "personalised", "pooled"):
        assert member[way]["auc"] is None
    assert result["overall"]["federated"]["auc"] > 0.5
    assert "NaN" not in (tmp_path / "o" / "result.json").read_text()


# Where it goes


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("full", "--out full is not empty; expected a new or empty folder"),
        ("file", "--out file is not a folder; expected a new or empty folder"),
        ("file/below", "--out file/below cannot be made (Not a directory)"),
        ("new/../file/x", "--out new/../file/x cannot be made (Not a directory)"),
        ("/proc/moonflower/x", "--out /proc/moonflower/x cannot be made"),
    ],
)
def test_an_output_folder_that_cannot_be(refused: Any, tmp_path: Path, out: str, says: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("precious")
    (tmp_path / "file").write_text("precious")
    refused("simulate", HEART, *SHORT, "--out", out, says=says)


def test_bad_input_that_is_found_late_takes_back_what_was_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, left in ((tmp_path / "a" / "b", False), (tmp_path / "empty", True)):
        with pytest.raises(InputError, match="found late"):
            _write_and_fail(folder)
        assert (folder.exists(), any(tmp_path.rglob("moonflower.db"))) == (left, False)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def _write_and_fail(folder: Path) -> None:
    with fresh(folder, "x") as own:
        (own / "moonflower.db").touch()
        (own / "models" / "m").mkdir()
        raise InputError("data.value", "found late")


def test_two_runs_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with fresh(None, "heart / 2. try") as one, fresh(None, "heart / 2. try") as two, fresh(None, "b") as three:
        assert len({one, two, three}) == 3
        assert re.fullmatch(r"heart-2-try-\d{8}T\d{6}Z", one.name)
        assert all(folder.parent == Path("runs") for folder in (one, two, three))
        with pytest.raises(InputError, match="is not empty"), fresh(one, "x"):
            pass
    assert one.is_dir()


def test_a_race_for_an_empty_folder_has_one_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked while it was empty: whoever makes ``models`` second is refused."""
    (tmp_path / "o" / "models").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()))
    with pytest.raises(InputError, match="is not empty"), fresh(tmp_path / "o", "x"):
        pass


# Drills


@pytest.mark.parametrize(
    ("drill", "says"),
    [
        ("nan", "--drill nan: expected KIND@ROUND:MEMBER, such as tamper@3:1"),
        ("nan@1", "--drill nan@1: expected KIND@ROUND:MEMBER"),
        ("nna@1:Hungary", "unknown kind 'nna'; did you mean 'nan'?"),
        ("nan@0:Hungary", "--drill nan@0:Hungary: round '0'; expected 1 to 3"),
        ("nan@4:Hungary", "round '4'; expected 1 to 3"),
        ("nan@x:Hungary", "round 'x'; expected 1 to 3"),
        ("shift@1:Hungary", "round '1'; expected 2 to 3"),
        ("reopen@2:Hungary", "unknown kind 'reopen'"),
        ("nan@1:Hungry", f"unknown member 'Hungry'; did you mean 'Hungary'? (one of: {MEMBERS})"),
        ("nan@1:0", f"unknown member '0'; expected one of: {MEMBERS}"),
        ("nan@1:5", "unknown member '5'"),
    ],
)
def test_a_wrong_drill(refused: Any, drill: str, says: str) -> None:
    refused("simulate", HEART, *SHORT, "--out", "o", "--drill", drill, says=says)


def test_two_drills_for_one(refused: Any) -> None:
    both = ("--drill", "nan@1:1", "--drill", "flip@1:Cleveland")
    refused("simulate", HEART, *SHORT, *both, says="nan and flip are both for Cleveland in round 1; expected one")


# Usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["simulat"], "No such command 'simulat'. Did you mean 'simulate'?"),
        (["simulate"], "Missing argument 'CONFIG'"),
        (["simulate", HEART, "more"], "Got unexpected extra argument (more)"),
        (["simulate", HEART, "--ot", "x"], "No such option"),
        (["simulate", HEART, "--out"], "Option '--out' requires an argument"),
        (["model", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["audit", "prove", "x"], "'x' is not a valid integer"),
        (["schema", "infer", "x.csv", "--label", "y"], "Missing option '--out'"),
    ],
)
def test_a_wrong_call(refused: Any, arguments: list[object], says: str) -> None:
    refused(*arguments, says=says)


@pytest.mark.parametrize(
    "command", ["model list", "audit show", "audit prove 0", "audit verify", "audit export --out x"]
)
def test_a_state_folder_that_is_none(refused: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for state in ("absent", "empty", "file"):
        place = [state] if command == "audit verify" else ["--state", state]
        refused(*command.split(), *place, says=state)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope.csv", "--label", "y"], "data file nope.csv does not exist; did you mean 'one.csv'?"),
        (["one.csv", "--label", "z"], "the table has no column 'z'"),
        (["one.csv", "--label", "y", "--site", "sit"], "the table has no column 'sit'; did you mean 'site'?"),
        (["one.csv", "--label", "y", "--drop", "q"], "the table has no column 'q'"),
        (["one.csv", "--label", "y", "--min-count", "0"], "0 is not in the range"),
        (["one.csv", "--label", "x"], "label 'x' holds the same in all rows; expected two classes or more"),
        (["one.csv", "--label", "y", "--out", "one.csv"], "--out one.csv cannot be written: File exists"),
        (["one.csv", "--label", "y", "--out", "no/s.toml"], "--out no/s.toml cannot be written: No such file"),
    ],
)
def test_a_schema_that_cannot_be_inferred(refused: Any, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "one.csv").write_text("x,y,site\n" + "1,0,a\n1,1,a\n" * 10)
    refused("schema", "infer", "--out", "s.toml", *arguments, says=says)


# After a run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("done") / "run"
    simulate(HEART, out=folder, overrides=SHORT[1::2])
    return folder


DATA = CONFIGS / "data" / "heart.csv.gz"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model", "show", "9"], "there is no model version '9'; expected one of: 0, 1, 2, 3"),
        (["model", "export", "9", "--out", "m"], "there is no model version '9'"),
        (["model", "export", "1", "--unreleased", "--out", "taken"], "--out taken cannot be written: File exists"),
        (["model", "export", "1", "--unreleased", "--out", "no/m"], "--out no/m cannot be written: No such file"),
        (["audit", "prove", "999"], "the log has no entry 999; expected an index below"),
        (["audit", "show", "--event", "promotd"], "unknown event 'promotd'; did you mean 'promoted'?"),
        (["audit", "export", "--out", "taken"], "--out taken cannot be written: File exists"),
        (["audit", "verify", "--key", "nope"], "nope cannot be read: No such file or directory"),
        (["audit", "verify", "--key", "taken"], "taken: not a log key"),
        (["audit", "verify", "--checkpoint", "nope"], "nope cannot be read: No such file or directory"),
        (["predict", DATA], "expected --model, or --client of a node that holds a version"),
        (["predict", DATA, "--model", "nope"], "model file nope does not exist"),
        (["predict", DATA, "--model", "taken"], "model file taken: not a moonflower model version"),
        (["predict", DATA, "--model", "abcdef12"], "no model 'abcdef12' under state/models or runs/*/models"),
        (["predict", "nope.csv", "--model", "OWN"], "data file nope.csv does not exist"),
        (["predict", "other.csv", "--model", "OWN"], "other.csv has 1 column and not 'age'"),
        (["predict", DATA, "--model", "OWN", "--out", "no/x.csv"], "--out no/x.csv cannot be written"),
    ],
)  # fmt: skip
def test_a_mistake_after_a_run(refused: Any, done: Path, tmp_path: Path, arguments: list[Any], says: str) -> None:
    (tmp_path / "taken").write_text("precious")
    (tmp_path / "other.csv").write_text("aeg\n63\n")
    model = sorted((done / "models").iterdir())[0]
    given = [model if argument == "OWN" else argument for argument in arguments]
    place = {"predict": [], "model": ["--state", done], "audit": ["--state", done]}[given[0]]
    refused(*given, *([done] if given[1] == "verify" else place), says=says)


def test_a_version_whose_file_is_gone_is_not_exported_as_nothing(refused: Any, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "state")
    for file in (tmp_path / "state" / "models").iterdir():
        file.unlink()
    refused("model", "export", "1", "--unreleased", "--out", "m", says="cannot be read: No such file or directory")


def test_a_log_that_cannot_be_read_is_not_half_exported(cli: Cli, tmp_path: Path, done: Path) -> None:
    assert cli("audit", "export", "--state", done, "--out", "log.jsonl").status == 0
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes() + b"junk\n")
    broken = cli("audit", "export", "--state", log, "--out", "again.jsonl")
    assert (broken.status, "cannot be read" in broken.err) == (1, True)
    assert not (tmp_path / "again.jsonl").exists()


@pytest.mark.parametrize("command", ["model list", "model show 1", "audit show", "audit prove 0", "audit verify"])
def test_json_is_one_object_on_one_line(cli: Cli, done: Path, command: str) -> None:
    place = [done] if command == "audit verify" else ["--state", done]
    shown = cli(*command.split(), *place, "--json")
    assert (shown.status, shown.err, shown.out.count("\n")) == (0, "", 1)
    assert isinstance(json.loads(shown.out), dict)


def test_tables_into_a_pipe_are_not_cut_and_have_no_trailing_blanks(cli: Cli, done: Path) -> None:
    for command in ("model list", "model show 1", "audit show"):
        shown = cli(*command.split(), "--state", done)
        assert (shown.status, shown.err) == (0, "")
        assert not re.search(r" $", shown.out, re.M)
    assert "…" not in cli("audit", "show", "--state", done).out


def test_a_run_that_ended_by_policy_prints_its_result_too(cli: Cli, tmp_path: Path) -> None:
    drills = ("--drill", "junk@1:1", "--drill", "junk@2:1")
    ended = cli("simulate", HEART, *SHORT, "--json", "--out", "o", *drills)
    assert (ended.status, ended.out.count("\n")) == (3, 1)
    *warnings, error = ended.err.splitlines()
    assert error == "error: in 2 rounds the answers of all members did not open the sum"
    assert {line.rpartition("code=")[2] for line in warnings} == {"open.key"}, "the members say why"
    result = json.loads(ended.out)
    assert [r["status"] for r in result["rounds"]] == ["failed", "promoted", "failed"]
    assert json.loads((tmp_path / "o" / "result.json").read_text()) == result


def test_a_run_that_gains_nothing_ends_well_and_has_no_model(cli: Cli, tmp_path: Path) -> None:
    settings = ("training.rounds=9", "training.local_epochs=1", "gate.min_gain=0.9", "gate.progress=2")
    ended = cli("simulate", HEART, *(f"--set={one}" for one in settings), "--out", "o")
    assert (ended.status, ended.err) == (0, "")
    for said in ("converged: nothing was better", "No version was promoted; there is no model to use."):
        assert said in " ".join(ended.out.split())
    result = json.loads((tmp_path / "o" / "result.json").read_text())
    assert [r["status"] for r in result["rounds"]] == ["kept"] * 7
    assert all(sum(r["votes"].values()) == len(r["members"]) for r in result["rounds"])
    assert (result["ended"], result["model"], result["overall"]["federated"]) == ("converged", None, None)
    assert [(m["federated"], m["personalised"]) for m in result["members"]] == [(None, None)] * 4
    listing = json.loads(cli("model", "list", "--state", "o", "--json").out)["versions"]
    assert [one["status"] for one in listing] == ["start"] + ["kept"] * 7
    assert len([*(tmp_path / "o" / "models").iterdir()]) == 1, "only the start has a file"


# From outside


def moonflower(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "moonflower", *map(str, arguments)]


def test_the_light_commands_do_not_wait_for_torch() -> None:
    code = "import moonflower.__main__, sys; print({'torch', 'flwr', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_closed_or_short_pipe_is_no_error(done: Path) -> None:
    show = " ".join(moonflower("audit", "show", "--state", done))
    for command in (f"{show} | head -1", f"{show} | true", f"{show} >&-"):
        ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_a_normal_run_says_nothing_but_its_result(tmp_path: Path) -> None:
    """No warning of a library reaches the terminal; a pipe that closes after the first line is no error."""
    command = " ".join(moonflower("simulate", HEART, *SHORT, "--out", tmp_path / "o")) + " | head -1"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (0, "")
    assert ended.stdout == "heart: each member judged on its own test rows\n"
    assert (tmp_path / "o" / "report.html").is_file()


def test_ctrl_c_in_the_middle_of_a_run(tmp_path: Path) -> None:
    command = moonflower("simulate", HEART, "--json", "--out", tmp_path / "o")
    command += ["--set", "training.rounds=100000", "--set", "gate.patience=1000"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,  # a shell's & ignores it
    ) as run:
        deadline = time.monotonic() + PATIENCE_S
        while not list((tmp_path / "o").glob("models/*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=PATIENCE_S)
    assert (run.returncode, out) == (130, "")
    assert err.strip() == f"stopped; {tmp_path / 'o'} holds the log and the models up to here, and no report"
    assert not (tmp_path / "o" / "result.json").exists()
    verified = subprocess.run(moonflower("audit", "verify", tmp_path / "o"), capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
