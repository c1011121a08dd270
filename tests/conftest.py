"""What tests share: the presets' paths, and a small federation that runs in a second."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import moonflower
import pytest

CONFIGS = Path(moonflower.__file__).parent / "configs"


@pytest.fixture
def heart() -> Path:
    """The heart preset."""
    return CONFIGS / "heart.toml"


@pytest.fixture
def sba() -> Path:
    """The small-business-loan preset."""
    return CONFIGS / "sba.toml"
