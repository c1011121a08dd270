"""The member's keys on disk: ``node.key`` (EC P-384), ``sealing.key`` (X25519) and ``witness.key`` (Ed25519).

They are PKCS#8 PEM in the state folder. Beside them is ``node.secret``, from which the node draws: JSON with
``secret`` (base64url of 32 bytes, no padding) and ``practice``. Keep a backup of node key and node secret outside the
folder. Without the node key the node is a new member; without the node secret it deals its rows out anew.

Only their owner can read the files (0600, in a folder of 0700). There is no pass phrase, because a node starts without
a person. A key file appears whole or not at all, and is never overwritten.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from .. import files
from ..canonical import canonical, parse_canonical
from ..configs.roles import ClientConfig
from ..crypto.identity import Approver, Identity, PublicKey
from ..errors import InputError
from .secret import NodeSecret

NODE_FILE, SEALING_FILE, WITNESS_FILE = "node.key", "sealing.key", "witness.key"
SECRET_FILE = "node.secret"  # noqa: S105 - a file's name
BACK_UP = f"back up {NODE_FILE} and {SECRET_FILE}, apart from the state folder: neither can be made again"
_LARGEST = 65536
PrivateKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Keyring:
    """A member's private keys.

    Attributes:
        node: signs messages, DPoP proofs, Flower's requests.
        sealing: receives wrapped keys.
        witness: countersigns checkpoints of the coordinator's log.
        secret: source of the node's draws.
    """

    node: ec.EllipticCurvePrivateKey = field(repr=False)
    sealing: x25519.X25519PrivateKey = field(repr=False)
    witness: ed25519.Ed25519PrivateKey = field(repr=False)
    secret: NodeSecret = field(repr=False)

    @property
    def pin(self) -> str:
        """RFC 7638 thumbprint of the node key."""
        return PublicKey(self.node.public_key()).pin

    def identity(self, name: str, issuer: str, client_id: str, approvers: Iterable[Approver] = ()) -> Identity:
        """Return the member that these keys make, with its signed card."""
        return Identity(
            name, self.node, self.sealing, self.witness, issuer=issuer, client_id=client_id, approvers=approvers
        )


def make_keys(folder: Path, *, practice: NodeSecret | None = None) -> tuple[Path, ...]:
    """Create the keys and the secret that ``folder`` lacks; return their files, empty if all were there.

    Args:
        folder: the node's state folder.
        practice: secret to write instead of a fresh one, for a federation on one machine.

    Raises:
        InputError: ``config.key``: the folder cannot be written.
    """
    created = []
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
        for name, new in _NEW.items():
            path = folder / name
            if not path.exists():
                files.create(path, _pem(new()), 0o600)
                created.append(path)
        path = folder / SECRET_FILE
        if not path.exists():
            files.create(path, _dump(practice or NodeSecret.fresh()), 0o600)
            created.append(path)
    except OSError as error:
        raise InputError("config.key", f"keys cannot be written to {folder}: {error.strerror}") from None
    return tuple(created)


def load_keys(folder: Path) -> Keyring:
    """Return the keys and the secret in ``folder``.

    Raises:
        InputError: ``config.key``: a key is missing, readable by others, or of another type.
    """
    node, sealing = _read(folder / NODE_FILE, "EC P-384"), _read(folder / SEALING_FILE, "X25519")
    witness = _read(folder / WITNESS_FILE, "Ed25519")
    if not isinstance(node, ec.EllipticCurvePrivateKey) or not isinstance(node.curve, ec.SECP384R1):
        raise _wrong(folder / NODE_FILE, "EC P-384")
    if not isinstance(sealing, x25519.X25519PrivateKey):
        raise _wrong(folder / SEALING_FILE, "X25519")
    if not isinstance(witness, ed25519.Ed25519PrivateKey):
        raise _wrong(folder / WITNESS_FILE, "Ed25519")
    return Keyring(node, sealing, witness, _secret(folder / SECRET_FILE))


def identity_of(config: ClientConfig) -> Identity:
    """Return the member that a client config and the keys in its state folder make.

    Raises:
        InputError: ``config.key``, ``config.value``.
    """
    own, oauth = config.client, config.oauth
    return load_keys(own.state).identity(own.member, oauth.issuer, oauth.client_id, _approvers(config))


def _approvers(config: ClientConfig) -> list[Approver]:
    approvers = []
    for entry in config.approver:
        try:
            approvers.append(Approver(entry.name, PublicKey.from_jwk(json.loads(entry.key))))
        except (ValueError, RecursionError):
            raise InputError(
                "config.value",
                f"[[approver]] {entry.name}: key is not a public JWK on P-384",
                hint="moonflower keys approver FILE prints it",
            ) from None
    return approvers


_NEW: dict[str, Callable[[], PrivateKey]] = {
    NODE_FILE: lambda: ec.generate_private_key(ec.SECP384R1()),
    SEALING_FILE: x25519.X25519PrivateKey.generate,
    WITNESS_FILE: ed25519.Ed25519PrivateKey.generate,
}


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path, what: str) -> object:
    try:
        return load_pem_private_key(_bytes(path, f"{what} key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # the reason could quote the file
        raise _wrong(path, what) from None


def _wrong(path: Path, what: str) -> InputError:
    return InputError("config.key", f"key file {path} holds no {what} key; expected PKCS#8 PEM without a pass phrase")


def _dump(secret: NodeSecret) -> bytes:
    text = base64.urlsafe_b64encode(secret.value).rstrip(b"=").decode()
    return canonical({"practice": secret.practice, "secret": text}) + b"\n"


def _secret(path: Path) -> NodeSecret:
    restore = "restore it from your backup; a new secret would deal this node's rows out anew"
    data = _bytes(path, "node secret", f"{restore}; for a node that never ran: moonflower member card CONFIG")
    try:
        content = parse_canonical(data.removesuffix(b"\n"))
        secret = NodeSecret(base64.urlsafe_b64decode(content["secret"] + "="), content["practice"])
        good = isinstance(secret.practice, bool) and _dump(secret) == data
    except (ValueError, TypeError, KeyError):
        good = False
    if not good:
        raise InputError(
            "config.key",
            f"key file {path} holds no node secret; expected the JSON that moonflower wrote, with practice and secret",
            hint=restore,
        )
    return secret


def _bytes(path: Path, what: str, missing: str = "moonflower member card CONFIG") -> bytes:
    """Return a private file's content; ``missing`` is the hint if the file does not exist."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LARGEST)
    except FileNotFoundError:
        raise InputError("config.key", f"key file {path} is missing; expected the {what}", hint=missing) from None
    except OSError as error:
        raise InputError("config.key", f"key file {path} cannot be read: {error.strerror}") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise InputError(
            "config.key",
            f"key file {path} has mode {stat.S_IMODE(mode):04o}; expected 0600, so that others cannot read it",
            hint=f"chmod 600 {path}; make new keys if others may have read it",
        )
    return data
