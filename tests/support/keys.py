"""Keys that are the same in every process, and with them every order that depends on digests of keys."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from moonflower.crypto.identity import Identity


def identity_of(name: str, life: int = 1) -> Identity:
    """Return a member's keys; it has new ones in another life."""
    seed = hashlib.sha512(f"{name} {life}".encode()).digest()
    node = ec.derive_private_key(int.from_bytes(seed[:40], "big"), ec.SECP384R1())
    reading, witness = (cls.from_private_bytes(seed[:32]) for cls in (X25519PrivateKey, Ed25519PrivateKey))
    return Identity(name, node, reading, witness)
