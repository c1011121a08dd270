"""Pairwise masks over one-time keys: only the sum of all answers reveals anything.

    a_i = k_i + sum over j of +- PRG(DH(own mask key, j's public one); list, total, both names)   mod 2**w

In each pair the member with the lower name (bytes of its NFC UTF-8) adds what the other subtracts. The masks therefore
cancel in the sum of **all** answers, which is K. Any fewer answers are noise to a party without the private mask keys.
A mask is bound to the list of headers and to the total, so an answer fits no other list or total. Both names are in it;
otherwise a copied public key would cancel itself.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from numpy.typing import NDArray

from ..canonical import canonical
from ..errors import Refused
from .planner import Plan
from .ring import Ints

Words16 = NDArray[np.uint16]
PUBLIC_BYTES = 32
_KIND = "moonflower.v2.pair"


def public_mask(private: bytes) -> bytes:
    """Return the public half of a mask key, 32 bytes, for the envelope's header."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def check_public(public: bytes, member: str = "") -> None:
    """Check that masks made with a public mask key are secret (RFC 7748, section 6.1).

    Args:
        public: the key.
        member: whose key it is, for the message.

    Raises:
        Refused: ``envelope.malformed``: not a key, or a key of low order, whose masks anybody would know.
    """
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        whose = f" of {member!r}" if member else ""
        raise Refused("envelope.malformed", f"the public mask key{whose} is not a key, or is of low order") from None


def order(name: str) -> bytes:
    """Return the bytes by which names are compared.

    >>> sorted(["Zürich", "Köln", "Győr"], key=order)
    ['Győr', 'Köln', 'Zürich']
    """
    return unicodedata.normalize("NFC", name).encode()


def mask(plan: Plan, private: bytes, own: str, others: Mapping[str, bytes], headers: str, total: str) -> Words16:
    """Return the sum of a member's masks, ``uint16[N]`` modulo 2**w.

    Args:
        plan: of the sum.
        private: the member's mask key.
        own: its name.
        others: name → public mask key, of every other member of the sum.
        headers: digest of the list of headers.
        total: digest of the total.

    Raises:
        Refused: ``envelope.malformed``: a public key of low order.
        ValueError: two names are the same, or there is no other member.
    """
    places = {order(name) for name in (own, *others)}
    if len(places) != len(others) + 1 or not others:
        raise ValueError("two members of a sum share a name, or there is only one member")
    key = X25519PrivateKey.from_private_bytes(private)
    summed = np.zeros(plan.degree, dtype=np.uint16)
    for name, public in others.items():
        try:
            shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise Refused("envelope.malformed", f"the public mask key of {name!r} is of low order") from None
        words = _words(plan.degree, shared, own, name, headers, total)
        summed = summed + words if order(own) < order(name) else summed - words
    return summed & np.uint16((1 << plan.key_bits) - 1)


def answer(plan: Plan, key: Ints, masked: Words16) -> Words16:
    """Return a one-time key under its masks, ``uint16[N]`` modulo 2**w."""
    return (key.astype(np.uint16) + masked) & np.uint16((1 << plan.key_bits) - 1)


def key_sum(plan: Plan, answers: NDArray[np.int64]) -> Ints:
    """Return K, ``int64[N]``, from the sum of all answers: the residues modulo 2**w that are nearest to 0."""
    size = 1 << plan.key_bits
    centred: Ints = (answers.astype(np.int64) + size // 2) % size - size // 2
    return centred


def _words(count: int, shared: bytes, own: str, other: str, headers: str, total: str) -> Words16:
    """Return a pair's pseudorandom words: AES-256-CTR under HKDF of the agreed secret."""
    lower, higher = sorted((own, other), key=order)
    info = canonical({"kind": _KIND, "list": headers, "total": total, "lower": lower, "higher": higher})
    key = HKDF(SHA256(), 32, None, info).derive(shared)
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(2 * count))
    return np.frombuffer(stream, dtype="<u2")
