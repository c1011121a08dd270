"""A node against a real SuperLink: its loop, its worker, its keeper, and what each does when another one fails."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id
from moonflower import logs
from moonflower.client.keyring import load_keys
from moonflower.client.node import fleet as fleets
from moonflower.client.node import keeper, pulse, replies
from moonflower.client.node.fleet import Fleet
from moonflower.client.node.logfile import FILE_NAME
from moonflower.client.node.loop import Node
from moonflower.client.node.pipe import Pipe
from moonflower.configs.schema import load_schema
from moonflower.crypto.merkle import leaf_hash
from moonflower.crypto.note import Signer, cosignatures, sign_checkpoint
from moonflower.errors import (
    FleetError,
    Forgotten,
    InputError,
    IssuerUnreachable,
    NodeRefused,
    Refused,
    RunOver,
    Stopped,
)
from moonflower.oauth.discovery import client, get
from moonflower.oauth.login import new_client_key
from moonflower.protocol.messages import Enrol, Enrolled, Refusal, Shown, Witnessed
from moonflower.protocol.records import attach, attached, from_records, to_records
from moonflower.server.door.flower.replies import Replies
from support import CONFIGS, PATIENCE_S, SUPPORT
from support.circles import enrolment, lives_in
from support.superlink import Run, SuperLink, client_config, superlink, wait_for

HERE = SUPPORT.parent
TROUBLE = {"www-authenticate": "DPoP"}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def nothing(**values: Any) -> RecordDict:
    return RecordDict({"said": ConfigRecord(values or {"n": 1})})


@pytest.fixture
def link() -> Iterator[SuperLink]:
    with superlink() as running:
        yield running


@dataclass
class Live:
    """A node that runs in a thread of this process; its worker is a real one."""

    link: SuperLink
    node_id: int
    worker: Pipe
    stop: threading.Event = field(default_factory=threading.Event)
    ended: list[BaseException | None] = field(default_factory=list)

    def online(self) -> None:
        wait_for(lambda: self.ended or self.link.status(self.node_id) == "online")
        assert not self.ended


@contextmanager
def live(
    link: SuperLink, tmp_path: Path, *, app: str = "support.strange_app:open_app", before: str = "", **options: Any
) -> Iterator[Live]:
    config = client_config(tmp_path, CONFIGS / "data", server=link.url)
    keys = load_keys(tmp_path / "state")
    given = {"PYTHONPATH": str(HERE), "PATH": os.environ["PATH"], "SECRET_TOKEN": "s", "HTTPS_PROXY": "http://p"}
    worker = Pipe(config, app=app, variables=given)
    running = Live(link, link.register(keys.node.public_key()), worker)
    fleet = Fleet(link.url, keys.node, stop=running.stop)
    loop = Node(fleet, worker, running.stop, poll_s=0.02, idle_poll_s=0.02, **options)

    def serve() -> None:
        try:
            loop.serve(link.url)
            running.ended.append(None)
        except BaseException as error:
            running.ended.append(error)
        finally:
            fleet.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def run_of(link: SuperLink, *given: str) -> Iterator[Run]:
    run = link.run(*given)
    try:
        yield run
    finally:
        run.close()


def test_a_member_enrols_over_the_wire(link: SuperLink, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    schema = load_schema(CONFIGS / "data" / "heart.schema.toml").digest()
    with live(link, tmp_path, app="moonflower.client.live:open_app") as there, run_of(link) as run:
        there.online()
        asked = to_records(Enrol(**enrolment("r", lives_in(tmp_path / "client.toml"))))
        assert from_records(Refusal, run.ask(there.node_id, "query.enrol", asked).content).code == "audit.missing"
        signer = Signer.generate("moonflower/heart")
        checkpoint = sign_checkpoint(signer, 1, leaf_hash(b"entry"))
        attach(Shown(checkpoint=checkpoint.note, key=signer.verifier.text(), since=0, proof=[]), asked)
        reply = run.ask(there.node_id, "query.enrol", asked)
        (signed,) = cosignatures(attached(Witnessed, reply.content).checkpoint)
        assert signed.name == "moonflower/member/Cleveland"
        enrolled = from_records(Enrolled, reply.content)
        assert enrolled.card["name"] == "Cleveland"
        assert enrolled.agreed["schema"] == schema
        again = run.ask(there.node_id, "query.enrol", asked)
        assert from_records(Enrolled, again.content) == enrolled
        strange = run.ask(there.node_id, "query.steal", nothing())
        assert (strange.error.code, strange.error.reason) == (2, "app error")
    assert there.ended == [None]
    assert link.status(there.node_id) == "offline"
    assert "/v1/fleet/get-fab" not in link.calls
    assert "/v1/fleet/register-node" not in link.calls


def test_the_worker_has_no_network_and_a_clean_environment(link: SuperLink, tmp_path: Path) -> None:
    with live(link, tmp_path) as there, run_of(link) as run:
        there.online()
        said = run.ask(there.node_id, "query.network", nothing(port=link.port)).content["said"]
        assert there.worker.isolated
        assert said["found"] == ["OSError", "OSError"]
        assert said["interfaces"] == ["lo"]
        assert set(said["names"]) <= {
            "PATH",
            "PYTHONPATH",
            "FLWR_TELEMETRY_ENABLED",
            "FLWR_DISABLE_UPDATE_CHECK",
            "GRPC_VERBOSITY",  # set by flwr itself
            "LC_CTYPE",  # and by Python
        }


def test_a_run_keeps_one_context_and_another_run_gets_its_own(link: SuperLink, tmp_path: Path) -> None:
    with live(link, tmp_path) as there:
        there.online()
        with run_of(link) as run:
            seen = [run.ask(there.node_id, "query.pid", nothing()).content["said"]["seen"] for _ in range(2)]
        with run_of(link) as run:
            seen.append(run.ask(there.node_id, "query.pid", nothing()).content["said"]["seen"])
        assert seen == [1, 2, 1]


def test_a_worker_that_dies_or_raises_costs_one_message(link: SuperLink, tmp_path: Path) -> None:
    with live(link, tmp_path, limit_s=1.0) as there, run_of(link) as run:
        there.online()
        first = run.ask(there.node_id, "query.pid", nothing()).content["said"]["pid"]
        failed = run.ask(there.node_id, "query.raise", nothing())
        assert (failed.error.code, failed.error.reason) == (2, "app error")
        crashed = run.ask(there.node_id, "query.crash", nothing())
        assert (crashed.error.code, crashed.error.reason) == (8, "worker exit")
        second = run.ask(there.node_id, "query.pid", nothing()).content["said"]["pid"]
        hung = run.ask(there.node_id, "query.hang", nothing())
        assert (hung.error.code, hung.error.reason) == (8, "worker timeout")
        third = run.ask(there.node_id, "query.pid", nothing()).content["said"]["pid"]
        assert len({first, second, third}) == 3
        assert not alive(first)
        assert not alive(second)
        os.kill(third, signal.SIGKILL)  # while it is idle: nothing is lost
        wait_for(lambda: there.worker.pid != third)
        assert run.ask(there.node_id, "query.pid", nothing()).has_content()


def test_a_run_of_another_app_is_refused(link: SuperLink, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with live(link, tmp_path) as there, run_of(link, "f" * 64) as run:
        there.online()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        reply = run.ask(there.node_id, "query.echo", nothing())
        assert (reply.error.code, reply.error.reason) == (7, "app not installed here")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "task.refused" in caplog.text
    assert "/v1/fleet/get-fab" not in link.calls
    assert "/v1/fleet/pull-object" not in link.calls


def test_a_run_that_ends_frees_the_node(link: SuperLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "WATCH_S", 0.3)
    with live(link, tmp_path) as there:
        there.online()
        with run_of(link) as run:  # while the worker works
            run.send(there.node_id, "query.hang", nothing())
            wait_for(lambda: "/v1/fleet/confirm-message-received" in link.calls)
            time.sleep(0.2)
            assert there.worker.busy
            run.end()
            first = there.worker.pid
            wait_for(lambda: there.worker.pid != first)
        with run_of(link) as run:  # while its objects are on their way
            wait_for(lambda: there.worker.alive)
            second = run.ask(there.node_id, "query.pid", nothing()).content["said"]["pid"]

            def ended(path: str) -> None:
                if path == "/v1/fleet/confirm-message-received":
                    link.trouble = None
                    run.end()

            link.trouble = ended
            run.send(there.node_id, "query.hang", nothing())
            wait_for(lambda: link.trouble is None)
        with run_of(link) as run:  # the worker that was told to forget it serves on
            assert run.ask(there.node_id, "query.pid", nothing()).content["said"]["pid"] == second


def test_a_message_in_hand_is_answered_before_the_node_stops(link: SuperLink, tmp_path: Path) -> None:
    with live(link, tmp_path) as there, run_of(link) as run:
        there.online()
        sent = run.send(there.node_id, "query.hang", nothing())
        wait_for(lambda: there.worker.busy)
        there.stop.set()
        reply = run.reply(sent)
        assert (reply.error.code, reply.error.reason) == (8, "stopping")
        wait_for(lambda: there.ended)
        assert there.ended == [None]


def test_an_answer_is_read_before_the_node_logs_out(link: SuperLink, tmp_path: Path) -> None:
    with live(link, tmp_path) as there, run_of(link) as run:
        there.online()
        sent = run.send(there.node_id, "query.echo", nothing())
        wait_for(lambda: link.calls.count("/v1/fleet/push-object"))
        there.stop.set()
        time.sleep(0.3)  # the ServerApp looks now and then only
        assert run.reply(sent).has_content()


def test_a_server_that_forgot_the_node_gets_it_back(
    link: SuperLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with live(link, tmp_path) as there:
        there.online()
        link.forget()  # Flower's 401 has no WWW-Authenticate; its refusal to activate an unknown key is waited out
        wait_for(lambda: "does not know this node" in caplog.text)
        there.node_id = link.register(load_keys(tmp_path / "state").node.public_key())
        there.online()
        with run_of(link) as run:
            assert run.ask(there.node_id, "query.echo", nothing()).has_content()


def test_the_node_sits_out_a_server_that_is_not_ready(
    link: SuperLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with live(link, tmp_path) as there, run_of(link) as run:
        there.online()
        link.trouble = lambda path: (503, {}, {}) if "fleet" in path else None
        time.sleep(1)
        link.trouble = None
        assert run.ask(there.node_id, "query.echo", nothing()).has_content()
        mine = [one.getMessage() for one in caplog.records if one.name == replies.__name__]
        assert [line.split(" after")[0] for line in mine] == [
            "the server is not ready (status 503); trying again until it works",
            "works again",
        ]
        # an answer that makes no sense costs what it is about, never the node
        for status, path in ((500, "pull-object"), (418, "push-messages"), (500, "pull-messages"), (404, "get-run")):
            with run_of(link) as other:
                link.trouble = lambda asked, s=status, p=path: (s, {}, {}) if asked.endswith("fleet/" + p) else None
                other.send(there.node_id, "query.echo", nothing())
                time.sleep(0.3)
                link.trouble = None
                wait_for(lambda other=other: other.ask(there.node_id, "query.echo", nothing()).has_content())


def test_a_refusal_by_the_gateway_ends_the_node(link: SuperLink, tmp_path: Path) -> None:
    with live(link, tmp_path) as there:
        there.online()
        link.trouble = lambda _: (401, TROUBLE, {"code": "auth.client_revoked", "detail": "this member was revoked"})
        (ended,) = wait_for(lambda: there.ended)
        assert isinstance(ended, NodeRefused)
        assert ended.code == "auth.client_revoked"


# What replies mean, without a node.


class Tokens(httpx.Auth):
    """Refreshes once after a 401, as ServerAuth does."""

    def __init__(self, refusal: Refused | None = None) -> None:
        self.refusal = refusal

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        if self.refusal:
            raise self.refusal
        request.headers["authorization"] = "Bearer old"
        if (yield request).status_code == 401:
            request.headers["authorization"] = "Bearer new"
            yield request


def door(url: str, tmp_path: Path, **options: Any) -> Fleet:
    client_config(tmp_path, CONFIGS / "data")
    return Fleet(url, load_keys(tmp_path / "state").node, **options)


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected", "code", "words"),
    [
        (401, TROUBLE, {"code": "auth.scope", "detail": "fl:train"}, NodeRefused, "auth.scope", "fl:train"),
        (403, {}, {"code": "auth.client_revoked", "detail": "gone"}, NodeRefused, "auth.client_revoked", "gone"),
        (401, TROUBLE, {"code": "x y\n", "detail": ["no"]}, NodeRefused, "auth.refused", "no reason"),
        (401, {}, {"detail": "Invalid SuperNode authentication"}, Forgotten, "fleet.forgotten", "does not know"),
        (401, {"date": formatdate(0, usegmt=True)}, {}, Forgotten, "fleet.forgotten", "clock is 600 s ahead of"),
        (401, {"date": formatdate(1200, usegmt=True)}, {}, Forgotten, "fleet.forgotten", "clock is 600 s behind"),
        (401, {"date": formatdate(590, usegmt=True)}, {}, Forgotten, "fleet.forgotten", "node"),
        (403, {}, {"code": 2008, "public_details": "Run is finished."}, RunOver, "fleet.run_over", "over"),
        (307, {"location": "http://192.0.2.1/"}, {}, FleetError, "fleet.answer", "307"),
        (500, {}, {"detail": "a\nb"}, FleetError, "fleet.answer", "500 a b"),
        (200, {}, {"not": "protobuf"}, FleetError, "fleet.answer", "not a Flower message"),
    ],
)
def test_what_a_reply_means(
    link: SuperLink,
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    body: dict[str, Any],
    expected: type[FleetError],
    code: str,
    words: str,
) -> None:
    link.trouble = lambda _: (status, headers, body)
    fleet = door(link.url, tmp_path, clock=lambda: 600.0, auth=Tokens())
    with pytest.raises(expected) as raised:
        fleet.run_fab(7)
    fleet.close()
    assert type(raised.value) is expected
    assert raised.value.code == code
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(link.calls) == (2 if status == 401 else 1)


def test_pauses_grow_and_stop_ends_them(link: SuperLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return len(pauses) == 12

    monkeypatch.setattr(fleets.secrets, "randbelow", lambda _: 500)
    link.trouble = lambda _: (429, {"retry-after": "3"} if len(pauses) == 1 else {"retry-after": "999"}, {})
    fleet = door(link.url, tmp_path, stop=Stop())
    with pytest.raises(Stopped):
        fleet.activate()
    assert pauses[:3] == [20.0, 3.0, 20.0]
    pauses.clear()
    link.trouble = lambda _: (503, {}, {})
    with pytest.raises(Stopped):
        fleet.pull()
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0, 20.0, 20.0, 20.0]
    fleet.close()


@pytest.mark.parametrize("kind", ["nobody", "issuer", "tls"])
def test_what_is_out_of_reach_is_asked_again(
    link: SuperLink, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    tries: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            tries.append(timeout or 0.0)
            return len(tries) == 3

    issuer = Refused("auth.issuer_unreachable", "the issuer cannot be reached")
    url, auth, words = {
        "nobody": (f"http://127.0.0.1:{port}", None, "the server cannot be reached (ConnectError)"),
        "issuer": (link.url, Tokens(issuer), "the issuer cannot be reached"),
        "tls": (link.url.replace("http", "https"), None, "TLS with the server failed: "),
    }[kind]
    fleet = door(url, tmp_path, stop=Stop(), auth=auth)
    with pytest.raises(Stopped):
        fleet.activate()
    fleet.close()
    assert len(caplog.records) == 1
    assert words in caplog.text
    assert (min(tries) >= 10) == (kind == "tls")  # a person has to mend it: no hurry


def test_a_reply_of_nonsense_passes_flower_and_ends_no_serverapp(link: SuperLink, tmp_path: Path) -> None:
    """A hostile node with good keys: the object's hash is right, its length is right, and it is no message."""
    fleet = door(link.url, tmp_path)
    link.register(load_keys(tmp_path / "state").node.public_key())
    node = fleet.activate()
    junk = b"Message  4\0junk"
    with run_of(link) as run:
        asked = run.send(node, "query.echo", nothing())
        work = fleet.pull()
        assert work is not None
        head = message_to_proto(make_message(Message(nothing(), reply_to=work.head).metadata, RecordDict()))
        head.metadata.message_id = get_object_id(junk)
        tree = ObjectTree(object_id=head.metadata.message_id)
        fleet.push(work, head.SerializeToString(), tree.SerializeToString(), 0.0).send([junk])
        taken = Replies(run.grid)
        (reply,) = wait_for(lambda: list(taken.pull_messages([asked])))
        taken.close()
    fleet.close()
    assert reply.error.reason == "it cannot be read"


def test_a_login_that_is_refused_is_refused(link: SuperLink, tmp_path: Path) -> None:
    fleet = door(link.url, tmp_path, auth=Tokens(Refused("auth.client_refused", "unknown client")))
    with pytest.raises(Refused, match="unknown client"):
        fleet.activate()
    fleet.close()
    assert not link.calls


def test_a_broken_ca_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InputError, match="in PEM"):
        door("https://127.0.0.1:1", tmp_path, ca=tmp_path / "ca.pem")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and fl.example.org that only who was told trusts, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("fl.example.org")]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "cert.pem", folder / "cert.key"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, secret


@pytest.mark.parametrize("trusted", [False, True])
def test_a_certificate_that_does_not_hold_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: bool
) -> None:
    cert, secret = certificate(tmp_path)
    stop, ended = threading.Event(), threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, secret)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError), listening.accept()[0] as raw:
                    context.wrap_socket(raw, server_side=True).close()  # and not a word of HTTP

        server = threading.Thread(target=serve)
        server.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        fleet = door(url, tmp_path, stop=stop, ca=cert if trusted else None)

        def ask() -> None:
            with pytest.raises(Stopped):
                fleet.activate()

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: caplog.records)
        stop.set()
        asking.join()
        ended.set()
        server.join()
        fleet.close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the server cannot be reached" if trusted else "the server's certificate is not valid: ")


@contextmanager
def far_away(cert: Path, secret: Path) -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy, and behind it, wherever it is asked for, a server that refuses; gives address and what was asked.

    The name fl.example.org leads nowhere from here, so whoever gets an answer went through the proxy.
    """
    asked: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, secret)
    said = json.dumps({"code": "auth.client_revoked", "detail": "revoked"}).encode()
    head = f"HTTP/1.1 401 x\r\nContent-Length: {len(said)}\r\nConnection: close\r\nWWW-Authenticate: DPoP\r\n\r\n"

    def answer(raw: socket.socket) -> None:
        with raw, contextlib.suppress(OSError):
            asked.append(raw.recv(4096).decode().partition("\r\n")[0])
            raw.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with context.wrap_socket(raw, server_side=True) as sock:
                asked.append(sock.recv(65536).decode(errors="replace").partition("\r\n")[0])
                sock.sendall(head.encode() + said)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    answer(listening.accept()[0])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            over.set()
            thread.join()


def test_node_and_login_go_through_a_proxy_and_believe_a_private_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, secret = certificate(tmp_path)
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with far_away(cert, secret) as (proxy, asked):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        stop = threading.Event()
        fleet = door("https://fl.example.org:8443", tmp_path, ca=cert, stop=stop)
        too_long = threading.Timer(10, stop.set)
        too_long.start()
        with pytest.raises(NodeRefused, match="revoked"):
            fleet.activate()
        too_long.cancel()
        fleet.close()
        once = ["CONNECT fl.example.org:8443 HTTP/1.1", "POST /v1/fleet/activate-node HTTP/1.1"]
        assert asked == once * (len(asked) // 2), "a slow answer is asked for again, the same way"
        assert asked
        asked.clear()
        with client("https://fl.example.org", cert) as http, pytest.raises(IssuerUnreachable, match="answers 401"):
            get(http, "https://fl.example.org/.well-known/openid-configuration")
        assert asked == [
            "CONNECT fl.example.org:443 HTTP/1.1",
            "GET /.well-known/openid-configuration HTTP/1.1",
        ]
        asked.clear()
        with client("https://fl.example.org", None) as http, pytest.raises(IssuerUnreachable, match="ConnectError"):
            get(http, "https://fl.example.org/jwks")
        assert asked == ["CONNECT fl.example.org:443 HTTP/1.1"], "the private CA is believed by whoever names it only"


def test_heartbeats_go_on_whatever_happens(link: SuperLink, tmp_path: Path) -> None:
    fleet = door(link.url, tmp_path)
    link.register(load_keys(tmp_path / "state").node.public_key())
    fleet.activate()
    beats = pulse.Pulse(fleet, 0.02)
    link.trouble = lambda _: (500, {}, {})
    beats.start()
    wait_for(lambda: link.calls.count("/v1/fleet/send-node-heartbeat") > 3)
    assert beats.problem is None
    link.trouble = lambda _: (401, {}, {})
    wait_for(lambda: isinstance(beats.problem, Forgotten))
    link.trouble = lambda _: (401, TROUBLE, {"code": "auth.client_revoked"})
    wait_for(lambda: isinstance(beats.problem, NodeRefused))
    link.trouble = None
    wait_for(lambda: beats.problem is None)
    beats.stop()
    fleet.close()


# Processes.


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        [sys.executable, str(SUPPORT / "run_node.py"), *arguments],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stderr is not None
        started.stderr.close()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def family(pid: int) -> list[int]:
    return [pid, *(one for child in children(pid) for one in family(child))]


def registered(link: SuperLink, tmp_path: Path) -> tuple[Path, int]:
    config = client_config(tmp_path, CONFIGS / "data", server=link.url)
    return config, link.register(load_keys(tmp_path / "state").node.public_key())


def test_sigterm_logs_out_and_sigkill_leaves_nobody(link: SuperLink, tmp_path: Path) -> None:
    config, node_id = registered(link, tmp_path)
    with process("keep", str(config)) as kept:
        wait_for(lambda: link.status(node_id) == "online")
        everyone = family(kept.pid)
        assert len(everyone) == 3
        with pytest.raises(InputError, match="another client"), keeper.locked(tmp_path / "state"):
            pass
        kept.send_signal(signal.SIGTERM)
        assert kept.wait(PATIENCE_S) == 0
        assert link.status(node_id) == "offline"
        assert not any(alive(one) for one in everyone)
    lines = (tmp_path / "state" / "client.log").read_text().splitlines()
    assert any(
        f"[info] connected to {link.url} as node {node_id} process=node member=Cleveland" in line for line in lines
    )
    assert all(logs.is_ours(line, "console") for line in lines)
    with process("keep", str(config)) as kept:
        wait_for(lambda: link.status(node_id) == "online")
        everyone = family(kept.pid)
        kept.kill()
        wait_for(lambda: not any(alive(one) for one in everyone[1:]))
    link.state.deactivate_node(node_id)  # as our gateway does at a new login
    with process("keep", str(config)) as kept:
        wait_for(lambda: link.status(node_id) == "online")
        own, worker = family(kept.pid)[1:]
        os.kill(own, signal.SIGKILL)  # the node: its worker goes too, and the keeper starts another
        wait_for(lambda: not alive(worker))
        link.state.deactivate_node(node_id)
        wait_for(lambda: link.status(node_id) == "online")
        assert family(kept.pid)[1] != own


def test_a_big_reply_does_not_fill_the_node(link: SuperLink, tmp_path: Path) -> None:
    config, node_id = registered(link, tmp_path)
    with process("node", str(config)) as started, run_of(link) as run:
        wait_for(lambda: link.status(node_id) == "online")
        began = time.monotonic()
        reply = run.ask(node_id, "query.big", nothing())
        assert len(reply.content["big"]["all"].data) == 50_000_000
        there = time.monotonic() - began
        back = run.ask(node_id, "query.echo", reply.content)
        assert back.content == reply.content
        status = Path(f"/proc/{started.pid}/status").read_text()
        peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        print(f"50 MB up in {there:.2f} s, peak of the node {peak / 1024:.0f} MiB")
        assert peak < 400 * 1024


def test_a_refused_node_process_says_why(link: SuperLink, tmp_path: Path) -> None:
    config, _ = registered(link, tmp_path)
    link.trouble = lambda _: (401, TROUBLE, {"code": "auth.client_revoked", "detail": "this member was revoked"})
    hear, tell = os.pipe()
    try:
        ended = subprocess.run(
            [sys.executable, str(SUPPORT / "run_node.py"), "node", str(config), "--reason", str(tell)],
            pass_fds=[tell],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
    finally:
        os.close(tell)
    with open(hear, "rb") as reason:
        said = json.loads(reason.read())
    assert ended.returncode == said["status"] == 77
    assert said["code"] == "auth.client_revoked"
    assert said["message"] == "the server refuses this node: this member was revoked"
    assert "auth.client_revoked" in ended.stderr.splitlines()[-1]


def test_the_real_node_says_what_is_wrong_and_waits_for_its_issuer(link: SuperLink, tmp_path: Path) -> None:
    config, _ = registered(link, tmp_path)
    command = [sys.executable, "-P", "-m", "moonflower.client.node.loop", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "oauth.jwk" in ended.stderr
    key = tmp_path / "oauth.jwk"
    key.touch(0o600)
    key.write_text(json.dumps(new_client_key()[0]))
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    too_long = threading.Timer(40, started.kill)
    too_long.start()
    try:
        said = [started.stderr.readline() for _ in range(3)]
        time.sleep(1)  # it is tried again meanwhile, without another word
        started.send_signal(signal.SIGTERM)
        said += started.stderr.read().splitlines()
    finally:
        too_long.cancel()
        started.kill()
        started.wait()
        started.stderr.close()
    assert started.returncode == 0
    assert not link.calls
    lines = [line.strip().partition("Z ")[2] for line in said]
    assert lines.count("[info] lives in no circle yet: moonflower circle sign process=worker member=Cleveland") == 1
    (tried,) = [line for line in lines if "; trying again until it works process=node member=Cleveland" in line]
    assert tried.startswith("[warning] ")
    assert sum(line.startswith("[info] cannot look at circles: the issuer at") for line in lines) == 1
    assert len(lines) == 3


# The keeper, with nodes that only end.


def keep(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    config = client_config(tmp_path, CONFIGS / "data")
    monkeypatch.setattr(keeper, "PAUSES_S", (0.01, 0.02))
    monkeypatch.setattr(keeper, "REFUSED_PAUSES_S", (0.01, 0.02))
    start = "import json, os, sys; n = len(open('count', 'a+').write('x') * open('count').read());"
    monkeypatch.chdir(tmp_path)
    words = "say = lambda **k: os.write(int(sys.argv[3]), json.dumps({'hint': '', **k}).encode());"
    return keeper.keep(config, command=[sys.executable, "-c", f"{start} {words} {script}"], **options)


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "state" / FILE_NAME).read_text()


def test_the_keeper_starts_a_broken_node_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "print('odd words', file=sys.stderr); os.kill(os.getpid(), 9) if n == 1 else sys.exit([75, 1, 0][n - 2])"
    assert keep(tmp_path, script, monkeypatch) == 0
    log = log_of(tmp_path)
    assert "by signal 9" in log
    assert "with status 75" in log
    assert "with status 1;" in log
    assert log.count("[warning] odd words process=keeper member=Cleveland") == 4


def test_the_keeper_gives_a_refused_node_two_more_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "say(code='auth.client_revoked', message='the server refuses this node: revoked'); sys.exit(77)"
    assert keep(tmp_path, script, monkeypatch) == 77
    assert (tmp_path / "count").read_text() == "xxx"
    assert "ends: the server refuses this node: revoked (auth.client_revoked)" in log_of(tmp_path)


def test_the_keeper_does_not_repeat_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "say(code='data.file', message='no such file', hint='look'); sys.exit(2)"
    with pytest.raises(InputError, match="no such file") as raised:
        keep(tmp_path, script, monkeypatch)
    assert (raised.value.code, raised.value.hint) == ("data.file", "look")
    assert (tmp_path / "count").read_text() == "x"


def test_once_ends_as_the_node_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep(tmp_path, "sys.exit(75)", monkeypatch, once=True) == 75


def test_the_keeper_checks_before_it_starts(tmp_path: Path) -> None:
    config = client_config(tmp_path, CONFIGS / "data")
    with keeper.locked(tmp_path / "state"), pytest.raises(InputError, match="another client") as raised:
        keeper.keep(config)
    assert raised.value.code == "config.state"
    (tmp_path / "state" / "node.key").unlink()
    with pytest.raises(InputError, match="missing"):
        keeper.keep(config)


def test_the_keeper_is_light() -> None:
    heavy = "{'torch', 'flwr', 'pandas', 'httpx', 'tenseal'}"
    script = f"import sys, moonflower.client.node.keeper; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_node_process_never_loads_torch() -> None:
    script = "import sys, moonflower.client.node.loop; print(sorted({'torch', 'pandas', 'tenseal'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_isolation_that_cannot_be_had_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moonflower.client.node import worker
    from moonflower.configs.roles import ClientConfig, load_config

    monkeypatch.setattr(worker.confine, "take_network_away", lambda: False)
    config = load_config(ClientConfig, client_config(tmp_path, CONFIGS / "data"))
    with pytest.raises(InputError) as raised:
        worker.confined(config)
    assert raised.value.code == "config.isolate"
    assert "isolate = false" in raised.value.hint
    assert not worker.confined(load_config(ClientConfig, client_config(tmp_path, CONFIGS / "data", isolate=False)))
