"""What an update costs on the wire."""

from __future__ import annotations

from wire import upload_bytes_per_param


def test_a_large_upload_is_at_most_eight_bytes_a_parameter() -> None:
    assert 7.0 < upload_bytes_per_param(values=200_000, members=16, value_bits=16) <= 8.0
