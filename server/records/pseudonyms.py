"""How clients and people are called in the log: by their names at the issuer, or by pseudonyms under a key.

The log is for ever, and members and auditors read it. With a key, entries of one person can be told to be one person's,
and who holds the key can tell whose. Without the key they tell nobody's name.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from ...errors import InputError

LEAST_BYTES = 32


class Pseudonyms:
    """Names for the log.

    Args:
        key: secret bytes; empty to write names as they are.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def of(self, kind: str, name: str) -> str:
        """Return how a client or a subject is called in the log.

        >>> Pseudonyms().of("subject", "anna"), Pseudonyms(b"k" * 32).of("subject", "anna")
        ('anna', '~9d8bf67e569b84f9')
        """
        if not self._key:
            return name
        data = f"moonflower.pseudonym.v1\\0{kind}\\0{name}".encode()
        return f"~{hmac.digest(self._key, data, 'sha256')[:8].hex()}"


def read_pseudonyms(path: Path | None) -> Pseudonyms:
    """Return the names for the log of a server whose config names this key file, or none.

    Raises:
        InputError: ``config.key``: it cannot be read, others can read it, or it has fewer than 32 bytes.
    """
    if path is None:
        return Pseudonyms()
    try:
        with path.open("rb") as file:
            mode, key = os.fstat(file.fileno()).st_mode, file.read(4096)
    except OSError as error:
        raise InputError("config.key", f"server.pseudonym_key {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        message = f"server.pseudonym_key {path} can be read by others; expected mode 0600"
        raise InputError("config.key", message, hint=f"chmod 600 {path}")
    if len(key) < LEAST_BYTES:
        found = f"server.pseudonym_key {path} has {len(key)} bytes"
        raise InputError("config.key", f"{found}; expected {LEAST_BYTES} or more")
    return Pseudonyms(key)
