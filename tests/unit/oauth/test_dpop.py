"""DPoP at the server's door: a token is worth nothing without the key that it is bound to."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from moonflower.crypto.identity import PublicKey, b64
from moonflower.errors import TokenRefused
from moonflower.oauth import jws
from moonflower.oauth.dpop import WINDOW_S, Nonces, Proofs, Seen, target
from moonflower.oauth.jws import SigningKey
from moonflower.oauth.login import DpopKey
from moonflower.oauth.tokens import TokenVerifier
from support.forge import (
    EC,
    NOW,
    PATH,
    RSA,
    SERVER,
    Clock,
    Issuer,
    bearer,
    compact,
    dpop,
    ec_key,
    node_key,
    okp_key,
    part,
    refused,
    thumb,
    verifier,
)

URL = SERVER + PATH
KEYS = {"ES384": ec_key("n", "P-384"), "ES256": ec_key("n"), "EdDSA": okp_key("n")}
NODE = KEYS["ES384"]


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def check(issuer: Issuer) -> TokenVerifier:
    return verifier(issuer, binding="dpop")


def bound(issuer: Issuer, key: SigningKey = NODE, **changes: Any) -> str:
    return issuer.token(issuer.claims(cnf={"jkt": key.public.thumbprint}, **changes))


def proof(token: str, key: SigningKey = NODE, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return a good proof with changes, signed by its own key; None takes a claim out."""
    plain = {name: value for name, value in key.public.jwk.items() if name != "kid"}
    whole = {"typ": "dpop+jwt", "alg": key.algorithm, "jwk": plain, **(header or {})}
    claims = {"jti": secrets.token_hex(8), "htm": "POST", "htu": URL, "iat": int(NOW), "ath": thumb(token), **changes}
    return compact(whole, {name: value for name, value in claims.items() if value is not None}, key)


# What is accepted


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_with_a_proof_of_its_key_is_accepted(issuer: Issuer, check: TokenVerifier, algorithm: str) -> None:
    key = KEYS[algorithm]
    token = bound(issuer, key)
    for _ in range(2):  # the second time from the memory of tokens and keys
        principal = check.verify("POST", PATH, dpop(token, proof(token, key)), "fl:train")
        assert principal.jkt == key.public.thumbprint


def test_the_node_key_is_the_pin() -> None:
    node = ec.generate_private_key(ec.SECP384R1())
    assert DpopKey(node).jkt == PublicKey(node.public_key()).pin


def test_what_the_client_makes_the_server_takes(issuer: Issuer, check: TokenVerifier) -> None:
    for key in (node_key(issuer.clock), DpopKey(ec.generate_private_key(ec.SECP256R1()), clock=issuer.clock)):
        token = issuer.token(issuer.claims(cnf={"jkt": key.jkt}))
        headers = dpop(token, key.proof("GET", f"{SERVER}/v1/models?a=1#b", token=token), scheme="dPoP")
        assert check.verify("GET", "/v1/models?a=2", headers, "fl:train").jkt == key.jkt


def test_the_example_of_the_standard_is_accepted() -> None:
    """RFC 9449 section 7.1."""
    sent = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0Rs"
        "cEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
        ".eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0"
        "ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9"
        ".2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    )
    token, jkt = b"Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    use = Proofs(clock=Clock(1562262618)).check(
        [sent.encode()], "GET", "https://resource.example.org/protectedresource", token=token, jkt=jkt
    )
    assert use() == jkt


@pytest.mark.parametrize(
    "htu",
    [
        URL + "?a=1",
        URL + "#x",
        "HTTPS://FL.example.ORG:8443" + PATH,
        f"{SERVER}/v1/%66leet/pull%2Dmessages",
    ],
)
def test_an_address_may_be_written_in_several_ways(issuer: Issuer, check: TokenVerifier, htu: str) -> None:
    token = bound(issuer)
    check.verify("POST", PATH, dpop(token, proof(token, htu=htu)), "fl:train")


@pytest.mark.parametrize("seconds", [-60, 60])
def test_clocks_may_differ_by_a_minute(issuer: Issuer, check: TokenVerifier, seconds: int) -> None:
    token = bound(issuer)
    check.verify("POST", PATH, dpop(token, proof(token, iat=NOW + seconds)), "fl:train")


# What is refused

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"htm": "GET"}, "auth.dpop_target"),
    "method in small letters": ({"htm": "post"}, "auth.dpop_target"),
    "another path": ({"htu": SERVER + "/v1/fleet/push-messages"}, "auth.dpop_target"),
    "more of the path": ({"htu": URL + "/"}, "auth.dpop_target"),
    "another host": ({"htu": "https://evil.example.org:8443" + PATH}, "auth.dpop_target"),
    "another port": ({"htu": "https://fl.example.org" + PATH}, "auth.dpop_target"),
    "plain http": ({"htu": URL.replace("https", "http")}, "auth.dpop_target"),
    "a user in the address": ({"htu": URL.replace("//", "//fl@")}, "auth.dpop_target"),
    "an escaped slash": ({"htu": f"{SERVER}/v1%2Ffleet/pull-messages"}, "auth.dpop_target"),
    "no address": ({"htu": "https://["}, "auth.dpop_target"),
    "only a path": ({"htu": PATH}, "auth.dpop_target"),
    "too old": ({"iat": NOW - WINDOW_S - 1}, "auth.dpop_time"),
    "dated ahead": ({"iat": NOW + WINDOW_S + 1}, "auth.dpop_time"),
    "of another token": ({"ath": b64(hashlib.sha256(b"another").digest())}, "auth.dpop_ath"),
    "of no token": ({"ath": None}, "auth.dpop_ath"),
    "ath a number": ({"ath": 7}, "auth.dpop_ath"),
    "ath not ASCII": ({"ath": "ä"}, "auth.dpop_ath"),
    "no jti": ({"jti": None}, "auth.dpop_malformed"),
    "jti empty": ({"jti": ""}, "auth.dpop_malformed"),
    "jti long": ({"jti": "x" * 257}, "auth.dpop_malformed"),
    "jti that no encoding has": ({"jti": "\ud800"}, "auth.dpop_malformed"),
    "ath that no encoding has": ({"ath": "\ud800"}, "auth.dpop_malformed"),
    "nonce that no encoding has": ({"nonce": "\ud800"}, "auth.dpop_malformed"),
    "jti a number": ({"jti": 7}, "auth.dpop_malformed"),
    "no method": ({"htm": None}, "auth.dpop_malformed"),
    "no htu": ({"htu": None}, "auth.dpop_malformed"),
    "no time": ({"iat": None}, "auth.dpop_malformed"),
    "time as text": ({"iat": str(NOW)}, "auth.dpop_malformed"),
    "time true": ({"iat": True}, "auth.dpop_malformed"),
    "time without end": ({"iat": 10**400}, "auth.dpop_malformed"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_proof_of_something_else_is_refused_for_what_it_is(issuer: Issuer, check: TokenVerifier, name: str) -> None:
    changes, code = FAULTS[name]
    token = bound(issuer)
    refusal = refused(code, 401, check, dpop(token, proof(token, **changes)))
    said = dict(refusal.headers)["WWW-Authenticate"]
    assert said.startswith('DPoP realm="moonflower", error="invalid_dpop_proof", ')
    assert said.endswith('algs="ES384 ES256 Ed25519 EdDSA"')


PUBLIC = {name: value for name, value in NODE.public.jwk.items() if name != "kid"}
HEADERS: dict[str, dict[str, Any]] = {
    "typ": {"typ": "JWT"},
    "no typ": {"typ": None},
    "typ in capitals": {"typ": "DPOP+JWT"},
    "crit": {"crit": ["b64"]},
    "b64": {"b64": False},
    "jku": {"jku": "https://evil.example.org"},
    "x5c": {"x5c": ["MII"]},
    "no key": {"jwk": None},
    "a private key": {"jwk": dict(NODE.key.as_dict(private=True))},
    "a key for another algorithm": {"jwk": {**PUBLIC, "alg": "ES256"}},
    "a key for another use": {"jwk": {**PUBLIC, "use": "enc"}},
    "a key whose name is no text": {"jwk": {**PUBLIC, "kid": 7}},
    "a key with something else": {"jwk": {**PUBLIC, "x5c": ["MII"]}},
    "a key off the curve": {"jwk": {**PUBLIC, "y": PUBLIC["x"]}},
    "a key in another spelling": {"jwk": {**PUBLIC, "x": "AAAA" + PUBLIC["x"]}},
    "a secret key": {"jwk": {"kty": "oct", "k": "c2VjcmV0"}},
    "a key as text": {"jwk": "x"},
}


@pytest.mark.parametrize(
    "more", [{"kid": "n"}, {"alg": "ES384"}, {"use": "sig", "key_ops": ["verify"], "kid": "n", "alg": "ES384"}]
)
def test_a_key_may_have_a_name_and_its_own_algorithm(
    issuer: Issuer, check: TokenVerifier, more: dict[str, Any]
) -> None:
    """As libraries write it; none of it counts, and the thumbprint is that of the key alone."""
    token = bound(issuer)
    made = proof(token, header={"jwk": {**PUBLIC, **more}})
    assert check.verify("POST", PATH, dpop(token, made), "fl:train").jkt == NODE.public.thumbprint


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
def test_an_edwards_key_signs_under_both_names(issuer: Issuer, check: TokenVerifier, algorithm: str) -> None:
    key = KEYS["EdDSA"]
    token = bound(issuer, key)
    made = proof(token, key, header={"alg": algorithm})
    assert check.verify("POST", PATH, dpop(token, made), "fl:train").jkt == key.public.thumbprint


@pytest.mark.parametrize("name", HEADERS)
def test_a_proof_with_another_head_is_malformed(issuer: Issuer, check: TokenVerifier, name: str) -> None:
    token = bound(issuer)
    refused("auth.dpop_malformed", 401, check, dpop(token, proof(token, header=HEADERS[name])))


@pytest.mark.parametrize("key", [RSA, ec_key("n", "P-521")], ids=["RSA", "P-521"])
def test_a_proof_with_another_kind_of_key_is_malformed(issuer: Issuer, check: TokenVerifier, key: SigningKey) -> None:
    token = bound(issuer, key)
    refused("auth.dpop_malformed", 401, check, dpop(token, proof(token, key)))


def test_a_proof_without_a_real_signature_is_refused(issuer: Issuer, check: TokenVerifier) -> None:
    token = bound(issuer)
    good = proof(token)
    for forged in (good.rpartition(".")[0] + ".", proof(token, ec_key("x", "P-384"), header={"jwk": PUBLIC})):
        refused("auth.dpop_signature", 401, check, dpop(token, forged))
    refused("auth.dpop_malformed", 401, check, dpop(token, compact({"alg": "none", "typ": "dpop+jwt"}, {})))
    es256 = compact({"typ": "dpop+jwt", "alg": "ES256", "jwk": PUBLIC}, {}, EC)
    refused("auth.dpop_signature", 401, check, dpop(token, es256))
    for junk in ("", "a.b.c", "x" * 5000, part({}) * 3):
        refused("auth.dpop_malformed", 401, check, dpop(token, junk))


def test_there_is_one_proof(issuer: Issuer, check: TokenVerifier) -> None:
    token = bound(issuer)
    refused("auth.dpop_missing", 401, check, dpop(token))
    refused("auth.dpop_multiple", 401, check, dpop(token, proof(token), proof(token)))
    refused("auth.dpop_multiple", 401, check, dpop(token, f"{proof(token)}, {proof(token)}"))


def test_a_proof_counts_once(issuer: Issuer, check: TokenVerifier) -> None:
    token = bound(issuer)
    headers = dpop(token, proof(token))
    check.verify("POST", PATH, headers, "fl:train")
    refused("auth.dpop_replay", 401, check, headers)
    again = proof(token, jti="one")
    check.verify("POST", PATH, dpop(token, again), "fl:train")
    refused("auth.dpop_replay", 401, check, dpop(token, proof(token, jti="one", iat=NOW + 1)))
    other = ec_key("m", "P-384")  # another member's numbers are its own
    theirs = bound(issuer, other)
    check.verify("POST", PATH, dpop(theirs, proof(theirs, other, jti="one")), "fl:train")


def test_a_proof_dated_ahead_counts_once_for_as_long_as_it_is_good(issuer: Issuer, check: TokenVerifier) -> None:
    token = bound(issuer)
    headers = dpop(token, proof(token, iat=NOW + WINDOW_S))
    check.verify("POST", PATH, headers, "fl:train")
    issuer.clock.now += 2 * WINDOW_S
    refused("auth.dpop_replay", 401, check, headers)
    issuer.clock.now += 1
    refused("auth.dpop_time", 401, check, headers)


def test_a_refused_request_uses_no_proof_up(issuer: Issuer, check: TokenVerifier) -> None:
    token = bound(issuer)
    headers = dpop(token, proof(token))
    refused("auth.scope", 403, check, headers, "fl:run")
    check.verify("POST", PATH, headers, "fl:train")


def test_two_threads_cannot_use_one_proof(issuer: Issuer, check: TokenVerifier) -> None:
    token = bound(issuer)
    headers = dpop(token, proof(token))
    outcomes: list[str] = []

    def go() -> None:
        try:
            check.verify("POST", PATH, headers, "fl:train")
            outcomes.append("accepted")
        except TokenRefused as refusal:
            outcomes.append(refusal.code)

    threads = [threading.Thread(target=go) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["accepted", *["auth.dpop_replay"] * 15]


def test_a_full_memory_of_proofs_refuses(issuer: Issuer) -> None:
    check, token = verifier(issuer, binding="dpop", most_proofs=2), bound(issuer)
    for _ in range(2):
        check.verify("POST", PATH, dpop(token, proof(token)), "fl:train")
    refusal = refused("auth.dpop_full", 503, check, dpop(token, proof(token)))
    assert refusal.headers == [("Retry-After", "5")]
    issuer.clock.now += 2 * WINDOW_S + 1
    check.verify("POST", PATH, dpop(token, proof(token, iat=issuer.clock.now)), "fl:train")


# Binding: who holds a token without its key has nothing


def test_another_members_key_does_not_open(issuer: Issuer, check: TokenVerifier) -> None:
    token, other = bound(issuer), ec_key("m", "P-384")
    refusal = refused("auth.dpop_binding", 401, check, dpop(token, proof(token, other)))
    assert 'DPoP realm="moonflower", error="invalid_token"' in dict(refusal.headers)["WWW-Authenticate"]


@pytest.mark.parametrize("binding", ["dpop", "none"])
def test_a_bound_token_is_no_bearer_token(issuer: Issuer, binding: str) -> None:
    check, token = verifier(issuer, binding=binding), bound(issuer)
    refusal = refused("auth.dpop_downgrade", 401, check, bearer(token))
    assert dict(refusal.headers)["WWW-Authenticate"].startswith("DPoP ")
    refused("auth.dpop_downgrade", 401, check, dpop(token, proof(token), scheme="Bearer"))  # although all is right


def test_a_token_that_is_not_bound(issuer: Issuer, check: TokenVerifier) -> None:
    token = issuer.token()
    refused("auth.binding_required", 401, check, bearer(token))
    refused("auth.dpop_unbound", 401, check, dpop(token, proof(token)))
    refused("auth.dpop_unbound", 401, verifier(issuer), dpop(token, proof(token)))
    verifier(issuer).verify("POST", PATH, bearer(token), "fl:train")


def test_the_challenge_names_dpop_where_that_is_what_is_wanted(issuer: Issuer, check: TokenVerifier) -> None:
    assert refused("auth.no_token", 401, check, []).headers == [
        ("WWW-Authenticate", 'DPoP realm="moonflower", algs="ES384 ES256 Ed25519 EdDSA"')
    ]


# Nonces


def test_a_proof_needs_a_nonce_of_this_server(issuer: Issuer) -> None:
    check, token = verifier(issuer, binding="dpop", nonces=True), bound(issuer)
    for wrong in (None, "", "x", 7, "ä", verifier(issuer, nonces=True).nonce()):
        refusal = refused("auth.dpop_nonce", 401, check, dpop(token, proof(token, nonce=wrong)))
        said = dict(refusal.headers)
        assert 'error="use_dpop_nonce"' in said["WWW-Authenticate"]
        assert said["DPoP-Nonce"] == check.nonce()
    check.verify("POST", PATH, dpop(token, proof(token, nonce=said["DPoP-Nonce"])), "fl:train")


def test_a_nonce_lives_two_to_four_minutes(issuer: Issuer) -> None:
    nonces = Nonces(b"0" * 32, issuer.clock)
    issuer.clock.now = 120_000.0
    first = nonces.current()
    issuer.clock.now += 239
    assert nonces.good(first)
    assert nonces.current() != first
    issuer.clock.now += 1
    assert not nonces.good(first)
    issuer.clock.now = 120_000.0 - 1
    assert not nonces.good(first)  # not yet given out
    assert Nonces(b"0" * 32, issuer.clock).current() == nonces.current()  # the secret is all there is to know


# Parts


def test_the_memory_takes_its_entries_apart() -> None:
    seen = Seen(10, 10, Clock())
    assert seen.first("a", "bc")
    assert seen.first("ab", "c")
    assert not seen.first("a", "bc")


def test_the_memory_forgets_in_time() -> None:
    clock = Clock()
    seen = Seen(10, 2, clock)
    assert seen.first("a")
    clock.now += 10
    assert not seen.first("a")  # which does not keep it any longer
    assert seen.first("b")
    with pytest.raises(OverflowError):
        seen.first("c")
    clock.now += 1
    assert seen.first("a")
    assert not seen.first("b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h", "https://h/"),
        ("https://h:443/a", "https://h/a"),
        ("http://h:80/a", "http://h/a"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a?x"),
        ("https://h/%c3%a4", "https://h/%C3%A4"),
    ],
)
def test_one_address(one: str, other: str) -> None:
    assert target(one) == target(other) is not None


@pytest.mark.parametrize("junk", ["", "/a", "ftp://h/a", "https:///a", "https://u@h/a", "https://h:x/a", "https://[/a"])
def test_no_address(junk: str) -> None:
    assert target(junk) is None


def test_only_so_many_keys_are_kept(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = Proofs(clock=issuer.clock)
    imported: list[Any] = []
    real = jws.public_key
    monkeypatch.setattr("moonflower.oauth.dpop.public_key", lambda jwk: imported.append(jwk) or real(jwk))
    for _ in range(3):
        proofs.check([proof("t").encode()], "POST", URL)()
    assert imported == [json.loads(json.dumps(PUBLIC))]
