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


def parse_json(data: bytes) -> Any:
    """Return the value of JSON that came from elsewhere.

    Raises:
        ValueError: it is not JSON in UTF-8, is nested too deeply, has NaN, or a text in it is half of a surrogate pair,
            which no page, log or file could write.

    >>> parse_json(rb'{"a": "\\u00fc"}')
    {'a': 'ü'}
    >>> parse_json(rb'"\\ud800"')
    Traceback (most recent call last):
        ...
    ValueError: a text that cannot be encoded
    """
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check_text(data, value)
    return value


def parse_canonical(data: bytes) -> Any:
    """Return the value whose canonical bytes are ``data``.

    Raises:
        ValueError: ``data`` is not JSON, not in canonical form (a key twice, other spacing, NaN), or has a text that
            cannot be encoded.
    """
    value = parse_stored(data)
    check_text(data, value)
    return value


def parse_stored(data: bytes) -> Any:
    """Return the value whose canonical bytes are ``data``, also where a text in it cannot be encoded: a log keeps it.

    Raises:
        ValueError: ``data`` is not JSON, or not in canonical form.
    """
    try:
        value = json.loads(data)
        again = canonical(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not canonical JSON") from error
    if again != data:
        raise ValueError("not canonical JSON")
    return value


def check_text(data: bytes, value: Any) -> None:
    """Check that every text in a value can be encoded.

    Args:
        data: the JSON that it was parsed from: only an escape can bring such a text in.
        value: as parsed.

    Raises:
        ValueError: half of a surrogate pair.
    """
    if b"\\ud" in data or b"\\uD" in data:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text that cannot be encoded") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
