"""A member's identity: node key, card, pin and roster.

A member's node key (EC P-384) signs everything that the member says and is never used for key agreement. Its pin is the
RFC 7638 thumbprint of the public half. The card adds the X25519 key that receives wrapped keys, the Ed25519 key that
countersigns the coordinator's log, and the P-384 keys of the people who may release a model for this member. The node
key signs the card. Rosters and client configs hold pins, so that the coordinator cannot slip in a card.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..canonical import canonical, digest
from ..errors import Refused
from .note import Checkpoint, Witness, WitnessSigner

SIGNATURE_BYTES = 96
MAX_CARD_BYTES = 1 << 16  # about 300 approvers; a card goes into the log, whose entries have room for 1 MiB
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)  # RFC 9180, base mode


def b64(data: bytes) -> str:
    """Return unpadded base64url (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Return the bytes of unpadded base64url.

    Raises:
        ValueError: not base64url in its one canonical form.
    """
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if b64(data) != text:
        raise ValueError("not canonical base64url")
    return data


@dataclass(frozen=True)
class PublicKey:
    """The public half of a node's or an approver's P-384 key. It verifies ECDSA with SHA-384: r || s, 96 bytes."""

    public: ec.EllipticCurvePublicKey

    @property
    def jwk(self) -> dict[str, str]:
        """The key as a JSON Web Key with the required members only (RFC 7518 section 6.2)."""
        numbers = self.public.public_numbers()
        return {
            "crv": "P-384",
            "kty": "EC",
            "x": b64(numbers.x.to_bytes(48, "big")),
            "y": b64(numbers.y.to_bytes(48, "big")),
        }

    @property
    def pin(self) -> str:
        """RFC 7638 thumbprint (SHA-256, base64url): 43 characters."""
        return b64(hashlib.sha256(canonical(self.jwk)).digest())

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> PublicKey:
        """Return the key. Other curves, extra members and points off the curve are refused.

        Raises:
            ValueError: not a P-384 public JWK.
        """
        try:
            x, y = (int.from_bytes(unb64(jwk[part]), "big") for part in ("x", "y"))
            key = cls(ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key())
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a P-384 public JWK") from error
        if key.jwk != dict(jwk):
            raise ValueError("not a P-384 public JWK in canonical form")
        return key

    def verify(self, kind: str, payload: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` is this key's over ``payload`` in the domain ``kind``."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        point = self.public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return _verify(point, _signed(kind, payload), signature)


@dataclass(frozen=True)
class Approver:
    """A person who may release a model version for a member: a name of the member's choice, and a key."""

    name: str
    key: PublicKey


@dataclass(frozen=True)
class Card:
    """A member's public keys and name, signed. ``parse_card`` is the only way in from outside.

    Attributes:
        name: of the member.
        issuer, client_id: the OAuth client of its node.
        node: the key that signs what the member says; its thumbprint is the pin.
        sealing: X25519 public key, 32 bytes.
        witness: Ed25519 public key, 32 bytes: countersigns checkpoints of the coordinator's log.
        approvers: sorted by name; may be empty.
        signature: by ``node``, over all other fields.
    """

    name: str
    issuer: str
    client_id: str
    node: PublicKey
    sealing: bytes
    witness: bytes
    approvers: tuple[Approver, ...]
    signature: bytes

    def body(self) -> dict[str, Any]:
        """The signed part."""
        return {
            "approvers": [{"key": approver.key.jwk, "name": approver.name} for approver in self.approvers],
            "client_id": self.client_id,
            "issuer": self.issuer,
            "name": self.name,
            "node": self.node.jwk,
            "witness": b64(self.witness),
            "x25519": b64(self.sealing),
        }

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON-able values, with its signature."""
        return {**self.body(), "signature": b64(self.signature)}

    @property
    def as_witness(self) -> Witness:
        """The member as a witness of the log."""
        return Witness(_witness_name(self.name), self.witness)

    def wrap(self, plaintext: bytes, info: bytes) -> bytes:
        """Return ``plaintext`` encrypted to this member (HPKE: X25519, HKDF-SHA256, AES-256-GCM)."""
        return _SUITE.encrypt(plaintext, x25519.X25519PublicKey.from_public_bytes(self.sealing), info=info)


def parse_card(value: Any) -> Card:
    """Return a card after checking its form and its own signature. The caller checks its pin.

    Raises:
        Refused: ``circle.card``.
    """
    try:
        card = Card(
            value["name"],
            value["issuer"],
            value["client_id"],
            PublicKey.from_jwk(value["node"]),
            unb64(value["x25519"]),
            unb64(value["witness"]),
            tuple(Approver(approver["name"], PublicKey.from_jwk(approver["key"])) for approver in value["approvers"]),
            unb64(value["signature"]),
        )
        names = [approver.name for approver in card.approvers]
        texts = (card.name, card.issuer, card.client_id, *names)
        good = all(isinstance(text, str) and text.isprintable() for text in texts)
        good = good and len(card.sealing) == len(card.witness) == 32 and card.as_dict() == value
        good = (
            good and names == sorted({*names}) and len({approver.key.pin for approver in card.approvers}) == len(names)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        good = False
    data = canonical(card.body()) if good else b""
    if not (good and len(data) <= MAX_CARD_BYTES and card.node.verify("card", data, card.signature)):
        raise Refused("circle.card", "a member card is malformed or not signed by its own node key")
    return card


@dataclass(frozen=True)
class Roster:
    """The members of a circle, sorted by name."""

    cards: tuple[Card, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all cards without their signatures, which a member draws anew whenever its node starts."""
        return digest([card.body() for card in self.cards])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Member names, sorted."""
        return tuple(card.name for card in self.cards)

    def card(self, name: str) -> Card:
        """Return the card of a member.

        Raises:
            Refused: ``envelope.member``.
        """
        for card in self.cards:
            if card.name == name:
                return card
        raise Refused("envelope.member", "the member is not on the roster")

    def as_list(self) -> list[dict[str, Any]]:
        """The cards as JSON-able values."""
        return [card.as_dict() for card in self.cards]


def parse_roster(cards: Iterable[Any], pins: Mapping[str, str]) -> Roster:
    """Return the roster. Every card must be signed, be listed once and carry the pin that ``pins`` holds for it.

    Raises:
        Refused: ``circle.card``: a card is malformed, not pinned, listed twice, or out of order.
    """
    parsed = tuple(parse_card(card) for card in cards)
    if [card.name for card in parsed] != sorted({card.name for card in parsed}):
        raise Refused("circle.card", "the roster is not sorted by name, or names a member twice")
    for card in parsed:
        if not hmac.compare_digest(pins.get(card.name, "").encode(), card.node.pin.encode()):
            raise Refused("circle.card", f"the card of {card.name!r} does not carry the pinned key")
    return Roster(parsed)


class Identity:
    """A member's private keys: it signs with the node key, unwraps what was wrapped for its card, and is a witness."""

    def __init__(
        self,
        name: str,
        node: ec.EllipticCurvePrivateKey,
        sealing: x25519.X25519PrivateKey,
        witness: ed25519.Ed25519PrivateKey,
        *,
        issuer: str = "",
        client_id: str = "",
        approvers: Iterable[Approver] = (),
    ) -> None:
        self.name = name
        self._node, self._sealing, self._witness = node, sealing, witness
        unsigned = Card(
            name,
            issuer,
            client_id,
            PublicKey(node.public_key()),
            sealing.public_key().public_bytes_raw(),
            witness.public_key().public_bytes_raw(),
            tuple(sorted(approvers, key=lambda approver: approver.name)),
            b"",
        )
        self.card = replace(unsigned, signature=self.sign("card", canonical(unsigned.body())))

    @classmethod
    def generate(
        cls, name: str, *, issuer: str = "", client_id: str = "", approvers: Iterable[Approver] = ()
    ) -> Identity:
        """Return a new identity with keys from the operating system's randomness."""
        return cls(
            name,
            ec.generate_private_key(ec.SECP384R1()),
            x25519.X25519PrivateKey.generate(),
            ed25519.Ed25519PrivateKey.generate(),
            issuer=issuer,
            client_id=client_id,
            approvers=approvers,
        )

    def sign(self, kind: str, payload: bytes) -> bytes:
        """Return the 96-byte signature of the node key over ``payload`` in the domain ``kind``."""
        return sign(self._node, kind, payload)

    def cosign(self, checkpoint: Checkpoint, time_s: int) -> str:
        """Return the signature line of the witness key under a checkpoint (see ``WitnessSigner.cosign``)."""
        return WitnessSigner(_witness_name(self.name), self._witness).cosign(checkpoint, time_s)

    def unwrap(self, ciphertext: bytes, info: bytes) -> bytes:
        """Return what :meth:`Card.wrap` encrypted.

        Raises:
            Refused: ``circle.key``: not wrapped for this member, or not for this purpose.
        """
        try:
            return _SUITE.decrypt(ciphertext, self._sealing, info=info)
        except (InvalidTag, ValueError) as error:
            raise Refused("circle.key", "a wrapped key does not open for this member") from error


def _witness_name(member: str) -> str:
    """Return the name of a member's witness key. Names in notes have no blanks."""
    return "moonflower/member/" + "-".join(member.split())


def sign(key: ec.EllipticCurvePrivateKey, kind: str, payload: bytes) -> bytes:
    """Return the 96-byte signature (r || s) of a P-384 key over ``payload`` in the domain ``kind``."""
    r, s = decode_dss_signature(key.sign(_signed(kind, payload), ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


@lru_cache(maxsize=8192)
def _verify(point: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether a signature is right. Results are cached, because members of one process check the same ones."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _signed(kind: str, payload: bytes) -> bytes:
    return b"moonflower." + kind.encode() + b".v1\x00" + payload
