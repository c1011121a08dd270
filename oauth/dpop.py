"""Checks DPoP proofs: the sender of a request holds the key to which its token is bound (RFC 9449).

A proof counts once, for one method, one address and one token, within a minute. If nonces are required, it also needs a
nonce that this process gave out recently. Used proofs are remembered in this process alone. Two processes behind one
address would each take a proof once, so only one process may run. A full memory refuses proofs rather than forgets
them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ..crypto.identity import b64
from ..errors import TokenRefused
from .jws import Jws, VerificationKey, public_key, read, thumbprint
from .refusal import PROOF_ALGORITHMS

WINDOW_S = 60.0
NONCE_S = 120.0  # a nonce is given out for this long, and accepted for as long again
MAX_BYTES = 4096
_FOREIGN = ("crit", "b64", "zip", "jku", "x5u", "x5c")
_MEMBERS = ("kty", "crv", "x", "y")
_HEX = re.compile("%[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Seen:
    """A bounded memory of things that may be used once; safe for threads.

    Args:
        keep_s: how long an entry stays.
        most: how many entries there may be. A full memory takes no new ones until old ones go.
    """

    def __init__(self, keep_s: float, most: int, clock: Callable[[], float] = time.time) -> None:
        self._keep_s, self._most, self._clock = keep_s, most, clock
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, *parts: str) -> bool:
        """Return whether this combination of parts is seen for the first time, and remember it.

        Raises:
            OverflowError: the memory is full.
        """
        entry = hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
        with self._lock:
            now = self._clock()
            while self._until and next(iter(self._until.values())) < now:
                self._until.popitem(last=False)
            if entry in self._until:
                return False
            if len(self._until) >= self._most:
                raise OverflowError("the memory of proofs is full")
            self._until[entry] = now + self._keep_s
            return True


class Nonces:
    """Nonces that need no memory: a MAC over the time. All requests of two minutes may use the same nonce.

    Args:
        secret: 32 secret bytes of this process.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret, self._clock = secret, clock

    def current(self) -> str:
        """Return the nonce to give out now."""
        return self._at(int(self._clock() // NONCE_S))

    def good(self, nonce: Any) -> bool:
        """Return whether a nonce was given out in this span of two minutes or the one before."""
        if not isinstance(nonce, str) or not nonce.isascii():
            return False
        span = int(self._clock() // NONCE_S)
        matches = [hmac.compare_digest(self._at(number), nonce) for number in (span, span - 1)]
        return any(matches)

    def _at(self, span: int) -> str:
        return b64(hmac.digest(self._secret, b"moonflower.dpop-nonce.v1\0%d" % span, "sha256")[:18])


class Proofs:
    """Checks DPoP proofs; safe for threads.

    Args:
        nonces: None if proofs need no nonce.
        most: proofs remembered.
    """

    def __init__(
        self, *, nonces: Nonces | None = None, most: int = 100_000, clock: Callable[[], float] = time.time
    ) -> None:
        self._nonces, self._clock = nonces, clock
        self._seen = Seen(2 * WINDOW_S, most, clock)  # a proof may be dated a window ahead
        self._keys: OrderedDict[str, VerificationKey] = OrderedDict()
        self._lock = threading.Lock()

    def check(
        self, proofs: list[bytes], method: str, url: str, *, token: bytes | None = None, jkt: str | None = None
    ) -> Callable[[], str]:
        """Return a function that uses the proof up and returns its key's thumbprint. Until then, nothing changes.

        Args:
            proofs: the request's DPoP headers.
            method: of the request.
            url: of the request, as its sender knows it. A query is ignored.
            token: the access token that the proof must name, or None at a token endpoint.
            jkt: thumbprint of the key to which the token is bound.

        Raises:
            TokenRefused: ``auth.dpop_*``. The returned function raises ``auth.dpop_replay`` and ``auth.dpop_full``.
        """
        if not proofs:
            raise _refused("auth.dpop_missing", "the request has no DPoP proof")
        if len(proofs) > 1 or b"," in proofs[0]:  # a proxy may have joined several headers
            raise _refused("auth.dpop_multiple", "the request has more than one DPoP proof")
        jws, key = self._read(proofs[0])
        jti = self._claims(jws.claims, method, url)
        if token is not None:
            expected = b64(hashlib.sha256(token).digest())
            if not _same(jws.claims.get("ath"), expected):
                raise _refused("auth.dpop_ath", "the DPoP proof is for another token")
        if jkt is not None and not _same(key.thumbprint, jkt):
            raise TokenRefused("auth.dpop_binding", "the token is bound to a key other than the DPoP proof's")
        if self._nonces is not None and not self._nonces.good(jws.claims.get("nonce")):
            raise TokenRefused(
                "auth.dpop_nonce",
                "the DPoP proof needs the nonce of this reply",
                headers=[("DPoP-Nonce", self._nonces.current())],
                error="use_dpop_nonce",
            )

        def use() -> str:
            try:
                first = self._seen.first(key.thumbprint, jti)
            except OverflowError:
                retry = [("Retry-After", "5")]
                raise TokenRefused("auth.dpop_full", "too many DPoP proofs at once", 503, retry) from None
            if not first:
                raise _refused("auth.dpop_replay", "the DPoP proof was used before")
            return key.thumbprint

        return use

    def _read(self, proof: bytes) -> tuple[Jws, VerificationKey]:
        """Return a proof and its key, after checking that the key signed the proof."""
        try:
            if len(proof) > MAX_BYTES:
                raise ValueError("too long")
            jws = read(proof)
            header, algorithm = jws.header, jws.header.get("alg")
            good = header.get("typ") == "dpop+jwt" and algorithm in PROOF_ALGORITHMS
            if not good or any(name in header for name in _FOREIGN):
                raise ValueError("another type or algorithm, or a header that has no place in a proof")
            key = self._key(header.get("jwk"), str(algorithm))
        except ValueError as error:
            raise _refused("auth.dpop_malformed", "the DPoP proof is malformed") from error
        if not key.verify(str(algorithm), jws):
            raise _refused("auth.dpop_signature", "the DPoP proof is not signed by its own key")
        return jws, key

    def _key(self, given: Any, algorithm: str) -> VerificationKey:
        """Return the key of a proof. Importing a key costs as much as a signature, so the latest are kept.

        A name, a use or an algorithm beside the key's own members say nothing here, but must not contradict the proof.
        """
        if not isinstance(given, dict) or given.keys() - {*_MEMBERS, "kid", "alg", "use", "key_ops"}:
            raise ValueError("expected a public key")
        if given.get("alg", algorithm) != algorithm or given.get("use", "sig") != "sig":
            raise ValueError("the key is for another algorithm or use")
        if not isinstance(given.get("kid", ""), str) or not isinstance(given.get("key_ops", []), list):
            raise ValueError("expected texts beside the key")
        jwk = {member: given[member] for member in _MEMBERS if member in given}
        name = thumbprint(jwk)
        with self._lock:
            if name in self._keys:
                self._keys.move_to_end(name)
                return self._keys[name]
        key = public_key(jwk)
        with self._lock:
            self._keys[name] = key
            if len(self._keys) > 1024:
                self._keys.popitem(last=False)
        return key

    def _claims(self, claims: dict[str, Any], method: str, url: str) -> str:
        """Return the ``jti`` of a proof, after checking that it is for this request and from the last minute."""
        jti, htm, htu, iat = (claims.get(name) for name in ("jti", "htm", "htu", "iat"))
        texts = isinstance(jti, str) and isinstance(htm, str) and isinstance(htu, str)
        number = isinstance(iat, int | float) and not isinstance(iat, bool) and abs(iat) < 1e12
        if not texts or not number or not 0 < len(str(jti)) <= 256:
            raise _refused("auth.dpop_malformed", "the DPoP proof lacks jti, htm, htu or iat, or they are malformed")
        if htm != method or target(str(htu)) != target(url):
            raise _refused("auth.dpop_target", "the DPoP proof is for another method or address")
        if abs(self._clock() - float(iat or 0)) > WINDOW_S:
            raise _refused("auth.dpop_time", "the DPoP proof is too old or dated ahead: compare the clocks")
        return str(jti)


def target(url: str) -> str | None:
    """Return an address in the form in which ``htu`` is compared (RFC 3986 section 6.2), or None if it is malformed.

    >>> target("HTTPS://Fl.Example.org:443/a%7eb?x=1") == target("https://fl.example.org/a~b")
    True
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return None
    if port in (None, 443 if parts.scheme == "https" else 80):
        port = None
    path = _HEX.sub(_normal, parts.path) or "/"
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def _normal(escape: re.Match[str]) -> str:
    character = chr(int(escape.group()[1:], 16))
    return character if character in _UNRESERVED else escape.group().upper()


def _same(got: Any, expected: str) -> bool:
    return isinstance(got, str) and hmac.compare_digest(got.encode(), expected.encode())


def _refused(code: str, message: str) -> TokenRefused:
    return TokenRefused(code, message, error="invalid_dpop_proof")
