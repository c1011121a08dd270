"""An answer: how a member says, once in a context, that a list of envelopes and a total may be opened together.

The document is signed by the node key. It is written to the ledger before it leaves, and a member signs one in a
context, ever (rule 2). The sealed answer itself goes beside it: the one-time key under the masks of all pairs, under
the circle's key.
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
    """Return the digest of a list: the sorted header digests of a sum."""
    return digest({"kind": "moonflower.list", "headers": sorted(headers)})


@dataclass(frozen=True)
class AnswerDocument:
    """What a member signs of its answer.

    Attributes:
        context: digest of the RoundContext.
        headers: digest of the list.
        total: SHA-256 of the sealed total.
        tau: functionals of the member's own body, see ``crypto.tau``.
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
            Refused: ``open.list``: it is none.
        """
        try:
            value: dict[str, Any] = parse_canonical(data)
            kind, version = value.pop("kind"), value.pop("v")
            found = cls(**{**value, "tau": tuple(value["tau"])})
            texts = (found.context, found.headers, found.total, found.answer)
            good = (
                (kind, version) == (_KIND, VERSION)
                and all(isinstance(text, str) and _HEX.fullmatch(text) for text in texts)
                and all(type(one) is int and 0 <= one < 1 << 64 for one in found.tau)
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            good = False
        if not good:
            raise Refused("open.list", "malformed answer document")
        return found


@dataclass(frozen=True)
class SignedAnswer:
    """A document as it travels, with its signature."""

    data: bytes
    signature: bytes

    @classmethod
    def sign(cls, identity: Identity, document: AnswerDocument) -> SignedAnswer:
        """Return a document signed by its member."""
        data = document.encode()
        return cls(data, identity.sign("answer", data))

    @property
    def digest(self) -> str:
        """SHA-256 of the document."""
        return hashlib.sha256(self.data).hexdigest()

    def verify(self, card: Card, context: str, headers: str, total: str) -> AnswerDocument:
        """Return the document, if this member signed it about exactly this list and total.

        Raises:
            Refused: ``envelope.signature``; ``open.list``: about another context, list or total.
        """
        if not card.node.verify("answer", self.data, self.signature):
            raise Refused("envelope.signature", f"the answer is not signed by the node key of {card.name!r}")
        found = AnswerDocument.parse(self.data)
        if (found.context, found.headers, found.total) != (context, headers, total):
            raise Refused("open.list", f"{card.name!r} answered for another context, list or total")
        return found
