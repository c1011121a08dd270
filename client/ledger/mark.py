"""Opens a node's ledger, and tells whether it is the ledger that this node had before (rule 1: ``ledger.lost``).

The same mark is beside the keys and in the ledger. A ledger without the mark beside the keys is another ledger: it does
not have what this node signed, sealed and answered before.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ... import files
from ...errors import InputError
from ..secret import NodeSecret
from .ledger import FILE_NAME, Ledger

MARK = "ledger.mark"
_MARK, _SECRET = "mark", "secret"


def open_ledger(state: Path, secret: NodeSecret) -> Ledger:
    """Return the ledger in a node's state folder.

    Args:
        state: the folder.
        secret: the node's; it must be the secret that dealt the rows summed under this ledger.

    Raises:
        InputError: ``config.state``: it cannot be opened; ``config.key``: it began with another node secret.
    """
    ledger = Ledger(state / FILE_NAME)
    try:
        _check(ledger, state / MARK)
        named = secret.keyed("ledger").hex()
        if ledger.fact_once(_SECRET, named) != named:
            raise InputError(
                "config.key",
                "the node secret is not the one that this ledger began with; expected the one from your backup",
                hint="without it, join as a new member: a new state folder, moonflower keys new, and a new circle",
            )
    except BaseException:
        ledger.close()
        raise
    return ledger


def _check(ledger: Ledger, place: Path) -> None:
    """Mark a ledger that is new here; record that the marked ledger is lost if this is another one."""
    try:
        written = place.read_text().strip() if place.exists() else ""
    except (OSError, UnicodeDecodeError):
        raise InputError("config.state", f"{place} cannot be read; expected the mark of the ledger beside it") from None
    if written and ledger.fact(_MARK) != written:
        ledger.circles.lose(0)
        written = ""
    if not written:
        mark = ledger.fact_once(_MARK, secrets.token_hex(16))
        try:
            files.replace(place, f"{mark}\n".encode(), 0o600)
        except OSError as error:
            raise InputError("config.state", f"{place} cannot be written: {error.strerror}") from None
