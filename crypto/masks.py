"""What keeps a partial opening from being read alone: zero masks between openers, and wrapping for the combiners.

**Zero masks.** Every two openers j < m add +Z and -Z to their partials, Z uniform mod q from a key that only these two
hold; in the sum of all they cancel. Without them a partial is ``lambda_j sigma_j a + E_j`` with a rational lambda_j = u
/ v in terms of the opened sum, and t - 1 members outside the set of openers learn the sealing noise mod v from it,
whatever the size of E_j: v E_j vanishes mod v. With them only the total of all honest openers is visible, in which the
secrets stand with the factor 1 exactly, and that is what flooding hides. Mandatory; masks are added before a partial is
rounded, so that a partial by itself is uniform.

The two halves of a pair's key come with the epoch's deals, encrypted to pinned cards and signed: t - 1 members and the
coordinator together do not know the key of two others. They are of one epoch, unlike keys from the cards themselves.

**Wrapping.** Partials go to the combiners only: AES-256-GCM under a fresh key, that key wrapped (HPKE) for each
combiner's card, all of it signed by the opener. The coordinator relays it and learns nothing but its length. Where the
coordinator combines, a partial is signed only: it travels to the coordinator alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import Refused
from .flood import Opening
from .identity import Card, Identity, Roster, b64, unb64
from .ring import Ints, Prime, Ring, uniform_rows

_NONCE = bytes(12)  # the key is used once
TAG_BYTES = 16  # of AES-GCM


def pair_key(first: bytes, second: bytes, names: tuple[str, str]) -> bytes:
    """Return the key of two members from what each dealt the other, in the order of their names."""
    info = b"moonflower.pair.v1\x00" + "\x00".join(names).encode()
    return HKDF(SHA256(), 32, salt=None, info=info).derive(first + second)


class ZeroMasks:
    """A member's masks in one opening.

    Args:
        name: the member, one of the openers.
        keys: its pair keys by member.
        about: the opening.
        ring: the plan's.
    """

    def __init__(self, name: str, keys: Mapping[str, bytes], about: Opening, ring: Ring) -> None:
        self._ring, peers = ring, [peer for peer in about.openers if peer != name]
        self._peers = [(name < peer, [self._key(keys[peer], about, p) for p in ring.primes]) for peer in peers]

    def of(self, chunks: range) -> list[Ints]:
        """Return the masks of these ciphertexts, ``int64[B, N]`` below 2**53 in absolute value, for each prime."""
        out = []
        for row, p in enumerate(self._ring.primes):
            total = np.zeros((len(chunks), p.degree), dtype=np.int64)
            for plus, keys in self._peers:
                (np.add if plus else np.subtract)(total, uniform_rows(keys[row], p, chunks), out=total)
            out.append(total)
        return out

    @staticmethod
    def _key(key: bytes, about: Opening, p: Prime) -> bytes:
        return hmac.new(key, about.bytes("mask", prime=p.modulus), hashlib.sha256).digest()


@dataclass(frozen=True)
class Wrapped:
    """A partial opening on its way to the combiners; all of it may be seen by the coordinator."""

    opener: str
    ciphertext: bytes
    keys: Mapping[str, bytes]
    signature: bytes

    def signed(self, about: Opening) -> bytes:
        """Return what the opener signs."""
        body = hashlib.sha256(self.ciphertext).hexdigest()
        return about.bytes("wrapped", opener=self.opener, body=body, keys={k: b64(v) for k, v in self.keys.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return all but the ciphertext as JSON-able values."""
        return {"opener": self.opener, "keys": {k: b64(v) for k, v in self.keys.items()}, "sig": b64(self.signature)}

    @classmethod
    def parse(cls, value: Any, ciphertext: bytes) -> Wrapped:
        """Return what :meth:`as_dict` wrote.

        Raises:
            Refused: ``envelope.malformed``.
        """
        try:
            keys = {str(name): unb64(text) for name, text in value["keys"].items()}
            found = cls(str(value["opener"]), ciphertext, keys, unb64(value["sig"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("envelope.malformed", "a wrapped partial opening has the wrong form") from None
        return found


def wrap(identity: Identity, about: Opening, partial: bytes, combiners: Roster, names: tuple[str, ...]) -> Wrapped:
    """Return a partial opening encrypted to the combiners with these names, signed by its opener."""
    key = secrets.token_bytes(32)
    info = about.bytes("wrap", opener=identity.name)
    ciphertext = AESGCM(key).encrypt(_NONCE, partial, info)
    keys = {name: combiners.card(name).wrap(key, info) for name in names}
    unsigned = Wrapped(identity.name, ciphertext, keys, b"")
    return Wrapped(identity.name, ciphertext, keys, identity.sign("partial", unsigned.signed(about)))


def bare(identity: Identity, about: Opening, partial: bytes) -> Wrapped:
    """Return a partial opening for a coordinator that combines: in clear, signed by its opener."""
    unsigned = Wrapped(identity.name, partial, {}, b"")
    return Wrapped(identity.name, partial, {}, identity.sign("partial", unsigned.signed(about)))


def check_wrapped(about: Opening, opener: Card, wrapped: Wrapped, size: int, combiner: str = "members") -> None:
    """Check a partial opening as far as the coordinator can, before it relays or combines it.

    Raises:
        Refused: ``envelope.member``, ``envelope.signature``; ``envelope.malformed``: not for exactly the members of set
            A, or in clear, if they combine; wrapped, where the coordinator does; or of another size than ``size`` and
            the cipher's tag.
    """
    _check_signed(about, opener, wrapped)
    names, whole = ({*about.members}, size + TAG_BYTES) if combiner == "members" else (set[str](), size)
    if {*wrapped.keys} != names or len(wrapped.ciphertext) != whole:
        raise Refused(
            "envelope.malformed", f"the partial opening of {opener.name!r} is not for who combines, or of another size"
        )


def unwrap(identity: Identity, about: Opening, opener: Card, wrapped: Wrapped) -> bytes:
    """Return the partial opening of ``opener``.

    Raises:
        Refused: ``envelope.member``: of another member, or of none of the openers; ``envelope.signature``: not signed
            by it over this opening; ``deal.signature``: not for this combiner.
    """
    _check_signed(about, opener, wrapped)
    info = about.bytes("wrap", opener=opener.name)
    key = identity.unwrap(wrapped.keys.get(identity.name, b""), info)
    try:
        return AESGCM(key).decrypt(_NONCE, wrapped.ciphertext, info)
    except (InvalidTag, ValueError) as error:
        raise Refused("deal.signature", "a wrapped partial opening does not open") from error


def _check_signed(about: Opening, opener: Card, wrapped: Wrapped) -> None:
    if wrapped.opener != opener.name or opener.name not in about.openers:
        raise Refused("envelope.member", "the partial opening is of another member than expected")
    if not opener.node.verify("partial", wrapped.signed(about), wrapped.signature):
        raise Refused("envelope.signature", f"the partial opening is not signed by {opener.name!r} over this opening")
