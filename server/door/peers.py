"""Keeps other users from the loopback listener: Flower's Runtime API trusts every client, and shows tokens in ``ps``.

The kernel says which user owns the other end of a loopback connection. Only this process's own user and root get past
the first byte.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...errors import InputError

logger = logging.getLogger(__name__)
TABLE = Path("/proc/net/tcp")
Address = tuple[str, int]
QUIET_S = 60.0


def owner(theirs: Address, ours: Address, table: Iterable[str]) -> int | None:
    """Return the user id of the other end of a connection, from the lines of /proc/net/tcp; None if unknown.

    A socket that its process has closed is listed without an inode and as root's, whichever user had it, so it does not
    count. Both ends are compared, because one local port may lead to several places of several users.
    """
    ends = [_shown(*theirs), _shown(*ours)]
    for line in table:
        fields = line.split()
        if len(fields) > 9 and fields[1:3] == ends and fields[9] != "0":
            return int(fields[7])
    return None


def _shown(address: str, port: int) -> str:
    return f"{int.from_bytes(ipaddress.IPv4Address(address).packed, 'little'):08X}:{port:04X}"


class OwnUserOnly(HttpToolsProtocol):
    """A connection from a process of this user or of root. Any other is closed before it is read.

    Refusals are logged once a minute, so that they do not fill the log.
    """

    told = -QUIET_S  # when a refusal of any connection was last logged

    def connection_made(self, transport: Any) -> None:
        """Check which user owns the other end."""
        super().connection_made(transport)
        user = None
        if self.client and self.server and self.server[1] is not None:
            with TABLE.open() as table:
                user = owner(self.client, (self.server[0], self.server[1]), table)
        if user not in (os.geteuid(), 0):
            transport.abort()
            if time.monotonic() - OwnUserOnly.told >= QUIET_S:
                OwnUserOnly.told = time.monotonic()
                known = "an unknown user" if user is None else f"user {user}"
                logger.warning("the loopback listener refused a connection from %s", known)


def check_supported() -> None:
    """Check that the kernel says who owns a socket.

    Raises:
        InputError: ``config.platform``.
    """
    if not TABLE.is_file():
        raise InputError("config.platform", f"{TABLE} is missing; expected Linux, which tells who owns a connection")
