"""The embedded issuer: who gets a token, who does not and why, and that its key is nobody else's."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from moonflower import logs
from moonflower.configs.roles import IssuerConfig, VerifierSettings
from moonflower.errors import InputError
from moonflower.oauth import jws
from moonflower.oauth.discovery import discover, endpoint, get
from moonflower.oauth.issuer import serve as module
from moonflower.oauth.issuer.serve import KEY_FILE, application, serve, signing_key
from moonflower.oauth.jws import SigningKey
from moonflower.oauth.login import ASSERTION_TYPE, DpopKey
from moonflower.oauth.tokens import TokenVerifier
from support import PATIENCE_S
from support.forge import AUDIENCE, NOW, SERVER, Bridge, Clock, Headers, compact, ec_key, node_key, okp_key, rsa_key
from support.forge import PATH as ROUTE

URL = "http://127.0.0.1:9400"
ANNA = ec_key("anna-1")
RSA = rsa_key("rsa-1")


def config(folder: Path, **changes: Any) -> IssuerConfig:
    """Return a config with clients anna (P-256), rsa, and okp; their public keys are in the folder."""
    clients = {"anna": ANNA, "rsa": RSA, "okp": okp_key("okp-1")}
    for name, key in clients.items():
        (folder / f"{name}.jwk").write_text(json.dumps(key.public.jwk))
    return IssuerConfig.model_validate(
        {
            "issuer": {"state": folder / "state", "audience": AUDIENCE, **changes},
            "client": [
                {"client_id": name, "key": folder / f"{name}.jwk", "scopes": ["fl:train", "fl:audit"]}
                for name in clients
            ],
        }
    )


class Asker:
    """Asks the issuer for tokens, with one thing changed at a time."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.app = application(config(folder), URL, clock=self.clock)
        self.http = httpx.Client(transport=Bridge(self.app))
        self.key: DpopKey | None = node_key(self.clock)

    def assertion(self, *, key: SigningKey = ANNA, header: dict[str, Any] | None = None, **changes: Any) -> str:
        claims = {"iss": "anna", "sub": "anna", "aud": URL, "jti": secrets.token_hex(8), "iat": NOW, "exp": NOW + 60}
        merged = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return compact({"alg": key.algorithm, **(header or {})}, merged, key)

    def form(self, **changes: Any) -> dict[str, Any]:
        whole = {
            "grant_type": "client_credentials",
            "scope": "fl:train",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion(),
        }
        return {name: value for name, value in {**whole, **changes}.items() if value is not None}

    def post(
        self, form: Any, *, headers: Headers | None = None, kind: str = "application/x-www-form-urlencoded"
    ) -> Any:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        sent: Headers = [(b"content-type", kind.encode()), *(headers or [])]
        if self.key is not None:
            sent.append((b"dpop", self.key.proof("POST", f"{URL}/token").encode()))
        return self.http.post(f"{URL}/token", content=body, headers=sent)

    def refused(self, error: str, form: Any, **call: Any) -> str:
        """Return the description of a refusal, which must be a 4xx with this error."""
        response = self.post(form, **call)
        assert 400 <= response.status_code < 500, response.text
        assert response.json()["error"] == error, response.text
        return str(response.json().get("error_description", ""))


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Asker]:
    asker = Asker(tmp_path)
    with asker.http:
        yield asker


def test_a_client_gets_a_token_that_the_server_takes(ask: Asker) -> None:
    response = ask.post(ask.form(resource=AUDIENCE, client_id="anna"))
    reply = response.json()
    assert response.status_code == 200, reply
    assert (reply["token_type"], reply["expires_in"], reply["scope"]) == ("DPoP", 300, "fl:train")
    assert response.headers["Cache-Control"] == "no-store"
    token = jws.read(reply["access_token"].encode())
    assert token.header["typ"] == "at+jwt"
    assert token.claims["exp"] - token.claims["iat"] == 300  # authlib's own default is ten days
    assert token.claims["aud"] == AUDIENCE  # authlib's own default is the client
    assert ask.key is not None
    assert token.claims["cnf"] == {"jkt": ask.key.jkt}
    settings = VerifierSettings(issuer=URL, audience=AUDIENCE, nonces=False)
    check = TokenVerifier(settings, url=SERVER, clock=ask.clock, fetch=lambda url: get(ask.http, url))
    proof = ask.key.proof("POST", SERVER + ROUTE, token=reply["access_token"])
    headers = [(b"authorization", b"DPoP " + reply["access_token"].encode()), (b"dpop", proof.encode())]
    principal = check.verify("POST", ROUTE, headers, "fl:train")
    assert (principal.issuer, principal.client_id, principal.jkt) == (URL, "anna", ask.key.jkt)


def test_it_describes_itself(ask: Asker) -> None:
    openid = discover(URL, lambda url: get(ask.http, url))
    assert openid == ask.http.get(f"{URL}/.well-known/oauth-authorization-server").json()
    assert endpoint(openid, "token_endpoint") == f"{URL}/token"
    assert "ES384" in openid["dpop_signing_alg_values_supported"]
    (key,) = ask.http.get(endpoint(openid, "jwks_uri")).json()["keys"]
    assert (key["use"], key["alg"], set(key)) == ("sig", "ES256", {"kty", "crv", "x", "y", "kid", "use", "alg"})


@pytest.mark.parametrize(("client", "key"), [("rsa", RSA)])
def test_other_keys_do(ask: Asker, client: str, key: SigningKey) -> None:
    assertion = ask.assertion(key=key, iss=client, sub=client)
    assert ask.post(ask.form(client_assertion=assertion)).status_code == 200


def test_the_audience_of_an_assertion_is_the_issuer_or_its_token_endpoint(ask: Asker) -> None:
    for audience in (URL, f"{URL}/token", ["other", URL]):
        assert ask.post(ask.form(client_assertion=ask.assertion(aud=audience))).status_code == 200


def test_some_scopes_and_all_of_them(ask: Asker) -> None:
    assert ask.post(ask.form(scope="fl:audit  fl:train")).json()["access_token"]
    for scope in ("fl:run", "fl:train fl:run", "fl:trainer", "", None, "*"):
        ask.refused("invalid_scope", ask.form(scope=scope))


ASSERTIONS: dict[str, dict[str, Any]] = {
    "another key": {"key": ec_key("anna-1")},
    "an unknown client": {"iss": "eve", "sub": "eve"},
    "another client's name": {"iss": "rsa", "sub": "rsa"},
    "iss and sub differ": {"iss": "rsa"},
    "no iss": {"iss": None},
    "no sub": {"sub": None},
    "sub a list": {"sub": ["anna"], "iss": ["anna"]},
    "sub a number": {"sub": 7, "iss": 7},
    "another audience": {"aud": "https://other.example.org"},
    "the start of the audience": {"aud": URL[:-1]},
    "no audience": {"aud": None},
    "audience an object": {"aud": {URL: 1}},
    "audience a list of lists": {"aud": [[URL]]},
    "expired": {"iat": NOW - 100, "exp": NOW - 30},
    "far exp": {"exp": NOW + 3600},
    "far exp, old iat": {"iat": NOW - 3600},
    "dated ahead": {"iat": NOW + 60, "exp": NOW + 120},
    "not yet": {"nbf": NOW + 60},
    "no exp": {"exp": None},
    "exp as text": {"exp": "soon"},
    "exp true": {"exp": True},
    "exp without end": {"exp": 10**400},
    "no iat": {"iat": None},
    "no jti": {"jti": None},
    "jti a list": {"jti": ["a"]},
    "jti long": {"jti": "x" * 300},
    "crit": {"header": {"crit": ["exp"]}},
}


@pytest.mark.parametrize("name", ASSERTIONS)
def test_an_assertion_that_is_not_right_is_refused(ask: Asker, name: str) -> None:
    changes = ASSERTIONS[name]
    assertion = ask.assertion(**changes)
    assert assertion not in ask.refused("invalid_client", ask.form(client_assertion=assertion))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256", "ES384", "x", 7, None])
def test_an_assertion_of_another_algorithm_is_refused(ask: Asker, algorithm: Any) -> None:
    claims = jws.read(ask.assertion().encode()).claims
    said = ask.refused("invalid_client", ask.form(client_assertion=compact({"alg": algorithm}, claims)))
    assert "algorithm" in said


@pytest.mark.parametrize("junk", ["", "x", "a.b.c", "....", "ä", "e30.e30.", "e30.W10.", "x" * 9000])
def test_junk_is_no_assertion(ask: Asker, junk: str) -> None:
    ask.refused("invalid_client", ask.form(client_assertion=junk))


def test_an_assertion_counts_once(ask: Asker) -> None:
    form = ask.form()
    assert ask.post(form).status_code == 200
    assert "before" in ask.refused("invalid_client", form)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_assertion": None}, "invalid_client"),
        ({"client_assertion_type": "x"}, "invalid_client"),
        ({"client_assertion": None, "client_id": "anna", "client_secret": "s"}, "invalid_request"),
        ({"client_secret": "s"}, "invalid_request"),
        ({"client_id": "rsa"}, "invalid_client"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": None}, "unsupported_grant_type"),
        ({"grant_type": '"\\\n'}, "unsupported_grant_type"),
        ({"resource": "https://other.example.org"}, "invalid_target"),
        ({"resource": ""}, "invalid_target"),
    ],
)
def test_a_request_that_is_not_right_is_refused(ask: Asker, changes: dict[str, Any], error: str) -> None:
    ask.refused(error, ask.form(**changes))


def test_a_form_is_read_strictly(ask: Asker) -> None:
    good = urlencode(ask.form()).encode()
    ask.refused("invalid_request", good + b"&scope=fl:train")
    ask.refused("invalid_request", good, kind="application/json")
    ask.refused("invalid_request", b"a=%ff")
    ask.refused("invalid_request", b"\xff")
    ask.refused("invalid_request", b"&".join(b"%d=1" % number for number in range(40)))
    assert "longer" in ask.refused("invalid_request", b"a=" + b"x" * (16 << 10))
    assert ask.http.get(f"{URL}/token").status_code == 405
    ask.refused(
        "invalid_client", ask.form(client_assertion=None), headers=[(b"authorization", b"Basic YW5uYTpzZWNyZXQ=")]
    )
    assert ask.http.post(f"{URL}/token?{good.decode()}").status_code == 400  # nothing is read from the address


def test_a_body_that_does_not_come_is_not_waited_for(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_S", 0.05)
    scope = {"type": "http", "method": "POST", "path": "/token", "query_string": b"", "headers": []}
    scope["headers"] = [(b"content-type", b"application/x-www-form-urlencoded")]
    sent: list[Any] = []

    async def go() -> None:
        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        await ask.app(scope, receive, send)

    asyncio.run(go())
    assert sent[0]["status"] == 400


def test_a_client_that_is_taken_out_gets_no_more_tokens(ask: Asker) -> None:
    assert ask.post(ask.form()).status_code == 200
    del ask.app.state.clients["anna"]
    ask.refused("invalid_client", ask.form())


def test_every_token_is_bound_to_a_key(ask: Asker) -> None:
    key, ask.key = ask.key, None
    assert key is not None
    ask.refused("invalid_dpop_proof", ask.form())
    good = key.proof("POST", f"{URL}/token").encode()
    assert ask.post(ask.form(), headers=[(b"dpop", good)]).status_code == 200
    assert "before" in ask.refused("invalid_dpop_proof", ask.form(), headers=[(b"dpop", good)])
    for wrong in (key.proof("GET", f"{URL}/token"), key.proof("POST", f"{URL}/other"), "x"):
        ask.refused("invalid_dpop_proof", ask.form(), headers=[(b"dpop", wrong.encode())])
    twice = [(b"dpop", key.proof("POST", f"{URL}/token").encode()) for _ in range(2)]
    ask.refused("invalid_dpop_proof", ask.form(), headers=twice)


def test_a_p256_key_binds_too(ask: Asker) -> None:
    ask.key = DpopKey(ec.generate_private_key(ec.SECP256R1()), clock=ask.clock)
    claims = jws.read(ask.post(ask.form()).json()["access_token"].encode()).claims
    assert claims["cnf"] == {"jkt": ask.key.jkt}


def test_no_junk_makes_an_error_of_the_server(ask: Asker) -> None:
    values = ["", "\0", "ä", '"', "[]", "{}", "x" * 200, "%00", "\n\r"]
    for name in ("grant_type", "scope", "client_id", "resource", "client_assertion_type", "client_assertion"):
        for value in values:
            response = ask.post(ask.form(**{name: value}))
            assert response.status_code < 500, (name, value)


def test_nothing_secret_is_logged(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    form = ask.form()
    token = ask.post(form).json()["access_token"]
    assert token not in caplog.text
    assert form["client_assertion"] not in caplog.text


# The signing key


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / KEY_FILE
    before = os.umask(0)
    try:
        first = signing_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == [KEY_FILE]
    assert signing_key(path).public.thumbprint == first.public.thumbprint


def test_the_key_is_never_open_to_others_even_for_an_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.open

    def watched(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        descriptor = real(path, flags, mode, **rest)
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        signing_key(tmp_path / KEY_FILE)
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_many_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(signing_key(tmp_path / KEY_FILE).public.thumbprint))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    signing_key(tmp_path / KEY_FILE)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(InputError, match="read by others") as refusal:
        signing_key(tmp_path / KEY_FILE)
    assert refusal.value.code == "config.key"
    assert "chmod 600" in refusal.value.hint


@pytest.mark.parametrize("content", ["", "{}", "[]", "x", json.dumps(ANNA.public.jwk)])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY_FILE).write_text(content)
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(InputError) as refusal:
        signing_key(tmp_path / KEY_FILE)
    assert refusal.value.code == "config.key"


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as refusal:
        signing_key(tmp_path / "file" / KEY_FILE)
    assert refusal.value.code == "config.value"


# The config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(dict(ANNA.key.as_dict(private=True))), "is not a public JWK"),
        ("{}", "is not a public JWK"),
        ("[" * 5000, "is not a public JWK"),
        (None, "cannot be read"),
    ],
)
def test_a_client_needs_a_public_key(tmp_path: Path, content: str | None, said: str) -> None:
    asked = config(tmp_path)
    if content is None:
        (tmp_path / "anna.jwk").unlink()
    else:
        (tmp_path / "anna.jwk").write_text(content)
    with pytest.raises(InputError, match=said) as refusal:
        application(asked, URL)
    assert refusal.value.code == "config.key"


def test_an_unknown_scope_is_named(tmp_path: Path) -> None:
    asked = config(tmp_path)
    client = asked.client[0].model_copy(update={"scopes": ("fl:trian",)})
    with pytest.raises(InputError, match="did you mean 'fl:train'") as refusal:
        application(asked.model_copy(update={"client": (client,)}), URL)
    assert refusal.value.code == "config.value"


# Serving


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
def test_it_does_not_listen_to_other_machines_unasked(tmp_path: Path, listen: str) -> None:
    with pytest.raises(InputError, match="other machines") as refusal:
        serve(config(tmp_path, listen=listen), on_ready=lambda _: pytest.fail("it serves"))
    assert refusal.value.code == "config.value"
    assert not (tmp_path / "state").exists()  # nothing was done


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=listen) as refusal:
            serve(config(tmp_path, listen=listen))
    assert refusal.value.code == "config.value"


SCRIPT = """
import sys
from pathlib import Path
from moonflower.configs.roles import IssuerConfig
from moonflower.oauth.issuer.serve import serve
serve(IssuerConfig.model_validate_json(sys.argv[1]), expose="expose" in sys.argv,
      on_ready=lambda url: print(url, flush=True))
print("ended")
"""


@pytest.mark.parametrize(
    ("listen", "end"), [("127.0.0.1:0", signal.SIGTERM), ("localhost:0", signal.SIGINT), ("0.0.0.0:0", signal.SIGTERM)]
)
def test_it_serves_under_its_real_port_and_ends_when_told(tmp_path: Path, listen: str, end: signal.Signals) -> None:
    asked = config(tmp_path, listen=listen).model_dump_json()
    more = ["expose"] if listen.startswith("0") else []
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, asked, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert not url.endswith(":0")
            with httpx.Client(trust_env=False) as http:
                assert discover(url, lambda address: get(http, address))["issuer"] == url
                assert http.post(f"{url}/token").json()["error"] == "invalid_request"
            process.send_signal(end)
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "ended\n")
    assert all(logs.is_ours(line, "console") for line in err.splitlines())
    assert f"listening on {url}" in err
