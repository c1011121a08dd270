"""What a member sealed and did not answer yet: one file a context, outside ledger and backups.

    "MFS2" | seed, 32 bytes | the envelope

The file is there, synced, before the envelope's first byte leaves, and goes before the answer leaves: from then on
nobody can seal or answer in this context again. Whoever has the seed has the vector. A node that lost the file seals
anew, under a fresh key.
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

FOLDER = "sealed"
_MAGIC, _SEED_BYTES = b"MFS2", 32
_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HeldSeal:
    """A sealed context. Its ``repr`` shows nothing of the seed.

    Attributes:
        seed: everything random of the seal comes from it.
        envelope: as it travels.
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
        """Return whether the envelope is of this context and has the body of its header, and the seed its mask key."""
        try:
            header = Header.parse(self.signed.data)
        except Refused:
            return False
        mask = public_mask(Secrets(self.seed).mask_key).hex()
        return (header.context, header.body, header.mask) == (context, body_digest(self.body), mask)


class Seals:
    """The seals of a member.

    Args:
        folder: made (0700) when there is something to keep; None keeps them in memory (simulate). What a killed process
            left half written goes: a seed may be in it.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._held = folder, dict[str, HeldSeal]()
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
        """Return the seal of a context; None where there is none, or none that is whole."""
        if self._folder is None:
            return self._held.get(context)
        try:
            data = self._path(context).read_bytes()
        except FileNotFoundError:
            return None
        start = len(_MAGIC) + _SEED_BYTES
        found = HeldSeal(data[len(_MAGIC) : start], data[start:])
        return found if data.startswith(_MAGIC) and found.is_whole(context) else None

    def drop_all(self) -> None:
        """Delete everything: it is never answered."""
        for context in self.contexts():
            self.drop(context)

    def drop(self, context: str) -> None:
        """Delete the seal of a context, synced; nothing happens where there is none."""
        if self._folder is None:
            self._held.pop(context, None)
            return
        files.remove(self._path(context))

    def contexts(self) -> list[str]:
        """Return the contexts that are sealed and not answered."""
        if self._folder is None:
            return sorted(self._held)
        return sorted(path.name for path in self._folder.glob("*") if _NAME.fullmatch(path.name))

    def _path(self, context: str) -> Path:
        assert self._folder is not None
        assert _NAME.fullmatch(context)
        return self._folder / context
