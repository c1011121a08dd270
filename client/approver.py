"""An approver's key: a private JWK in its own file, with which a person signs releases of models.

It does not belong to the node and need not be on the node's machine. Like the node's keys it has no pass phrase.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from .. import files
from ..errors import InputError
from ..protocol.approval import parse_private_jwk, private_jwk

_LARGEST = 65536


def make_approver_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Create a key (P-384) in a new file (0600) and return it.

    Raises:
        InputError: ``config.key``: the file is there already, or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    try:
        files.create(path, f"{json.dumps(private_jwk(key))}\n".encode(), 0o600)
    except OSError as error:
        raise InputError("config.key", f"key {path} cannot be written: {error.strerror}") from None
    return key


def load_approver_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in a file.

    Raises:
        InputError: ``config.key``: missing, readable by others, or not an approver's key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LARGEST)
    except OSError as error:
        raise InputError(
            "config.key", f"key {path} cannot be read: {error.strerror}", hint="moonflower keys approver FILE makes one"
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(
            "config.key",
            f"key {path} can be read by others; expected mode 0600",
            hint=f"chmod 600 {path}; make a new key if others may have read this one",
        )
    try:
        return parse_private_jwk(json.loads(data))
    except (ValueError, RecursionError):
        raise InputError(
            "config.key", f"key {path} is not an approver's key; expected a private JWK on P-384"
        ) from None
