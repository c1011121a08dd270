"""A row of the bench: its fields, the vector that is sealed, and how times are measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Row = dict[str, Any]
CLIP, MEMBERS, FEW = 0.32, 16, 2
FIELDS = ("seal_s", "add_s", "open_s", "up_bytes_per_param", "down_bytes_per_param", "exact", "max_error")


def row(*values: Any, answer_s: float | None = None, sig_bytes: int | None = None, members: int = MEMBERS) -> Row:
    """Return a row; a value is None if the scheme has no such step.

    Args:
        values: in the order of ``FIELDS``.
        answer_s: seconds that a member's second message takes.
        sig_bytes: bytes of others' signatures, and of what they sign, that an opener receives as well.
        members: number of members in the sum.
    """
    named = dict(zip(FIELDS, values, strict=True))
    return {"members": members, **named, "answer_s": answer_s, "sig_bytes": sig_bytes}


def vector(params: int, member: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a member's update, ``float32[params]``: normal with standard deviation 0.01, equal in all processes."""
    return np.random.default_rng(member).normal(0, 0.01, params).astype(np.float32)


def timed(call: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the shortest time of ``repeats`` calls, in seconds, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - began)
    return best, result
