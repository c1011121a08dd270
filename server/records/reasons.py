"""Checks the reasons that people write. The append-only log is read by all, so no personal data may enter it."""

from __future__ import annotations

import unicodedata

from ...errors import InputError
from ...protocol.approval import REASON_HELP, reason_problem


def check_reason(text: str) -> str:
    """Return a reason that may go into the log, without blanks around it.

    No rule finds every name. This refuses what looks like an address, a telephone or record number, or a date of birth,
    as in an approver's signed reason (``protocol/approval.py``). The message never repeats the text.

    Raises:
        InputError: ``config.reason``: empty, longer than 200 characters, unprintable, with an @, a date or six digits
            in a row.

    >>> check_reason(" left the federation ")
    'left the federation'
    """
    reason = text.strip()
    for spelled in (reason, unicodedata.normalize("NFKC", reason)):  # a full-width @ counts, too
        if problem := reason_problem("revoke", spelled):
            raise InputError("config.reason", problem, hint=REASON_HELP)
    return reason
