"""Signed tokens in JWS compact form (RFC 7515): strict reading, signing and verifying.

A key fits an algorithm by its type and curve, and by its own ``alg`` if it has one. Secret keys and "none" are not
supported. A header never chooses the key or the algorithm: callers hold a list of allowed algorithms and look keys up
themselves. No other module knows joserfc.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from ..canonical import canonical, check_text
from ..crypto.identity import b64, unb64

Key = ECKey | OKPKey | RSAKey
RSA_BITS = range(2048, 8193)
_FITS = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
_PRIMARY = {("EC", "P-256"): "ES256", ("EC", "P-384"): "ES384", ("EC", "P-521"): "ES512"}
_PRIMARY |= {("RSA", ""): "RS256", ("OKP", "Ed25519"): "EdDSA"}
_REQUIRED = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_SECRET = frozenset({"d", "dp", "dq", "k", "oth", "p", "q", "qi"})
_IMPORT: dict[str, type[Key]] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}


@dataclass(frozen=True)
class Jws:
    """A token that was read and is not verified yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, eq=False)
class VerificationKey:
    """A public key that verifies signatures."""

    key: Key
    kid: str | None
    kind: tuple[str, str]  # key type and curve
    algorithm: str | None  # the only algorithm for this key, if it names one
    thumbprint: str

    @property
    def jwk(self) -> dict[str, str]:
        """The key as a public JWK with its required members and its ``kid`` only."""
        jwk = {name: str(self.key[name]) for name in _REQUIRED[self.kind[0]]}
        return jwk if self.kid is None else {**jwk, "kid": self.kid}

    def fits(self, algorithm: str) -> bool:
        """Return whether the key may verify signatures of ``algorithm``."""
        return _FITS.get(algorithm) == self.kind and self.algorithm in (None, algorithm)

    def verify(self, algorithm: str, jws: Jws) -> bool:
        """Return whether the signature is this key's, made with ``algorithm``."""
        if not self.fits(algorithm):
            return False
        try:
            return JWSRegistry.algorithms[algorithm].verify(jws.signed, jws.signature, self.key)
        except ValueError:  # a signature of a form that the library rejects
            return False


@dataclass(frozen=True, eq=False)
class SigningKey:
    """A private key that signs, always with the same algorithm."""

    key: Key
    algorithm: str
    public: VerificationKey

    def sign(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """Return the claims as a signed token. ``alg`` and, if the key has one, ``kid`` are added to the header."""
        named = {"kid": self.public.kid} if self.public.kid is not None and "jwk" not in header else {}
        parts = ({**named, **header, "alg": self.algorithm}, dict(claims))
        signed = ".".join(b64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        # Past the registry's own get_alg, which warns of "EdDSA" although most issuers know no other name for it.
        return f"{signed}.{b64(JWSRegistry.algorithms[self.algorithm].sign(signed.encode(), self.key))}"


def read(token: bytes) -> Jws:
    """Return header, claims and signature of a token. Nothing in them can be trusted yet.

    Raises:
        ValueError: not three parts of canonical base64url, or not JSON objects, or a name twice or NaN in them.
    """
    parts = token.decode("ascii").split(".")
    if len(parts) != 3:
        raise ValueError("expected three parts")
    header, claims = (_object(unb64(part)) for part in parts[:2])
    return Jws(header, claims, f"{parts[0]}.{parts[1]}".encode(), unb64(parts[2]))


def public_key(jwk: Any) -> VerificationKey:
    """Return the key that a public JWK describes.

    Raises:
        ValueError: malformed, a secret key, a key of unknown kind, not for signatures, or RSA of less than 2048 bits.
    """
    if not isinstance(jwk, dict) or _SECRET & jwk.keys():
        raise ValueError("not a public JWK")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("the key is not for verifying")
    return _public(_import(jwk), jwk)


def private_key(jwk: Any) -> SigningKey:
    """Return the key that a private JWK describes.

    Raises:
        ValueError: as :func:`public_key`; or not a private JWK, or its ``alg`` does not fit it.
    """
    if not isinstance(jwk, dict) or "d" not in jwk:
        raise ValueError("not a private JWK")
    key = _import(jwk)
    public = _public(key, jwk)
    algorithm = public.algorithm or _PRIMARY[public.kind]
    if not public.fits(algorithm):
        raise ValueError("the key does not fit its own alg")
    return SigningKey(key, algorithm, public)


def from_ec(key: ec.EllipticCurvePrivateKey) -> SigningKey:
    """Return a key of ``cryptography`` as a signing key without a ``kid``.

    Raises:
        ValueError: the curve is not P-256, P-384 or P-521.
    """
    if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
        raise ValueError("expected P-256, P-384 or P-521")
    wrapped = ECKey(key, key)
    public = _public(wrapped, dict(wrapped.as_dict(private=False)))
    return SigningKey(wrapped, _PRIMARY[public.kind], public)


def new_key() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a new P-256 key as private and as public JWK. Its ``kid`` is its thumbprint."""
    key = ECKey.generate_key("P-256", private=True)
    named = {"kid": key.thumbprint(), "alg": "ES256", "use": "sig"}
    return {**key.as_dict(private=True), **named}, {**key.as_dict(private=False), **named}


def thumbprint(jwk: Any) -> str:
    """Return the RFC 7638 thumbprint (SHA-256) of a JWK. It is not checked whether the JWK is a usable key.

    Raises:
        ValueError: a required member is missing or not a text.
    """
    names = _REQUIRED.get(str(jwk.get("kty")), ()) if isinstance(jwk, dict) else ()
    if not names or not all(isinstance(jwk.get(name), str) for name in names):
        raise ValueError("not a JWK of a known type")
    return b64(hashlib.sha256(canonical({name: jwk[name] for name in names})).digest())


def _import(jwk: dict[str, Any]) -> Key:
    thumbprint(jwk)  # checks the required members, which the library does not
    if jwk.get("use", "sig") != "sig":
        raise ValueError("the key is not for signatures")
    try:
        return _IMPORT[jwk["kty"]].import_key(dict(jwk))
    except Exception as error:  # junk makes the library raise KeyError, UnsupportedAlgorithm and others
        raise ValueError("not a usable JWK") from error


def _public(key: Key, jwk: dict[str, Any]) -> VerificationKey:
    kind = (key.key_type, "" if isinstance(key, RSAKey) else key.curve_name)
    algorithm, kid = jwk.get("alg"), jwk.get("kid")
    if kind not in _PRIMARY or not isinstance(algorithm, str | None) or not isinstance(kid, str | None):
        raise ValueError("not a key for signatures that are known here")
    if isinstance(key, RSAKey):
        if key.public_key.key_size not in RSA_BITS:
            raise ValueError(f"expected RSA of {RSA_BITS.start} to {RSA_BITS.stop - 1} bits")
    else:  # a key has one spelling, because others pin its thumbprint
        plain = key.binding.export_public_key(key.public_key)  # type: ignore[arg-type]
        if any(jwk[name] != value for name, value in plain.items()):
            raise ValueError("the JWK is not in canonical form")
    return VerificationKey(key, kid, kind, algorithm, thumbprint(jwk))


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
        check_text(data, value)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
