"""An envelope: a strict header that the node key signs, then the sealed body.

    "MFE2" | u32 header length | header: canonical JSON | signature, 96 bytes | body: residues

A :class:`RawEnvelope` is bytes from the wire. Only :func:`check` turns it into an :class:`Envelope`. It checks form,
signature, member, parameters, replay, context, mask key, size and last the body's digest, in this order, so that
nothing large is read before its sender is known. Integers are little-endian.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..canonical import canonical, parse_canonical
from ..crypto.identity import SIGNATURE_BYTES, Card, Identity
from ..crypto.pairs import check_public
from ..errors import Refused
from .context import RoundContext

MAGIC = b"MFE2"  # format 2; the digit counts up
MAX_HEADER_BYTES = 4096
HALF_FROM = 1 << 20  # bodies from this size on are hashed by two threads: hashlib releases the GIL
_HEX, _WORD = re.compile(r"[0-9a-f]{64}"), re.compile(r"[a-z][a-z0-9_]{0,31}")
_second_half = ThreadPoolExecutor(1, "moonflower-hash")


@dataclass(frozen=True)
class RawEnvelope:
    """Bytes that claim to be an envelope; nothing about them has been checked."""

    data: bytes


@dataclass(frozen=True)
class OwnEnvelope(RawEnvelope):
    """An envelope as its member made it.

    Attributes:
        header: digest of its header.
    """

    header: str


@dataclass(frozen=True)
class Header:
    """What the member signs.

    Attributes:
        member: who sealed it.
        run, number, purpose: the round, in the clear so that a refusal can say what differs.
        context: digest of the RoundContext that the member trained under.
        params: digest of the crypto parameters.
        body: digest of the body (:func:`body_digest`).
        body_bytes: its length.
        mask: public half of the one-time mask key (``crypto.pairs``), 64 hex digits.
    """

    member: str
    run: str
    number: int
    purpose: str
    context: str
    params: str
    body: str
    body_bytes: int
    mask: str

    def encode(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical({"v": 2, **vars(self)})

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Return the header in ``data``. :meth:`SignedHeader.verify` checks whose it is.

        Raises:
            Refused: ``envelope.malformed``.
        """
        try:
            value: dict[str, Any] = parse_canonical(data)
            version = value.pop("v")
            header = cls(**value)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Refused(
                "envelope.malformed", "the header is not canonical JSON with the fields of an envelope's header"
            ) from None
        texts = (header.member, header.run)
        digests = (header.context, header.params, header.body, header.mask)
        numbers = (header.number, header.body_bytes)
        good = (
            version == 2
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(text, str) and _HEX.fullmatch(text) for text in digests)
            and all(type(number) is int and 0 <= number < 1 << 64 for number in numbers)
            and isinstance(header.purpose, str)
            and _WORD.fullmatch(header.purpose) is not None
        )
        if not good:
            raise Refused("envelope.malformed", "a field of the header has the wrong form")
        return header


@dataclass(frozen=True)
class SignedHeader:
    """A signed header without the body, as it travels to the openers."""

    data: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the header's bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def verify(self, card: Card) -> Header:
        """Return the parsed header.

        Raises:
            Refused: ``envelope.signature``, then ``envelope.malformed``, then ``envelope.member``.
        """
        if not card.node.verify("envelope", self.data, self.signature):
            raise Refused("envelope.signature", f"the header is not signed by the node key of {card.name!r}")
        header = Header.parse(self.data)
        if header.member != card.name:
            raise Refused("envelope.member", f"the header names a member other than {card.name!r}")
        return header


@dataclass(frozen=True)
class Envelope:
    """An envelope that passed every check."""

    header: Header
    signed: SignedHeader
    body: memoryview


def seal(identity: Identity, context: RoundContext, body: bytes, mask: bytes) -> OwnEnvelope:
    """Return the envelope of a sealed vector for this context, signed by ``identity``.

    Args:
        identity: the member.
        context: of the round.
        body: the sealed vector.
        mask: public half of its one-time mask key.
    """
    header = Header(
        member=identity.name,
        run=context.run,
        number=context.number,
        purpose=context.purpose,
        context=context.digest,
        params=context.params,
        body=body_digest(body),
        body_bytes=len(body),
        mask=mask.hex(),
    ).encode()
    signature = identity.sign("envelope", header)
    whole = MAGIC + len(header).to_bytes(4, "little") + header + signature + body
    return OwnEnvelope(whole, SignedHeader(header, signature).digest)


def most_bytes(body_bytes: int) -> int:
    """Return the largest size in bytes of an envelope with a body of ``body_bytes``.

    >>> most_bytes(1_000_000)
    1004200
    """
    return 8 + MAX_HEADER_BYTES + SIGNATURE_BYTES + body_bytes


def body_digest(body: bytes | memoryview) -> str:
    """Return the digest of a body: SHA-256 over the SHA-256 of its halves. The second may be one byte longer."""
    view = memoryview(body)
    first, second = view[: len(body) // 2], view[len(body) // 2 :]
    if len(body) < HALF_FROM:
        halves = hashlib.sha256(first).digest() + hashlib.sha256(second).digest()
    else:
        other = _second_half.submit(lambda: hashlib.sha256(second).digest())
        halves = hashlib.sha256(first).digest() + other.result()
    return hashlib.sha256(halves).hexdigest()


def split(raw: RawEnvelope) -> tuple[SignedHeader, memoryview]:
    """Return the signed header and the body of an envelope, checking its form only.

    Raises:
        Refused: ``envelope.malformed``.
    """
    data = raw.data
    length = int.from_bytes(data[4:8], "little")
    start = 8 + length + SIGNATURE_BYTES
    if data[:3] == MAGIC[:3] and data[3:4] != MAGIC[3:]:
        got, expected = data[3:4].decode(errors="replace"), MAGIC[3:].decode()
        raise Refused("envelope.malformed", f"an envelope of format {got}, expected format {expected}")
    if data[:4] != MAGIC or not 0 < length <= MAX_HEADER_BYTES or len(data) < start:
        form = f"{MAGIC.decode()}, a header of 1 to {MAX_HEADER_BYTES} bytes and a signature"
        raise Refused("envelope.malformed", f"not an envelope: {len(data)} bytes, expected {form}")
    return SignedHeader(data[8 : 8 + length], data[8 + length : start]), memoryview(data)[start:]


def check(raw: RawEnvelope, card: Card, context: RoundContext, body_bytes: int) -> Envelope:
    """Return ``raw`` as an envelope of ``card``'s member for ``context``.

    Raises:
        Refused: ``envelope.malformed``, ``.signature``, ``.member``, ``.params``, ``.replay`` (of an earlier round or
            another purpose) or ``.context``.
    """
    signed, body = split(raw)
    header = signed.verify(card)
    if header.params != context.params:
        raise Refused("envelope.params", "sealed under crypto parameters other than this round's")
    if (header.number, header.purpose, header.run) != (context.number, context.purpose, context.run):
        raise Refused(
            "envelope.replay",
            f"sealed for {header.purpose} {header.number}, expected {context.purpose} {context.number}",
        )
    if header.context != context.digest:
        raise Refused("envelope.context", "sealed under a context other than this round's")
    check_public(bytes.fromhex(header.mask), card.name)
    if len(body) != header.body_bytes:
        raise Refused("envelope.signature", f"body of {len(body)} bytes, the signed header says {header.body_bytes}")
    if len(body) != body_bytes:
        raise Refused("envelope.malformed", f"body of {len(body)} bytes, expected {body_bytes}")
    if body_digest(body) != header.body:
        raise Refused("envelope.signature", "the body does not have the digest in the signed header")
    return Envelope(header, signed, body)
