"""Canonical JSON and its digest: the same value gives the same bytes everywhere, so that it can be signed."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of ``value``: sorted keys, no white space, ASCII, shortest float repr.

    Args:
        value: JSON-able value with string keys. Tuples are written as lists.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no JSON form.

    >>> canonical({"b": 1, "a": (0.1, None)})
    b'{"a":[0.1,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of ``canonical(value)`` as 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def parse_canonical(data: bytes) -> Any:
    """Return the value whose canonical bytes are ``data``.

    Raises:
        ValueError: ``data`` is not JSON, or not in canonical form (a key twice, other spacing, NaN).
    """
    try:
        value = json.loads(data)
        again = canonical(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not canonical JSON") from error
    if again != data:
        raise ValueError("not canonical JSON")
    return value
