"""The errors of moonflower, each with the code that goes to the audit log.

    MoonflowerError
    ├── InputError       what a person gave is wrong: config, data, option   (exit status 2)
    ├── Refused          a rule of the protocol said no                      (exit status 1)
    ├── Ended            a run ended by its own policy                       (exit status 3)
    └── AuditError       a log that does not verify                          (exit status 1)

A message is one sentence that says what was found and what was expected. It never holds a secret, a token
or a value from a data row once it leaves the machine it was raised on: only codes cross the wire (rule 12).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MoonflowerError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        code: Stable machine code such as ``envelope.signature``; it goes to the log and to the metrics.
        hint: Advice apart from the cause, or "".
    """

    exit_status = 1

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class InputError(MoonflowerError):
    """A file, a setting or an option that a person gave is wrong; nothing was changed."""

    exit_status = 2


class Refused(MoonflowerError):
    """A check of the protocol failed; the caller's state is as it was before the call."""


class Ended(MoonflowerError):
    """A run ended by policy: patience, too many failed rounds, or an opening that was refused."""

    exit_status = 3


class AuditError(MoonflowerError):
    """An audit log does not verify.

    Attributes:
        first_bad: 0-based index of the first entry that cannot be trusted.
    """

    def __init__(self, code: str, message: str, *, first_bad: int) -> None:
        super().__init__(code, message)
        self.first_bad = first_bad


def nearest(found: str, choices: Iterable[str]) -> str:
    """Return the choices as a phrase, with the nearest one first if there is a near one.

    >>> nearest("rouds", ["rounds", "lr"])
    "did you mean 'rounds'? (one of: lr, rounds)"
    >>> nearest("rouds", ["lr", "mu"])
    'expected one of: lr, mu'
    """
    known = sorted(choices)
    if not known:
        return "there is none to choose from"
    lower = {choice.casefold(): choice for choice in known}
    close = [lower[match] for match in difflib.get_close_matches(found.casefold(), lower, n=1, cutoff=0.5)]
    listing = ", ".join(known if len(known) <= 20 else [*known[:20], "…"])
    return f"did you mean {close[0]!r}? (one of: {listing})" if close else f"expected one of: {listing}"
