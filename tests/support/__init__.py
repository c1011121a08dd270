"""What tests share, and the patience of all of them."""

from __future__ import annotations

from pathlib import Path

import moonflower

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
CONFIGS = Path(moonflower.__file__).parent / "configs"
PATIENCE_S = 600.0
"""What takes longer hangs. How fast something should be is a question for the benchmarks."""
