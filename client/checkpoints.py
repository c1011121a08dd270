"""The member's rule about the coordinator's log, without IO: a checkpoint may only append to earlier checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..crypto import merkle
from ..crypto.note import Verifier, open_checkpoint
from ..errors import InputError, OtherHistory, Refused
from ..protocol.context import checkpoint_label
from ..protocol.messages import Shown

_LINES = 5  # of a checkpoint: origin, size, root, a blank line, the log's signature


@dataclass(frozen=True)
class HeldCheckpoint:
    """A checkpoint of the coordinator's log that this member has witnessed.

    Attributes:
        size: number of entries.
        root: 32-byte Merkle root over them.
        key: text of the key that signed it.
        note: the signed checkpoint.
    """

    size: int
    root: bytes
    key: str
    note: str

    @property
    def label(self) -> str:
        """The checkpoint's name in a RoundContext."""
        return checkpoint_label(self.key, self.size, self.root)

    @property
    def verifier(self) -> Verifier:
        """The log's key."""
        return Verifier.parse(self.key)


def check_log(
    shown: Shown, newest: HeldCheckpoint | None, held_at: Callable[[int], HeldCheckpoint | None], log_key: str | None
) -> HeldCheckpoint | None:
    """Return the checkpoint that a message shows, if it only appends to the history that this member witnessed.

    Args:
        shown: as it came.
        newest: the newest checkpoint that this member holds; with None, the first checkpoint is accepted.
        held_at: returns an earlier checkpoint by its size, if this member held it.
        log_key: the key that this node's config pins; if None, the first key that signed is pinned.

    Returns:
        None if the message shows an earlier checkpoint that is known here.

    Raises:
        OtherHistory: ``audit.fork``: another history, or one that was rolled back.
        Refused: ``audit.signature``: not signed by the log's key; ``audit.behind``: its proof does not begin at the
            checkpoint that this member holds.
    """
    key = log_key or (newest.key if newest else shown.key)
    if shown.key != key or (newest is not None and newest.key != key):
        raise Refused("audit.signature", f"the log is signed by {shown.key}, expected {key}")
    try:
        checkpoint = open_checkpoint(shown.checkpoint, Verifier.parse(key))
    except InputError as error:
        raise Refused("audit.signature", str(error)) from None
    if len(shown.checkpoint.splitlines()) != _LINES:
        raise Refused("audit.signature", "the checkpoint is not signed by the log alone")
    offered = HeldCheckpoint(checkpoint.size, checkpoint.root, key, checkpoint.note)
    if newest is None:
        return offered
    if offered.size <= newest.size:
        known = newest if offered.size == newest.size else held_at(offered.size)
        if known is not None and known.root == offered.root:
            return None
        what = "is not the one that this member witnessed" if known else "is earlier, and this member never saw it"
        entries = f"the log of {offered.size} entries, root {offered.root.hex()}"
        raise _other(known or newest, f"{entries}, {what}", proved=known is not None)
    if shown.since != newest.size:
        raise Refused("audit.behind", f"expected a proof of growth from {newest.size} entries, got {shown.since}")
    try:
        proof = [bytes.fromhex(node) for node in shown.proof]
    except ValueError:
        raise _other(newest, "the proof of the log's growth is not hexadecimal") from None
    try:
        merkle.verify_consistency(newest.size, offered.size, proof, newest.root, offered.root)
    except Refused as error:
        raise _other(newest, str(error)) from None
    return offered


def _other(held: HeldCheckpoint, message: str, *, proved: bool = False) -> OtherHistory:
    return OtherHistory(held.note, held.size, held.root, message, proved=proved)
