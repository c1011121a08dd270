"""Against an authorization server of somebody else's (oidc-provider): what we ask for it gives, and we verify it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moonflower.configs.roles import LoginSettings, VerifierSettings
from moonflower.errors import LoginRefused
from moonflower.oauth import jws
from moonflower.oauth.login import DpopKey, TokenSource, new_client_key
from moonflower.oauth.tokens import TokenVerifier
from support.forge import AUDIENCE, PATH, SERVER, compact, dpop, refused
from support.idp import configure, running, signing_key


class Idp:
    """The running server, with clients anna (bound tokens) and carla (plain ones)."""

    def __init__(self, folder: Path, *, nonce: bool = False) -> None:
        self.folder, self.key = folder, DpopKey.generate()
        self.keys = [signing_key("idp-1")]
        self.clients = []
        for name, bound in (("anna", True), ("carla", False)):
            private, public = new_client_key()
            path = folder / f"{name}.key"
            path.write_text(json.dumps(private))
            path.chmod(0o600)
            self.clients.append({"client_id": name, "key": public, "scope": "fl:train fl:run", "bound": bound})
        self.runs = running(folder, self.clients, AUDIENCE, keys=self.keys, nonce=nonce)
        self.url = ""
        self.process: Any = None

    def source(self, name: str = "anna", scope: str = "fl:train", **changes: Any) -> TokenSource:
        found = {"issuer": self.url, "client_id": name, "key": self.folder / f"{name}.key", "audience": AUDIENCE}
        settings = LoginSettings.model_validate({**found, **changes})
        return TokenSource(settings, self.key, scope)

    def verifier(self, **changes: Any) -> TokenVerifier:
        settings = {"issuer": self.url, "audience": AUDIENCE, "nonces": False, "jwks_cooldown_s": 0.01, **changes}
        return TokenVerifier(VerifierSettings.model_validate(settings), url=SERVER)

    def headers(self, token: str, key: DpopKey | None = None) -> list[tuple[bytes, bytes]]:
        return dpop(token, (key or self.key).proof("POST", SERVER + PATH, token=token))


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idp]:
    made = Idp(tmp_path_factory.mktemp("idp"))
    with made.runs as (made.url, made.process):
        yield made


def token(source: TokenSource) -> str:
    try:
        return source.token()
    finally:
        source.close()


def test_its_token_opens_our_door(idp: Idp) -> None:
    held = token(idp.source())
    principal = idp.verifier().verify("POST", PATH, idp.headers(held), "fl:train")
    assert (principal.issuer, principal.client_id, principal.jkt) == (idp.url, "anna", idp.key.jkt)
    assert principal.scopes == {"fl:train"}


def test_a_token_that_is_not_bound_opens_it_only_where_that_is_allowed(idp: Idp) -> None:
    held = token(idp.source("carla", binding="none"))
    bearer = [(b"authorization", b"Bearer " + held.encode())]
    refused("auth.binding_required", 401, idp.verifier(), bearer)
    assert idp.verifier(binding="none").verify("POST", PATH, bearer, "fl:train").client_id == "carla"


def test_it_takes_the_token_endpoint_for_an_audience_too(idp: Idp) -> None:
    assert token(idp.source(assertion_audience="token_endpoint"))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_id": "eve"}, "invalid_client"),
        ({"client_id": "carla"}, "invalid_client"),  # anna's key
        ({"audience": "https://other.example.org"}, "invalid_target"),
        ({"scope": "fl:approve"}, "invalid_scope"),
        ({"binding": "none"}, "invalid_"),  # anna's tokens are to be bound
    ],
)
def test_what_it_refuses_we_hear(idp: Idp, changes: dict[str, Any], error: str) -> None:
    scope = changes.pop("scope", "fl:train")
    with pytest.raises(LoginRefused, match=error):
        token(idp.source(scope=scope, **changes))


def test_tokens_forged_with_its_real_key_are_refused_for_their_one_fault(idp: Idp) -> None:
    good = jws.read(token(idp.source()).encode())
    key, check = jws.private_key(idp.keys[0]), idp.verifier()

    def forged(header: dict[str, Any] | None = None, **claims: Any) -> str:
        return compact({**good.header, **(header or {})}, {**good.claims, **claims}, key)

    assert check.verify("POST", PATH, idp.headers(forged()), "fl:train")
    for code, one in (
        ("auth.header_refused", forged({"jku": "https://evil.example.org"})),
        ("auth.typ_refused", forged({"typ": "JWT"})),
        ("auth.audience", forged(aud="https://other.example.org")),
        ("auth.issuer_unknown", forged(iss=idp.url + "/")),
        ("auth.expired", forged(exp=good.claims["iat"] - 1000)),
        ("auth.lifetime_too_long", forged(exp=good.claims["iat"] + 10**8)),
        ("auth.dpop_binding", forged(cnf={"jkt": DpopKey.generate().jkt})),
    ):
        refused(code, 401, check, idp.headers(one))
    refused("auth.dpop_binding", 401, check, idp.headers(forged(), DpopKey.generate()))
    refused("auth.scope", 403, check, idp.headers(forged(scope="fl:trainer")))


def test_it_may_want_nonces(tmp_path: Path) -> None:
    made = Idp(tmp_path, nonce=True)
    with made.runs as (made.url, made.process):
        held = token(made.source())
        assert made.verifier().verify("POST", PATH, made.headers(held), "fl:train").client_id == "anna"


def test_its_keys_change_and_a_client_is_revoked(idp: Idp) -> None:
    check = idp.verifier(jwks_ttl_s=0.2)
    old = token(idp.source())
    check.verify("POST", PATH, idp.headers(old), "fl:train")
    new = signing_key("idp-2")
    configure(idp.folder, idp.process, keys=[new, *idp.keys])
    fresh = token(idp.source())
    assert jws.read(fresh.encode()).header["kid"] == "idp-2"
    for one in (fresh, old):
        check.verify("POST", PATH, idp.headers(one), "fl:train")
    configure(idp.folder, idp.process, keys=[new], clients=idp.clients[1:])
    time.sleep(0.25)
    refused("auth.unknown_kid", 503, check, idp.headers(old))
    check.verify("POST", PATH, idp.headers(fresh), "fl:train")
    with pytest.raises(LoginRefused, match="invalid_client"):
        token(idp.source())
