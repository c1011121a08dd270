"""A coordinator that shows one member a log of its own, signed by the same key and growing as it should."""

from __future__ import annotations

from flwr.app import RecordDict
from moonflower.crypto import merkle
from moonflower.crypto.note import open_checkpoint, sign_checkpoint
from moonflower.protocol.messages import Shown, Witnessed
from moonflower.protocol.records import attached
from moonflower.server.witnesses import Witnesses

VICTIM = "VA Long Beach"


class Forking(Witnesses):
    """Forks the log for :data:`VICTIM`; the checkpoint that a round is bound to is of the fork, too, for a member."""

    def shown(self, member: str, at: str) -> Shown:
        real = super().shown(member, at)
        if member != VICTIM:
            return real
        size = int(at.split(" ", 1)[0])
        tree = merkle.Tree(merkle.leaf_hash(b"for you alone %d" % index) for index in range(size))
        since = min(self._sizes.get(member, 0), size)
        note = sign_checkpoint(self._log._signer, size, tree.root()).note
        return real.model_copy(
            update={"checkpoint": note, "since": since, "proof": [node.hex() for node in tree.consistency(since)]}
        )

    def hear(self, member: str, records: RecordDict) -> None:
        super().hear(member, records)
        if member == VICTIM:
            note = attached(Witnessed, records).checkpoint
            self._sizes[member] = open_checkpoint(note, self._log.verifier).size
