"""Refusals of a request's token: their codes for log and metrics, and the reply header that OAuth requires."""

from __future__ import annotations

from ..errors import TokenRefused

PROOF_ALGORITHMS = ("ES384", "ES256", "Ed25519", "EdDSA")  # RFC 9449: named in every DPoP challenge
CODES = (
    "auth.alg_key_mismatch",
    "auth.alg_refused",
    "auth.audience",
    "auth.binding_required",
    "auth.claims_malformed",
    "auth.client_missing",
    "auth.client_revoked",
    "auth.cnf_unknown",
    "auth.dpop_ath",
    "auth.dpop_binding",
    "auth.dpop_downgrade",
    "auth.dpop_full",
    "auth.dpop_malformed",
    "auth.dpop_missing",
    "auth.dpop_multiple",
    "auth.dpop_nonce",
    "auth.dpop_replay",
    "auth.dpop_signature",
    "auth.dpop_target",
    "auth.dpop_time",
    "auth.dpop_unbound",
    "auth.expired",
    "auth.header_refused",
    "auth.id_token",
    "auth.issuer_unknown",
    "auth.jwks_unavailable",
    "auth.kid_missing",
    "auth.lifetime_too_long",
    "auth.malformed",
    "auth.multiple_authorization",
    "auth.no_token",
    "auth.node_mismatch",
    "auth.not_yet_valid",
    "auth.scheme",
    "auth.scope",
    "auth.signature",
    "auth.throttled",
    "auth.too_large",
    "auth.typ_refused",
    "auth.unknown_kid",
)
"""All codes that a refused request can have. The metrics show each of them, as 0 until it happens."""
_UNFIT = str.maketrans({'"': "'", "\\": "/"})  # RFC 6750 section 3: not in a description


def challenge(refused: TokenRefused, scheme: str, *, scope: str = "") -> None:
    """Add the ``WWW-Authenticate`` header (RFC 6750 section 3, RFC 9449 section 7.1); 429 and 503 get none."""
    if refused.status not in (400, 401, 403):
        return
    parts = ['realm="moonflower"']
    if refused.error:
        parts += [f'error="{refused.error}"', f'error_description="{str(refused).translate(_UNFIT)}"']
    if refused.error == "insufficient_scope":
        parts.append(f'scope="{scope}"')
    if scheme == "DPoP":
        parts.append(f'algs="{" ".join(PROOF_ALGORITHMS)}"')
    refused.headers.append(("WWW-Authenticate", f"{scheme} {', '.join(parts)}"))
