"""A feed for a security team: who came in, who was refused, who decided what, as one JSON object for each event.

It goes into a file, which a shipper may rotate, or to syslog. No event has a token, a key or a signature. Events that
are in the audit log, too, come from there, with its pseudonyms if it has any. The others are seen at the door, and have
addresses and names as they are: the feed is for this server's own security team, and the audit log for all.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import InputError

logger = logging.getLogger(__name__)
FROM_LOG = {
    "member_added": "info",
    "member_revoked": "warning",
    "access_denied": "warning",
    "access_allowed": "info",
    "card_taken": "info",
    "circle_proposed": "info",
    "circle_signed": "info",
    "circle_began": "info",
    "farewell": "info",
    "run_asked": "info",
    "stop_asked": "info",
    "approved": "info",
    "rejected": "warning",
    "released": "info",
    "rolled_back": "warning",
    "imported": "warning",
}
"""Entry of the audit log that the feed has → how serious it is."""
AT_THE_DOOR = {
    "node_login": "info",
    "login": "info",
    "logout": "info",
    "login_refused": "warning",
    "refused": "warning",
}
"""Event seen at the door → how serious it is."""
KEPT = (
    "kind",
    "name",
    "by",
    "reason",
    "approver",
    "action",
    "version",
    "sha256",
    "circle",
    "pin",
    "client_id",
    "issuer",
)
"""Details of an entry that are in the feed, too: who and what, no document and no signature."""
PRIORITY = {"info": logging.INFO, "warning": logging.WARNING}


class Feed:
    """Tells of events; thread-safe. Without a place it tells nobody.

    Args:
        place: ``syslog:/dev/log``, ``syslog:HOST:PORT`` (UDP), the path of a file, or "".
        federation: its name, which every event has.

    Raises:
        InputError: ``config.value``: the place cannot be used.
    """

    def __init__(self, place: str, federation: str) -> None:
        self._federation = federation
        self._handler = _handler(place) if place else None

    def entry(self, entry: Mapping[str, Any]) -> None:
        """Tell of an entry of the audit log, if it concerns security."""
        severity = FROM_LOG.get(entry["event"])
        if severity is not None:
            details = entry.get("details") or {}
            about = {name: entry[name] for name in ("run", "member", "code") if name in entry}
            kept = {name: details[name] for name in KEPT if name in details}
            self._tell(entry["event"], severity, entry["time"], {"index": entry["index"], **about, **kept})

    def door(self, event: str, **about: Any) -> None:
        """Tell of an event at the door; what is empty is left out."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._tell(event, AT_THE_DOOR[event], time, {name: value for name, value in about.items() if value})

    def close(self) -> None:
        """Close the file or the socket."""
        if self._handler is not None:
            self._handler.close()

    def _tell(self, event: str, severity: str, time: str, about: Mapping[str, Any]) -> None:
        if self._handler is None:
            return
        whole = {"time": time, "event": event, "severity": severity, "federation": self._federation, **about}
        line = json.dumps(whole, separators=(",", ":"))  # ASCII: no line break, no text that cannot be written
        record = logging.LogRecord("moonflower.feed", PRIORITY[severity], "", 0, "%s", (line,), None)
        try:
            self._handler.handle(record)
        except OSError as error:  # its folder is gone: nobody is kept out for that, and this server's own log says it
            logger.error("the feed cannot be written, and lacks an event %s: %s", event, error.strerror or error)


class _File(logging.handlers.WatchedFileHandler):
    """A file of mode 0600, also after it was rotated."""

    def _open(self) -> Any:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        return super()._open()


def _handler(place: str) -> logging.Handler:
    kind, _, rest = place.partition(":")
    try:
        if kind != "syslog":
            return _File(Path(place), encoding="ascii")
        host, _, port = rest.rpartition(":")
        address = (host.strip("[]"), int(port)) if host and port.isdigit() else rest
        if isinstance(address, str) and not Path(address).is_socket():
            raise OSError("no such socket")
        facility = logging.handlers.SysLogHandler.LOG_AUTH
        found = logging.handlers.SysLogHandler(address, facility, socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:
        raise InputError("config.value", f"server.feed = {place!r}: cannot be written: {error}") from None
    found.ident = "moonflower: "
    return found
