"""Keeps the loopback listener to this user: Flower's Runtime API trusts whoever reaches it, and shows tokens in ``ps``.

The kernel tells whose socket the other end of a loopback connection is; nobody but this process's own user and root
gets past the first byte.
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
    """Return the user id of the other end of a connection, from the lines of /proc/net/tcp; None if nobody holds it.

    A socket that its process has closed is there without an inode, and as root's, whoever it was: it counts for nobody.
    Both ends are compared, for one local port may lead to several places, of several users.
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
    """A connection from a process of this user or of root; any other is closed before it is read, and told of once a
    minute: who may not come in may not fill the log either.
    """

    told = -QUIET_S  # when, of all connections

    def connection_made(self, transport: Any) -> None:
        """Look whose the other end is."""
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
    """Check that the kernel says whose a socket is.

    Raises:
        InputError: ``config.platform``.
    """
    if not TABLE.is_file():
        raise InputError("config.platform", f"{TABLE} is missing; expected Linux, which tells who owns a connection")
