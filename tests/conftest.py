"""What tests share: the presets' paths, and a small federation that runs in a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import pytest
from hypothesis import settings
from support import CONFIGS

settings.register_profile("moonflower", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("moonflower")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files of slow tests first, so that no process is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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
