"""Signed notes and checkpoints: how the log says "this many entries, with this root".

The formats are those of https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint with Ed25519 keys
(signature type 0x01), so that any transparency-log tool can read them. Stricter than the specification where
it leaves room: a checkpoint has the key's name as its origin and no extension lines, every number and every
base64 text has one spelling, and the one known key signs exactly once. Other keys' signatures are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import InputError, Refused
from .merkle import HASH_BYTES

MAX_NOTE_BYTES = 128 * 1024  # the specification asks for room for 16 signatures, post-quantum ones included
MAX_SIGNATURES = 64
_ED25519 = b"\x01"
_KEY_BYTES = 32
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NOT_PLAIN = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")


@dataclass(frozen=True)
class Verifier:
    """The public half of a log key: a name and 32 bytes of Ed25519 (RFC 8032)."""

    name: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Return the key whose text is ``name+hhhhhhhh+base64(0x01 || key)``.

        Raises:
            InputError: not such a text, or its hash is not that of the key (config.key).
        """
        name, key = _parse_key(text)
        verifier = cls(name, key)
        if verifier.text() != text:
            raise _bad_key("its name, hash and key do not belong together")
        return verifier

    @cached_property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name, newline, type, key): an identifier, not a proof."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:4]

    def text(self) -> str:
        """Return the public key as text (``log.pub``)."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.key)}"


@dataclass(frozen=True)
class Signer:
    """A log key that signs: a name and the 32-byte Ed25519 seed, which is secret."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Return a new key from the operating system's randomness.

        Raises:
            InputError: the name is empty or holds a space or a plus (config.key).
        """
        _check_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Return the key whose text is ``PRIVATE+KEY+name+hhhhhhhh+base64(0x01 || seed)``.

        Raises:
            InputError: not such a text, or its hash is not that of the key (config.key).
        """
        signer = cls(*_parse_key(text.removeprefix("PRIVATE+KEY+")))
        if signer.text() != text:
            raise _bad_key("its name, hash and key do not belong together")
        return signer

    @cached_property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self._key.public_key().public_bytes_raw())

    def text(self) -> str:
        """Return the secret key as text (``log.key``)."""
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{_base64(_ED25519 + self.seed)}"

    def sign(self, text: str) -> str:
        """Return the note: ``text``, a blank line and one signature line.

        Args:
            text: what is signed; ends in a newline and holds no other control character.

        Raises:
            ValueError: the text cannot be that of a note.
        """
        if not text.endswith("\n") or not _plain(text):
            raise ValueError("expected a text that ends in a newline and holds no other control characters")
        signature = _base64(self.verifier.key_id + self._key.sign(text.encode()))
        return f"{text}\n— {self.name} {signature}\n"

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True)
class Checkpoint:
    """A log's signed statement about itself; comes from :func:`sign_checkpoint` or :func:`open_checkpoint`.

    Attributes:
        origin: name of the log, which is that of its key.
        size: number of entries.
        root: 32-byte Merkle root over them.
        note: the signed text, as it travels.
    """

    origin: str
    size: int
    root: bytes
    note: str


def sign_checkpoint(signer: Signer, size: int, root: bytes) -> Checkpoint:
    """Return the signed checkpoint of a tree of ``size`` with this 32-byte ``root``."""
    if size < 0 or len(root) != HASH_BYTES:
        raise ValueError(f"expected a size and a root of {HASH_BYTES} bytes, got {size} and {len(root)} bytes")
    return Checkpoint(signer.name, size, root, signer.sign(f"{signer.name}\n{size}\n{_base64(root)}\n"))


def open_checkpoint(note: str, verifier: Verifier) -> Checkpoint:
    """Return the checkpoint in ``note`` after checking that ``verifier`` signed it for a log of its own name.

    Raises:
        Refused: the note is malformed or not signed by that key (audit.signature).
    """
    lines = open_note(note, verifier).split("\n")
    if len(lines) != 4:
        raise _bad_note(f"expected the three lines of a checkpoint, got {len(lines) - 1}")
    origin, size, root, _ = lines
    if origin != verifier.name:
        raise _bad_note(f"expected the origin {verifier.name!r}, got {origin!r}")
    if not _SIZE.fullmatch(size):
        raise _bad_note(f"expected a size in plain decimal, got {size[:40]!r}")
    digest = _unbase64(root)
    if digest is None or len(digest) != HASH_BYTES:
        raise _bad_note(f"expected a root of {HASH_BYTES} bytes in base64, got {root[:80]!r}")
    return Checkpoint(origin, int(size), digest, note)


def open_note(note: str, verifier: Verifier) -> str:
    """Return the text of ``note``, with its last newline, after checking the one signature by ``verifier``.

    Raises:
        Refused: the note is malformed, too long, or not signed exactly once by that key (audit.signature).
    """
    if len(note) > MAX_NOTE_BYTES or not _plain(note) or len(note.encode()) > MAX_NOTE_BYTES:
        raise _bad_note(f"expected at most {MAX_NOTE_BYTES} bytes of plain text")
    body, blank, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not blank or lines.pop() != "" or not 0 < len(lines) <= MAX_SIGNATURES:
        raise _bad_note(f"expected a text, a blank line and 1 to {MAX_SIGNATURES} signature lines")
    text = body + "\n"
    parsed = [_signature(line) for line in lines]
    ours = [signature for name, key_id, signature in parsed if (name, key_id) == (verifier.name, verifier.key_id)]
    if len(ours) != 1:
        raise _bad_note(f"expected one signature by {verifier.name}+{verifier.key_id.hex()}, got {len(ours)}")
    try:
        Ed25519PublicKey.from_public_bytes(verifier.key).verify(ours[0], text.encode())
    except InvalidSignature:
        raise _bad_note(f"the signature by {verifier.name}+{verifier.key_id.hex()} is not over this text") from None
    return text


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Return key name, key id and signature of one signature line, by whatever key."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    raw = _unbase64(encoded)
    if dash != "—" or not _good_name(name) or raw is None or len(raw) <= 4:
        raise _bad_note(f"expected a signature line, got {line[:80]!r}")
    return name, raw[:4], raw[4:]


def _parse_key(text: str) -> tuple[str, bytes]:
    """Return name and key bytes of ``name+hash+base64(0x01 || 32 bytes)``; the caller compares the hash."""
    parts = text.split("+", 2)  # base64 may hold a plus, a name may not
    raw = _unbase64(parts[2]) if len(parts) == 3 else None
    if raw is None or len(raw) != 1 + _KEY_BYTES or raw[:1] != _ED25519:
        raise _bad_key("expected name+hash+base64 of an Ed25519 key")
    _check_name(parts[0])
    return parts[0], raw[1:]


def _check_name(name: str) -> None:
    if not _good_name(name):
        raise _bad_key(f"expected a name without spaces and plus signs, got {name!r}")


def _good_name(name: str) -> bool:
    return bool(name) and _plain(name) and not any(c.isspace() or c == "+" for c in name)


def _plain(text: str) -> bool:
    """Tell whether ``text`` is Unicode that UTF-8 can hold, without control characters other than newline."""
    return _NOT_PLAIN.search(text) is None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes | None:
    """Return the bytes of standard base64 (RFC 4648 section 4) in its one canonical spelling, else None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _base64(data) == text else None


def _bad_key(reason: str) -> InputError:
    return InputError("config.key", f"not a log key: {reason}")


def _bad_note(reason: str) -> Refused:
    return Refused("audit.signature", f"not a note of this log: {reason}")
