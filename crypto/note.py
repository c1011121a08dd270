"""Signed notes and checkpoints: how the log signs its size and root, and how witnesses sign that they saw them.

The formats are https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint with Ed25519 keys (signature type
0x01), so that any transparency-log tool can read them. This module is stricter where the specification leaves room: a
checkpoint has the key's name as its origin and no extension lines, every number and every base64 text has one spelling,
and the known key signs exactly once. Signatures of other keys are ignored.

Among those may be cosignatures, https://c2sp.org/tlog-cosignature with Ed25519 keys (type 0x04). A witness countersigns
a checkpoint, at a time by its own clock, after it saw that the log only grew since the checkpoint before. A cosignature
says nothing about the log's key. Check the log's signature first: a Checkpoint is a note whose signature was checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import InputError, Refused
from .merkle import HASH_BYTES

MAX_NOTE_BYTES = 128 * 1024  # the specification asks for room for 16 signatures, post-quantum ones included
MAX_SIGNATURES = 64
MAX_TIME_S = 2**63 - 1  # of a cosignature, by its specification
_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_KEY_BYTES = 32
_KEY_ID_BYTES = 4
_TIME_BYTES = 8
_SIGNATURE_BYTES = 64
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NOT_PLAIN = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")


@dataclass(frozen=True)
class _PublicKey:
    """A name and 32 bytes of Ed25519 (RFC 8032). One byte in its hash and text says what kind of thing it signs."""

    name: str
    key: bytes
    kind: ClassVar[bytes]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key whose text is ``name+hhhhhhhh+base64(kind || key)``.

        Raises:
            InputError: ``config.key``: the text has another form, or the hash is not the key's.
        """
        public = cls(*_parse_key(text, cls.kind))
        if public.text() != text:
            raise _bad_key("its name, hash and key do not belong together", cls.kind)
        return public

    @cached_property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name, newline, kind, key): an identifier, not a proof."""
        return _key_id(self.name, self.kind + self.key)

    def text(self) -> str:
        """Return the public key as text, in the form that other tools for transparency logs read."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(self.kind + self.key)}"


class Verifier(_PublicKey):
    """The public half of a log key (``log.pub``)."""

    kind = _ED25519


@dataclass(frozen=True)
class Signer:
    """A log key that signs: a name and the 32-byte Ed25519 seed, which is secret."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Return a new key from the operating system's randomness.

        Raises:
            InputError: ``config.key``: the name is empty or holds a space or a plus.
        """
        _check_name(name, _ED25519)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Return the key whose text is ``PRIVATE+KEY+name+hhhhhhhh+base64(0x01 || seed)``.

        Raises:
            InputError: ``config.key``: the text has another form, or the hash is not the key's.
        """
        signer = cls(*_parse_key(text.removeprefix("PRIVATE+KEY+"), _ED25519))
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
            text: what is signed. It ends in a newline and holds no other control character but newlines.

        Raises:
            ValueError: a note cannot hold the text.
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
    """A log's signed statement of its size and root, made by :func:`sign_checkpoint` or :func:`open_checkpoint`.

    Attributes:
        origin: name of the log, which is also its key's name.
        size: number of entries.
        root: 32-byte Merkle root over them.
        note: the signed text, as it travels.
    """

    origin: str
    size: int
    root: bytes
    note: str

    @property
    def text(self) -> str:
        """What the log signed: the three lines of the checkpoint, without any signature."""
        return _text(self.origin, self.size, self.root)


class Witness(_PublicKey):
    """The public half of a witness's key."""

    kind = _COSIGNATURE


@dataclass(frozen=True)
class WitnessSigner:
    """A witness's signing key.

    The signed text begins with ``cosignature/v1`` and does not hold the witness's name. So a key belongs to one witness
    and has no other use that could sign such a text.

    Raises:
        InputError: ``config.key``: the name is empty or holds a space or a plus.
    """

    name: str
    key: Ed25519PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        _check_name(self.name, _COSIGNATURE)

    @cached_property
    def witness(self) -> Witness:
        """The public half."""
        return Witness(self.name, self.key.public_key().public_bytes_raw())

    def cosign(self, checkpoint: Checkpoint, time_s: int) -> str:
        """Return the signature line, with its newline: at ``time_s`` this was the largest tree of the log known here.

        The checkpoint must have been opened with the log's key and proved consistent with the largest checkpoint that
        this witness ever cosigned for that origin. This method cannot check that.

        Args:
            checkpoint: of which tree.
            time_s: seconds since 1970, UTC, by the witness's clock.

        Raises:
            ValueError: the time is out of range.
        """
        if not 0 <= time_s <= MAX_TIME_S:
            raise ValueError(f"expected a time from 0 to {MAX_TIME_S}, got {time_s}")
        signature = self.key.sign(_cosigned(checkpoint, time_s))
        return f"— {self.name} {_base64(self.witness.key_id + time_s.to_bytes(_TIME_BYTES, 'big') + signature)}\n"


@dataclass(frozen=True)
class Cosignature:
    """A line of a note that has the form of a cosignature. Nothing about it is checked.

    Attributes:
        name, key_id: of the key that it claims.
        line: the line with its newline, for :func:`check_cosignature`.
    """

    name: str
    key_id: bytes
    line: str


def sign_checkpoint(signer: Signer, size: int, root: bytes) -> Checkpoint:
    """Return the signed checkpoint of a tree of ``size`` with this 32-byte ``root``."""
    if size < 0 or len(root) != HASH_BYTES:
        raise ValueError(f"expected a size and a root of {HASH_BYTES} bytes, got {size} and {len(root)} bytes")
    return Checkpoint(signer.name, size, root, signer.sign(_text(signer.name, size, root)))


def open_checkpoint(note: str, verifier: Verifier) -> Checkpoint:
    """Return the checkpoint in ``note`` after checking that ``verifier`` signed it for a log of its own name.

    Raises:
        Refused: ``audit.signature``: the note is malformed or not signed by that key.
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
    """Return the text of ``note``, with its last newline, after checking the signature by ``verifier``.

    Raises:
        Refused: ``audit.signature``: the note is malformed, too long, or not signed exactly once by that key.
    """
    text, lines = _split(note)
    parsed = [_signature(line) for line in lines]
    ours = [signature for name, key_id, signature in parsed if (name, key_id) == (verifier.name, verifier.key_id)]
    if len(ours) != 1:
        raise _bad_note(f"expected one signature by {verifier.name}+{verifier.key_id.hex()}, got {len(ours)}")
    try:
        Ed25519PublicKey.from_public_bytes(verifier.key).verify(ours[0], text.encode())
    except InvalidSignature:
        raise _bad_note(f"the signature by {verifier.name}+{verifier.key_id.hex()} is not over this text") from None
    return text


def check_cosignature(checkpoint: Checkpoint, line: str, witness: Witness) -> int:
    """Return when, in seconds since 1970 by its own clock, ``witness`` cosigned ``checkpoint``.

    The caller decides how old the time may be, and how far ahead of its own clock.

    Args:
        checkpoint: signed by the log, as :func:`open_checkpoint` has checked.
        line: the signature line with its newline. It may come from an adversary.
        witness: the witness whose signature it must be.

    Raises:
        Refused: ``audit.signature``: the line is malformed, by another key, or not over this checkpoint.
    """
    name, key_id, stamped = _signature(_unended(line))
    if (name, key_id) != (witness.name, witness.key_id):
        raise _bad_note(f"expected a cosignature by {witness.name}+{witness.key_id.hex()}, got {name}+{key_id.hex()}")
    time_s, signature = int.from_bytes(stamped[:_TIME_BYTES], "big"), stamped[_TIME_BYTES:]
    if len(signature) != _SIGNATURE_BYTES or time_s > MAX_TIME_S:
        raise _bad_note(f"expected a time of at most {MAX_TIME_S} and {_SIGNATURE_BYTES} bytes of signature")
    try:
        Ed25519PublicKey.from_public_bytes(witness.key).verify(signature, _cosigned(checkpoint, time_s))
    except InvalidSignature:
        who = f"{witness.name}+{witness.key_id.hex()}"
        raise _bad_note(f"the cosignature by {who} is not over this checkpoint of size {checkpoint.size}") from None
    return time_s


def with_cosignatures(note: str, lines: Iterable[str]) -> str:
    """Return ``note`` with these signature lines after its own, in their order. None of them is verified here.

    The log's signature stays the only one by its key, so :func:`open_note` accepts the same notes as before.

    Args:
        note: a signed note, such as that of a checkpoint.
        lines: signature lines, each with its newline.

    Raises:
        Refused: ``audit.signature``: note or line is malformed, a key signs twice, or the note gets too long.
    """
    signers = {_signature(line)[:2] for line in _split(note)[1]}
    signed = note
    for line in lines:
        name, key_id, _ = _signature(_unended(line))
        if (name, key_id) in signers:
            raise _bad_note(f"expected one signature by {name}+{key_id.hex()}, got another")
        signers.add((name, key_id))
        signed += line
    _split(signed)
    return signed


def cosignatures(note: str) -> tuple[Cosignature, ...]:
    """Return the lines of ``note`` that have the form of a cosignature, in their order, by any key.

    Raises:
        Refused: ``audit.signature``: the note is malformed.
    """
    parsed = [(line, *_signature(line)) for line in _split(note)[1]]
    return tuple(
        Cosignature(name, key_id, f"{line}\n")
        for line, name, key_id, stamped in parsed
        if len(stamped) == _TIME_BYTES + _SIGNATURE_BYTES
    )


def _text(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{_base64(root)}\n"


def _cosigned(checkpoint: Checkpoint, time_s: int) -> bytes:
    """Return the bytes that a witness signs. The first line differs from all else that Ed25519 keys sign here."""
    return f"cosignature/v1\ntime {time_s}\n{checkpoint.text}".encode()


def _split(note: str) -> tuple[str, list[str]]:
    """Return the text of a note, with its last newline, and its signature lines, without newlines."""
    _check_plain(note)
    body, blank, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not blank or lines.pop() != "" or not 0 < len(lines) <= MAX_SIGNATURES:
        raise _bad_note(f"expected a text, a blank line and 1 to {MAX_SIGNATURES} signature lines")
    return body + "\n", lines


def _unended(line: str) -> str:
    """Return a single signature line without its newline, after checking that it has one."""
    _check_plain(line)
    if line.find("\n") != len(line) - 1:
        raise _bad_note(f"expected one line with its newline, got {line[:80]!r}")
    return line[:-1]


def _check_plain(text: str) -> None:
    if len(text) > MAX_NOTE_BYTES or not _plain(text) or len(text.encode()) > MAX_NOTE_BYTES:
        raise _bad_note(f"expected at most {MAX_NOTE_BYTES} bytes of plain text")


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Return key name, key id and signature of one signature line, by any key."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    raw = _unbase64(encoded)
    if dash != "—" or not _good_name(name) or raw is None or len(raw) <= _KEY_ID_BYTES:
        raise _bad_note(f"expected a signature line, got {line[:80]!r}")
    return name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:]


def _key_id(name: str, key: bytes) -> bytes:
    """Return the key id of C2SP signed-note; ``key`` begins with its type."""
    return hashlib.sha256(name.encode() + b"\n" + key).digest()[:_KEY_ID_BYTES]


def _parse_key(text: str, kind: bytes) -> tuple[str, bytes]:
    """Return name and key bytes of ``name+hash+base64(kind || 32 bytes)``. The caller compares the hash."""
    parts = text.split("+", 2)  # base64 may hold a plus, a name may not
    raw = _unbase64(parts[2]) if len(parts) == 3 else None
    if raw is None or len(raw) != 1 + _KEY_BYTES or raw[:1] != kind:
        raise _bad_key(f"expected name+hash+base64 of an Ed25519 key of type {kind[0]}", kind)
    _check_name(parts[0], kind)
    return parts[0], raw[1:]


def _check_name(name: str, kind: bytes) -> None:
    if not _good_name(name):
        raise _bad_key(f"expected a name without spaces and plus signs, got {name!r}", kind)


def _good_name(name: str) -> bool:
    return bool(name) and _plain(name) and not any(c.isspace() or c == "+" for c in name)


def _plain(text: str) -> bool:
    """Return whether ``text`` is Unicode that UTF-8 can hold, without control characters other than newline."""
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


def _bad_key(reason: str, kind: bytes = _ED25519) -> InputError:
    whose = "witness" if kind == _COSIGNATURE else "log"
    return InputError("config.key", f"not a {whose} key: {reason}")


def _bad_note(reason: str) -> Refused:
    return Refused("audit.signature", f"not a note of this log: {reason}")
