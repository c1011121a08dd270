"""Limits on connections: time, size, and number from one address. uvicorn alone has no such limits."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...errors import TooMuch

MAX_HEAD_BYTES = 64 << 10
OPEN_FILES = 65_536
# uvicorn warns of every request that is not HTTP, so a flood of them would fill the disk. Errors still come through.
wire = logging.getLogger(f"{__name__}.wire")
wire.setLevel(logging.ERROR)


def take_all_files() -> None:
    """Let this process open as many files as allowed: nothing else counts connections before their handshake."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@dataclass(frozen=True)
class Bounds:
    """Limits on connections, and what is called when one exceeds them.

    Attributes:
        head_timeout_s: time for a request's head: from the connection's begin, or a later request's first byte.
        per_address: open connections of one address.
        opened: open connections now, by address.
        cut: called with (code, address) when a connection is closed for a limit: ``conn.head_timeout``,
            ``conn.head_too_large``, ``conn.frame_too_large``, ``conn.too_many``.
    """

    head_timeout_s: float
    per_address: int
    opened: Counter[str]
    cut: Callable[[str, str], None]


class Limited(HttpToolsProtocol):
    """One connection, closed when it does not complete a request's head, or when its address has too many.

    Every byte of a request counts. Those after the head are its body, which ``bounded`` counts, or what frames it:
    sizes and extensions of chunks, and trailers. The frame may be as large as a head, and besides as large as the body.
    """

    def __init__(self, bounds: Bounds, **options: Any) -> None:
        super().__init__(**options)
        self.logger = wire
        self._bounds, self._address, self._head_bytes = bounds, "", 0
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._after_head = self._body_bytes = 0
        self._whole_head = False

    def connection_made(self, transport: Any) -> None:
        """Count the connection, and wait for its first head."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._bounds.opened[self._address] += 1
        if self._bounds.opened[self._address] > self._bounds.per_address:
            self._cut("conn.too_many")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._head_is_here()
        opened = self._bounds.opened
        opened[self._address] -= 1
        if not opened[self._address]:
            del opened[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and count those of a head."""
        whole = self.cycle is None or self.cycle.response_complete or not self.cycle.more_body
        if whole and self._timer is None:  # another head begins, even if the answer is still under way
            self._await_head()
        if self._timer is not None:
            self._head_bytes += len(data)
        in_body, begun = self._timer is None, self._begun
        super().data_received(data)
        if self._timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._cut("conn.head_too_large")
        elif in_body and begun == self._begun:
            self._after_head += len(data)
            if self._after_head - self._body_bytes > MAX_HEAD_BYTES + self._body_bytes:
                self._cut("conn.frame_too_large")

    def on_message_begin(self) -> None:
        """Count a request anew."""
        self._begun += 1
        self._whole_head = False
        self._after_head = self._body_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._head_is_here()
        super().on_headers_complete()
        self._whole_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; trailers, which nobody here reads, are not kept."""
        if not self._whole_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(self._bounds.head_timeout_s, self._cut, "conn.head_timeout")

    def _head_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self, code: str) -> None:
        self._head_is_here()
        self.transport.abort()
        self._bounds.cut(code, self._address)


def protocol(
    head_timeout_s: float,
    per_address: int,
    open_now: Counter[str] | None = None,
    cut: Callable[[str, str], None] = lambda _code, _address: None,
) -> type[asyncio.Protocol]:
    """Return a factory of HTTP protocols that keep within :class:`Bounds`, one for each connection.

    Args:
        head_timeout_s, per_address, cut: as in :class:`Bounds`.
        open_now: counter of open connections by address, if the caller needs it.
    """
    bounds = Bounds(head_timeout_s, per_address, Counter() if open_now is None else open_now, cut)
    return cast("type[asyncio.Protocol]", partial(Limited, bounds))  # uvicorn only calls it


def bounded(receive: Callable[[], Any], max_bytes: int, timeout_s: float) -> Callable[[], Any]:
    """Return an ASGI ``receive`` that raises :class:`TooMuch` for a body that is too large or too slow."""
    deadline = time.monotonic() + timeout_s
    got, whole = 0, False

    async def limited() -> Any:
        nonlocal got, whole
        if whole:
            return await receive()  # waits for the end of the connection while the reply takes its time
        try:
            message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TooMuch("http.body_timeout", "the request's body did not arrive in time", 408) from None
        got += len(message.get("body", b""))
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        if got > max_bytes:
            raise TooMuch("http.body_too_large", f"expected a body of at most {max_bytes} bytes", 413)
        return message

    return limited
