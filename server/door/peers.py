"""Keeps the loopback listener to this user: Flower's Runtime API trusts whoever reaches it, and shows tokens in ``ps``.

The kernel tells whose socket the other end of a loopback connection is; nobody but this process's own user and root
gets past the first byte.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...errors import InputError

logger = logging.getLogger(__name__)
TABLE = Path("/proc/net/tcp")


def owner(address: str, port: int, table: Iterable[str]) -> int | None:
    """Return the user id of the socket bound to ``address``:``port``, from the lines of /proc/net/tcp, or None."""
    number = ipaddress.IPv4Address(address)
    wanted = f"{int.from_bytes(number.packed, 'little'):08X}:{port:04X}"
    for line in table:
        fields = line.split()
        if len(fields) > 7 and fields[1] == wanted:
            return int(fields[7])
    return None


class OwnUserOnly(HttpToolsProtocol):
    """A connection from a process of this user or of root; any other is closed before it is read."""

    def connection_made(self, transport: Any) -> None:
        """Look whose the other end is."""
        super().connection_made(transport)
        user = None
        if self.client:
            with TABLE.open() as table:
                user = owner(*self.client, table)
        if user not in (os.geteuid(), 0):
            logger.warning("the loopback listener refused a connection of user %s", user)
            transport.abort()


def check_supported() -> None:
    """Check that the kernel says whose a socket is.

    Raises:
        InputError: ``config.platform``.
    """
    if not TABLE.is_file():
        raise InputError("config.platform", f"{TABLE} is missing; expected Linux, which tells whose a connection is")
