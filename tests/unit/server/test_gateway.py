"""The door in front of Flower's real app: who gets in with what, and what each refusal is called."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import sign_message
from moonflower import logs
from moonflower.configs.recipe import parse_recipe
from moonflower.server.door import gateway as module
from moonflower.server.door.gateway import ACTIVATE, API_BODY_BYTES, FLEET, OPEN_BODY_BYTES
from moonflower.server.door.limits import protocol
from moonflower.server.records import denied, history
from moonflower.server.records.denied import Denied
from moonflower.server.records.pseudonyms import Pseudonyms
from moonflower.server.records.verify import verify
from support import PATIENCE_S
from support.circles import begin, heart_recipe
from support.forge import Headers, Issuer, ec_key, verifier
from support.gateway import (
    ANNA,
    BERT,
    HERE,
    PULL,
    PULL_OBJECT,
    PUSH,
    Door,
    Node,
    door,
    doors,
    ok,
    run,
)
from support.listening import served

__all__ = ["door", "doors"]  # fixtures

# Routes

STRANGE = [
    *(("POST", f"/v1/runtime/{name}") for name in ("acquire-task", "push-object", "pull-object", "create-task")),
    *(("POST", f"/v1/control/{name}") for name in ("start-run", "list-runs", "stop-run", "register-node")),
    *(("POST", f"/v1/fleet/{name}") for name in ("get-fab", "register-node", "unregister-node", "")),
    *(("GET", path) for path in ("/docs", "/openapi.json", "/redoc", "/", "/metrics", "/v1/health", "*")),
    *((method, PULL) for method in ("GET", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH")),
    *((method, "/health") for method in ("POST", "HEAD", "OPTIONS")),
    ("DELETE", "/api/runs"),
    ("POST", "/api/runs/x"),
    ("GET", "/api/runs/x/stop"),
    ("GET", "/api"),
    ("GET", "/api/runsx"),
    ("POST", "//v1/fleet/pull-messages"),
    ("POST", "/v1//fleet/pull-messages"),
    ("POST", "/v1/fleet/../runtime/acquire-task"),
    ("POST", "/v1/fleet/../fleet/pull-messages"),
    ("POST", "/v1/fleet/%2e%2e/runtime/acquire-task"),
    ("POST", "/v1/fleet/..%2fruntime/acquire-task"),
    ("POST", "/v1/fleet/pull-messages/"),
    ("POST", "/v1/fleet/pull-messages%00"),
    ("POST", "/v1/fleet/pull-messages%20"),
    ("POST", "/v1/fleet/pull-messages;x"),
    ("POST", "/V1/FLEET/PULL-MESSAGES"),
    ("POST", "/v1/fleet/Pull-Messages"),
    ("POST", "/v1\\fleet\\pull-messages"),
    ("GET", "/health/"),
    ("GET", "/health/../docs"),
    ("POST", "http://127.0.0.1/v1/runtime/acquire-task"),
]


def test_whatever_is_not_a_known_route_is_404_and_reaches_nothing(door: Door) -> None:
    """Over real sockets, so that nobody tidies the paths up on the way; with a token that would open all of it."""
    held = door.token(door.anna, scope="fl:train fl:run fl:audit fl:approve")
    with served(door.app, protocol(5.0, 200)) as port:
        for method, path in STRANGE:
            lines = [*door.proven(method, path, held, door.anna.dpop), *door.anna.flower()]
            reply = raw(port, method, path, lines)
            assert reply.startswith(b"HTTP/1.1 404 "), (method, path, reply)
            assert method == "HEAD" or reply.endswith(b'{"code": "http.not_found", "detail": "no such route"}')
        assert raw(port, "GET", "/health", []).endswith(b'{"ok":true}')
    assert door.flower.reached == []
    assert door.ours.reached == ["/health"]
    assert door.refusals() == []


def raw(port: int, method: str, path: str, lines: Headers) -> bytes:
    """Send a request line just so; returns the whole reply."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(head + b"".join(name + b": " + value + b"\r\n" for name, value in lines) + b"\r\n")
        reply = b""
        while part := sock.recv(65536):
            reply += part
    return reply


def test_an_escaped_spelling_of_a_known_route_needs_all_that_the_route_needs(door: Door) -> None:
    with served(door.app, protocol(5.0, 200)) as port:
        reply = raw(port, "POST", "/v1/fleet/pull%2Dmessages", [])
    assert reply.startswith(b"HTTP/1.1 401 ")
    assert b"auth.no_token" in reply
    assert door.flower.reached == []


def test_paths_under_a_run_lead_to_our_own_routes_only(door: Door) -> None:
    for path in (
        "/api/runs/../../v1/runtime/x",
        "/api/runs/%2e%2e/docs",
        "/api/runs//",
        "/api/runs/a/b/c",
        "/api/runs/",
    ):
        assert run(door.desked("GET", path)).status in (307, 404), path
    assert run(door.desked("POST", "/api/runs/../x/stop")).status == 404
    assert door.flower.reached == []


def test_every_fleet_route_of_ours_is_one_of_flowers(door: Door) -> None:
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    assert {("POST", path) for path in FLEET} <= PROTOBUF_REQUEST_TYPES.keys()


def test_health_needs_no_token_and_ends_no_websocket(door: Door) -> None:
    assert run(door.ask("GET", "/health")).json == {"ok": True}
    sent: list[Any] = []

    async def connect() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await door.app({"type": "websocket", "path": PULL}, receive, send)

    run(connect())
    assert [one["type"] for one in sent] == ["websocket.close"]
    assert door.flower.reached == []


# Token, member and node key


def test_a_member_with_its_own_token_and_keys_gets_in(door: Door) -> None:
    reply = run(door.fleet(door.anna))
    assert reply.status == 200
    node_id = ActivateNodeResponse.FromString(reply.body).node_id
    assert door.online(door.anna)
    assert reply.headers["dpop-nonce"]
    asks = PullMessagesRequest(node=ProtoNode(node_id=node_id)).SerializeToString()
    assert run(door.fleet(door.anna, PULL, asks)).status == 200
    assert (door.logins, door.refusals()) == ([ANNA], [])


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def named_key(pem: bytes, *, times: int = 1) -> Callable[[Door], Headers]:
    """Anna's Flower headers with another key in them."""

    def made(door: Door) -> Headers:
        name = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
        rest = [line for line in door.anna.flower() if line[0] != name]
        return [(name, base64.b64encode(pem))] * times + rest

    return made


def spelled(door: Door, pem: bytes) -> Headers:
    return named_key(pem)(door)


MISMATCHES: dict[str, Callable[[Door], Headers]] = {
    "another member's key": lambda door: door.bert.flower(),
    "another member's key, signed by ours": lambda door: door.bert.flower(signer=door.anna),
    "a stranger's key": lambda door: Node("", "").flower(),
    "no key": lambda door: [line for line in door.anna.flower() if line[0] != b"flwr-public-key"],
    "the key twice": lambda door: [*door.anna.flower(), door.anna.flower()[0]],
    "two keys": lambda door: [door.bert.flower()[0], *door.anna.flower()],
    "an empty key": named_key(b""),
    "junk": named_key(b"\x00\xff junk"),
    "a P-256 key": named_key(pem_of(ec.generate_private_key(ec.SECP256R1()))),
    "a private key": named_key(b"-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"),
    "the key in DOS lines": lambda door: spelled(door, door.anna.pem.replace(b"\n", b"\r\n")),
    "the key after a remark": lambda door: spelled(door, b"x: y\n" + door.anna.pem),
    "the key before another": lambda door: spelled(door, door.anna.pem + door.bert.pem),
    "the key compressed": lambda door: spelled(door, compressed(door.anna)),
    "no base64": lambda door: [(b"flwr-public-key", b"%%%"), *door.anna.flower()[1:]],
}


def compressed(node: Node) -> bytes:
    """The same key with a compressed point: another PEM, another node to Flower."""
    import subprocess

    line = ["openssl", "ec", "-pubin", "-conv_form", "compressed"]
    try:
        made = subprocess.run(line, input=node.pem, capture_output=True, check=True, timeout=PATIENCE_S).stdout
    except FileNotFoundError:
        pytest.skip("openssl, which writes a compressed key, is not installed")
    assert made not in (b"", node.pem)
    return made


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_token_whose_node_key_is_not_the_pinned_one_is_refused(door: Door, case: str) -> None:
    reply = run(door.fleet(door.anna, flower=MISMATCHES[case](door)))
    assert reply.verdict == (401, "auth.node_mismatch")
    assert reply.headers["www-authenticate"].startswith("DPoP ")
    assert (door.flower.reached, door.logins) == ([], [])
    (entry,) = door.refusals()
    assert (entry["code"], entry["member"]) == ("auth.node_mismatch", ANNA)


def test_a_header_name_in_upper_case_does_not_hide_a_second_key(door: Door) -> None:
    """uvicorn gives lower-case names; over a socket both spellings are one header."""
    token = door.token(door.anna)
    lines = [*door.proven("POST", PULL, token, door.anna.dpop), *door.anna.flower()]
    lines.append((b"FLWR-Public-Key", base64.b64encode(door.bert.pem)))
    with served(door.app, protocol(5.0, 200)) as port:
        assert b"auth.node_mismatch" in raw(port, "POST", PULL, lines)
    assert door.flower.reached == []


def test_a_stolen_token_is_of_no_use_without_its_key(door: Door) -> None:
    """Each refusal has its own code; none is logged as that of a member, because nobody proved to be one."""
    stolen = door.token(door.anna)

    async def steal() -> list[tuple[int, str]]:
        plain = [(b"authorization", b"Bearer " + stolen.encode()), *door.anna.flower()]
        once = door.proven("POST", PULL, stolen, door.anna.dpop)
        await door.ask("POST", PULL, [*once, *door.anna.flower()], b"")
        return [
            (await door.fleet(door.anna, token=stolen, proof=door.bert.dpop)).verdict,
            (await door.fleet(door.bert, token=stolen)).verdict,
            (await door.ask("POST", ACTIVATE, plain, door.anna.activate())).verdict,
            (await door.ask("POST", PULL, [*once, *door.anna.flower()], b"")).verdict,
            (await door.ask("POST", ACTIVATE, [*once, *door.anna.flower()], b"")).verdict,
        ]

    codes = ["dpop_binding", "dpop_binding", "dpop_downgrade", "dpop_replay", "dpop_target"]
    assert run(steal()) == [(401, f"auth.{code}") for code in codes]
    assert {entry["member"] for entry in door.refusals()} == {""}
    assert door.logins == []


def test_a_token_bound_to_another_key_than_the_members_is_refused(door: Door) -> None:
    """The issuer bound A's token to a key of the thief's: token and proof are right, the pin is not."""
    thief = Node("", "")
    token = door.token(door.anna, cnf={"jkt": thief.pin})
    for flower in (door.anna.flower(), thief.flower()):
        assert run(door.fleet(door.anna, token=token, proof=thief.dpop, flower=flower)).verdict == (
            401,
            "auth.node_mismatch",
        )
    assert door.logins == []


def test_a_client_that_is_no_member_is_refused_and_not_named(door: Door) -> None:
    stranger = Node("Eve's hospital", "client-e")
    assert run(door.fleet(stranger)).verdict == (401, "auth.node_mismatch")
    (entry,) = door.refusals()
    assert (entry["code"], entry["member"]) == ("auth.node_mismatch", "")
    assert "client-e" not in json.dumps(entry)
    assert door.flower.reached == []


def test_a_client_of_the_same_name_at_another_issuer_is_somebody_else(door: Door) -> None:
    other = Node("Clara's hospital", "client-c")
    door.add(other, "https://other.example.org")
    assert run(door.fleet(other)).verdict == (401, "auth.node_mismatch")
    foreign = Issuer("https://other.example.org", clock=door.issuer.clock)
    token = foreign.token(foreign.claims(sub="client-c", client_id="client-c", cnf={"jkt": other.pin}))
    assert run(door.fleet(other, token=token)).verdict == (401, "auth.issuer_unknown")
    assert door.flower.reached == []


def test_a_revoked_member_is_out_at_once_whatever_it_holds(door: Door) -> None:
    token = door.token(door.anna)
    assert run(door.fleet(door.anna, token=token)).status == 200
    door.revoke(door.anna)
    assert len(door.verifier._accepted) == 1
    reply = run(door.fleet(door.anna, PULL, b"", token=token))
    assert reply.verdict == (401, "auth.client_revoked")
    assert "www-authenticate" in reply.headers
    assert run(door.fleet(door.anna, token=token)).verdict == (401, "auth.client_revoked")
    assert (door.flower.reached, door.logins) == ([ACTIVATE], [ANNA])
    assert [(one["code"], one["member"]) for one in door.refusals()] == [("auth.client_revoked", ANNA)]


# Scopes: 401 and never 403 for nodes, which take 403 for the end of a run


def test_an_operators_token_opens_no_fleet_route_and_a_nodes_none_of_ours(door: Door) -> None:
    for path in sorted(FLEET):
        reply = run(door.fleet(door.anna, path, b"", token=door.token(door.anna, scope="fl:run fl:audit")))
        assert reply.verdict == (401, "auth.scope")
        assert 'scope="fl:train"' in reply.headers["www-authenticate"]
    for method, path in (
        ("GET", "/api/runs"),
        ("POST", "/api/runs"),
        ("GET", "/api/runs/x"),
        ("POST", "/api/runs/x/stop"),
    ):
        assert run(door.desked(method, path, scope="fl:train")).verdict == (403, "auth.scope")
    assert (door.flower.reached, door.ours.reached, door.logins) == ([], [], [])


def test_an_auditor_reads_and_does_nothing_else(door: Door) -> None:
    assert run(door.desked("GET", "/api/runs", scope="fl:audit")).json == {"runs": []}
    assert run(door.desked("GET", "/api/runs/x", scope="fl:audit")).verdict == (404, "http.not_found")
    assert run(door.desked("GET", "/api/runs/x/log", scope="fl:audit")).json == {"entries": []}
    assert run(door.desked("POST", "/api/runs", asked(), scope="fl:audit")).verdict == (403, "auth.scope")
    assert run(door.desked("POST", "/api/runs/x/stop", scope="fl:audit")).verdict == (403, "auth.scope")
    assert run(door.desked("GET", "/api/runs", scope="fl:approve")).verdict == (403, "auth.scope")


def test_a_request_without_a_token_is_asked_for_one(door: Door) -> None:
    for method, path in (("POST", PULL), ("GET", "/api/runs"), ("POST", "/api/runs")):
        reply = run(door.ask(method, path))
        assert reply.verdict == (401, "auth.no_token")
        assert reply.headers["www-authenticate"].startswith('DPoP realm="moonflower"')


# Flower's own check


def test_flowers_own_signature_is_checked_behind_ours(door: Door) -> None:
    """A 401 without WWW-Authenticate is Flower's: a node logs in again, and does not ask for another token."""
    reply = run(door.fleet(door.anna, flower=door.anna.flower(signer=door.bert)))
    assert reply.status == 401
    assert "www-authenticate" not in reply.headers
    assert "auth." not in reply.body.decode()
    assert (door.flower.reached, door.logins, door.refusals()) == ([ACTIVATE], [], [])


def test_a_signature_of_another_hour_is_refused_by_flower(door: Door) -> None:
    lines = dict(door.anna.flower())
    stamp = (now() - timedelta(hours=1)).isoformat()
    lines[TIMESTAMP_HEADER.lower().encode()] = stamp.encode()
    signature = base64.b64encode(sign_message(door.anna.key, stamp.encode()))
    lines[FLEET_HTTP_SIGNATURE_HEADER.lower().encode()] = signature
    reply = run(door.fleet(door.anna, flower=list(lines.items())))
    assert (reply.status, "www-authenticate" in reply.headers) == (401, False)
    assert not door.online(door.anna)


def test_a_body_that_names_another_node_is_refused_by_flower(door: Door) -> None:
    other = ActivateNodeResponse.FromString(run(door.fleet(door.bert)).body).node_id
    asks = PullMessagesRequest(node=ProtoNode(node_id=other)).SerializeToString()
    run(door.fleet(door.anna))
    reply = run(door.fleet(door.anna, PULL, asks))
    assert reply.status == 401
    assert "www-authenticate" not in reply.headers
    assert run(door.fleet(door.anna, body=door.bert.activate())).status == 401


# Login


def test_a_login_ends_the_session_that_a_dead_process_left(door: Door) -> None:
    first, second = (ActivateNodeResponse.FromString(run(door.fleet(door.anna)).body).node_id for _ in range(2))
    assert first == second
    assert door.online(door.anna)


def test_logins_of_one_node_at_the_same_time_all_work(door: Door) -> None:
    async def together() -> list[int]:
        replies = await asyncio.gather(*(door.fleet(door.anna) for _ in range(12)))
        return [reply.status for reply in replies]

    assert run(together()) == [200] * 12
    assert door.online(door.anna)


def test_a_login_that_is_refused_ends_nobodys_session(door: Door) -> None:
    run(door.fleet(door.anna))
    last = door.link._state.get_node_info()[0].last_deactivated_at
    for reply in (
        run(door.ask("POST", ACTIVATE, door.anna.flower(), door.anna.activate())),
        run(door.fleet(door.anna, proof=door.bert.dpop)),
        run(door.fleet(door.bert, flower=door.anna.flower())),
        run(door.fleet(door.anna, token=door.token(door.anna, scope="fl:run"))),
        run(door.fleet(door.anna, flower=door.anna.flower(signer=door.bert))),
        run(door.fleet(door.anna, token=door.token(door.anna, exp=int(time.time()) - 100, iat=int(time.time()) - 200))),
    ):
        assert reply.status == 401
    assert door.logins == [ANNA]
    assert door.online(door.anna)
    assert door.link._state.get_node_info()[0].last_deactivated_at == last


# Bodies


PATHS = [ACTIVATE, PUSH, PULL_OBJECT, PULL]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large_is_413(doors: Callable[..., Door], path: str) -> None:
    door = doors(max_body_mb=1)
    reply = run(door.fleet(door.anna, path, bytes((1 << 20) + 1)))
    assert reply.verdict == (413, "http.body_too_large")
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("path", PATHS)
def test_a_body_without_end_is_413_once_it_is_too_large(doors: Callable[..., Door], path: str) -> None:
    door = doors(max_body_mb=1)
    endless = [(0.0, bytes(65536))] * 1000
    assert run(door.fleet(door.anna, path, endless)).verdict == (413, "http.body_too_large")


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_does_not_come_is_408(doors: Callable[..., Door], path: str) -> None:
    door = doors(body_timeout_s=0.2)
    began = time.monotonic()
    drops = [(0.05, b"x")] * 100
    assert run(door.fleet(door.anna, path, drops)).verdict == (408, "http.body_timeout")
    assert time.monotonic() - began < 2


def test_a_body_that_does_not_come_ends_no_session(doors: Callable[..., Door]) -> None:
    door = doors(body_timeout_s=0.2)
    run(door.fleet(door.anna))
    assert run(door.fleet(door.anna, body=[(0.0, b""), (5.0, b"")])).status == 408
    assert door.online(door.anna)


def test_our_own_routes_have_the_same_limits(doors: Callable[..., Door]) -> None:
    door = doors(max_body_mb=1, body_timeout_s=0.2)
    assert run(door.desked("POST", "/api/runs", bytes(2 << 20))).verdict == (413, "http.body_too_large")
    assert run(door.desked("POST", "/api/runs", [(0.0, b"{"), (9.0, b"}")])).verdict == (408, "http.body_timeout")


def test_without_a_token_a_body_is_small(door: Door) -> None:
    """A few hundred connections with bodies of 16 MB would be the server's memory."""
    assert run(door.ask("GET", "/health", body=bytes(OPEN_BODY_BYTES))).status == 200
    reply = run(door.ask("GET", "/health", body=[(0.0, bytes(OPEN_BODY_BYTES)), (0.0, b"x"), (60.0, b"x")]))
    assert reply.verdict == (413, "http.body_too_large")


def test_a_body_is_not_read_before_the_token_is_checked(door: Door) -> None:
    reply = run(door.ask("POST", PULL, [], [(60.0, b"x")]))
    assert reply.verdict == (401, "auth.no_token")


def test_a_large_body_within_the_limit_reaches_flower_whole(doors: Callable[..., Door]) -> None:
    seen: list[int] = []

    async def measuring(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        seen.append(size)
        await ok(scope, iter_receive(), send)

    door = doors(flower=measuring, max_body_mb=6)
    body = PushObjectRequest(object_content=bytes(5 << 20)).SerializeToString()
    assert run(door.fleet(door.anna, PUSH, [(0.0, body[:1000]), (0.0, body[1000:])])).status == 200
    assert seen == [len(body)]


def iter_receive() -> Any:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


# What Flower says


async def broken(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b'{"code": "x"}'})


async def raising(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a bug with a secret in it")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("app", [broken, raising])
def test_an_error_of_flowers_is_503_so_that_nodes_ask_again(
    doors: Callable[..., Door], app: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    door = doors(flower=app)
    reply = run(door.fleet(door.anna, path))
    assert reply.verdict == (503, "http.unavailable")
    assert reply.headers["retry-after"] == "5"
    assert b"secret" not in reply.body
    assert app is broken or "a bug" in caplog.text


@pytest.mark.parametrize("where", ["member_of", "login", "note"])
def test_records_that_cannot_be_read_or_written_let_nobody_in_and_end_no_node(
    door: Door, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(door.app, f"_{where}", fails)
    if where == "note":  # the refusal stands, whether it can be written down or not
        assert run(door.ask("POST", PULL)).verdict == (401, "auth.no_token")
    else:
        assert run(door.fleet(door.anna)).verdict == (503, "http.unavailable")
    assert door.flower.reached == []
    assert not door.online(door.anna)


# Requests and their ids


def test_a_request_has_one_id_here_at_the_node_and_in_the_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(logs.formatter("json", "server"))
    given = "00c0ffee00c0ffee"
    refused = run(door.ask("POST", PULL, [(b"x-request-id", given.encode())]))
    assert refused.headers["x-request-id"] == given
    said = json.loads(caplog.text)
    assert (said["request"], said["code"], said["level"]) == (given, "auth.no_token", "warning")
    for path in (PULL, "/health", "/nowhere"):
        forged = run(door.ask("POST" if path == PULL else "GET", path, [(b"x-request-id", b"a b\xff")]))
        assert len(bytes.fromhex(forged.headers["x-request-id"])) == 8
    assert run(door.fleet(door.anna)).headers["x-request-id"]


def test_a_path_cannot_write_lines_into_the_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(logs.formatter("console", "server"))
    assert run(door.ask("GET", "/api/runs/x\n2026-11-27T10:00:00.000Z [info] released")).status == 401
    assert len(caplog.text.splitlines()) == 1
    assert "x 2026-11-27T10:00:00.000Z [info] released from" in caplog.text


# Too many refusals


def test_an_address_that_was_refused_too_often_waits_and_others_do_not(
    doors: Callable[..., Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = doors(refusals_per_minute=3)
    token = door.token(door.anna)
    assert run(door.fleet(door.anna, token=token)).status == 200
    junk = [(b"authorization", b"DPoP junk")]
    assert [run(door.ask("POST", PULL, junk)).verdict for _ in range(3)] == [(401, "auth.malformed")] * 3
    for reply in (run(door.ask("POST", PULL, junk)), run(door.ask("GET", "/api/runs"))):
        assert reply.verdict == (429, "auth.throttled")
        assert 1 <= int(reply.headers["retry-after"]) <= 21
        assert "www-authenticate" not in reply.headers
    assert run(door.fleet(door.anna, token=token)).status == 200
    assert run(door.fleet(door.bert)).status == 200, "a fresh token of the same address: what counts is what it proves"
    assert run(door.fleet(door.bert, address="192.0.2.8")).status == 200
    assert {one["code"] for one in door.refusals()} == {"auth.malformed"}


def test_a_key_that_is_not_published_yet_ends_no_node_whatever_strangers_send(doors: Callable[..., Door]) -> None:
    """Junk with unknown key ids uses up the reads of the issuer's keys, from the address of the nodes, too."""
    door = doors(refusals_per_minute=3)
    junk = [(b"authorization", b"Bearer " + door.issuer.token(kid="junk").encode())]
    for _ in range(10):
        reply = run(door.ask("POST", PULL, junk))
        assert reply.verdict == (503, "auth.unknown_kid")
    door.issuer.keys["new"] = ec_key("new")
    claims = door.issuer.claims(sub=door.anna.client_id, client_id=door.anna.client_id, cnf={"jkt": door.anna.pin})
    token = door.issuer.token(claims, kid="new", key=door.issuer.keys["new"])
    reply = run(door.fleet(door.anna, token=token))
    assert reply.verdict == (503, "auth.unknown_kid")
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    door.issuer.clock.now += 30
    assert run(door.fleet(door.anna, token=token)).status == 200
    assert [one["code"] for one in door.refusals()] == ["auth.unknown_kid"], "it is in the log, once a minute"


def test_what_is_no_fault_of_the_sender_is_not_counted(doors: Callable[..., Door]) -> None:
    door = doors(refusals_per_minute=1)
    for _ in range(5):
        assert run(door.ask("GET", "/nowhere")).status == 404
    door.issuer.down = True
    for _ in range(3):
        assert run(door.fleet(door.anna)).verdict == (503, "auth.jwks_unavailable")
    assert door.refusals() == []


def test_a_missing_nonce_is_not_counted(doors: Callable[..., Door]) -> None:
    door = doors(refusals_per_minute=1)
    door.app._verifier = verifier(door.issuer, binding="dpop", nonces=True)
    for _ in range(4):
        reply = run(door.fleet(door.anna))
        assert reply.verdict == (401, "auth.dpop_nonce")
        assert reply.headers["dpop-nonce"]
    assert door.refusals() == []


def test_a_refused_member_that_keeps_coming_is_counted_by_its_address(doors: Callable[..., Door]) -> None:
    door = doors(refusals_per_minute=2)
    door.revoke(door.anna)
    codes = [run(door.fleet(door.anna)).code for _ in range(4)]
    assert codes == ["auth.client_revoked"] * 2 + ["auth.throttled"] * 2


# The audit log


def test_the_log_gets_one_entry_a_minute_for_each_code_and_member(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.5)

    async def flood(count: int) -> None:
        wrong = [door.fleet(door.anna, flower=door.bert.flower()) for _ in range(count)]
        junk = [door.ask("POST", PULL, [(b"authorization", b"DPoP secret-junk")]) for _ in range(count)]
        await asyncio.gather(*wrong, *junk)

    run(flood(20))
    first = [(one["code"], one["member"], one["details"]["more"]) for one in door.refusals()]
    assert sorted(first) == [("auth.malformed", "", 0), ("auth.node_mismatch", ANNA, 0)]
    time.sleep(0.55)
    run(flood(1))
    assert sorted((one["code"], one["details"]["more"]) for one in door.refusals()[2:]) == [
        ("auth.malformed", 19),
        ("auth.node_mismatch", 19),
    ]
    shown = json.dumps(door.refusals())
    for secret in (HERE, "secret-junk", "client-a", door.token(door.anna)[:40], door.anna.pin, BERT):
        assert secret not in shown
    assert "secret-junk" not in caplog.text
    assert {one["details"]["path"] for one in door.refusals()} == {PULL, ACTIVATE}


def test_a_connection_that_was_cut_off_is_told_once_a_minute(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.2)
    for _ in range(60):
        door.app.cut("conn.head_timeout", HERE)
    time.sleep(0.25)
    door.app.cut("conn.head_timeout", HERE)
    first, second = (record.getMessage() for record in caplog.records)
    assert first == f"closed a connection from {HERE}: conn.head_timeout"
    assert second == f"{first}; 59 more since the last such line"
    assert door.refusals() == []


# Runs


def asked(*overrides: str, **changes: Any) -> dict[str, Any]:
    return {**heart_recipe(*overrides).as_dict(), **changes}


def with_task(**changes: Any) -> dict[str, Any]:
    made = asked()
    return {**made, "task": {**made["task"], **changes}}


def without(table: str, key: str) -> dict[str, Any]:
    made = asked()
    return {**made, table: {name: value for name, value in made[table].items() if name != key}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "config.value"),
        (b"{", "config.value"),
        (b"\xff\xfe", "config.value"),
        (b"[" * 100_000, "config.value"),
        (b"[]", "config.value"),
        (b"null", "config.value"),
        (b'"x"', "config.value"),
        (b"{}", "config.value"),
        (b"NaN", "config.value"),
        (asked(fab="UEsDBA=="), "config.value"),
        (asked(data={"path": "/etc/passwd"}), "config.value"),
        (asked(code="import os"), "config.value"),
        (with_task(lr=float("nan")), "config.value"),
        (with_task(lr=float("-inf")), "config.value"),
        (with_task(ref="__import__('os').system('x')"), "config.value"),
        (with_task(ref="../../evil.py"), "config.value"),
        (with_task(ref=["os:system"]), "config.value"),
        (asked("federation.name=other"), "config.value"),
        (asked(schema={"label": "y"}), "config.schema"),
        (with_task(deep={"text": "\ud800"}), "config.value"),
        (without("training", "lr"), "config.value"),
        (asked(training={"rounds": 10**12}), "config.value"),
    ],
)
def test_a_run_that_is_no_run_is_400_and_queued_nowhere(door: Door, body: Any, code: str) -> None:
    reply = run(door.desked("POST", "/api/runs", body))
    assert reply.verdict == (400, code), reply
    assert (run(door.desked("GET", "/api/runs")).json, door.woken) == ({"runs": []}, [])


def test_a_body_for_our_own_routes_is_small_and_what_is_wrong_with_it_is_said_in_short(door: Door) -> None:
    at_most = b"{" + b",".join(b'"%06x":0' % at for at in range(47_600)) + b"}"
    assert 0.98 * API_BODY_BYTES < len(at_most) <= API_BODY_BYTES
    for body in (at_most, asked(training={"x" * 400_000: 1}), asked(training={"lr": "x" * 400_000})):
        reply = run(door.desked("POST", "/api/runs", body))
        assert reply.verdict == (400, "config.value")
        assert len(reply.body) < 600, "a stranger's text comes back cut"
    larger = at_most + b" " * (API_BODY_BYTES + 1 - len(at_most))
    for path in ("/api/runs", "/api/circle", "/api/models/00/decisions"):
        scope = "fl:approve" if path.endswith("decisions") else "fl:run"
        assert run(door.desked("POST", path, larger, scope=scope)).verdict == (413, "http.body_too_large")


def test_a_log_that_holds_what_no_encoding_has_is_read(door: Door) -> None:
    """Half of a surrogate pair: refused wherever it comes in now, but an old log may have it."""
    begin(door.state, heart_recipe())
    run_name = run(door.desked("POST", "/api/runs", asked())).json["run"]
    with door.state.store.transaction() as db:
        door.state.log.append(db, "exported", run=run_name, note="\ud800")
    for path in ("/api/log", f"/api/runs/{run_name}/log", "/api/members", "/api/overview", "/api/rounds"):
        reply = run(door.desked("GET", path, scope="fl:run fl:audit"))
        assert reply.status == 200, path
    assert "\\ud800" in run(door.desked("GET", "/api/log", scope="fl:run")).body.decode()
    report = verify(door.state.folder, (door.state.folder / "log.pub").read_text())
    assert report.ok, report


def test_a_run_is_queued_once_and_the_next_waits_until_it_is_over(door: Door) -> None:
    assert run(door.desked("POST", "/api/runs", asked())).verdict == (409, "circle.differs"), "there is no circle yet"
    begin(door.state, heart_recipe("training.rounds=900"))
    fits = asked("training.rounds=899", "training.seed=1", "training.init_seed=9")
    made = run(door.desked("POST", "/api/runs", fits))
    assert made.status == 201, made
    name = made.json["run"]
    assert door.woken == [True]
    assert run(door.desked("POST", "/api/runs", asked())).verdict == (409, "run.busy")
    shown = run(door.desked("GET", f"/api/runs/{name}"))
    assert (shown.status, shown.json["run"], shown.json["status"]) == (200, name, "queued")
    assert run(door.desked("POST", f"/api/runs/{name}/stop")).status == 202
    with door.state.store.transaction() as db:
        history.end_run(db, name, "stopped", "run.stopped")
    assert run(door.desked("POST", f"/api/runs/{name}/stop")).verdict == (409, "run.over")
    assert run(door.desked("POST", "/api/runs", asked())).status == 201


def test_the_log_says_who_submitted_and_stopped_a_run(door: Door) -> None:
    begin(door.state, heart_recipe())
    name = run(door.desked("POST", "/api/runs", asked(), sub="olga")).json["run"]
    assert run(door.desked("POST", f"/api/runs/{name}/stop", sub="desk")).status == 202
    told = [entry["details"]["by"] for entry in door.state.log.entries() if entry["event"].endswith("_asked")]
    assert told == [{"client": "desk", "subject": "olga"}, {"client": "desk"}]


def test_with_a_key_the_log_has_pseudonyms(door: Door) -> None:
    door.api._names = Pseudonyms(b"k" * 32)
    begin(door.state, heart_recipe())
    assert run(door.desked("POST", "/api/runs", asked(), sub="olga")).status == 201
    (by,) = [entry["details"]["by"] for entry in door.state.log.entries() if entry["event"] == "run_asked"]
    assert by == {
        kind: Pseudonyms(b"k" * 32).of(kind, name) for kind, name in (("client", "desk"), ("subject", "olga"))
    }
    assert not {"desk", "olga"} & set(by.values())
    assert Pseudonyms(b"j" * 32).of("subject", "olga") != by["subject"] != by["client"]


@pytest.mark.parametrize(("kind", "name"), [("client", "desk"), ("subject", "olga")])
def test_a_desk_or_a_person_that_was_shut_out_is_refused_at_once(door: Door, kind: Any, name: str) -> None:
    """Whatever its token says, and however long it lives; until it is let in again."""
    assert run(door.desked("GET", "/api/runs", sub="olga")).status == 200
    with door.state.store.transaction() as db:
        denied.deny(db, door.state.log, Denied(kind, name), "left", Pseudonyms())
    reply = run(door.desked("GET", "/api/runs", sub="olga"))
    assert reply.verdict == (401, "auth.client_revoked")
    assert run(door.fleet(door.anna)).status == 200, "others are not concerned"
    with door.state.store.transaction() as db:
        denied.allow(db, door.state.log, Denied(kind, name), Pseudonyms())
    assert run(door.desked("GET", "/api/runs", sub="olga")).status == 200
    events = [entry["event"] for entry in door.state.log.entries()]
    assert events.count("access_denied") == events.count("access_allowed") == 1


def test_a_run_that_differs_from_the_recipe_is_refused_by_its_key(door: Door) -> None:
    begin(door.state, heart_recipe())
    for change, said in (
        ("training.lr=0.2", "training.lr: 0.1 in the circle, 0.2 in the run"),
        ("training.rounds=21", "training.rounds: 20 in the circle, 21 in the run"),
        ("data.min_count=11", "data.min_count: 10 in the circle, 11 in the run"),
        ("federation.let_go_days=13", "federation.let_go_days: 14 in the circle, 13 in the run"),
        ("gate.max_failed=6", "gate.max_failed: 5 in the circle, 6 in the run"),
    ):
        reply = run(door.desked("POST", "/api/runs", asked(change)))
        assert reply.verdict == (409, "circle.differs")
        assert reply.json["detail"].endswith(f"which anna, bert, cleo signed, in {said}"), reply
        assert reply.json["hint"].startswith("moonflower circle propose")
    several = run(door.desked("POST", "/api/runs", asked("training.lr=0.2", "crypto.value_bits=8"))).json["detail"]
    assert several.endswith(
        "in training.lr: 0.1 in the circle, 0.2 in the run; crypto.value_bits: 16 in the circle, 8 in the run"
    )
    assert run(door.desked("GET", "/api/runs")).json == {"runs": []}


def test_a_name_of_a_task_is_only_a_name_to_the_server(door: Door) -> None:
    """The server imports nothing that a run names; each node takes the tasks of its own list."""
    import sys

    before = set(sys.modules)
    odd = with_task(ref="antigravity:fly", source="import os", deep={"text": "\x1b[2J \0"})
    begin(door.state, parse_recipe(odd, where="test"))
    name = run(door.desked("POST", "/api/runs", odd)).json["run"]
    assert "antigravity" not in set(sys.modules) - before
    assert run(door.desked("GET", f"/api/runs/{name}")).status == 200
    with door.state.store.read() as db:
        row = history.run_row(db, name)
    assert row is not None
    assert row.offer["task"] == odd["task"]


def test_runs_submitted_at_the_same_time_are_queued_one_at_a_time(door: Door) -> None:
    begin(door.state, heart_recipe())

    async def together() -> list[int]:
        return [
            one.status for one in await asyncio.gather(*(door.desked("POST", "/api/runs", asked()) for _ in range(6)))
        ]

    assert sorted(run(together())) == [201] + [409] * 5


def test_runs_that_are_not_there_are_told_apart_from_those_that_are(door: Door) -> None:
    assert run(door.desked("POST", "/api/runs/nothing/stop")).verdict == (409, "run.over")
    assert run(door.desked("GET", "/api/runs/nothing")).verdict == (404, "http.not_found")
    assert run(door.desked("GET", "/api/runs/nothing/log")).json == {"entries": []}
    for after in ("x", "1e3", "", "9" * 5000, "9" * 30, "-" + "9" * 30):
        reply = run(door.desked("GET", f"/api/runs/x/log?after={after}"))
        assert reply.verdict == (400, "config.value"), after[:9]
    for name in ("'; drop table log; --", "\0", "%", "é" * 300):
        assert run(door.desked("GET", f"/api/runs/{name.encode('unicode_escape').decode()}")).status == 404


def test_the_nonce_for_the_next_proof_is_on_every_reply_of_our_routes(door: Door) -> None:
    assert run(door.desked("GET", "/api/runs")).headers["dpop-nonce"] == door.verifier.nonce()
    assert run(door.fleet(door.anna)).headers["dpop-nonce"] == door.verifier.nonce()
