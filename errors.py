"""All errors of moonflower. Each has a code, which goes to the audit log.

    MoonflowerError
    ├── InputError              a config, data file or option is wrong             (exit status 2)
    │   └── RowFaults           rows of a table are wrong
    ├── Refused                 a check of the protocol failed                     (exit status 1)
    │   ├── TooFew              a set could not be closed
    │   ├── OtherHistory        the log's history differs from the witnessed one
    │   ├── IssuerUnreachable   the issuer did not answer
    │   ├── MetadataRefused     the metadata at the issuer's address is wrong
    │   ├── LoginRefused        the issuer refused to give a token
    │   ├── NodeRefused         the server does not let the node in
    │   ├── TokenRefused        a request's token or proof was refused
    │   └── TooMuch             a request is too large or too slow
    ├── FleetError              the message failed; the node goes on
    │   ├── Forgotten           log in again
    │   └── RunOver             drop the run's messages
    ├── Ended                   a run ended by its own policy                       (exit status 3)
    └── AuditError              a log that does not verify                          (exit status 1)

    Signal                      caught in the same room or the next; it never reaches a person
    ├── Again                   ask again later
    ├── Stopped                 the node was asked to stop
    ├── WorkerDied              the worker died or was stopped
    ├── TooSlow                 no answer in time
    ├── KeysUnavailable         the issuer's keys are unavailable
    └── Full                    too many pages are listening

    BaseException
    └── Overrun                 a task's own code took too long; no except clause of that code stops it

A message is one sentence that says what was found and what was expected. Only codes cross the wire (rule 12): a message
that leaves the machine on which it was raised never holds a secret, a token or a value from a data row.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class MoonflowerError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        code: Stable machine code such as ``envelope.signature``; it goes to the log and to the metrics.
        hint: What to do about it, or "".
    """

    exit_status = 1

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class InputError(MoonflowerError):
    """A file, a setting or an option is wrong. Nothing was changed."""

    exit_status = 2


class RowFaults(InputError):
    """Rows of a table cannot be used. The message counts them, and holds no cell.

    Attributes:
        rows: where the first ones are, for the person at the table: file or column → row numbers, of which 1 is the
            first row. Only a command that this person runs shows them; no log does.
    """

    def __init__(self, code: str, message: str, rows: Mapping[str, tuple[int, ...]], *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.rows = dict(rows)


class Refused(MoonflowerError):
    """A check of the protocol failed. The caller's state is as it was before the call."""


class TooFew(Refused):
    """A set could not be closed.

    Attributes:
        named: the missing members: member → code.
    """

    def __init__(self, code: str, message: str, named: dict[str, str]) -> None:
        super().__init__(code, message)
        self.named = named


class OtherHistory(Refused):
    """``audit.fork``: a checkpoint was not proved to be a later state of the one that this member holds.

    Attributes:
        note, size, root: of the checkpoint that this member holds.
        proved: both checkpoints have the same size and different roots, so they prove the fork to any reader. If False,
            a proof of growth is missing or wrong, and only this member knows that.
    """

    def __init__(self, note: str, size: int, root: bytes, message: str, *, proved: bool = False) -> None:
        super().__init__("audit.fork", message)
        self.note, self.size, self.root, self.proved = note, size, root, proved


class IssuerUnreachable(Refused):
    """The issuer did not answer, or answered 5xx or 429. A later attempt may succeed."""


class MetadataRefused(Refused):
    """The document at the issuer's address is not that issuer's metadata. A later attempt fails as well."""


class LoginRefused(Refused):
    """The issuer answered and gave no token."""


class NodeRefused(Refused):
    """The server does not let this node in. Asking again does not help."""


class TokenRefused(Refused):
    """A request is refused, because of its token or its proof.

    Attributes:
        status: HTTP status: 400, 401, 403, 429 or 503.
        headers: of the reply: ``WWW-Authenticate``, ``DPoP-Nonce``, ``Retry-After``.
        error: the OAuth error, or "" if the request has no token.
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
    """A request is larger or slower than allowed. ``status`` is the HTTP status of the reply."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code, message)
        self.status = status


class FleetError(MoonflowerError):
    """The server's answer ends this message. The node goes on."""


class Forgotten(FleetError):
    """Flower does not know this node's key any more: log in again."""


class RunOver(FleetError):
    """The run has ended: drop its message."""


class Ended(MoonflowerError):
    """A run ended by policy: patience, too many failed rounds, or an opening that was refused."""

    exit_status = 3


class AuditError(MoonflowerError):
    """An audit log failed verification.

    Attributes:
        first_bad: 0-based index of the first entry that cannot be trusted.
    """

    def __init__(self, code: str, message: str, *, first_bad: int) -> None:
        super().__init__(code, message)
        self.first_bad = first_bad


class Signal(Exception):
    """Base of exceptions that one part of a process raises to tell another part something."""


class Again(Signal):
    """Ask again later."""

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class Stopped(Signal):
    """The node was asked to stop while it waited."""


class WorkerDied(Signal):
    """The worker exited or took too long. The text is ``worker exit`` or ``worker timeout``."""


class TooSlow(Signal):
    """No answer came in time."""


class KeysUnavailable(Signal):
    """The issuer cannot be reached, and its keys were never read or are older than a day."""


class Overrun(BaseException):
    """A task's own code took longer than it may. No ``except Exception`` of that code stops it."""


class Full(Signal):
    """Too many pages are listening."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a phrase that lists the choices and names the nearest match first, if there is a near match.

    >>> nearest("rouds", ["rounds", "lr"])
    "did you mean 'rounds'? (one of: lr, rounds)"
    >>> nearest("rouds", ["lr", "mu"])
    'expected one of: lr, mu'
    """
    known = sorted(choices)
    if not known:
        return "there is nothing to choose from"
    lower = {choice.casefold(): choice for choice in known}
    close = [lower[match] for match in difflib.get_close_matches(word.casefold(), lower, n=1, cutoff=0.5)]
    listing = ", ".join(known if len(known) <= 20 else [*known[:20], "…"])
    return f"did you mean {close[0]!r}? (one of: {listing})" if close else f"expected one of: {listing}"
