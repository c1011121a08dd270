"""Access tokens at the server's door: each attack is refused by the check that is there for it, and by its code.

Forged tokens are signed by the issuer's real key wherever the signature is not the point: only one check can refuse.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey
from moonflower.errors import IssuerUnreachable, MetadataRefused
from moonflower.oauth import jws
from moonflower.oauth.discovery import NotThere, discover, endpoint
from moonflower.oauth.jwks import MAX_KEYS
from moonflower.oauth.tokens import Principal, TokenRefused
from pydantic import ValidationError
from support.forge import (
    AUDIENCE,
    EC,
    NOW,
    RSA,
    Issuer,
    bearer,
    compact,
    ec_key,
    okp_key,
    part,
    refused,
    rsa_key,
    verifier,
)
from support.forge import PATH as ROUTE

HOUR = 3600


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


def accept(issuer: Issuer, token: str, **settings: Any) -> Principal:
    return verifier(issuer, **settings).verify("POST", ROUTE, bearer(token), "fl:train")


def test_a_good_token_names_who_asks(issuer: Issuer) -> None:
    expected = Principal(issuer.url, "anna", frozenset({"fl:train"}), None, NOW + 300, "anna")
    assert accept(issuer, issuer.token()) == expected
    assert accept(issuer, issuer.token(typ="application/AT+jwt")) == expected


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ES384", ec_key("k", "P-384")),
        ("ES512", ec_key("k", "P-521")),
        ("RS256", RSA),
        ("PS512", RSA),
        ("EdDSA", okp_key("k")),
    ],
)
def test_the_usual_algorithms_verify(issuer: Issuer, algorithm: str, key: jws.SigningKey) -> None:
    issuer.keys = {"k": key}
    assert accept(issuer, issuer.token(alg=algorithm, kid="k", key=key)).client_id == "anna"


# The Authorization header


@pytest.mark.parametrize(
    ("headers", "code", "status", "challenge"),
    [
        ([], "auth.no_token", 401, 'Bearer realm="moonflower"'),
        ([(b"authorization", b"Basic YTpi")], "auth.scheme", 401, 'Bearer realm="moonflower"'),
        ([(b"authorization", b"Bearer a"), (b"Authorization", b"Bearer a")], "auth.multiple_authorization", 400, None),
        ([(b"authorization", b"Bearer")], "auth.malformed", 401, None),
        ([(b"authorization", b"Bearer \xff.\xfe.\xfd")], "auth.malformed", 401, None),
        ([(b"authorization", b"Bearer a.b")], "auth.malformed", 401, None),
        ([(b"authorization", b"Bearer " + b"a" * 9000)], "auth.too_large", 401, None),
        ([(b"authorization", b"Bearer " + b"a" * 60_000)], "auth.too_large", 401, None),
    ],
)
def test_what_is_no_token_is_refused(
    issuer: Issuer, headers: list[tuple[bytes, bytes]], code: str, status: int, challenge: str | None
) -> None:
    refusal = refused(code, status, verifier(issuer), headers)
    said = dict(refusal.headers)["WWW-Authenticate"]
    if challenge is None:
        assert 'error="' in said
    else:
        assert said == challenge  # RFC 6750 section 3.1: no error where nothing was tried
    assert issuer.fetched == []


def test_a_token_in_the_address_is_none(issuer: Issuer) -> None:
    refused("auth.no_token", 401, verifier(issuer), [], path=f"{ROUTE}?access_token={issuer.token()}")


def test_a_token_just_below_the_limit_is_read(issuer: Issuer) -> None:
    token = issuer.token(issuer.claims(padding="x" * 5500))
    assert 7500 < len(token) < 8192
    accept(issuer, token)
    refused("auth.too_large", 401, verifier(issuer), bearer(issuer.token(issuer.claims(padding="x" * 6200))))


def test_a_token_that_the_server_fetched_itself_has_the_same_limit(issuer: Issuer) -> None:
    with pytest.raises(TokenRefused) as refusal:
        verifier(issuer).own(b"a" * 9000, "")
    assert refusal.value.code == "auth.too_large"


# The header of the token. All but two are signed by the issuer's real key.

OTHER = ec_key("es")
Forger = Callable[[Issuer], str]
HEADERS: dict[str, tuple[Forger, str]] = {
    "jku": (lambda i: i.token(jku="https://evil.example.org/jwks"), "auth.header_refused"),
    "x5u": (lambda i: i.token(x5u="https://evil.example.org/x"), "auth.header_refused"),
    "jwk": (lambda i: i.token(jwk=EC.public.jwk), "auth.header_refused"),
    "x5c": (lambda i: i.token(x5c=["MII"]), "auth.header_refused"),
    "crit": (lambda i: i.token(crit=["exp"]), "auth.header_refused"),
    "b64": (lambda i: i.token(b64=True), "auth.header_refused"),
    "zip": (lambda i: i.token(zip="DEF"), "auth.header_refused"),
    "jku of an attacker": (lambda i: i.token(key=OTHER, jku="https://evil.example.org/"), "auth.header_refused"),
    "alg none": (lambda i: compact({"alg": "none", "typ": "at+jwt", "kid": "es"}, i.claims()), "auth.alg_refused"),
    "alg nOnE": (lambda i: compact({"alg": "nOnE", "typ": "at+jwt", "kid": "es"}, i.claims()), "auth.alg_refused"),
    "alg missing": (lambda i: compact({"typ": "at+jwt", "kid": "es"}, i.claims()), "auth.alg_refused"),
    "alg a list": (lambda i: compact({"alg": ["ES256"], "kid": "es"}, i.claims()), "auth.alg_refused"),
    "HS256 with the PEM": (lambda i: confused(i, RSA.public.key.as_pem(private=False)), "auth.alg_refused"),
    "HS256 with the JWK": (lambda i: confused(i, json.dumps(RSA.public.jwk).encode()), "auth.alg_refused"),
    "ES256K": (lambda i: compact({"alg": "ES256K", "typ": "at+jwt", "kid": "es"}, i.claims()), "auth.alg_refused"),
    "RS256 on an EC key": (lambda i: i.token(alg="RS256", key=RSA), "auth.alg_key_mismatch"),
    "ES384 on a P-256 key": (lambda i: i.token(alg="ES384", key=ec_key("x", "P-384")), "auth.alg_key_mismatch"),
    "kid of a path": (lambda i: i.token(kid="../../../dev/null"), "auth.unknown_kid"),
    "kid of SQL": (lambda i: i.token(kid="' OR 1=1 --"), "auth.unknown_kid"),
    "kid a number": (lambda i: i.token(kid=7), "auth.kid_missing"),
    "kid empty": (lambda i: i.token(kid=""), "auth.kid_missing"),
    "kid missing": (lambda i: i.token(kid=None), "auth.kid_missing"),
    "typ JWT": (lambda i: i.token(typ="JWT"), "auth.typ_refused"),
    "typ missing": (lambda i: i.token(typ=None), "auth.typ_refused"),
    "typ a number": (lambda i: i.token(typ=1), "auth.typ_refused"),
    "an attacker's key under the issuer's kid": (lambda i: i.token(key=OTHER), "auth.signature"),
    "another payload": (lambda i: swapped(i), "auth.signature"),
    "no signature": (lambda i: i.token().rpartition(".")[0] + ".", "auth.signature"),
    "a short signature": (lambda i: i.token().rpartition(".")[0] + ".AAAA", "auth.signature"),
    "a psychic signature": (lambda i: i.token().rpartition(".")[0] + "." + part(bytes(64)), "auth.signature"),
    "doubled claim": (lambda i: raw(i, b'{"iss":"x",' + json.dumps(i.claims()).encode()[1:]), "auth.malformed"),
    "NaN": (lambda i: raw(i, json.dumps({**i.claims(), "exp": float("nan")}).encode()), "auth.malformed"),
    "claims a list": (lambda i: raw(i, b"[]"), "auth.malformed"),
    "claims nested": (lambda i: raw(i, b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"), "auth.malformed"),
    "a long number": (lambda i: raw(i, b'{"exp":' + b"9" * 5000 + b"}"), "auth.malformed"),
    "padding": (lambda i: i.token() + "=", "auth.malformed"),
}


def raw(issuer: Issuer, claims: bytes) -> str:
    return compact({"alg": "ES256", "typ": "at+jwt", "kid": "es"}, claims, EC)


def confused(issuer: Issuer, secret: bytes) -> str:
    class Symmetric:
        key = OctKey.import_key(secret.replace(b"-----BEGIN", b"----BEGIN") if b"BEGIN" in secret else secret)

    return compact({"alg": "HS256", "typ": "at+jwt", "kid": "rsa"}, issuer.claims(), Symmetric())  # type: ignore[arg-type]


def swapped(issuer: Issuer) -> str:
    header, _, signature = issuer.token().split(".")
    return f"{header}.{part(issuer.claims(scope='fl:run'))}.{signature}"


@pytest.mark.parametrize("name", HEADERS)
def test_a_forged_header_or_signature_is_refused_for_what_it_is(issuer: Issuer, name: str) -> None:
    forger, code = HEADERS[name]
    if code == "auth.unknown_kid":  # the issuer may publish it in a minute
        refusal = refused(code, 503, verifier(issuer), bearer(forger(issuer)))
        assert refusal.headers == [("Retry-After", "30")]
        return
    refusal = refused(code, 401, verifier(issuer), bearer(forger(issuer)))
    assert dict(refusal.headers)["WWW-Authenticate"].startswith('Bearer realm="moonflower", error="invalid_token"')
    assert {url for url in issuer.fetched if url not in ("/jwks", "/.well-known/openid-configuration")} == set()


def test_an_algorithm_that_the_issuers_kind_does_not_use_is_refused_with_its_own_key(issuer: Issuer) -> None:
    """The key is the issuer's and has no alg of its own: only the list of algorithms stands in the way."""
    shape = {"typ": "JWT", "kid": "rsa", "key": RSA}
    claims = issuer.claims(azp="anna", roles=["fl:train"])
    accept(issuer, issuer.token(claims, alg="RS256", **shape), profile="entra")
    refused(
        "auth.alg_refused", 401, verifier(issuer, profile="entra"), bearer(issuer.token(claims, alg="PS256", **shape))
    )


def test_a_key_is_for_the_algorithm_it_says(issuer: Issuer) -> None:
    """RSA can do both; the published key says RS256."""
    issuer.listed = [{**RSA.public.jwk, "alg": "RS256"}]
    accept(issuer, issuer.token(alg="RS256", kid="rsa", key=RSA))
    refused("auth.alg_key_mismatch", 401, verifier(issuer), bearer(issuer.token(alg="PS256", kid="rsa", key=RSA)))


def test_a_key_verifies_nothing_that_does_not_fit_it() -> None:
    token = jws.read(compact({"alg": "PS256"}, {}, RSA).encode())
    assert RSA.public.verify("PS256", token)
    assert not EC.public.verify("PS256", token)
    assert not jws.public_key({**RSA.public.jwk, "alg": "RS256"}).verify("PS256", token)
    assert not RSA.public.verify("HS256", token)


# Claims: every one is signed by the issuer's real key.

CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"iat": NOW - 331, "exp": NOW - 30}, "auth.expired"),
    "nbf ahead": ({"nbf": NOW + 120}, "auth.not_yet_valid"),
    "iat ahead": ({"iat": NOW + 120, "exp": NOW + 400}, "auth.not_yet_valid"),
    "iat ahead, nbf not": ({"iat": NOW + 120, "exp": NOW + 400, "nbf": NOW}, "auth.not_yet_valid"),
    "another issuer": ({"iss": "https://evil.example.org"}, "auth.issuer_unknown"),
    "issuer and a slash": ({"iss": "https://issuer.example.org/"}, "auth.issuer_unknown"),
    "issuer missing": ({"iss": None}, "auth.issuer_unknown"),
    "issuer in a list": ({"iss": ["https://issuer.example.org"]}, "auth.issuer_unknown"),
    "another audience": ({"aud": "https://other.invalid/"}, "auth.audience"),
    "the start of the audience": ({"aud": AUDIENCE[:-1]}, "auth.audience"),
    "more than the audience": ({"aud": AUDIENCE + "x"}, "auth.audience"),
    "no audience": ({"aud": None}, "auth.audience"),
    "audiences of others": ({"aud": ["a", "b"]}, "auth.audience"),
    "audience as an object": ({"aud": {AUDIENCE: 1}}, "auth.audience"),
    "no sub": ({"sub": None}, "auth.client_missing"),
    "no client": ({"client_id": None}, "auth.client_missing"),
    "client a list": ({"client_id": ["anna"]}, "auth.claims_malformed"),
    "client empty": ({"client_id": ""}, "auth.claims_malformed"),
    "exp as text": ({"exp": str(NOW + 300)}, "auth.claims_malformed"),
    "exp true": ({"exp": True}, "auth.claims_malformed"),
    "exp missing": ({"exp": None}, "auth.claims_malformed"),
    "iat missing": ({"iat": None}, "auth.claims_malformed"),
    "nbf as text": ({"nbf": "0"}, "auth.claims_malformed"),
    "exp in ten years": ({"exp": NOW + 10 * 365 * 24 * HOUR}, "auth.lifetime_too_long"),
    "exp beyond the limit, iat dated ahead": ({"iat": NOW + 30, "exp": NOW + 3601 + 30}, "auth.lifetime_too_long"),
    "exp beyond the limit": ({"exp": NOW + 3601}, "auth.lifetime_too_long"),
    "bound in an unknown way": ({"cnf": {"x5t#S256": "a"}}, "auth.cnf_unknown"),
    "bound in two ways": ({"cnf": {"jkt": "a", "x5t#S256": "a"}}, "auth.cnf_unknown"),
    "bound to nothing": ({"cnf": {}}, "auth.cnf_unknown"),
    "bound to no text": ({"cnf": {"jkt": 1}}, "auth.cnf_unknown"),
    "an ID token": ({"aud": "anna"}, "auth.audience"),
    "an ID token by nonce": ({"nonce": "n"}, "auth.id_token"),
    "an ID token by at_hash": ({"at_hash": "n"}, "auth.id_token"),
    "an ID token for a client of our name": ({"client_id": AUDIENCE}, "auth.id_token"),
    "an ID token for a list of it": ({"client_id": AUDIENCE, "aud": [AUDIENCE]}, "auth.id_token"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_that_is_not_right_is_refused_for_what_it_is(issuer: Issuer, name: str) -> None:
    changes, code = CLAIMS[name]
    refused(code, 401, verifier(issuer), bearer(issuer.token(issuer.claims(**changes))))


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": NOW - 320, "exp": NOW - 29},
        {"iat": NOW + 29, "exp": NOW + 300},
        {"nbf": NOW + 30},
        {"aud": ["other", AUDIENCE]},
        {"exp": NOW + 3600},
        {"exp": NOW + 300.5},
        {"scope": "fl:run fl:train"},
        {"scope": ["fl:run", "fl:train"]},
    ],
)
def test_what_is_just_within_the_limits_is_accepted(issuer: Issuer, changes: dict[str, Any]) -> None:
    accept(issuer, issuer.token(issuer.claims(**changes)))


@pytest.mark.parametrize(
    "granted", [None, "", "fl:trainer", "fl:", "FL:TRAIN", {"fl:train": 1}, 7, ["fl:trainer"], [["fl:train"]], "fl:run"]
)
def test_a_scope_counts_as_a_whole_word(issuer: Issuer, granted: Any) -> None:
    refusal = refused("auth.scope", 403, verifier(issuer), bearer(issuer.token(issuer.claims(scope=granted))))
    said = dict(refusal.headers)["WWW-Authenticate"]
    assert 'error="insufficient_scope"' in said
    assert 'scope="fl:train"' in said


def test_a_training_token_runs_nothing(issuer: Issuer) -> None:
    check = verifier(issuer)
    refused("auth.scope", 403, check, bearer(issuer.token()), "fl:run")
    refused("auth.scope", 403, check, bearer(issuer.token()), "fl:train fl:run")


# Kinds of issuers. The shapes follow the vendors' documentation; none was recorded from a live server.

SHAPES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "keycloak": (
        "keycloak",
        "anna",
        {"typ": "JWT", "alg": "RS256"},
        {"typ": "Bearer", "azp": "anna", "client_id": "anna", "sub": "6f1e", "acr": "1", "aud": [AUDIENCE, "account"]}
        | {"scope": "profile fl:train email", "realm_access": {"roles": ["offline_access"]}},
    ),
    "keycloak, bound": (
        "keycloak",
        "anna",
        {"typ": "JWT", "alg": "ES256"},
        {"typ": "DPoP", "azp": "anna", "client_id": "anna", "sub": "6f1e", "aud": AUDIENCE, "scope": "fl:train"},
    ),
    "entra v1": (
        "entra",
        "11111111-2222",
        {"typ": "JWT", "alg": "RS256", "x5t": "abc"},
        {"appid": "11111111-2222", "appidacr": "2", "oid": "3", "sub": "3", "tid": "4", "uti": "5", "ver": "1.0"}
        | {"roles": ["fl:train"], "jti": None},
    ),
    "entra v2": (
        "entra",
        "11111111-2222",
        {"typ": "JWT", "alg": "RS256"},
        {"azp": "11111111-2222", "azpacr": "2", "oid": "3", "sub": "3", "tid": "4", "uti": "5", "ver": "2.0"}
        | {"roles": ["fl:train"], "jti": None},
    ),
    "auth0": (
        "auth0",
        "anna",
        {"typ": "JWT", "alg": "RS256"},
        {"sub": "anna@clients", "azp": "anna", "scope": "fl:train", "gty": "client-credentials", "jti": None},
    ),
    "auth0, with permissions": (
        "auth0",
        "anna",
        {"typ": "JWT", "alg": "RS256"},
        {"sub": "anna@clients", "azp": "anna", "permissions": ["fl:train"], "gty": "client-credentials"},
    ),
    "okta": (
        "okta",
        "0oaanna",
        {"typ": None, "alg": "RS256"},
        {"ver": 1, "cid": "0oaanna", "sub": "0oaanna", "scp": ["fl:train"]},
    ),
}
WRONG = {  # shape -> profile -> why not; profiles that are not named take the shape
    "keycloak": {"rfc9068": "auth.typ_refused", "entra": "auth.scope", "okta": "auth.client_missing"},
    "keycloak, bound": {"rfc9068": "auth.typ_refused", "entra": "auth.alg_refused", "auth0": "auth.alg_refused"},
    "entra v1": {"rfc9068": "auth.typ_refused", "keycloak": "auth.client_missing", "auth0": "auth.client_missing"},
    "entra v2": {"rfc9068": "auth.typ_refused", "keycloak": "auth.id_token", "auth0": "auth.scope"},
    "auth0": {"rfc9068": "auth.typ_refused", "keycloak": "auth.id_token", "entra": "auth.scope"},
    "auth0, with permissions": {"rfc9068": "auth.typ_refused", "okta": "auth.client_missing"},
    "okta": {"rfc9068": "auth.typ_refused", "keycloak": "auth.typ_refused", "auth0": "auth.typ_refused"},
}


def shaped(issuer: Issuer, shape: str) -> str:
    _, _, header, claims = SHAPES[shape]
    key = RSA if header["alg"] == "RS256" else EC
    plain = issuer.claims(**{"client_id": None, "scope": None, **claims})
    return issuer.token(plain, key=key, kid=key.public.kid, **header)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_of_each_kind_of_issuer_is_read_with_its_profile(issuer: Issuer, shape: str) -> None:
    profile, client, _, _ = SHAPES[shape]
    principal = accept(issuer, shaped(issuer, shape), profile=profile)
    assert (principal.client_id, "fl:train" in principal.scopes) == (client, True)


@pytest.mark.parametrize(("shape", "profile"), [(shape, profile) for shape in WRONG for profile in WRONG[shape]])
def test_and_refused_with_another(issuer: Issuer, shape: str, profile: str) -> None:
    code = WRONG[shape][profile]
    refused(
        code, 403 if code == "auth.scope" else 401, verifier(issuer, profile=profile), bearer(shaped(issuer, shape))
    )


@pytest.mark.parametrize("kind", ["ID", "Refresh", "Offline", None, ["Bearer"]])
def test_keycloak_says_itself_what_a_token_is(issuer: Issuer, kind: Any) -> None:
    token = issuer.token(issuer.claims(azp="anna", typ=kind), typ="JWT")
    refused("auth.id_token", 401, verifier(issuer, profile="keycloak"), bearer(token))


def test_a_token_of_two_clients_is_of_none(issuer: Issuer) -> None:
    token = issuer.token(issuer.claims(azp="berta", typ="Bearer"), typ="JWT")
    refused("auth.claims_malformed", 401, verifier(issuer, profile="keycloak"), bearer(token))


def test_one_name_at_two_issuers_is_two_clients() -> None:
    one, two = Issuer("https://one.example.org"), Issuer("https://two.example.org")
    at_one, at_two = accept(one, one.token()), accept(two, two.token())
    assert at_one.client_id == at_two.client_id
    assert (at_one.issuer, at_two.issuer) == (one.url, two.url)
    refused("auth.issuer_unknown", 401, verifier(one), bearer(two.token()))  # although both have the same keys here


# The issuer's keys


def test_a_bad_key_does_the_good_one_no_harm(issuer: Issuer) -> None:
    good = EC.public.jwk
    issuer.listed = [
        None,
        "junk",
        {},
        {"kty": "EC"},
        {**good, "crv": "P-1"},
        {**good, "y": good["x"]},
        {**good, "kid": 7},
        {**good, "x": 7},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "es"},
        {"kty": "RSA", "n": "!", "e": "!", "kid": "es"},
        {"kty": ["EC"], "kid": "es"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "es"},
        {"kty": "OKP", "crv": "X25519", "x": part(bytes(32)), "kid": "es"},
        {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "es"},
        good,
    ]
    accept(issuer, issuer.token())


@pytest.mark.parametrize("changes", [{"use": "enc"}, {"key_ops": ["sign"]}, {"kid": None}, {"d": EC.key["d"]}])
def test_a_key_that_is_not_for_verifying_is_not_used(issuer: Issuer, changes: dict[str, Any]) -> None:
    issuer.listed = [{**EC.public.jwk, **changes}]
    refused("auth.unknown_kid", 503, verifier(issuer), bearer(issuer.token()))


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_a_short_rsa_key_is_not_used(issuer: Issuer) -> None:
    short = RSAKey.generate_key(1024)
    with pytest.raises(ValueError, match="2048"):
        jws.private_key({**short.as_dict(private=True), "kid": "short"})
    issuer.listed = [{**short.as_dict(private=False), "kid": "rsa"}, {**rsa_key("x").public.jwk, "kid": "other"}]
    refused("auth.unknown_kid", 503, verifier(issuer), bearer(issuer.token(alg="RS256", kid="rsa", key=RSA)))


def test_a_flood_of_unknown_key_ids_makes_one_fetch_a_cooldown(issuer: Issuer) -> None:
    check = verifier(issuer, jwks_cooldown_s=30)
    check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")
    before = len(issuer.fetched)
    for number in range(200):
        refused("auth.unknown_kid", 503, check, bearer(issuer.token(kid=f"k{number}")))
    assert len(issuer.fetched) == before + 1
    issuer.clock.now += 30
    refused("auth.unknown_kid", 503, check, bearer(issuer.token(kid="k")))
    assert len(issuer.fetched) == before + 2


def test_a_new_key_is_found_and_one_that_is_withdrawn_ends_its_tokens(issuer: Issuer) -> None:
    check = verifier(issuer, jwks_ttl_s=600)
    old = issuer.token(issuer.claims(exp=NOW + 3000))
    check.verify("POST", ROUTE, bearer(old), "fl:train")
    issuer.keys["new"] = ec_key("new")
    check.verify("POST", ROUTE, bearer(issuer.token(kid="new", key=issuer.keys["new"])), "fl:train")
    check.verify("POST", ROUTE, bearer(old), "fl:train")
    del issuer.keys["es"]
    issuer.clock.now += 599
    check.verify("POST", ROUTE, bearer(old), "fl:train")  # accepted before, and the keys are not old yet
    issuer.clock.now += 1
    refused("auth.unknown_kid", 503, check, bearer(old))


def test_another_key_under_the_old_name_ends_the_old_ones_tokens(issuer: Issuer) -> None:
    check, old = verifier(issuer), issuer.token(issuer.claims(exp=NOW + 3000))
    check.verify("POST", ROUTE, bearer(old), "fl:train")
    issuer.keys["es"] = ec_key("es")
    issuer.clock.now += 600
    refused("auth.signature", 401, check, bearer(old))


def test_an_issuer_that_was_never_reached_is_asked_once_in_five_seconds(issuer: Issuer) -> None:
    issuer.down, check = True, verifier(issuer)
    for _ in range(3):
        refusal = refused("auth.jwks_unavailable", 503, check, bearer(issuer.token()))
        assert refusal.headers == [("Retry-After", "5")]
    assert len(issuer.fetched) == 1
    issuer.down = False
    issuer.clock.now += 5
    check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")


def test_old_keys_do_for_a_day_while_the_issuer_is_out(issuer: Issuer) -> None:
    check = verifier(issuer, jwks_ttl_s=600, jwks_cooldown_s=30)
    check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")
    issuer.down = True
    issuer.clock.now += 24 * HOUR
    check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")
    fetched = len(issuer.fetched)
    check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")
    assert len(issuer.fetched) == fetched  # not asked again at once
    issuer.clock.now += 601
    refused("auth.jwks_unavailable", 503, check, bearer(issuer.token()))


def test_a_clock_that_is_set_back_stops_nothing_for_good(issuer: Issuer) -> None:
    check = verifier(issuer)
    refused("auth.unknown_kid", 503, check, bearer(issuer.token(kid="k")))
    issuer.clock.now -= 10 * HOUR
    check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")
    issuer.keys["new"] = ec_key("new")
    check.verify("POST", ROUTE, bearer(issuer.token(kid="new", key=issuer.keys["new"])), "fl:train")


@pytest.mark.parametrize("listed", [[{}] * (MAX_KEYS + 1), "keys", None], ids=["too many", "no list", "not there"])
def test_a_document_that_is_no_list_of_keys_is_none(issuer: Issuer, listed: Any) -> None:
    issuer.listed = listed if listed is not None else None
    if listed is None:
        issuer.metadata["jwks_uri"] = issuer.url + "/empty"
    refused("auth.jwks_unavailable", 503, verifier(issuer), bearer(issuer.token()))


def test_many_threads_make_one_fetch(issuer: Issuer) -> None:
    plain, token = issuer.fetch, issuer.token()

    def slow(url: str) -> bytes:
        time.sleep(0.05)
        return plain(url)

    issuer.fetch = slow  # type: ignore[method-assign]
    check, results = verifier(issuer), []
    threads = [
        threading.Thread(target=lambda: results.append(check.verify("POST", ROUTE, bearer(token), "fl:train")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert issuer.fetched == ["/.well-known/openid-configuration", "/jwks"]


@pytest.mark.parametrize("said", ["https://issuer.example.org/", "https://evil.example.org", None, 7])
def test_metadata_of_another_issuer_is_not_believed(issuer: Issuer, said: Any) -> None:
    issuer.metadata["issuer"] = said
    with pytest.raises(MetadataRefused):
        discover(issuer.url, issuer.fetch)
    refused("auth.jwks_unavailable", 503, verifier(issuer), bearer(issuer.token()))


@pytest.mark.parametrize(
    "address",
    [
        "http://issuer.example.org/jwks",
        "https://user@issuer.example.org/jwks",
        "file:///etc/passwd",
        "https://",
        "//x/jwks",
        "https://[",
        None,
        7,
    ],
)
def test_keys_come_over_https_or_from_this_machine(issuer: Issuer, address: Any) -> None:
    issuer.metadata["jwks_uri"] = address
    with pytest.raises(MetadataRefused):
        endpoint(issuer.metadata, "jwks_uri")
    refused("auth.jwks_unavailable", 503, verifier(issuer), bearer(issuer.token()))
    assert issuer.fetched == ["/.well-known/openid-configuration"]
    assert endpoint({"jwks_uri": "http://127.0.0.1:9/jwks"}, "jwks_uri")


def test_both_places_of_metadata_are_known() -> None:
    issuer = Issuer("https://host.example.org/realms/a")

    def only_oauth(url: str) -> bytes:
        if "openid" in url:
            raise NotThere("auth.issuer_unreachable", "404")
        assert url == "https://host.example.org/.well-known/oauth-authorization-server/realms/a"
        return issuer.fetch(url)

    assert discover(issuer.url, only_oauth)["issuer"] == issuer.url
    slash = Issuer("https://tenant.example.org/")
    assert discover(slash.url, slash.fetch)
    assert slash.fetched == ["/.well-known/openid-configuration"]
    slash.down = True
    with pytest.raises(IssuerUnreachable):
        discover(slash.url, slash.fetch)


# Accepted tokens


def test_an_accepted_token_still_expires(issuer: Issuer) -> None:
    check, headers = verifier(issuer), bearer(issuer.token())
    check.verify("POST", ROUTE, headers, "fl:train")
    assert len(check._accepted) == 1
    issuer.clock.now += 329
    check.verify("POST", ROUTE, headers, "fl:train")
    issuer.clock.now += 1
    refused("auth.expired", 401, check, headers)


def test_an_accepted_token_is_not_valid_before_its_time_after_all(issuer: Issuer) -> None:
    check, headers = verifier(issuer), bearer(issuer.token())
    check.verify("POST", ROUTE, headers, "fl:train")
    issuer.clock.now -= 31
    issuer.down = False
    soon = refused("auth.not_yet_valid", 503, check, headers)
    assert soon.headers == [("Retry-After", "1")]
    issuer.clock.now -= 60
    refused("auth.not_yet_valid", 401, check, headers)


def test_an_accepted_token_is_not_verified_again(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    check, headers = verifier(issuer, most_tokens=2), bearer(issuer.token())
    check.verify("POST", ROUTE, headers, "fl:train")
    with monkeypatch.context() as patch:
        patch.setattr(jws.VerificationKey, "verify", lambda *_: False)
        check.verify("POST", ROUTE, headers, "fl:train")
        refused("auth.scope", 403, check, headers, "fl:run")
    for _ in range(2):
        check.verify("POST", ROUTE, bearer(issuer.token()), "fl:train")
    assert len(check._accepted) == 2, "the memory has an end"


def test_a_refused_token_is_not_remembered(issuer: Issuer) -> None:
    check, headers = verifier(issuer), bearer(issuer.token(key=OTHER))
    refused("auth.signature", 401, check, headers)
    assert not check._accepted


# What an issuer's own settings change


@pytest.mark.parametrize(
    ("profile", "claims", "header", "lifetime_s"),
    [
        ("entra", {"client_id": None, "azp": "anna", "scope": None, "scp": "fl:train"}, {"typ": "JWT"}, 5400),
        ("auth0", {"client_id": None, "azp": "anna"}, {}, 86400),
        ("okta", {"client_id": None, "cid": "anna", "scope": None, "scp": ["fl:train"]}, {"typ": None}, 3600),
        ("keycloak", {"client_id": None, "azp": "anna", "typ": "Bearer"}, {"typ": "JWT"}, 3600),
        ("rfc9068", {}, {}, 3600),
    ],
)
def test_a_token_lives_as_long_as_its_issuers_documents_say(
    issuer: Issuer, profile: str, claims: dict[str, Any], header: dict[str, Any], lifetime_s: int
) -> None:
    """Entra ID: 60 to 90 minutes, such as 3,900 s; Auth0: 24 hours for an API."""
    header = {"alg": "RS256", "kid": "rsa", **header}

    def token(seconds: int) -> str:
        return issuer.token(issuer.claims(exp=int(NOW) + seconds, **claims), key=issuer.keys["rsa"], **header)

    assert accept(issuer, token(lifetime_s), profile=profile).client_id == "anna"
    check = verifier(issuer, profile=profile)
    refused("auth.lifetime_too_long", 401, check, bearer(token(lifetime_s + 1)))
    shorter = verifier(issuer, profile=profile, max_lifetime_s=600)
    refused("auth.lifetime_too_long", 401, shorter, bearer(token(601)))


def test_claims_types_and_algorithms_are_the_configs_where_it_names_them(issuer: Issuer) -> None:
    own = {"types": ["x-access+jwt"], "client_claims": ["app"], "scope_claims": ["rights"], "algorithms": ["RS256"]}
    claims = issuer.claims(client_id=None, scope=None, app="anna", rights=["fl:train"])
    rsa = {"alg": "RS256", "kid": "rsa", "key": issuer.keys["rsa"]}
    assert accept(issuer, issuer.token(claims, typ="X-Access+JWT", **rsa), **own).client_id == "anna"
    check = verifier(issuer, **own)
    refused("auth.typ_refused", 401, check, bearer(issuer.token(claims, **rsa)))
    refused("auth.alg_refused", 401, check, bearer(issuer.token(claims, typ="x-access+jwt")))
    theirs = {"typ": "x-access+jwt", **rsa}
    refused("auth.client_missing", 401, check, bearer(issuer.token(issuer.claims(rights="fl:train"), **theirs)))
    refused("auth.scope", 403, check, bearer(issuer.token(issuer.claims(client_id=None, app="anna"), **theirs)))
    refused("auth.id_token", 401, check, bearer(issuer.token({**claims, "nonce": "x"}, **theirs)))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256K", "es256", ""])
def test_an_algorithm_that_proves_nothing_cannot_be_configured(issuer: Issuer, algorithm: str) -> None:
    with pytest.raises(ValidationError):
        verifier(issuer, algorithms=[algorithm])


def test_a_challenge_names_every_scope_that_would_do(issuer: Issuer) -> None:
    with pytest.raises(TokenRefused) as refusal:
        verifier(issuer).verify("GET", ROUTE, bearer(issuer.token()), "fl:run", "fl:audit")
    assert (refusal.value.code, refusal.value.status) == ("auth.scope", 403)
    assert 'scope="fl:run fl:audit"' in dict(refusal.value.headers)["WWW-Authenticate"]
    assert verifier(issuer).verify("GET", ROUTE, bearer(issuer.token()), "fl:run", "fl:train").client_id == "anna"


def test_text_that_no_encoding_has_makes_no_token(issuer: Issuer) -> None:
    refused("auth.malformed", 401, verifier(issuer), bearer(issuer.token(issuer.claims(sub="\ud800"))))
    refused("auth.malformed", 401, verifier(issuer), bearer(issuer.token(kid="\ud800")))
