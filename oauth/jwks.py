"""The issuer's public keys: fetched again after a while, and earlier for a key id that is not known yet.

A flood of made-up key ids causes at most one fetch per cooldown. In return, a new key may be unknown for that long: if
the issuer uses it before publishing it, or within the cooldown after another unknown key id. So an unknown id is never
a final no: the sender is told when to ask again. While the issuer cannot be
reached, the last keys stay valid for at most a day. A bad key in the document does not affect the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import IssuerUnreachable, KeysUnavailable, MetadataRefused
from .discovery import Fetch, discover, document, endpoint
from .jws import VerificationKey, public_key

logger = logging.getLogger(__name__)
STALE_S = 24 * 3600.0
RETRY_S = 5.0  # after a fetch that failed before any succeeded
WAIT_S = 1.0  # for another thread's fetch, if there are old keys
MAX_KEYS = 64


@dataclass(frozen=True)
class _Snapshot:
    keys: dict[str, tuple[VerificationKey, ...]]  # two keys under one id are both tried
    jwks_uri: str
    fetched: float

    def age_s(self, now: float) -> float:
        """Return the age in seconds; infinite if the clock was set back."""
        return now - self.fetched if now >= self.fetched else float("inf")


class IssuerKeys:
    """The keys of one issuer; safe for threads.

    Args:
        issuer: its address.
        ttl_s: the keys are fetched again after this time.
        cooldown_s: least time between two fetches for unknown key ids, and after a fetch that failed.
        fetch: returns the document at an address.
        clock: now, in seconds.
    """

    def __init__(
        self, issuer: str, *, ttl_s: float, cooldown_s: float, fetch: Fetch, clock: Callable[[], float] = time.time
    ) -> None:
        self._issuer, self._ttl_s, self._cooldown_s = issuer, ttl_s, cooldown_s
        self._fetch, self._clock = fetch, clock
        self._fetching = threading.Lock()
        self._snapshot: _Snapshot | None = None
        self._not_before = 0.0  # no fetch that a ttl asks for until then
        self._not_for_unknown_before = 0.0

    def find(self, kid: str) -> tuple[VerificationKey, ...]:
        """Return the keys with this id; empty if there are none.

        Raises:
            KeysUnavailable: the issuer's keys are not known.
        """
        snapshot = self._fresh()
        if kid not in snapshot.keys and self._may_look(self._not_for_unknown_before):
            snapshot = self._look_again(kid, snapshot)
        return snapshot.keys.get(kid, ())

    def wait_s(self) -> float:
        """Return in how many seconds an id that is unknown now may be looked for again, at least 1."""
        return max(1.0, self._not_for_unknown_before - self._clock())

    def _fresh(self) -> _Snapshot:
        """Return the keys, fetched again if they are old. Other threads use the old keys meanwhile."""
        snapshot = self._snapshot
        if snapshot is not None and snapshot.age_s(self._clock()) < self._ttl_s:
            return snapshot
        if self._fetching.acquire(blocking=snapshot is None):
            try:
                if self._snapshot is snapshot and self._may_look(self._not_before):
                    self._refresh(discovered="")
            finally:
                self._fetching.release()
        snapshot = self._snapshot
        if snapshot is None or snapshot.age_s(self._clock()) > self._ttl_s + STALE_S:
            raise KeysUnavailable
        return snapshot

    def _look_again(self, kid: str, snapshot: _Snapshot) -> _Snapshot:
        """Return the keys after a fetch for an unknown id, made here or by another thread just now."""
        if not self._fetching.acquire(timeout=WAIT_S):
            return snapshot
        try:
            current = self._snapshot or snapshot
            if current is snapshot and kid not in current.keys and self._may_look(self._not_for_unknown_before):
                self._not_for_unknown_before = self._clock() + self._cooldown_s
                self._refresh(discovered=snapshot.jwks_uri)
            return self._snapshot or snapshot
        finally:
            self._fetching.release()

    def _may_look(self, not_before: float) -> bool:
        now = self._clock()
        return now >= not_before or now < not_before - max(self._cooldown_s, RETRY_S)  # the clock was set back

    def _refresh(self, *, discovered: str) -> None:
        """Replace the keys with what the issuer publishes now. On failure, only the time of the next fetch changes."""
        try:
            uri = discovered or endpoint(discover(self._issuer, self._fetch), "jwks_uri")
            keys = _keys(self._fetch(uri))
            self._snapshot = _Snapshot(keys, uri, self._clock())
        except (IssuerUnreachable, MetadataRefused) as error:
            pause_s = RETRY_S if self._snapshot is None else self._cooldown_s
            self._not_before = self._clock() + pause_s
            logger.warning("the keys of %s cannot be read: %s", self._issuer, error)


def _keys(data: bytes) -> dict[str, tuple[VerificationKey, ...]]:
    """Return the usable keys of a JWKS document by id.

    Raises:
        IssuerUnreachable: ``auth.issuer_unreachable``: not a JWKS, or more than 64 keys.
    """
    listed = document(data).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise IssuerUnreachable(
            "auth.issuer_unreachable", f"expected a list of at most {MAX_KEYS} keys from the issuer"
        )
    by_id: dict[str, tuple[VerificationKey, ...]] = {}
    for jwk in listed:
        try:
            key = public_key(jwk)
        except ValueError:
            continue  # of a kind that is not used here, or malformed: the others stay
        if key.kid is not None:
            by_id[key.kid] = (*by_id.get(key.kid, ()), key)
    return by_id
