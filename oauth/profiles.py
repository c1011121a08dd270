"""Profiles of access tokens, one for each kind of issuer, as a table: a difference is a line, not a branch.

``rfc9068`` is the standard. The others are what Keycloak, Entra ID, Auth0 and Okta issue by default. If a profile
shares its ``typ`` with ID tokens, the other marks of an ID token are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from ..configs.roles import Algorithm, VerifierSettings
from ..configs.roles import Profile as ProfileName
from ..errors import TokenRefused

_COMMON = frozenset(get_args(Algorithm))
_ID_TOKEN_MARKS = frozenset({"nonce", "at_hash", "c_hash"})


@dataclass(frozen=True)
class Profile:
    """How to read an issuer's access tokens.

    Attributes:
        types: ``typ`` headers in lower case, without "application/"; "" for a missing one.
        clients: claims that name the client. Those that are present must agree.
        scopes: claims that hold scopes, as words in a text or as a list. All that are present count.
        algorithms: of signatures.
        kinds: values of the claim ``typ``, or empty if that claim means nothing.
        lifetime_s: how long the issuer's tokens live at most, as its documents say.
    """

    types: frozenset[str]
    clients: tuple[str, ...]
    scopes: tuple[str, ...]
    algorithms: frozenset[str] = _COMMON
    kinds: frozenset[str] = frozenset()
    lifetime_s: int = 3600

    def client(self, claims: Mapping[str, Any]) -> str:
        """Return the client to which the token was issued.

        Raises:
            TokenRefused: ``auth.client_missing``, ``auth.claims_malformed``.
        """
        named = [claims[name] for name in self.clients if name in claims]
        if not named or "sub" not in claims:
            raise TokenRefused("auth.client_missing", "the token does not name its client and subject")
        if not all(isinstance(name, str) and 0 < len(name) <= 256 for name in [*named, claims["sub"]]):
            raise TokenRefused(
                "auth.claims_malformed", "the token's client or subject is not a name of 1 to 256 characters"
            )
        if len(set(named)) > 1:
            raise TokenRefused("auth.claims_malformed", "the token names more than one client")
        return str(named[0])

    def granted(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return the scopes that the token grants. A claim that is not a text or a list of texts grants none."""
        words: set[str] = set()
        for name in self.scopes:
            value = claims.get(name)
            if isinstance(value, str):
                words.update(value.split(" "))
            elif isinstance(value, list):
                words.update(word for word in value if isinstance(word, str))
        return frozenset(words - {""})

    def refuse_id_token(self, claims: Mapping[str, Any], client: str) -> None:
        """Check that the token is an access token and not an ID token.

        Raises:
            TokenRefused: ``auth.id_token``.
        """
        if claims.get("aud") in (client, [client]) or _ID_TOKEN_MARKS & claims.keys():
            raise TokenRefused("auth.id_token", "this is an ID token; expected an access token")
        if self.kinds and claims.get("typ") not in tuple(self.kinds):  # it may be a list, which a set cannot look up
            raise TokenRefused("auth.id_token", "the token's claim typ is not that of an access token")


PROFILES: dict[ProfileName, Profile] = {
    "rfc9068": Profile(frozenset({"at+jwt"}), ("client_id",), ("scope",)),
    "keycloak": Profile(
        frozenset({"jwt", "at+jwt"}), ("azp", "client_id"), ("scope",), kinds=frozenset({"Bearer", "DPoP"})
    ),
    "entra": Profile(frozenset({"jwt"}), ("azp", "appid"), ("scp", "roles"), frozenset({"RS256"}), lifetime_s=5400),
    "auth0": Profile(
        frozenset({"jwt", "at+jwt"}),
        ("azp", "client_id"),
        ("scope", "permissions"),
        frozenset({"RS256", "PS256"}),
        lifetime_s=86400,
    ),
    "okta": Profile(frozenset({"", "jwt", "at+jwt"}), ("cid",), ("scp",), frozenset({"RS256", "ES256"})),
}
"""Lifetimes: Entra ID issues access tokens of 60 to 90 minutes, Auth0 of 24 hours for an API; others one hour."""


def profile_of(settings: VerifierSettings) -> Profile:
    """Return the profile that settings name, with what they say in its place."""
    profile = PROFILES[settings.profile]
    types = frozenset(one.lower().removeprefix("application/") for one in settings.types)
    return replace(
        profile,
        types=types or profile.types,
        clients=settings.client_claims or profile.clients,
        scopes=settings.scope_claims or profile.scopes,
        algorithms=frozenset(settings.algorithms) or profile.algorithms,
        lifetime_s=settings.max_lifetime_s or profile.lifetime_s,
    )
