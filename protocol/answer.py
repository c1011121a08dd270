"""An answer: a member's agreement, once in a context, that a list of envelopes and a total may be opened together.

The node key signs the document. It is written to the ledger before it leaves, and a member never signs a second one in
a context (rule 2). The sealed answer travels beside it: the one-time key, masked for every pair of members and
encrypted with the circle's key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..canonical import canonical, digest, parse_canonical
from ..crypto.identity import Card, Identity
from ..errors import Refused

VERSION = 2
_KIND, _HEX = "moonflower.answer", re.compile(r"[0-9a-f]{64}")


def list_digest(headers: Iterable[str]) -> str:
    """Return the digest of a list, which is the sorted header digests of a sum."""
    return digest({"kind": "moonflower.list", "headers": sorted(headers)})


@dataclass(frozen=True)
class AnswerDocument:
    """The part of an answer that the member signs.

    Attributes:
        context: digest of the RoundContext.
        headers: digest of the list.
        total: SHA-256 of the sealed total.
        tau: functionals of the member's own body; see ``crypto.tau``.
        answer: SHA-256 of the sealed answer.
    """

    context: str
    headers: str
    total: str
    tau: tuple[int, ...]
    answer: str

    def encode(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical({"kind": _KIND, "v": VERSION, **asdict(self)})

    @classmethod
    def parse(cls, data: bytes) -> AnswerDocument:
        """Return the document in ``data``.

        Raises:
            Refused: ``open.list``: the document is malformed.
        """
        try:
            value: dict[str, Any] = parse_canonical(data)
            kind, version = value.pop("kind"), value.pop("v")
            document = cls(**{**value, "tau": tuple(value["tau"])})
            texts = (document.context, document.headers, document.total, document.answer)
            good = (
                (kind, version) == (_KIND, VERSION)
                and all(isinstance(text, str) and _HEX.fullmatch(text) for text in texts)
                and all(type(number) is int and 0 <= number < 1 << 64 for number in document.tau)
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            good = False
        if not good:
            raise Refused("open.list", "malformed answer document")
        return document


@dataclass(frozen=True)
class SignedAnswer:
    """An answer document and its signature, as they travel."""

    data: bytes
    signature: bytes

    @classmethod
    def sign(cls, identity: Identity, document: AnswerDocument) -> SignedAnswer:
        """Return the document, signed with the member's node key."""
        data = document.encode()
        return cls(data, identity.sign("answer", data))

    @property
    def digest(self) -> str:
        """SHA-256 of the document."""
        return hashlib.sha256(self.data).hexdigest()

    def verify(self, card: Card, context: str, headers: str, total: str) -> AnswerDocument:
        """Return the document, if this member signed it for exactly this context, list and total.

        Raises:
            Refused: ``envelope.signature``; ``open.list``: for another context, list or total.
        """
        if not card.node.verify("answer", self.data, self.signature):
            raise Refused("envelope.signature", f"the answer is not signed by the node key of {card.name!r}")
        document = AnswerDocument.parse(self.data)
        if (document.context, document.headers, document.total) != (context, headers, total):
            raise Refused("open.list", f"{card.name!r} answered for another context, list or total")
        return document
