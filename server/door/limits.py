"""What a connection may take: how long, how much, how many from one address. uvicorn alone has no such limits."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...errors import Refused

MAX_HEAD_BYTES = 64 << 10
MAX_ADDRESSES = 10_000
OPEN_FILES = 65_536
# uvicorn warns of every request that is no HTTP: whoever sends many would fill the disk with it. Errors come through.
wire = logging.getLogger(f"{__name__}.wire")
wire.setLevel(logging.ERROR)


class TooMuch(Refused):
    """A request is larger or slower than allowed; ``status`` is for the reply."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code, message)
        self.status = status


def take_all_files() -> None:
    """Let this process open as many files as it may: connections before their handshake are counted nowhere else."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def protocol(
    head_timeout_s: float,
    per_address: int,
    open_now: Counter[str] | None = None,
    cut: Callable[[str, str], None] = lambda _code, _address: None,
) -> type[HttpToolsProtocol]:
    """Return an HTTP protocol that closes what does not complete a request's head, and what comes too often.

    Args:
        head_timeout_s: from the first moment of a connection, and from a later request's first byte.
        per_address: open connections of one address.
        open_now: where these are counted, by address, if somebody wants to know.
        cut: called with (code, address) for a connection that is closed for it: ``conn.head_timeout``,
            ``conn.head_too_large``, ``conn.too_many``.
    """
    opened = Counter[str]() if open_now is None else open_now

    class Limited(HttpToolsProtocol):
        """One connection."""

        _address = ""
        _timer: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            self.logger = wire
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            opened[self._address] += 1
            if opened[self._address] > per_address:
                self._cut("conn.too_many")
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_here()
            opened[self._address] -= 1
            if not opened[self._address]:
                del opened[self._address]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            whole = self.cycle is None or self.cycle.response_complete or not self.cycle.more_body
            if whole and self._timer is None:  # what comes now is another head, though the answer may be under way
                self._await_head()
            if self._timer is not None:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._timer is not None and self._head_bytes > MAX_HEAD_BYTES:
                self._cut("conn.head_too_large")

        def on_headers_complete(self) -> None:
            self._head_is_here()
            super().on_headers_complete()

        def _await_head(self) -> None:
            self._head_bytes = 0
            self._timer = self.loop.call_later(head_timeout_s, self._cut, "conn.head_timeout")

        def _head_is_here(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _cut(self, code: str) -> None:
            self._head_is_here()
            self.transport.abort()
            cut(code, self._address)

    return Limited


def bounded(receive: Callable[[], Any], max_bytes: int, timeout_s: float) -> Callable[[], Any]:
    """Return an ASGI ``receive`` that raises :class:`TooMuch` for a body that is too large or too slow."""
    deadline = time.monotonic() + timeout_s
    got, whole = 0, False

    async def limited() -> Any:
        nonlocal got, whole
        if whole:
            return await receive()  # waits for the end of the connection, as long as the reply takes
        try:
            message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TooMuch("http.body_timeout", "the request's body did not come in time", 408) from None
        got += len(message.get("body", b""))
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        if got > max_bytes:
            raise TooMuch("http.body_too_large", f"expected a body of at most {max_bytes} bytes", 413)
        return message

    return limited


class Allowance:
    """Token buckets: how many refusals an address may cause before it is asked to wait.

    Args:
        a_minute: refusals that an address may cause at once, and that are given back in a minute.
        clock: seconds.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_minute, self._clock = a_minute, clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return 0.0 if the address may try, or else for how long it should not."""
        over = self._level(address) - self._a_minute + 1
        return max(0.0, over * 60 / self._a_minute)

    def spend(self, address: str) -> None:
        """Count a refusal."""
        self._spent[address] = (self._level(address) + 1, self._clock())
        self._spent.move_to_end(address)
        while len(self._spent) > MAX_ADDRESSES:
            self._spent.popitem(last=False)

    def _level(self, address: str) -> float:
        spent, since = self._spent.get(address, (0.0, 0.0))
        return max(0.0, spent - (self._clock() - since) * self._a_minute / 60)
