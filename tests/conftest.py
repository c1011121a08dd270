"""What tests share: the presets' paths, and a small federation that runs in a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import pytest
from hypothesis import settings
from support import CONFIGS, memory

memory.use()
settings.register_profile("moonflower", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("moonflower")


TESTS = Path(__file__).parent
ORDER = ("live", "peers", "browser", "docs", "federation", "unit")
"""Folders, first that of the longest tests, so that no process is left with one at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, for what they share, unless they say with what else they belong."""
    for item in items:
        if not any(item.iter_markers("xdist_group")):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(TESTS).parts[0]))


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
