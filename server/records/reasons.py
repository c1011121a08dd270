"""Reasons that people give for the log. It is append-only and read by all, so personal data must never get into it."""

from __future__ import annotations

import unicodedata

from ...errors import InputError
from ...protocol.approval import REASON_HELP, reason_problem


def check_reason(text: str) -> str:
    """Return a reason as it may stand in the log, without blanks around it.

    No rule finds every name. What is refused is what addresses, telephone and record numbers and dates of birth look
    like, as in an approver's signed reason (``protocol/approval.py``). The message never repeats the text.

    Raises:
        InputError: ``config.reason``: empty, longer than 200 characters, unprintable, with an @, a date or six digits
            in a row.

    >>> check_reason(" left the federation ")
    'left the federation'
    """
    reason = text.strip()
    for spelled in (reason, unicodedata.normalize("NFKC", reason)):  # a full-width @ is one, too
        if problem := reason_problem("revoke", spelled):
            raise InputError("config.reason", problem, hint=REASON_HELP)
    return reason
