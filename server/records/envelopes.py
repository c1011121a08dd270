"""The envelopes of sums that are not over and, if the config says so, those of updates for a while longer.

The coordinator needs an envelope until every member has voted, because its process may die meanwhile. Then it is
deleted, unless ``keep_envelopes_h`` keeps it so that an auditor can add it up again. In that case it is written beside
its place, synced and renamed before its list is fixed, so every list in the log has its envelopes. :data:`WARNING` says
what that costs. The file's name is the digest of the header, as in the log. A refused envelope is never kept.
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
        folder: created when there is something to keep.
        hours: how long an envelope is kept after its sum was over; 0 keeps none and deletes what was kept before.
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
        if not self.hours:  # what a crash loses or damages is asked for again
            place.parent.mkdir(0o700, parents=True, exist_ok=True)
            place.touch(0o600)
            place.write_bytes(raw.data)
            return
        for folder in (self.folder, place.parent):
            files.make_folder(folder, 0o700)
        with suppress(FileExistsError):  # a message that came twice
            files.create(place, raw.data, 0o600)

    def read(self, number: int, header: str) -> RawEnvelope:
        """Return a kept envelope, unchecked.

        Raises:
            Refused: ``audit.envelope``: it is not there.
        """
        try:
            return RawEnvelope(self.path(number, header).read_bytes())
        except OSError as error:
            raise Refused("audit.envelope", f"the envelope {header} is not kept here: {error.strerror}") from None

    def drop(self, number: int, header: str) -> None:
        """Delete an envelope that is not needed any more, if it is there."""
        place = self.path(number, header)
        place.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or gone
            place.parent.rmdir()

    def expire(self, needed: Collection[str], young_s: float = 0.0) -> int:
        """Delete what was kept long enough, and return the number of deleted files.

        This deletes files in the file system only. Its backups and snapshots keep what they have.

        Args:
            needed: digests of the headers whose envelopes stay, because their sums are not over.
            young_s: what is younger stays, because another process may be about to need it.
        """
        oldest, gone = self._clock() - max(3600 * self.hours, young_s), 0
        anything = not self.hours and not young_s
        for folder in sorted(self.folder.glob("*")):
            for file in sorted(folder.glob("*")):
                with suppress(FileNotFoundError):  # both the server and a run's process delete here
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
