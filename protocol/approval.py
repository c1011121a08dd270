"""Approvers' signed decisions about a model version, and which signatures count towards a release.

A decision's bytes are canonical JSON, so that a browser can make and sign the same bytes. They name the version's
digest and ``after``, the log's index of the last release. A decision that was used or kept back therefore has no effect
once something else was released. The approver's public key is on the card of the member for which it decides, and that
member's node key signs the card. A reader who knows the members' pins can thus check a release without trusting the
coordinator (:func:`counted`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from cryptography.hazmat.primitives.asymmetric import ec

from ..canonical import canonical, parse_canonical
from ..crypto.identity import Approver, Card, PublicKey, b64, sign, unb64
from ..errors import Refused

Action = Literal["approve", "reject", "rollback"]
ACTIONS: tuple[Action, ...] = get_args(Action)
MAX_DECISION_BYTES = 4096
MAX_REASON = 200
REASON_HELP = (
    f"It stays in the log permanently and all members can read it: at most {MAX_REASON} characters, no person's name, "
    "no address, and no number or date that identifies a person."
)
_MAX_NAME = 256
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PERSONAL = re.compile(r"@|\d{6,}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}-\d{1,2}-\d{1,2}")
_FIELDS = frozenset({"action", "after", "approver", "federation", "member", "reason", "sha256", "v"})


@dataclass(frozen=True)
class Decision:
    """One approver's decision about one version.

    Attributes:
        federation: name of the federation.
        action: ``approve``: release this version; ``reject``: never release it; ``rollback``: go back to it.
        sha256: digest of the version's file.
        after: index of the log's entry of the current release; -1 before the first release.
        member: the member for which the approver decides.
        approver: the approver's name on that member's card.
        reason: for the log; may be empty for ``approve`` only.
    """

    federation: str
    action: Action
    sha256: str
    after: int
    member: str
    approver: str
    reason: str = ""

    def encode(self) -> bytes:
        """Return the canonical bytes that the approver signs."""
        return canonical({**vars(self), "v": 1})

    @classmethod
    def parse(cls, data: bytes) -> Decision:
        """Return the decision in ``data``, which may be anything.

        Raises:
            Refused: ``release.malformed``: not a decision; ``release.reason``: its reason cannot go into the log.
        """
        try:
            if len(data) > MAX_DECISION_BYTES:
                raise ValueError("too long")
            value = parse_canonical(data)
            if value.keys() != _FIELDS or type(value["v"]) is not int or value.pop("v") != 1:
                raise ValueError("another form")
            decision = cls(**value)
            good = (
                all(_is_name(name) for name in (decision.federation, decision.member, decision.approver))
                and decision.action in ACTIONS
                and isinstance(decision.sha256, str)
                and _SHA256.fullmatch(decision.sha256) is not None
                and type(decision.after) is int
                and -1 <= decision.after < 2**53  # what a browser can count to
                and isinstance(decision.reason, str)
            )
        except (ValueError, TypeError, AttributeError):
            good = False
        if not good:
            raise Refused("release.malformed", "not a decision about a model version")
        if problem := reason_problem(decision.action, decision.reason):
            raise Refused("release.reason", problem)
        return decision


@dataclass(frozen=True)
class SignedDecision:
    """A decision's bytes with a signature. ``verify`` says whose it is."""

    data: bytes
    signature: bytes

    @classmethod
    def by(cls, key: ec.EllipticCurvePrivateKey, decision: Decision) -> SignedDecision:
        """Return the decision, signed with the approver's key."""
        data = decision.encode()
        return cls(data, sign(key, "approval", data))

    @classmethod
    def from_dict(cls, value: Any) -> SignedDecision:
        """Return what :meth:`as_dict` wrote; ``value`` may be anything.

        Raises:
            Refused: ``release.malformed``.
        """
        try:
            if value.keys() != {"decision", "signature"}:
                raise ValueError("other fields")
            return cls(value["decision"].encode("ascii"), unb64(value["signature"]))
        except (ValueError, TypeError, AttributeError):
            raise Refused("release.malformed", "expected a decision as text, and its signature") from None

    def as_dict(self) -> dict[str, str]:
        """Return the decision and its signature as JSON-able values."""
        return {"decision": self.data.decode("ascii"), "signature": b64(self.signature)}

    def verify(self, cards: Mapping[str, Card]) -> tuple[Decision, Approver]:
        """Return the decision and the approver who made it.

        Args:
            cards: member → card, of the members whose decisions count.

        Raises:
            Refused: ``release.malformed``, ``release.reason``; ``release.unknown_approver``: no such member, or no
                approver of this name on its card; ``release.signature``: not signed with the approver's key.
        """
        decision = Decision.parse(self.data)
        card = cards.get(decision.member)
        known = {} if card is None else {approver.name: approver for approver in card.approvers}
        if decision.approver not in known:
            raise Refused(
                "release.unknown_approver",
                f"expected an approver on the card of a member that may take part; got {decision.approver!r} of member "
                f"{decision.member!r}",
            )
        approver = known[decision.approver]
        if not approver.key.verify("approval", self.data, self.signature):
            raise Refused(
                "release.signature",
                f"the decision is not signed with the key of {decision.approver!r} on the card of {decision.member!r}",
            )
        return decision, approver


S = TypeVar("S", bound=SignedDecision)


def counted(
    signed: Iterable[S], cards: Mapping[str, Card], *, federation: str, action: Action, sha256: str, after: int
) -> tuple[S, ...]:
    """Return the decisions that count towards one release: valid now, one per member and one per key.

    The first decision of each member and of each key counts, so a key on two members' cards is one approver. Taking the
    decisions in order finds at most as many as there are pairs of different members and keys.
    """
    valid: list[S] = []
    members, keys = set[str](), set[str]()
    for entry in signed:
        try:
            decision, approver = entry.verify(cards)
        except Refused:
            continue
        about = (decision.federation, decision.action, decision.sha256, decision.after)
        if about != (federation, action, sha256, after) or decision.member in members or approver.key.pin in keys:
            continue
        members.add(decision.member)
        keys.add(approver.key.pin)
        valid.append(entry)
    return tuple(valid)


def reason_problem(action: str, reason: str) -> str:
    """Return why a reason cannot go into the log, or "". A reason in the log cannot be taken out again.

    >>> reason_problem("reject", "AUC fell in two hospitals")
    ''
    >>> reason_problem("reject", "ask anna@example.org")
    'the reason looks like personal data: an @, a date, or six digits in a row; it would stay in the log permanently'
    """
    if not reason and action != "approve":
        return f"expected a reason to {action}"
    if len(reason) > MAX_REASON or not reason.isprintable() or reason != reason.strip():
        return f"expected a reason of at most {MAX_REASON} printable characters on one line"
    if _PERSONAL.search(unicodedata.normalize("NFKC", reason)):  # a full-width @ counts too
        return (
            "the reason looks like personal data: an @, a date, or six digits in a row; "
            "it would stay in the log permanently"
        )
    return ""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()


# An approver's key, as in a file or a browser.


def private_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return a P-384 key as a private JWK (RFC 7518 section 6.2.2)."""
    number = key.private_numbers().private_value
    return {**PublicKey(key.public_key()).jwk, "d": b64(number.to_bytes(48, "big"))}


def parse_private_jwk(value: Any) -> ec.EllipticCurvePrivateKey:
    """Return the key that :func:`private_jwk` wrote.

    Raises:
        ValueError: not a P-384 private JWK, or its halves do not belong together.
    """
    try:
        key = ec.derive_private_key(int.from_bytes(unb64(value["d"]), "big"), ec.SECP384R1())
        if private_jwk(key) != value:
            raise ValueError("not canonical")
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError("not a P-384 private JWK") from None  # the reason could quote the key
    return key
