"""What a simulation proposes for the recipe: constants that live members cannot find together, as lines of a config.

Clip and longest step bound what one member can do; edges are those between equally full bins of the last model's
scores. Whoever has everybody's rows can find them; a recipe then states them, and no run moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..client.learning.calibrate import calibrated, rounded_up
from ..client.learning.cast import Cast
from ..client.learning.learner import Vector
from ..client.tasks import MOST_BINS, ROWS_A_BIN
from ..configs.settings import AUTO

STEP_ROOM = 3.0
"""Times the longest mean of the run that was not refused."""


def proposal(cast: Cast, longest: float, vector: Vector | None, scaling: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipe should say, by table and key.

    Args:
        cast: of the simulation.
        longest: norm of its longest mean that was not refused; 0 where there is none. Then round 1 is looked at, and
            also where the proposed clips are of other groups than the run's, so that lengths are in other units.
        vector: of its last version, ``float32[n]``; None where there is none.
        scaling: of that version.
    """
    left = {
        "crypto": cast.settings.crypto.model_copy(update={"clip": AUTO}),
        "gate": cast.settings.gate.model_copy(update={"max_step": 0.0}),
    }
    measured = calibrated(
        cast.settings.model_copy(update=left), [cast.learner(name, rows) for name, rows in sorted(cast.splits.items())]
    )
    own, alike = cast.settings.crypto.clip, measured.crypto.clip
    one_unit = alike == own or not (isinstance(own, dict) or isinstance(alike, dict))  # lengths are beside the clips
    tables: dict[str, dict[str, Any]] = {
        "training": {"max_rows": cast.settings.training.max_rows},
        "crypto": {"clip": measured.crypto.clip},
        "gate": {"max_step": rounded_up(STEP_ROOM * longest) if longest and one_unit else measured.gate.max_step},
    }
    edges = _edges(cast, vector, scaling) if vector is not None and "edges" in vars(cast.task) else []
    return {**tables, "task": {"edges": edges}} if edges else tables


def _edges(cast: Cast, vector: Vector, scaling: Mapping[str, Any]) -> list[float]:
    """Return the edges between equally full bins of all members' test rows; empty if there are too few rows."""
    together = cast.everyone()
    together.prepare(scaling)
    bins = min(MOST_BINS, int(together.tested().min()) // ROWS_A_BIN)
    scores = together.scores(vector, "test")
    at = np.quantile(scores, np.arange(1, bins) / bins) if bins > 1 else np.zeros(0)
    return sorted({float(f"{score:.2g}") for score in at} - {0.0, 1.0})
