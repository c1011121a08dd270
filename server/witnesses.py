"""What members have seen of the log: every message shows a member a checkpoint, and every reply countersigns one.

A member takes a checkpoint only with a proof that the log has only grown since the one it holds. So the next message
finds a history that was rewritten, forked for one member or rolled back. The coordinator keeps what its witnesses
signed. Together with the log that is proof for third parties (C2SP tlog-cosignature).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..crypto.note import Checkpoint, check_cosignature, cosignatures, open_checkpoint
from ..errors import Refused
from ..protocol.context import checkpoint_label
from ..protocol.messages import Shown, Witnessed
from ..protocol.records import RecordDict, attach, attached
from .records import countersigned as table
from .records import members as roster
from .records.state import State

logger = logging.getLogger(__name__)


class Witnesses:
    """The members as witnesses of one log.

    Args:
        state: the coordinator's records.
    """

    def __init__(self, state: State) -> None:
        self._state, self._log = state, state.log
        self._heard: dict[str, str] = {}
        self._strange: set[str] = set()
        with state.store.read() as db:
            self._sizes = {member: signed.size for member, signed in table.witnesses(db).items()}

    def newest(self) -> str:
        """Return the label of the newest checkpoint."""
        checkpoint = self._log.checkpoint()
        assert checkpoint is not None, "a run begins with an entry"
        return checkpoint_label(self._log.verifier.text(), checkpoint.size, checkpoint.root)

    def shown(self, member: str, at: str) -> Shown:
        """Return what a member is shown: the checkpoint of this label, and the proof that leads there from its own."""
        size = int(at.split(" ", 1)[0])
        since = min(self._sizes.get(member, 0), size)
        proof = self._log.consistency(since, size)
        return Shown(
            checkpoint=proof.checkpoint.note,
            key=self._log.verifier.text(),
            since=since,
            proof=[node.hex() for node in proof.hashes],
        )

    def hear(self, member: str, records: RecordDict) -> None:
        """Take what a member countersigned. A member that holds another history is remembered as strange."""
        try:
            note = attached(Witnessed, records).checkpoint
            checkpoint = open_checkpoint(note, self._log.verifier)
        except Refused:
            return  # the member holds nothing yet, or nothing that this log signed
        if not self._is_ours(checkpoint):
            if self._heard.get(member) != note:
                self._strange.add(member)
                self._heard[member] = note
            return
        self._sizes[member], self._heard[member] = checkpoint.size, note
        self._strange.discard(member)

    def keep(self, run: str) -> None:
        """Record what was heard since the last time, and log who holds another history."""
        heard, self._heard = self._heard, {}
        if not heard:
            return
        with self._state.store.transaction() as db:
            cards = roster.cards(db)
            for member, note in sorted(heard.items()):
                checkpoint = open_checkpoint(note, self._log.verifier)
                if member in self._strange:
                    words = "the member holds a log of %d entries that is not this one"
                    logger.error(words, checkpoint.size, extra={"member": member})
                    self._log.append(
                        db,
                        "warned",
                        run=run,
                        member=member,
                        code="audit.fork",
                        what="witness",
                        size=checkpoint.size,
                        root=checkpoint.root.hex(),
                    )
                    continue
                card = cards.get(member)
                if card is None:
                    continue
                for line in cosignatures(note):
                    try:
                        time_s = check_cosignature(checkpoint, line.line, card.as_witness)
                    except Refused:
                        continue
                    table.keep(
                        db, member, table.Countersigned(checkpoint.size, checkpoint.root.hex(), line.line, time_s)
                    )

    def _is_ours(self, checkpoint: Checkpoint) -> bool:
        try:
            return self._log.at(checkpoint.size).root == checkpoint.root
        except ValueError:  # a size that this log never had
            return False


@dataclass(frozen=True)
class Letters:
    """The attachments of one exchange's messages: all show the log at one checkpoint."""

    witnesses: Witnesses
    at: str

    def show(self, member: str, records: RecordDict) -> None:
        """Add what the member is shown."""
        attach(self.witnesses.shown(member, self.at), records)

    def hear(self, member: str, records: RecordDict) -> None:
        """Take what the member countersigned."""
        self.witnesses.hear(member, records)
