"""The node's secret. It decides which row is in which part, and in which order batches come (rule 8).

Somebody who knew it could tell whether a member trained with a given row, and could subtract the draws of its training.
The secret is not a key: nothing is signed or opened with it, and it never leaves the node.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

BYTES = 32


@dataclass(frozen=True)
class NodeSecret:
    """A node's secret.

    Attributes:
        value: 32 bytes.
        practice: the secret follows from a run's public seed, so it hides nothing; for federations on one machine.

    Raises:
        ValueError: not 32 bytes.
    """

    value: bytes = field(repr=False)
    practice: bool

    def __post_init__(self) -> None:
        if len(self.value) != BYTES:
            raise ValueError(f"a node secret of {len(self.value)} bytes; expected {BYTES}")

    @classmethod
    def fresh(cls) -> NodeSecret:
        """Return a new secret from the operating system's random source."""
        return cls(secrets.token_bytes(BYTES), practice=False)

    @classmethod
    def for_practice(cls, seed: int, name: str) -> NodeSecret:
        """Return the secret of a member of a practice run: HKDF with SHA-256 of seed and name, the same everywhere.

        Args:
            seed: of the run, not negative.
            name: the member's.
        """
        about = f"moonflower.practice.v1|{name}".encode()
        return cls(HKDF(SHA256(), BYTES, salt=None, info=about).derive(str(seed).encode()), practice=True)

    def keyed(self, purpose: str, data: bytes = b"") -> bytes:
        """Return HMAC-SHA256 over purpose and data, 32 bytes; no two purposes share an input."""
        name = purpose.encode()
        return hmac.digest(self.value, len(name).to_bytes(4, "big") + name + data, "sha256")
