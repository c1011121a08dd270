"""The errors of moonflower, each with the code that goes to the audit log: the whole tree.

    MoonflowerError
    ├── InputError              what a person gave is wrong: config, data, option   (exit status 2)
    ├── Refused                 a rule of the protocol said no                      (exit status 1)
    │   ├── TooFew              a set could not be closed
    │   ├── OtherHistory        the log is not the one that was witnessed
    │   ├── IssuerUnreachable   the issuer did not answer
    │   ├── MetadataRefused     what answers is not that issuer
    │   ├── LoginRefused        the issuer gives no token
    │   ├── NodeRefused         the server does not let the node in
    │   ├── TokenRefused        a request's token does not open the door
    │   └── TooMuch             a request is too large or too slow
    ├── FleetError              this message is over, not the node
    │   ├── Forgotten           log in again
    │   └── RunOver             drop the run's messages
    ├── Ended                   a run ended by its own policy                       (exit status 3)
    └── AuditError              a log that does not verify                          (exit status 1)

    Signal                      caught where it is raised or one room on; it never reaches a person
    ├── Again                   ask again later
    ├── Stopped                 the node was asked to stop
    ├── WorkerDied              the worker is no more
    ├── TooSlow                 no answer in time
    ├── KeysUnavailable         the issuer's keys cannot be had
    └── Full                    too many pages listen already

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


class TooFew(Refused):
    """A set could not be closed.

    Attributes:
        named: member → code, of those that are missing.
    """

    def __init__(self, code: str, message: str, named: dict[str, str]) -> None:
        super().__init__(code, message)
        self.named = named


class OtherHistory(Refused):
    """``audit.fork``: a checkpoint that is not shown to be a later state of one that this member holds.

    Attributes:
        note, size, root: of the one that this member holds.
        proved: both are of one size and their roots differ, so whoever reads the two knows; else a proof of growth is
            missing or wrong, and only this member knows that.
    """

    def __init__(self, note: str, size: int, root: bytes, message: str, *, proved: bool = False) -> None:
        super().__init__("audit.fork", message)
        self.note, self.size, self.root, self.proved = note, size, root, proved


class IssuerUnreachable(Refused):
    """The issuer did not answer, or not now: transport error, 5xx, 429. Later may be better."""


class MetadataRefused(Refused):
    """What stands at the issuer's address is not that issuer's metadata. Later is no better."""


class LoginRefused(Refused):
    """The issuer answered, and gives no token."""


class NodeRefused(Refused):
    """The server does not let this node in; asking again will not help."""


class TokenRefused(Refused):
    """A request may not pass.

    Attributes:
        status: HTTP status: 400, 401, 403, 429 or 503.
        headers: of the reply: ``WWW-Authenticate``, ``DPoP-Nonce``, ``Retry-After``.
        error: the OAuth error, or "" where the request named no token at all.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 401,
        headers: Iterable[tuple[str, str]] = (),
        *,
        error: str = "invalid_token",
    ) -> None:
        super().__init__(code, message)
        self.status, self.headers, self.error = status, list(headers), error


class TooMuch(Refused):
    """A request is larger or slower than allowed; ``status`` is for the reply."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code, message)
        self.status = status


class FleetError(MoonflowerError):
    """The server answered something that ends this message, not the node."""


class Forgotten(FleetError):
    """Flower does not know this node's key any more: log in again."""


class RunOver(FleetError):
    """The run is not running any more: drop its message."""


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


class Signal(Exception):
    """Base of what one part of a process tells another by raising it."""


class Again(Signal):
    """Ask again later."""

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class Stopped(Signal):
    """The node was asked to stop while it waited."""


class WorkerDied(Signal):
    """The worker is no more, or out of time; the text is ``worker exit`` or ``worker timeout``."""


class TooSlow(Signal):
    """No answer in time."""


class KeysUnavailable(Signal):
    """The issuer's keys were never read, or are older than a day, and the issuer cannot be reached."""


class Full(Signal):
    """Too many pages listen already."""


def nearest(found: str, choices: Iterable[str]) -> str:
    """Return the choices as a phrase, with the nearest one first if there is a near one.

    >>> nearest("rouds", ["rounds", "lr"])
    "did you mean 'rounds'? (one of: lr, rounds)"
    >>> nearest("rouds", ["lr", "mu"])
    'expected one of: lr, mu'
    """
    known = sorted(choices)
    if not known:
        return "there is nothing to choose from"
    lower = {choice.casefold(): choice for choice in known}
    close = [lower[match] for match in difflib.get_close_matches(found.casefold(), lower, n=1, cutoff=0.5)]
    listing = ", ".join(known if len(known) <= 20 else [*known[:20], "…"])
    return f"did you mean {close[0]!r}? (one of: {listing})" if close else f"expected one of: {listing}"
