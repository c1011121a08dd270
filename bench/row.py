"""A row of the bench: its vector, how its time is measured, and its fields."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Row = dict[str, Any]
CLIP, MEMBERS, FEW = 0.32, 16, 2
FIELDS = ("seal_s", "add_s", "open_s", "up_bytes_per_param", "down_bytes_per_param", "exact", "max_error")


def row(*values: Any, answer_s: float | None = None, sig_bytes: int | None = None, members: int = MEMBERS) -> Row:
    """Return a row with the values of ``FIELDS``; None for what a scheme does not have.

    Args:
        values: of ``FIELDS``.
        answer_s: seconds of a member's second message, where there is one.
        sig_bytes: what an opener receives of others besides, signatures and what they are over.
        members: in the sum.
    """
    named = dict(zip(FIELDS, values, strict=True))
    return {"members": members, **named, "answer_s": answer_s, "sig_bytes": sig_bytes}


def vector(params: int, member: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a member's update, ``float32[params]``: normal, spread 0.01, the same in every process."""
    return np.random.default_rng(member).normal(0, 0.01, params).astype(np.float32)


def timed(call: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the least seconds of ``repeats`` calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - began)
    return best, result
