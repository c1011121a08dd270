"""Why a request's token does not open the door: a code for log and metrics, and the reply that OAuth asks for."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import Refused

PROOF_ALGORITHMS = ("ES384", "ES256", "EdDSA")  # RFC 9449: named in every DPoP challenge
_UNFIT = str.maketrans({'"': "'", "\\": "/"})  # RFC 6750 section 3: not in a description


class TokenRefused(Refused):
    """A request may not pass.

    Attributes:
        status: HTTP status: 400, 401, 403, 429 or 503.
        headers: of the reply: ``WWW-Authenticate``, ``DPoP-Nonce``, ``Retry-After``.
        error: the OAuth error, or "" where the request named no token at all.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 401,
        headers: Iterable[tuple[str, str]] = (),
        *,
        error: str = "invalid_token",
    ) -> None:
        super().__init__(code, message)
        self.status, self.headers, self.error = status, list(headers), error

    def challenge(self, scheme: str, *, scope: str = "") -> None:
        """Add the ``WWW-Authenticate`` header (RFC 6750 section 3, RFC 9449 section 7.1); 429 and 503 get none."""
        if self.status not in (400, 401, 403):
            return
        parts = ['realm="moonflower"']
        if self.error:
            parts += [f'error="{self.error}"', f'error_description="{str(self).translate(_UNFIT)}"']
        if self.error == "insufficient_scope":
            parts.append(f'scope="{scope}"')
        if scheme == "DPoP":
            parts.append(f'algs="{" ".join(PROOF_ALGORITHMS)}"')
        self.headers.append(("WWW-Authenticate", f"{scheme} {', '.join(parts)}"))
