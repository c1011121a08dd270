"""The envelopes of sums that are not over; and where the config says so, those of updates for a while longer.

The coordinator needs an envelope until every name has voted: its process may die meanwhile. After that it goes, unless
``keep_envelopes_h`` keeps it so that an auditor can add it up again: then it is written beside its place, synced and
renamed before its list is fixed, so that whatever list the log names has its envelopes. What that costs stands in
:data:`WARNING`. Its name is its header's digest, the one that stands in the log. A refused envelope is never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
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
    """The kept envelopes, under ``folder``.

    Args:
        folder: made when there is something to keep.
        hours: how long after its sum was over; 0 keeps nothing that long, and takes away what was kept before.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, hours: int, clock: Callable[[], float]) -> None:
        self.folder, self.hours, self._clock = folder, hours, clock

    def path(self, number: int, header: str) -> Path:
        """Return where the envelope with this header digest, of round ``number``, is."""
        return self.folder / str(number) / header

    def keep(self, number: int, signed: SignedHeader, raw: RawEnvelope) -> None:
        """Keep an envelope that was accepted into a sum of round ``number``."""
        place = self.path(number, signed.digest)
        if not self.hours:  # what a crash loses or tears is asked for again
            place.parent.mkdir(0o700, parents=True, exist_ok=True)
            place.touch(0o600)
            place.write_bytes(raw.data)
            return
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

    def drop(self, number: int, header: str) -> None:
        """Delete an envelope whose sum is over and that nobody adds up again; nothing happens where there is none."""
        place = self.path(number, header)
        place.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or gone
            place.parent.rmdir()

    def expire(self, needed: Collection[str], young_s: float = 0.0) -> int:
        """Delete what was kept longer than it may be, and return how many files that were.

        They are deleted as the file system deletes: backups and snapshots of it keep what they have.

        Args:
            needed: digests of the headers whose envelopes stay, for their sums are not over.
            young_s: what is younger stays, for another process may be about to need it.
        """
        oldest, gone = self._clock() - max(3600 * self.hours, young_s), 0
        anything = not self.hours and not young_s
        for folder in sorted(self.folder.glob("*")):
            for file in sorted(folder.glob("*")):
                with suppress(FileNotFoundError):  # the server and the process of a run both look after this
                    if file.name not in needed and (anything or file.stat().st_mtime <= oldest):
                        file.unlink()
                        gone += 1
            with suppress(OSError):  # not empty, or gone
                if anything or folder.stat().st_mtime <= oldest:
                    folder.rmdir()
        if anything:
            with suppress(OSError):
                self.folder.rmdir()
        return gone
