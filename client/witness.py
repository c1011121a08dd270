"""The member as a witness of the coordinator's log: it checks what every message shows, keeps it, and countersigns.

The rule is in ``checkpoints.py``. A member never gives up a history that it once accepted. If a coordinator shows
another history, the member refuses every message until the coordinator returns to the history that the member knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..crypto.identity import Identity
from ..crypto.note import open_checkpoint, with_cosignatures
from ..errors import OtherHistory
from ..protocol.messages import Shown, Witnessed
from ..protocol.records import RecordDict, attach, attached
from . import checkpoints
from .ledger.ledger import Ledger

logger = logging.getLogger(__name__)


class LogWitness:
    """A member's view of the coordinator's log.

    Args:
        identity: countersigns with its witness key.
        ledger: keeps the checkpoints.
        log_key: the only key that may sign the log; None pins the first key that is seen.
        clock: seconds since 1970.
    """

    def __init__(self, identity: Identity, ledger: Ledger, log_key: str | None, clock: Callable[[], float]) -> None:
        self._identity, self._ledger, self._log_key, self._clock = identity, ledger, log_key, clock

    def look(self, records: RecordDict) -> None:
        """Check the checkpoint in a message against the one that this member holds, and keep it.

        Raises:
            Refused: ``audit.missing``, ``audit.signature``, ``audit.fork`` or ``audit.behind``.
        """
        shown, newest = attached(Shown, records), self._ledger.newest_checkpoint()
        try:
            taken = checkpoints.check_log(shown, newest, self._ledger.checkpoint, self._log_key)
        except OtherHistory as error:
            self._ledger.keep_fork(error.note, shown.checkpoint, proved=error.proved)
            logger.error(
                "the coordinator's log is not the one that this member witnessed: %s; this member holds the checkpoint "
                "of %d entries with root %s",
                error,
                error.size,
                error.root.hex(),
            )
            raise
        if taken is not None:
            self._ledger.keep_checkpoint(taken)

    def countersign(self, records: RecordDict) -> None:
        """Add this member's newest checkpoint to a reply, countersigned; add nothing if it has no checkpoint."""
        newest = self._ledger.newest_checkpoint()
        if newest is not None:
            attach(Witnessed(checkpoint=self.signed(newest)), records)

    def signed(self, checkpoint: checkpoints.HeldCheckpoint) -> str:
        """Return the note of a checkpoint that this member holds, with its cosignature."""
        line = self._identity.cosign(open_checkpoint(checkpoint.note, checkpoint.verifier), int(self._clock()))
        return with_cosignatures(checkpoint.note, [line])
