"""The circle's key: the circle's first name makes it once and wraps it for all members; each signs which key it holds.

Answers are encrypted under it, so a coordinator that no member helps cannot read opened integers. The key's holders can
read sums, never a member's value: no claim about a single member depends on this key.
"""

from __future__ import annotations

import hashlib

from ..canonical import canonical
from ..crypto.answers import AnswerKey
from ..crypto.identity import Identity, Roster, b64
from ..crypto.planner import Plan
from ..errors import Refused
from ..protocol.messages import KeyMade, SeatTaken, TakeSeat

_KIND = "circle.key"


def wrapped(identity: Identity, use: str, key: bytes, roster: Roster) -> KeyMade:
    """Return the key for each member of the roster.

    Args:
        identity: of the circle's first name.
        use: digest of circle and parameters.
        key: the circle's.
        roster: all members of the circle.
    """
    ciphertexts, signatures = {}, {}
    for card in roster.cards:
        ciphertexts[card.name] = card.wrap(key, _info(use, card.name))
        signatures[card.name] = identity.sign(_KIND, _wrapped(use, card.name, ciphertexts[card.name]))
    return KeyMade(ciphertexts=ciphertexts, signatures=signatures)


def unwrapped(identity: Identity, use: str, plan: Plan, first: str, roster: Roster, request: TakeSeat) -> bytes:
    """Return the key that came from the circle's first name, after a check that it works.

    Args:
        identity: the member's.
        use: digest of circle and parameters.
        plan: of the sums.
        first: the circle's first name.
        roster: all members of the circle.
        request: with ciphertext and signature.

    Raises:
        Refused: ``circle.key``: not signed by the first name, not for this member, or not a key of these parameters.
    """
    body = _wrapped(use, identity.name, request.ciphertext)
    if not roster.card(first).node.verify(_KIND, body, request.signature):
        raise Refused("circle.key", f"the circle's key is not signed by {first!r}, the member that makes it")
    key = identity.unwrap(request.ciphertext, _info(use, identity.name))
    AnswerKey(plan, key)  # checks that the key loads, and decrypts what it encrypts
    return key


def taken(identity: Identity, use: str, key: bytes) -> SeatTaken:
    """Return a member's signed statement of which key it holds."""
    key_digest = hashlib.sha256(key).hexdigest()
    return SeatTaken(key=key_digest, signature=b64(identity.sign(_KIND, _held(use, identity.name, key_digest))))


def _held(use: str, member: str, key: str) -> bytes:
    return canonical({"kind": "held", "use": use, "member": member, "key": key})


def _info(use: str, recipient: str) -> bytes:
    return canonical({"kind": "wrap", "use": use, "recipient": recipient})


def _wrapped(use: str, recipient: str, ciphertext: bytes) -> bytes:
    sha256 = hashlib.sha256(ciphertext).hexdigest()
    return canonical({"kind": "wrapped", "use": use, "recipient": recipient, "ciphertext": sha256})
