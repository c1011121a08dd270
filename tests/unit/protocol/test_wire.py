"""What an update costs on the wire."""

from __future__ import annotations

from support.wire import upload_bytes_per_param


def test_a_large_upload_is_smaller_than_the_plain_vector() -> None:
    """Envelope and answer together; a plain float32 takes 4 bytes."""
    assert 2.6 < upload_bytes_per_param(values=1_000_000, members=16, value_bits=16) <= 2.75
    assert upload_bytes_per_param(values=200_000, members=16, value_bits=16) <= 2.9
