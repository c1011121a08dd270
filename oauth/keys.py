"""The two keys of a login: the OAuth client's key, which signs assertions, and the key to which tokens are bound."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from cryptography.hazmat.primitives.asymmetric import ec

from .. import files
from ..crypto.identity import b64
from ..errors import InputError
from .jws import SigningKey, from_ec, new_key, private_key


class DpopKey:
    """A key that proves who sends a request (RFC 9449): P-384 (ES384) or P-256 (ES256).

    A node uses its node key, so that its token's ``cnf.jkt`` is the pin by which others know it.

    Raises:
        InputError: ``config.key``: the key is on another curve.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, clock: Callable[[], float] = time.time) -> None:
        if not isinstance(key.curve, ec.SECP384R1 | ec.SECP256R1):
            raise InputError("config.key", "expected a DPoP key on P-384 or P-256")
        self._key = from_ec(key)
        self._clock = clock
        self._jwk = self._key.public.jwk
        self.jkt = self._key.public.thumbprint  #: RFC 7638 thumbprint

    @classmethod
    def generate(cls) -> DpopKey:
        """Return a new P-384 key, for a process that is not a node."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    def proof(self, method: str, url: str, *, token: str | None = None, nonce: str | None = None) -> str:
        """Return a proof for one request.

        Args:
            method: of the request.
            url: of the request; its query is left out.
            token: the access token that goes with the request.
            nonce: the nonce that the server asked for.
        """
        target = urlunsplit(urlsplit(url)._replace(query="", fragment=""))
        claims = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": target, "iat": int(self._clock())}
        if token is not None:
            claims["ath"] = b64(hashlib.sha256(token.encode()).digest())
        if nonce is not None:
            claims["nonce"] = nonce
        return self._key.sign({"typ": "dpop+jwt", "jwk": self._jwk}, claims)


def load_key(path: Path) -> SigningKey:
    """Return the OAuth client's key.

    Raises:
        InputError: ``config.key``: missing, readable by others, or not a private JWK.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(65536)
    except OSError as error:
        raise InputError(
            "config.key", f"key {path} cannot be read: {error.strerror}", hint="moonflower keys new CONFIG makes one"
        ) from error
    if mode & 0o077:
        raise InputError(
            "config.key", f"key {path} can be read by others; expected mode 0600", hint=f"chmod 600 {path}"
        )
    try:
        return private_key(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InputError(
            "config.key",
            f"key {path} is not a private JWK",
            hint="the private half belongs here, the public half at the issuer",
        ) from error


def new_client_key() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a new key for an OAuth client, as private and as public JWK (ES256; ``kid`` is its thumbprint)."""
    return new_key()


def make_client_key(path: Path) -> tuple[Path, ...]:
    """Create an OAuth client's key (0600) unless the file exists, and return the files that were made.

    Raises:
        InputError: ``config.key``: the file cannot be written.
    """
    if path.exists():
        return ()
    private, _ = new_client_key()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.create(path, f"{json.dumps(private)}\n".encode(), 0o600)
    except OSError as error:
        raise InputError("config.key", f"key {path} cannot be written: {error.strerror}") from None
    return (path,)
