"""The member's keys on disk: ``node.key`` (EC P-384) and ``sealing.key`` (X25519), PKCS#8 PEM, in the state folder.

The files are readable by their owner only, 0600 in a folder of 0700. There is no pass phrase: a node starts without
a person. A key file appears whole or not at all, and is never overwritten.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from ..crypto.identity import Identity, NodeKey
from ..errors import InputError

NODE_FILE, SEALING_FILE = "node.key", "sealing.key"
_LARGEST = 65536
PrivateKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey


@dataclass(frozen=True)
class Keyring:
    """A member's private keys: ``node`` signs (messages, DPoP proofs, Flower's requests), ``sealing`` receives."""

    node: ec.EllipticCurvePrivateKey = field(repr=False)
    sealing: x25519.X25519PrivateKey = field(repr=False)

    @property
    def pin(self) -> str:
        """RFC 7638 thumbprint of the node key."""
        return NodeKey(self.node.public_key()).pin

    def identity(self, name: str, issuer: str, client_id: str) -> Identity:
        """Return the member that these keys make, with its signed card."""
        return Identity(name, self.node, self.sealing, issuer=issuer, client_id=client_id)


def make_keys(folder: Path) -> tuple[Path, ...]:
    """Create the keys that ``folder`` lacks; return their files, empty if both were there.

    Raises:
        InputError: ``config.key``: the folder cannot be written.
    """
    made = []
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
        for name, new in ((NODE_FILE, _new_node), (SEALING_FILE, x25519.X25519PrivateKey.generate)):
            path = folder / name
            if not path.exists():
                _write(path, new())
                made.append(path)
    except OSError as error:
        raise InputError("config.key", f"keys cannot be written to {folder}: {error.strerror}") from None
    return tuple(made)


def load_keys(folder: Path) -> Keyring:
    """Return the keys in ``folder``.

    Raises:
        InputError: ``config.key``: missing, readable by others, or not such a key.
    """
    node, sealing = _read(folder / NODE_FILE, "EC P-384"), _read(folder / SEALING_FILE, "X25519")
    if not isinstance(node, ec.EllipticCurvePrivateKey) or not isinstance(node.curve, ec.SECP384R1):
        raise _wrong(folder / NODE_FILE, "EC P-384")
    if not isinstance(sealing, x25519.X25519PrivateKey):
        raise _wrong(folder / SEALING_FILE, "X25519")
    return Keyring(node, sealing)


def load_identity(folder: Path, name: str, issuer: str, client_id: str) -> Identity:
    """Return the member whose keys are in ``folder``.

    Raises:
        InputError: ``config.key``.
    """
    return load_keys(folder).identity(name, issuer, client_id)


def _new_node() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _write(path: Path, key: PrivateKey) -> None:
    """Write a key beside its place and link it there: a crash leaves no half key, and a link replaces nothing."""
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)
    finally:
        beside.unlink()
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path, what: str) -> object:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LARGEST)
    except FileNotFoundError:
        raise InputError(
            "config.key", f"key file {path} is missing; expected a {what} key", hint="moonflower member card CONFIG"
        ) from None
    except OSError as error:
        raise InputError("config.key", f"key file {path} cannot be read: {error.strerror}") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise InputError(
            "config.key",
            f"key file {path} has mode {stat.S_IMODE(mode):04o}; expected 0600: others may not read it",
            hint=f"chmod 600 {path}, and new keys if anybody may have read it",
        )
    try:
        return load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # the reason could quote the file
        raise _wrong(path, what) from None


def _wrong(path: Path, what: str) -> InputError:
    return InputError("config.key", f"key file {path} holds no {what} key; expected PKCS#8 PEM without a pass phrase")
