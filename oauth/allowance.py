"""Limits on how many refusals an address may cause, for the gateway and the embedded issuer's login page."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_ADDRESSES = 10_000


class Allowance:
    """Token buckets that limit how many refusals an address may cause before it has to wait.

    Args:
        a_minute: refusals that an address may cause at once, and that are given back in a minute.
        clock: now, in seconds.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_minute, self._clock = a_minute, clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return 0.0 if the address may try, or else how many seconds it has to wait."""
        over = self._level(address) - self._a_minute + 1
        return max(0.0, over * 60 / self._a_minute)

    def spend(self, address: str) -> None:
        """Count a refusal that the address caused."""
        self._spent[address] = (self._level(address) + 1, self._clock())
        self._spent.move_to_end(address)
        while len(self._spent) > MAX_ADDRESSES:
            self._spent.popitem(last=False)

    def _level(self, address: str) -> float:
        spent, since = self._spent.get(address, (0.0, 0.0))
        return max(0.0, spent - (self._clock() - since) * self._a_minute / 60)
