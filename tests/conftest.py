"""What tests share: the presets' paths, and a small federation that runs in a second."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and threads that wait for a core spin
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from support import CONFIGS, memory
from xdist.scheduler import LoadScopeScheduling

memory.use()
settings.register_profile("moonflower", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("moonflower")


TESTS = Path(__file__).parent
ORDER = ("live", "peers", "browser", "docs", "federation", "unit")
"""Folders, first that of the longest tests, so that no process is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(TESTS).parts[0]))


def pytest_collection_finish() -> None:
    """Take what was imported out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


class Groups(LoadScopeScheduling):
    """Keeps the tests of a file with one worker, for what they share; and those of the standing federation."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "standing" if "/standing/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    """Commands close their umask for good, as processes may; the next test begins with this one's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def heart() -> Path:
    """The heart preset."""
    return CONFIGS / "heart.toml"


@pytest.fixture
def sba() -> Path:
    """The small-business-loan preset."""
    return CONFIGS / "sba.toml"
