"""What a member sealed and has not answered yet: one file per context, outside ledger and backups.

    "MFS2" | seed, 32 bytes | the envelope

The file is written and synced before the envelope's first byte leaves the member. It is deleted before the answer
leaves: from then on nobody can seal or answer in this context again. Anybody who has the seed can compute the vector.
A node that lost the file seals anew, under a fresh key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .. import files
from ..crypto.pairs import public_mask
from ..crypto.sealed import Secrets
from ..errors import Refused
from ..protocol.envelope import Header, RawEnvelope, SignedHeader, body_digest, split
from .trained_once import TrainedOnce

FOLDER = "sealed"
_MAGIC, _SEED_BYTES = b"MFS2", 32
_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HeldSeal:
    """A sealed context. Its ``repr`` shows nothing of the seed.

    Attributes:
        seed: source of all random values of the seal.
        envelope: as it is sent.
    """

    seed: bytes = field(repr=False)
    envelope: bytes = field(repr=False)

    @property
    def signed(self) -> SignedHeader:
        """The envelope's header."""
        return split(RawEnvelope(self.envelope))[0]

    @property
    def body(self) -> memoryview:
        """The envelope's body."""
        return split(RawEnvelope(self.envelope))[1]

    def is_whole(self, context: str) -> bool:
        """Return whether the envelope is of this context, and its header matches the body and the seed's mask key."""
        try:
            header = Header.parse(self.signed.data)
        except Refused:
            return False
        mask = public_mask(Secrets(self.seed).mask_key).hex()
        return (header.context, header.body, header.mask) == (context, body_digest(self.body), mask)


class Seals:
    """The seals of a member, and in ``trained`` what they came from where that cannot be trained again.

    Args:
        folder: made (0700) when there is something to keep; None keeps them in memory (simulate). Files that a killed
            process left half written are deleted, because they may hold a seed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._held = folder, dict[str, HeldSeal]()
        self.trained = TrainedOnce(folder / "trained" if folder is not None else None)
        if folder is not None:
            files.sweep(folder)

    def keep(self, context: str, seal: HeldSeal) -> None:
        """Keep a seal, synced, in place of an earlier one of the same context."""
        if self._folder is None:
            self._held[context] = seal
            return
        files.make_folder(self._folder, 0o700)
        files.replace(self._path(context), _MAGIC + seal.seed + seal.envelope, 0o600)

    def read(self, context: str) -> HeldSeal | None:
        """Return the seal of a context; None if it is missing or damaged."""
        if self._folder is None:
            return self._held.get(context)
        try:
            data = self._path(context).read_bytes()
        except FileNotFoundError:
            return None
        start = len(_MAGIC) + _SEED_BYTES
        seal = HeldSeal(data[len(_MAGIC) : start], data[start:])
        return seal if data.startswith(_MAGIC) and seal.is_whole(context) else None

    def drop_all(self) -> None:
        """Delete all seals, which will never be answered, and the training that they came from."""
        self.trained.drop()
        for context in self.contexts():
            self.drop(context)

    def drop(self, context: str) -> None:
        """Delete the seal of a context, synced; do nothing if there is no seal."""
        if self._folder is None:
            self._held.pop(context, None)
            return
        files.remove(self._path(context))

    def contexts(self) -> list[str]:
        """Return the contexts that are sealed and not yet answered."""
        if self._folder is None:
            return sorted(self._held)
        return sorted(path.name for path in self._folder.glob("*") if _NAME.fullmatch(path.name))

    def _path(self, context: str) -> Path:
        assert self._folder is not None
        assert _NAME.fullmatch(context)
        return self._folder / context
