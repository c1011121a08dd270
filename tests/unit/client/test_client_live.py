"""The member that a client config describes: its rows, what it checks at the start, and what it keeps."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from moonflower.cli.member import member as member_app
from moonflower.client import live, tasks
from moonflower.client.keyring import SECRET_FILE, make_keys
from moonflower.client.ledger.ledger import FILE_NAME
from moonflower.client.live import member_of
from moonflower.client.node.keeper import locked
from moonflower.client.own_rows import OwnRows
from moonflower.client.secret import NodeSecret
from moonflower.configs.recipe import Recipe
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.configs.settings import Offer
from moonflower.doctor.checks import steps
from moonflower.errors import InputError, Refused
from moonflower.federation import simulate
from moonflower.protocol.circle import Circle
from support import CONFIGS
from support.circles import heart_recipe, lives_in
from support.superlink import client_config
from typer.testing import CliRunner

DATA = CONFIGS / "data"
SECRET = NodeSecret.for_practice(7, "Cleveland")  # that of the member in heart.toml's simulation


def config(tmp_path: Path, *changes: tuple[str, str], member: str = "Cleveland") -> ClientConfig:
    path = client_config(tmp_path, DATA, member=member)
    text = path.read_text()
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count == 1
    path.write_text(text)
    return load_config(ClientConfig, path)


CIRCLE = Circle.of(heart_recipe(), {name: name * 43 for name in "abc"})


def run_in(circle: Circle, seed: int = 7) -> tuple[Circle, Offer, str]:
    """Return a circle, what a run in it carries, and the run."""
    return circle, Offer.model_validate(circle.offer(seed, 1)), "r"


def of_recipe(**changes: Any) -> Circle:
    """Return a circle with other tables of its recipe, each as a dict of keys."""
    raw = CIRCLE.recipe.as_dict()
    for table, keys in changes.items():
        raw[table] = {**raw[table], **keys}
    return Circle.of(Recipe.model_validate(raw), CIRCLE.pins)


def test_a_node_has_the_rows_that_simulate_gives_its_member(tmp_path: Path) -> None:
    rows = OwnRows(config(tmp_path), SECRET)
    cast = simulate.prepare(CONFIGS / "heart.toml")
    circle = Circle.of(cast.recipe, {name: f"{at:043}" for at, name in enumerate(cast.names)})
    learner = rows.learner(*run_in(circle))
    twin = cast.learner("Cleveland", cast.splits["Cleveland"])
    assert circle.recipe.schema_digest == cast.schema.digest()
    assert learner.summary().tolist() == twin.summary().tolist()
    assert (learner.start() == twin.start()).all()


def test_a_node_whose_table_is_its_own_takes_all_rows(tmp_path: Path) -> None:
    rows = OwnRows(config(tmp_path, ("^site = .*\n", ""), member="St. Mary"), SECRET)
    data = {"drop": ["fold", "site"]}
    split = rows.learner(*run_in(of_recipe(data=data, training={"max_rows": 1000})))._raw
    assert sum(map(len, (split.train, split.validation, split.test))) == 920
    recipe = of_recipe(data=data)
    assert len(split.train) - rows.left_out(recipe.recipe) == 250
    fewer = rows.learner(*run_in(recipe))._raw
    assert torch.equal(fewer.train.targets, split.train.targets[:250]), "of more than max_rows the first by their hash"
    assert len(fewer.test) == len(split.test)


def test_a_part_of_an_epoch_is_too_large_to_say_something_about_one_row(tmp_path: Path) -> None:
    rows = OwnRows(config(tmp_path), SECRET)
    good, bad = of_recipe(training={"parts": 18}), of_recipe(training={"parts": 19})
    assert 180 <= len(rows.now(good.recipe).train) < 190
    rows.check(good.recipe)
    rows.learner(*run_in(good))
    for call in (lambda: rows.check(bad.recipe), lambda: rows.learner(*run_in(bad))):
        with pytest.raises(InputError, match=r"training.parts = 19 leaves fewer .* than data.min_count = 10") as raised:
            call()
        assert raised.value.code == "config.value"
        assert not re.search(r"\b18\d\b", str(raised.value)), "no count of rows"
    rows.check(of_recipe(training={"parts": 19}, federation={"practice": True}).recipe)


def test_rows_that_do_not_count_are_said_to_their_operator_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, path = config(tmp_path), str(tmp_path / "client.toml")
    signed = lives_in(tmp_path / "client.toml", "training.max_rows=150")
    with caplog.at_level(logging.INFO):
        member = member_of(settings)
        learner = member._learner_for(*run_in(signed.circle))
        member.ledger.close()
    assert learner.rows == 150
    assert not re.search(r"\d", "".join(caplog.messages)), "no count of rows"
    shown = CliRunner().invoke(member_app, ["statistics", path])
    assert re.search(r"training.max_rows = 150: [1-9]\d* of the table's training rows do not count", shown.output)
    (step,) = [one for one in steps(tmp_path / "client.toml") if one.name == "data"]
    found = step.look()
    assert found.status == "ok"
    assert "more training rows than training.max_rows" in found.found


def test_columns_that_deserve_a_second_look_are_said_on_this_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the node's own log, and by doctor: at one hospital all of a column is missing."""
    rows = OwnRows(config(tmp_path, member="Switzerland"), SECRET)
    with caplog.at_level(logging.WARNING):
        rows.check(CIRCLE.recipe)
    assert [message for message in caplog.messages if "'chol'" in message] == [
        "column 'chol': no cell is filled; that is no harm if other members have other cells; "
        "if not, schema infer --drop leaves it out"
    ]
    lives_in(tmp_path / "client.toml")
    (step,) = [one for one in steps(tmp_path / "client.toml") if one.name == "data"]
    found = step.look()
    assert found.status == "warning"
    assert "column 'chol': no cell is filled" in found.found


def test_rows_are_dealt_by_the_seed_of_the_run(tmp_path: Path) -> None:
    dealt = ("^site = .*", '[simulate]\npartition = "random"\nmembers = 4')
    circle = of_recipe(data={"drop": ["fold", "site"]})
    own = config(tmp_path, dealt)
    with pytest.raises(InputError, match="but of 4 others"):
        OwnRows(own, SECRET).check(circle.recipe)
    rows = OwnRows(own.model_copy(update={"client": own.client.model_copy(update={"member": "member-2"})}), SECRET)
    one, two = (rows.learner(*run_in(circle, seed)) for seed in (1, 2))
    assert one.summary().tolist() != two.summary().tolist()


NOWHERE = of_recipe(task={"ref": "no.such:task"})


def test_mistakes_show_before_anything_is_signed(tmp_path: Path) -> None:
    cases: list[tuple[tuple[tuple[str, str], ...], Circle, str, str]] = [
        ((("^path = .*", 'path = "nowhere.csv"'),), CIRCLE, "data.file", "nowhere.csv"),
        ((), of_recipe(data={"label": "z"}), "config.value", "label"),
        ((("^site = .*", 'site = "place"'),), CIRCLE, "data.column", "place"),
        (((r'^tasks = \["moonflower', 'tasks = ["no.such:task", "moonflower'),), NOWHERE, "config.task", "no.such"),
        ((), NOWHERE, "task.refused", "no.such"),
        ((("^tasks = .*", "tasks = []"),), CIRCLE, "task.refused", "names no tasks"),
    ]
    for changes, circle, code, word in cases:
        with pytest.raises(InputError, match=word) as raised:
            OwnRows(config(tmp_path, *changes), SECRET).check(circle.recipe)
        assert raised.value.code == code
    with pytest.raises(InputError, match="but of 4 others") as raised:
        OwnRows(config(tmp_path, member="Boston"), SECRET).check(CIRCLE.recipe)
    assert raised.value.code == "data.member"


def test_the_table_is_read_again_when_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heart.csv.gz").write_bytes((DATA / "heart.csv.gz").read_bytes())
    reads: list[int] = []
    whole = tasks.Task.data
    monkeypatch.setattr(tasks.Task, "data", lambda *args: reads.append(1) or whole(*args))
    rows = OwnRows(config(tmp_path, ("^path = .*", 'path = "heart.csv.gz"')), SECRET)
    rows.learner(*run_in(CIRCLE))
    rows.learner(*run_in(CIRCLE))
    assert len(reads) == 1
    (tmp_path / "heart.csv.gz").touch()
    rows.learner(*run_in(CIRCLE))
    assert len(reads) == 2


def test_a_member_is_whole(tmp_path: Path) -> None:
    settings = config(tmp_path)
    signed = lives_in(tmp_path / "client.toml")
    member = member_of(settings)
    assert member.circles.living() == signed.circle
    assert (member.identity.card.issuer, member.identity.card.client_id) == ("http://127.0.0.1:1", "node")
    assert member.circles.own.floor.tasks == ("moonflower.client.tasks.tabular:task",)
    assert (tmp_path / "state" / FILE_NAME).stat().st_mode & 0o077 == 0
    member.ledger.close()


def test_a_member_that_lives_in_no_circle_starts_and_looks_at_no_row(tmp_path: Path) -> None:
    member = member_of(config(tmp_path, ("^path = .*", 'path = "not there yet.csv"')))
    assert member.circles.standing.living is None
    member.ledger.close()


def test_a_ledger_that_is_not_the_one_that_was_is_lost(tmp_path: Path) -> None:
    settings = config(tmp_path)
    lives_in(tmp_path / "client.toml")
    for file in (tmp_path / "state").glob(f"{FILE_NAME}*"):
        file.unlink()
    for _ in range(2):
        member = member_of(settings)
        assert member.circles.standing.lost == 0
        with pytest.raises(Refused) as refusal:
            member.circles.living()
        assert refusal.value.code == "ledger.lost"
        member.ledger.close()


def test_a_ledger_goes_with_one_secret(tmp_path: Path) -> None:
    """Another secret would deal the rows out anew, over sums that were opened."""
    settings = config(tmp_path)
    member_of(settings).ledger.close()
    (tmp_path / "state" / SECRET_FILE).unlink()
    make_keys(tmp_path / "state")
    with pytest.raises(InputError, match="expected the one from your backup"):
        member_of(settings)


def test_warming_up_changes_no_draw() -> None:
    import torch

    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    live.warm_up()
    assert torch.equal(torch.rand(3), wanted)


def test_the_worker_starts_isolated_as_another_user(tmp_path: Path) -> None:
    """Who is not root enters a user namespace too; here root becomes somebody else first."""
    script = (
        "import ctypes, encodings.idna, os, socket\n"
        "from moonflower.client.node import confine\n"
        "if os.getuid() == 0: os.setgid(65533); os.setuid(65533)\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, as who was never root is\n"
        "before = os.getuid()\n"
        "isolated = confine.take_network_away()\n"
        "confine.die_with(os.getppid())\n"
        "try: socket.create_connection(('127.0.0.1', 22), 1); found = 'connected'\n"
        "except ConnectionRefusedError: found = 'reached'\n"
        "except OSError: found = 'unreachable'\n"
        "print(isolated, os.getuid() == before, found, sorted(confine.interfaces()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 3) == ["True", "True", "unreachable", "['lo']\n"]


# Which rows


def without_a_row(path: Path, site: str) -> None:
    """Delete the first row of a site from a table."""
    frame = pd.read_csv(path)
    frame.drop(index=frame.index[frame["site"] == site][0]).to_csv(path, index=False)


def test_an_operator_sees_which_rows_are_used_and_deletes_one_at_once(tmp_path: Path) -> None:
    table = tmp_path / "heart.csv"
    pd.read_csv(DATA / "heart.csv.gz").to_csv(table, index=False)
    config(tmp_path, ("^path = .*", f'path = "{table}"'))
    settings, path = load_config(ClientConfig, tmp_path / "client.toml"), str(tmp_path / "client.toml")
    circle = lives_in(tmp_path / "client.toml").circle

    def said(*more: str) -> dict[str, Any]:
        done = CliRunner().invoke(member_app, ["statistics", path, "--json", *more])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def checked() -> tuple[str, str]:
        (step,) = [one for one in steps(tmp_path / "client.toml") if one.name == "snapshot"]
        found = step.look()
        return found.status, found.found

    member = member_of(settings)
    assert said() == {"parts": [], "deleted": []}
    assert checked()[0] == "ok"
    member._learner_for(*run_in(circle))
    member.ledger.close()
    parts = said()["parts"]
    assert [(one["changed"], one["gone"], one["in_use"] == one["table"]) for one in parts] == [(0, 0, True)] * 3
    assert checked() == ("ok", "runs use the rows of the table")
    without_a_row(table, "Cleveland")
    assert sum(one["gone"] for one in said()["parts"]) == 1
    status, found = checked()
    assert (status, "gone from the table" in found) == ("warning", True)
    assert not re.search(r"\b(?!10\b)\d+\b", found), "no count of rows"
    (name,) = said("--delete-gone")["deleted"]
    after = {one["name"]: one for one in said()["parts"]}
    assert (after[name]["gone"], after[name]["in_use"]) == (0, {one["name"]: one for one in parts}[name]["in_use"] - 10)
    shown = CliRunner().invoke(member_app, ["statistics", path])
    assert "rows in use" in shown.stdout
    with locked(settings.client.state):
        refused = CliRunner().invoke(member_app, ["statistics", path, "--delete-gone"])
    assert isinstance(refused.exception, InputError), "a client that runs has them in memory"
    assert refused.exception.code == "config.state"
