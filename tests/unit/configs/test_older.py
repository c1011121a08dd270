"""What version 1 left behind: each thing is refused in one sentence that says what to do, and stays as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from moonflower import store
from moonflower.client.ledger.ledger import FILE_NAME as LEDGER
from moonflower.client.ledger.ledger import Ledger
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.configs.settings import Offer, load_run, parse
from moonflower.doctor import folders
from moonflower.errors import InputError
from moonflower.server.records.database import FILE_NAME as DATABASE
from moonflower.server.records.source import opened
from moonflower.server.records.state import State
from support import CONFIGS
from support.circles import heart_offer
from support.superlink import client_config

NEWEST, VERSION_1 = store.USER_VERSION, 3
WAY_OUT = "export what you want to keep with the moonflower that wrote it, then move the file away and start again"


def made(folder: Path, kind: str) -> Path:
    """Return a database of today's, closed."""
    if kind == LEDGER:
        Ledger(folder / LEDGER).close()
    else:
        State(folder, "heart").close()
    return folder / kind


def aged(path: Path, version: int) -> bytes:
    """Let a database be of another version; return its bytes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={version}")
        connection.execute("PRAGMA journal_mode=DELETE")
    return path.read_bytes()


def read(path: Path) -> Callable[[], Any]:
    return {LEDGER: lambda: Ledger(path), DATABASE: lambda: State(path.parent, "heart")}[path.name]


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as refusal:
        call()
    assert refusal.value.code == "config.state"
    return str(refusal.value)


def test_the_tables_have_another_number_than_version_1() -> None:
    assert NEWEST > VERSION_1


@pytest.mark.parametrize("kind", [LEDGER, DATABASE])
@pytest.mark.parametrize("version", [1, VERSION_1])
def test_an_older_database_is_refused_with_the_way_out(tmp_path: Path, kind: str, version: int) -> None:
    path = made(tmp_path, kind)
    before = aged(path, version)
    said = refused(read(path))
    assert said == f"{path}: expected a database of version {NEWEST}, got {version}; {WAY_OUT}"
    assert path.read_bytes() == before
    path.rename(tmp_path / "old")
    read(path)().close()  # the way out is one


@pytest.mark.parametrize("kind", [LEDGER, DATABASE])
def test_a_newer_database_asks_for_a_newer_moonflower(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    before = aged(path, NEWEST + 1)
    said = refused(read(path))
    assert said.endswith(f"got {NEWEST + 1}; install the moonflower that wrote it, or a newer one")
    assert path.read_bytes() == before


def test_the_log_of_an_older_database_is_not_half_read(tmp_path: Path) -> None:
    path = made(tmp_path, DATABASE)
    aged(path, VERSION_1)

    def look() -> None:
        with opened(path):
            pytest.fail("it was read")

    assert refused(look) == f"{path}: expected a database of version {NEWEST}, got {VERSION_1}; {WAY_OUT}"


@pytest.mark.parametrize("kind", [LEDGER, DATABASE])
def test_the_doctor_does_not_half_read_an_older_database(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    aged(path, VERSION_1)
    looks = (folders.ledger, folders.living) if kind == LEDGER else (folders.good_model,)
    for look in looks:
        said = refused(lambda look=look: look(tmp_path))  # type: ignore[misc]
        assert said == f"{path}: expected a database of version {NEWEST}, got {VERSION_1}; {WAY_OUT}"


@pytest.mark.parametrize(
    "setting",
    ["crypto.open_quorum=0", "crypto.open_timeout_s=120", 'training.weights="rows"', 'crypto.scheme="shared"'],
)
def test_a_removed_setting_of_a_run_is_an_unknown_key(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(InputError, match=f"unknown key {key!r}") as refusal:
        load_run(CONFIGS / "heart.toml", [setting])
    assert refusal.value.code == "config.value"


@pytest.mark.parametrize("key", ["max_rounds", "max_local_epochs", "min_quorum"])
def test_a_removed_floor_is_an_unknown_key(tmp_path: Path, key: str) -> None:
    path = client_config(tmp_path, CONFIGS)
    text = path.read_text()
    load_config(ClientConfig, path)
    path.write_text(text.replace("[client]", f"[client]\n{key} = 3"))
    with pytest.raises(InputError, match=f"unknown key 'client.{key}'"):
        load_config(ClientConfig, path)


@pytest.mark.parametrize("key", ["open_quorum", "open_timeout_s"])
def test_an_offer_as_version_1_made_it_is_refused_by_its_key(key: str) -> None:
    offer = heart_offer()
    parse(Offer, offer, where="the run's offer")
    with pytest.raises(InputError, match=f"unknown key 'crypto.{key}'"):
        parse(Offer, {**offer, "crypto": {**offer["crypto"], key: 0}}, where="the run's offer")
