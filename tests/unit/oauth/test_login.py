"""How a client gets and uses its token: one fetch for many threads, renewed early, kept through an outage."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from moonflower.configs.roles import IssuerConfig, LoginSettings, VerifierSettings
from moonflower.errors import InputError, LoginRefused, MetadataRefused, Refused
from moonflower.oauth import jws
from moonflower.oauth.discovery import MAX_BYTES, client, fetcher, get
from moonflower.oauth.issuer.serve import application
from moonflower.oauth.login import DpopKey, IssuerUnreachable, ServerAuth, TokenSource, load_key, new_client_key
from moonflower.oauth.tokens import TokenRefused, TokenVerifier
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support import PATIENCE_S
from support.forge import AUDIENCE, SERVER, Bridge, Clock, ec_key, node_key, okp_key, rsa_key
from support.forge import PATH as ROUTE

URL = "http://127.0.0.1:9400"


def write(path: Path, jwk: Any, mode: int = 0o600) -> Path:
    path.write_text(jwk if isinstance(jwk, str) else json.dumps(jwk))
    path.chmod(mode)
    return path


class World:
    """An embedded issuer in this process, a client of it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        private, public = new_client_key()
        self.settings = LoginSettings(
            issuer=URL, client_id="anna", key=write(folder / "anna.key", private), audience=AUDIENCE
        )
        self.config = IssuerConfig.model_validate(
            {
                "issuer": {"state": folder / "issuer", "audience": AUDIENCE},
                "client": [
                    {"client_id": "anna", "key": write(folder / "anna.jwk", public, 0o644), "scopes": ["fl:train"]}
                ],
            }
        )
        self.issuer = application(self.config, URL, clock=self.clock)
        self.bridge = Bridge(self.issuer)
        self.http = httpx.Client(transport=self.bridge)
        self.key = node_key(self.clock)

    def source(self, scope: str = "fl:train") -> TokenSource:
        return TokenSource(self.settings, self.key, scope, clock=self.clock, http=self.http)

    @property
    def asked(self) -> list[httpx.Request]:
        """The requests to the token endpoint."""
        return [request for request in self.bridge.requests if request.url.path == "/token"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.http:
        yield made


def together(count: int, call: Any) -> list[Any]:
    results: list[Any] = []

    def go() -> None:
        try:
            results.append(call())
        except Refused as failure:
            results.append(failure)

    threads = [threading.Thread(target=go) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# The token source


def test_fifty_threads_make_one_fetch(world: World) -> None:
    tokens = together(50, world.source().token)
    assert len(tokens) == 50
    assert len(set(tokens)) == 1
    assert len(world.asked) == 1


def test_a_token_is_renewed_before_it_ends(world: World) -> None:
    source = world.source()
    first = source.token()
    world.clock.now += 239  # of 300 s; a fifth of that is 60
    assert source.token() == first
    world.clock.now += 1
    assert source.token() != first
    assert len(world.asked) == 2
    assert len([one for one in world.bridge.requests if "well-known" in one.url.path]) == 1


def test_each_request_has_an_assertion_and_a_proof_of_its_own(world: World) -> None:
    source = world.source()
    for _ in range(3):
        source.token()
        world.clock.now += 250
    forms = [parse_qs(request.content.decode()) for request in world.asked]
    claims = [jws.read(form["client_assertion"][0].encode()).claims for form in forms]
    proofs = [jws.read(request.headers["DPoP"].encode()).claims for request in world.asked]
    assert len({one["jti"] for one in claims}) == 3
    assert len({one["jti"] for one in proofs}) == 3
    assert all(one["exp"] - one["iat"] <= 60 and one["aud"] == URL for one in claims)
    assert {form["resource"][0] for form in forms} == {AUDIENCE}  # also when renewing
    assert jws.read(forms[0]["client_assertion"][0].encode()).header["kid"]


def test_the_assertion_names_the_token_endpoint_where_that_is_wanted(world: World) -> None:
    world.settings = world.settings.model_copy(update={"assertion_audience": "token_endpoint", "audience": None})
    world.source().token()
    form = parse_qs(world.asked[0].content.decode())
    assert jws.read(form["client_assertion"][0].encode()).claims["aud"] == f"{URL}/token"
    assert "resource" not in form


def test_an_outage_is_sat_out_with_the_token_at_hand(world: World) -> None:
    source = world.source()
    token = source.token()
    world.bridge.down = True
    world.clock.now += 250
    assert source.token() == token
    tried = len(world.bridge.requests)
    for _ in range(10):
        assert source.token() == token
    assert len(world.bridge.requests) == tried  # asked at most every five seconds
    world.clock.now += 5
    assert source.token() == token
    assert len(world.bridge.requests) == tried + 1
    world.clock.now += 45
    with pytest.raises(IssuerUnreachable) as failure:
        source.token()
    assert failure.value.code == "auth.issuer_unreachable"
    world.bridge.down = False
    with pytest.raises(IssuerUnreachable):
        source.token()  # not again at once
    world.clock.now += 5
    assert source.token() != token


def test_an_issuer_that_never_answered_is_asked_every_five_seconds(world: World) -> None:
    world.bridge.down, source = True, world.source()
    failures = together(20, source.token)
    assert {type(failure) for failure in failures} == {IssuerUnreachable}
    assert len(world.bridge.requests) == 1


def test_who_has_a_token_does_not_wait_for_its_renewal(world: World) -> None:
    source = world.source()
    token = source.token()
    world.clock.now += 250
    inside, go_on = threading.Event(), threading.Event()
    plain = world.bridge.handle_request

    def slow(request: httpx.Request) -> httpx.Response:
        inside.set()
        go_on.wait(PATIENCE_S)
        return plain(request)

    world.bridge.handle_request = slow  # type: ignore[method-assign]
    renewed: list[str] = []
    thread = threading.Thread(target=lambda: renewed.append(source.token()))
    thread.start()
    assert inside.wait(PATIENCE_S)
    began = time.monotonic()
    assert source.token() == token
    assert time.monotonic() - began < 1
    go_on.set()
    thread.join()
    assert renewed != [token]
    assert source.token() == renewed[0]


def test_a_revoked_client_is_told_so(world: World) -> None:
    source = world.source()
    source.token()
    del world.issuer.state.clients["anna"]
    world.clock.now += 250
    with pytest.raises(LoginRefused, match="invalid_client") as failure:
        source.token()
    assert failure.value.code == "auth.client_refused"
    assert failure.value.hint
    asked = len(world.asked)
    with pytest.raises(LoginRefused, match="invalid_client"):
        source.token()
    assert len(world.asked) == asked
    assertion = parse_qs(world.asked[-1].content.decode())["client_assertion"][0]
    assert assertion not in f"{failure.value}{failure.value.hint}"


@pytest.mark.parametrize(
    ("changes", "scope", "error"),
    [
        ({"client_id": "eve"}, "fl:train", "invalid_client"),
        ({"audience": "https://other.example.org"}, "fl:train", "invalid_target"),
        ({}, "fl:run", "invalid_scope"),
    ],
)
def test_what_the_issuer_does_not_give(world: World, changes: dict[str, Any], scope: str, error: str) -> None:
    world.settings = world.settings.model_copy(update=changes)
    with pytest.raises(LoginRefused, match=error):
        world.source(scope).token()


def test_a_token_that_the_server_refused_is_fetched_anew_once(world: World) -> None:
    source = world.source()
    first = source.token()
    source.refused(first)
    second = source.token()
    assert second != first
    source.refused(first)  # an old one: already seen to
    assert source.token() == second
    source.refused(second)  # too soon: a server that refuses everything would make us flood the issuer
    assert source.token() == second
    assert len(world.asked) == 2
    world.clock.now += 5
    source.refused(first)
    assert source.token() == second
    source.refused(second)
    assert source.token() != second


def test_a_refused_token_is_not_used_on_in_an_outage(world: World) -> None:
    source = world.source()
    token = source.token()
    world.bridge.down = True
    source.refused(token)
    for _ in range(2):
        with pytest.raises(IssuerUnreachable):
            source.token()


def test_many_threads_that_were_refused_make_one_fetch(world: World) -> None:
    source = world.source()
    token = source.token()

    def renew() -> str:
        source.refused(token)
        return source.token()

    assert len(set(together(20, renew))) == 1
    assert len(world.asked) == 2


def test_binding_needs_a_key(world: World) -> None:
    with pytest.raises(InputError, match="binding") as refusal:
        TokenSource(world.settings, None, "fl:train", http=world.http)
    assert refusal.value.code == "config.key"


# Issuers that behave otherwise


class Odd:
    """An issuer that gives the answers it is told."""

    def __init__(self, *answers: tuple[int, Any, dict[str, str]]) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()
        self.metadata: Any = {"issuer": URL, "token_endpoint": f"{URL}/token"}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if "well-known" in request.url.path:
            return httpx.Response(200, json=self.metadata)
        self.requests.append(request)
        status, body, headers = self.answers.pop(0)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers=headers)

    def source(self, world: World, **changes: Any) -> TokenSource:
        http = httpx.Client(transport=httpx.MockTransport(self))
        key = None if changes.get("binding") == "none" else world.key
        return TokenSource(world.settings.model_copy(update=changes), key, "fl:train", clock=world.clock, http=http)


GOOD = {"access_token": "a.b.c", "token_type": "DPoP", "expires_in": 300}


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, {}, "auth.issuer_unreachable"),
        (503, b"<html>", "auth.issuer_unreachable"),
        (429, {"error": "slow_down"}, "auth.issuer_unreachable"),
        (200, b"<html>", "auth.issuer_unreachable"),
        (200, b"[" * 50_000, "auth.issuer_unreachable"),
        (200, b"x" * (MAX_BYTES + 1), "auth.issuer_unreachable"),
        (200, [], "auth.issuer_unreachable"),
        (302, b"", "auth.client_refused"),
        (400, b"junk", "auth.client_refused"),
        (401, {"error": "invalid_client"}, "auth.client_refused"),
        (401, {"error": ["x"], "error_description": 7}, "auth.client_refused"),
        (200, {**GOOD, "token_type": "Bearer"}, "auth.client_refused"),
        (200, {**GOOD, "token_type": None}, "auth.client_refused"),
        (200, {**GOOD, "access_token": ""}, "auth.client_refused"),
        (200, {**GOOD, "access_token": "a b"}, "auth.client_refused"),
        (200, {**GOOD, "access_token": "a\r\nX: y"}, "auth.client_refused"),
        (200, {**GOOD, "access_token": "ä"}, "auth.client_refused"),
        (200, {**GOOD, "access_token": "a" * 8193}, "auth.client_refused"),
        (200, {**GOOD, "expires_in": 0}, "auth.client_refused"),
        (200, {**GOOD, "expires_in": "300"}, "auth.client_refused"),
        (200, {**GOOD, "expires_in": True}, "auth.client_refused"),
        (200, {**GOOD, "expires_in": 10**400}, "auth.client_refused"),
    ],
)
def test_an_answer_that_is_no_token(world: World, status: int, body: Any, code: str) -> None:
    headers = {"Location": "https://evil.example.org/"} if status == 302 else {}
    odd = Odd((status, body, headers))
    with pytest.raises(Refused) as failure:
        odd.source(world).token()
    assert failure.value.code == code
    assert isinstance(failure.value, LoginRefused if code == "auth.client_refused" else IssuerUnreachable)
    assert len(odd.requests) == 1


def test_what_an_issuer_says_is_shown_in_plain_words_and_without_what_it_repeats(world: World) -> None:
    said = {"error": "invalid_client", "error_description": "no\x1b[31m ü " + "s" * 90 + " 'x'" + " y" * 300}
    with pytest.raises(LoginRefused) as failure:
        Odd((401, said, {})).source(world).token()
    assert "invalid_client no?[31m ? ... 'x' y" in str(failure.value)
    assert len(str(failure.value)) < 350


def test_the_token_endpoint_may_want_a_nonce(world: World) -> None:
    odd = Odd(
        (400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": "one"}),
        (200, GOOD, {"DPoP-Nonce": "two"}),
        (200, {**GOOD, "access_token": "d.e.f"}, {}),
    )
    source = odd.source(world)
    assert source.token() == "a.b.c"
    world.clock.now += 250
    assert source.token() == "d.e.f"
    proofs = [jws.read(request.headers["DPoP"].encode()).claims for request in odd.requests]
    assert [proof.get("nonce") for proof in proofs] == [None, "one", "two"]
    forms = [parse_qs(request.content.decode()) for request in odd.requests]
    assert len({form["client_assertion"][0] for form in forms}) == 3


def test_but_not_one_after_the_other_without_end(world: World) -> None:
    odd = Odd(*[(400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": str(number)}) for number in range(5)])
    with pytest.raises(LoginRefused, match="use_dpop_nonce"):
        odd.source(world).token()
    assert len(odd.requests) == 2
    odd = Odd((400, {"error": "use_dpop_nonce"}, {}))
    with pytest.raises(LoginRefused, match="use_dpop_nonce"):
        odd.source(world).token()


def test_a_token_without_a_life_is_held_for_a_minute(world: World) -> None:
    odd = Odd((200, {**GOOD, "expires_in": None}, {}))
    del odd.answers[0][1]["expires_in"]
    odd.answers.append((200, {**GOOD, "access_token": "d.e.f"}, {}))
    source = odd.source(world)
    assert source.token() == "a.b.c"
    world.clock.now += 47
    assert source.token() == "a.b.c"
    world.clock.now += 1
    assert source.token() == "d.e.f"


def test_without_binding_there_is_no_proof(world: World) -> None:
    odd = Odd((200, {**GOOD, "token_type": "bearer"}, {}))
    assert odd.source(world, binding="none").token() == "a.b.c"
    assert "DPoP" not in odd.requests[0].headers
    with pytest.raises(LoginRefused, match="bearer"):
        Odd((200, GOOD, {})).source(world, binding="none").token()


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": URL + "/", "token_endpoint": f"{URL}/token"},
        {"issuer": URL},
        {"issuer": URL, "token_endpoint": "http://evil.example.org/token"},
    ],
)
def test_metadata_that_is_not_the_issuers_is_not_believed(world: World, metadata: dict[str, Any]) -> None:
    odd = Odd()
    odd.metadata = metadata
    with pytest.raises(MetadataRefused) as failure:
        odd.source(world).token()
    assert failure.value.code == "auth.issuer_metadata"
    assert odd.requests == []


def test_what_is_fetched_has_limits(world: World) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/zip":
            return httpx.Response(200, content=b"", headers={"Content-Encoding": "gzip"})
        if request.url.path == "/moved":
            return httpx.Response(302, headers={"Location": f"{URL}/fits"})
        return httpx.Response(200, content=b"x" * (MAX_BYTES + (request.url.path == "/more")))

    with httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True) as http:
        assert len(get(http, f"{URL}/fits")) == MAX_BYTES
        for path in ("/more", "/zip", "/moved"):
            with pytest.raises(IssuerUnreachable):
                get(http, URL + path)


def test_nobody_there_is_an_unreachable_issuer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(IssuerUnreachable, match="ConnectError"):
        fetcher(f"http://127.0.0.1:{port}", None)(f"http://127.0.0.1:{port}/jwks")


def test_a_ca_that_is_none_ends_the_start(tmp_path: Path) -> None:
    for ca in (tmp_path / "none.pem", write(tmp_path / "junk.pem", "junk")):
        with pytest.raises(InputError) as refusal:
            fetcher("https://issuer.example.org", ca)
        assert refusal.value.code == "config.file"


def test_this_machine_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    for issuer, proxied in ((URL, False), ("https://issuer.example.org", True)):
        with client(issuer, None) as http:
            assert bool([one for one in http._mounts.values() if one is not None]) is proxied


# The server's side of a request


def served(world: World, *, nonces: bool = True, **changes: Any) -> tuple[Bridge, TokenVerifier]:
    """Return a server that verifies tokens as the gateway does."""
    settings = VerifierSettings(issuer=URL, audience=AUDIENCE, nonces=nonces)
    check = TokenVerifier(settings, url=SERVER, clock=world.clock, fetch=lambda url: get(world.http, url))

    async def answer(request: Request) -> Response:
        try:
            # In a thread: the verifier asks the issuer, which runs in a loop of its own here.
            who = await run_in_threadpool(
                check.verify, request.method, request.url.path, request.headers.raw, "fl:train"
            )
        except TokenRefused as refusal:
            return JSONResponse({"code": refusal.code}, refusal.status, dict(refusal.headers))
        return JSONResponse(
            {"client": who.client_id, "got": (await request.body()).decode()}, 200, {"DPoP-Nonce": check.nonce()}
        )

    return Bridge(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])), check


def test_a_request_gets_token_proof_and_nonce(world: World) -> None:
    bridge, check = served(world)
    with httpx.Client(transport=bridge, auth=ServerAuth(world.source(), world.key), base_url=SERVER) as http:
        for number in range(3):
            reply = http.post(ROUTE, content=b"body", params={"a": 1})
            assert reply.json() == {"client": "anna", "got": "body"}, number
        assert len(bridge.requests) == 4  # one more, for the first nonce
        before = check.nonce()
        world.clock.now += 120
        assert check.nonce() != before
        assert http.post(ROUTE).status_code == 200
        assert len(bridge.requests) == 5  # the old nonce still does
        world.clock.now += 1
        assert http.get(ROUTE).status_code == 200
        last = jws.read(bridge.requests[-1].headers["DPoP"].encode()).claims
        assert last["nonce"] == check.nonce()  # it came with the reply before


def test_threads_share_it(world: World) -> None:
    bridge, _ = served(world)
    with httpx.Client(transport=bridge, auth=ServerAuth(world.source(), world.key), base_url=SERVER) as http:
        replies = together(20, lambda: http.post(ROUTE).status_code)
    assert replies == [200] * 20
    assert len(world.asked) == 1


def test_a_refused_token_is_replaced_once(world: World) -> None:
    bridge, _ = served(world)
    source = world.source()
    with httpx.Client(transport=bridge, auth=ServerAuth(source, world.key), base_url=SERVER) as http:
        assert http.post(ROUTE).status_code == 200
        world.clock.now += 6
        stale = source.token()
        source._token = stale[:-4] + "AAAA"
        assert http.post(ROUTE).status_code == 200
        assert source.token() not in (stale, source._token[:-4] + "AAAA")
        assert len(world.asked) == 2


class Wall:
    """A server that answers all requests with the same, or with one after the other."""

    def __init__(self, *replies: httpx.Response) -> None:
        self.replies, self.requests = replies, list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(httpx.Request(request.method, request.url, headers=request.headers))
        chosen = self.replies[min(len(self.requests), len(self.replies)) - 1]
        return httpx.Response(chosen.status_code, headers=chosen.headers)


def challenged(error: str, status: int = 401, scheme: str = "DPoP", **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={"WWW-Authenticate": f'{scheme} realm="x", error="{error}"', **headers})


NONCE = {"DPoP-Nonce": "n"}


@pytest.mark.parametrize(
    ("replies", "requests", "fetches"),
    [
        ([challenged("invalid_token")], 2, 2),
        ([challenged("invalid_token", scheme="Bearer")], 2, 2),
        ([challenged("use_dpop_nonce", **NONCE)], 2, 1),
        ([challenged("use_dpop_nonce")], 1, 1),
        ([challenged("use_dpop_nonce", **NONCE), challenged("invalid_token")], 3, 2),
        ([challenged("invalid_token"), challenged("use_dpop_nonce", **NONCE), httpx.Response(200)], 3, 2),
        ([challenged("insufficient_scope", 403)], 1, 1),
        ([httpx.Response(401)], 1, 1),
        ([challenged("x", scheme="Basic")], 1, 1),
        ([httpx.Response(503)], 1, 1),
    ],
)
def test_a_server_that_refuses_all_is_not_asked_without_end(
    world: World, replies: list[httpx.Response], requests: int, fetches: int
) -> None:
    wall = Wall(*replies)
    with httpx.Client(transport=httpx.MockTransport(wall), auth=ServerAuth(world.source(), world.key)) as http:
        assert http.post(SERVER + ROUTE).status_code == replies[-1].status_code
    assert (len(wall.requests), len(world.asked)) == (requests, fetches)
    assert len({one.headers["DPoP"] for one in wall.requests}) == requests  # no proof is used twice


def test_a_revoked_client_ends_the_request(world: World) -> None:
    source = world.source()
    source.token()
    world.issuer.state.clients.clear()
    wall = Wall(challenged("invalid_token"))
    with (
        httpx.Client(transport=httpx.MockTransport(wall), auth=ServerAuth(source, world.key)) as http,
        pytest.raises(LoginRefused),
    ):
        http.post(SERVER + ROUTE)


def test_without_binding_it_is_a_bearer_token(world: World) -> None:
    source = Odd((200, {**GOOD, "token_type": "Bearer"}, {})).source(world, binding="none")
    wall = Wall(httpx.Response(200))
    with httpx.Client(transport=httpx.MockTransport(wall), auth=ServerAuth(source, None)) as http:
        http.get(SERVER)
    assert wall.requests[0].headers["Authorization"] == "Bearer a.b.c"
    assert "DPoP" not in wall.requests[0].headers


# Keys


def test_a_proof_is_for_one_request(world: World) -> None:
    proof = jws.read(world.key.proof("POST", "https://h/a?b=c#d", token="t", nonce="n").encode())
    assert (proof.header["typ"], proof.header["alg"], set(proof.header["jwk"])) == (
        "dpop+jwt",
        "ES384",
        {"kty", "crv", "x", "y"},
    )
    assert (proof.claims["htm"], proof.claims["htu"], proof.claims["nonce"]) == ("POST", "https://h/a", "n")
    assert DpopKey.generate().jkt != DpopKey.generate().jkt
    for curve in (ec.SECP521R1(), ec.SECP256K1()):
        with pytest.raises(InputError):
            DpopKey(ec.generate_private_key(curve))


@pytest.mark.parametrize(
    "made", [ec_key("k"), ec_key("k", "P-384"), okp_key("k"), rsa_key("k"), rsa_key("k", alg="PS256")]
)
def test_a_key_is_loaded_and_signs_with_its_own_algorithm(tmp_path: Path, made: jws.SigningKey) -> None:
    loaded = load_key(write(tmp_path / "key", dict(made.key.as_dict(private=True))))
    token = jws.read(loaded.sign({"typ": "JWT"}, {"a": 1}).encode())
    assert (token.header["kid"], token.header["alg"]) == ("k", made.algorithm)
    assert made.public.verify(made.algorithm, token)


def test_a_new_key_comes_in_two_halves(tmp_path: Path) -> None:
    private, public = new_client_key()
    assert private == {**public, "d": private["d"]}
    assert public["kid"] == jws.thumbprint(public)
    assert load_key(write(tmp_path / "key", private)).public.thumbprint == jws.public_key(public).thumbprint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InputError, match="read by others") as refusal:
        load_key(write(tmp_path / "key", new_client_key()[0], mode))
    assert refusal.value.code == "config.key"
    assert refusal.value.hint == f"chmod 600 {tmp_path / 'key'}"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "junk", "[" * 5000, new_client_key()[1], {"kty": "oct", "k": "c2VjcmV0", "d": "x"}]
)
def test_a_file_that_is_no_private_key_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match="is not a private JWK") as refusal:
        load_key(write(tmp_path / "key", content))
    assert refusal.value.code == "config.key"


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=str(path)) as refusal:
            load_key(path)
        assert refusal.value.code == "config.key"


def test_a_key_for_another_algorithm_than_its_own_is_refused() -> None:
    private, _ = new_client_key()
    with pytest.raises(ValueError, match="alg"):
        jws.private_key({**private, "alg": "ES384"})
    with pytest.raises(ValueError, match="signatures"):
        jws.private_key({**private, "use": "enc"})
    with pytest.raises(ValueError, match="P-521"):
        jws.from_ec(ec.generate_private_key(ec.SECP256K1()))


def test_scope_and_audience_are_asked_for_as_the_issuer_wants_it(tmp_path: Path) -> None:
    """Entra and Auth0, by their documentation: another scope, another parameter."""
    private, _ = new_client_key()
    key = write(tmp_path / "key.jwk", private)
    asked: list[dict[str, list[str]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"issuer": URL, "token_endpoint": f"{URL}/token"})
        asked.append(parse_qs(request.content.decode()))
        return httpx.Response(200, json={"access_token": "abc", "token_type": "Bearer", "expires_in": 60})

    plain = LoginSettings(issuer=URL, client_id="anna", key=key, audience=AUDIENCE, binding="none")
    other = plain.model_copy(update={"scope": "api://x/.default", "audience_parameter": "audience"})
    for settings in (plain, other):
        with httpx.Client(transport=httpx.MockTransport(answer)) as http:
            assert TokenSource(settings, None, "fl:train", http=http).token() == "abc"
    assert (asked[0]["scope"], asked[0]["resource"]) == (["fl:train"], [AUDIENCE])
    assert (asked[1]["scope"], asked[1]["audience"]) == (["api://x/.default"], [AUDIENCE])
    assert "resource" not in asked[1]


@pytest.mark.parametrize(("off", "said"), [(600, "600 s ahead"), (-600, "600 s behind"), (5, "")])
def test_a_refusal_says_whose_clock_is_off(tmp_path: Path, off: int, said: str) -> None:
    private, _ = new_client_key()
    clock = Clock()
    date = format_datetime(datetime.fromtimestamp(clock() - off, UTC), usegmt=True)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"issuer": URL, "token_endpoint": f"{URL}/token"})
        return httpx.Response(401, json={"error": "invalid_client"}, headers={"Date": date})

    settings = LoginSettings(issuer=URL, client_id="anna", key=write(tmp_path / "key.jwk", private), binding="none")
    with httpx.Client(transport=httpx.MockTransport(answer)) as http, pytest.raises(LoginRefused) as refusal:
        TokenSource(settings, None, "fl:train", clock=clock, http=http).token()
    assert ("clock" in str(refusal.value)) == bool(said)
    assert said in str(refusal.value)
