"""Envelopes that are kept for a while, so that an auditor can add them up again. Off unless the config says otherwise.

What this costs stands in :data:`WARNING`. An envelope is written beside its place, synced and renamed before its set is
closed, so that whatever set the log names has its envelopes; its name is its header's digest, the one that stands in
the log. A refused envelope is never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ... import files
from ...errors import Refused
from ...protocol.envelope import RawEnvelope, SignedHeader

WARNING = (
    "envelopes are kept for {hours} hours: no key opens one of them alone, but they are recorded traffic, which opens "
    "to whoever breaks X25519"
)


class Envelopes:
    """The kept envelopes of updates, under ``folder``.

    Args:
        folder: made when there is something to keep.
        hours: how long; 0 keeps nothing, and takes away what was kept before.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, hours: int, clock: Callable[[], float]) -> None:
        self.folder, self.hours, self._clock = folder, hours, clock

    def path(self, number: int, header: str) -> Path:
        """Return where the envelope with this header digest, of round ``number``, is."""
        return self.folder / str(number) / header

    def keep(self, number: int, signed: SignedHeader, raw: RawEnvelope) -> None:
        """Keep an envelope that was accepted into the sum of round ``number``, where envelopes are kept."""
        if not self.hours:
            return
        place = self.path(number, signed.digest)
        for folder in (self.folder, place.parent):
            files.make_folder(folder, 0o700)
        with suppress(FileExistsError):  # a message that came twice
            files.create(place, raw.data, 0o600)

    def read(self, number: int, header: str) -> RawEnvelope:
        """Return what is kept in the place of an envelope; nothing about it is checked.

        Raises:
            Refused: ``audit.envelope``: it is not there.
        """
        try:
            return RawEnvelope(self.path(number, header).read_bytes())
        except OSError as error:
            raise Refused("audit.envelope", f"the envelope {header} is not kept here: {error.strerror}") from None

    def expire(self) -> int:
        """Delete what was kept longer than it may be, and return how many files that were.

        They are deleted as the file system deletes: backups and snapshots of it keep what they have.
        """
        oldest, gone = self._clock() - 3600 * self.hours, 0
        for folder in sorted(self.folder.glob("*")):
            for file in sorted(folder.glob("*")):
                with suppress(FileNotFoundError):  # the server and the process of a run both look after this
                    if not self.hours or file.stat().st_mtime <= oldest:
                        file.unlink()
                        gone += 1
            with suppress(OSError):  # not empty, or gone
                if not self.hours or folder.stat().st_mtime <= oldest:
                    folder.rmdir()
        return gone
