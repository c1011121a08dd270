"""Limits of connections: heads that never end, bodies that never come, too many from one address, other users."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import httpx
import pytest
from moonflower.errors import TooMuch
from moonflower.oauth.allowance import MAX_ADDRESSES, Allowance
from moonflower.server.door import peers
from moonflower.server.door.limits import MAX_HEAD_BYTES, bounded, protocol
from support import PATIENCE_S
from support.listening import served


async def hello(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def closed_after(sock: socket.socket, limit_s: float) -> bool:
    """Return whether the other side closes within ``limit_s``."""
    sock.settimeout(limit_s)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_sixty_half_open_connections_are_closed_and_a_good_client_is_served() -> None:
    cut: list[tuple[str, str]] = []
    with served(hello, protocol(0.4, 200, cut=lambda *why: cut.append(why))) as port:
        half = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for one in half:
            one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        assert all(closed_after(one, 2.0) for one in half)
        for one in half:
            one.close()
    assert cut == [("conn.head_timeout", "127.0.0.1")] * 60


def test_a_connection_that_says_nothing_is_closed() -> None:
    with served(hello, protocol(0.3, 200)) as port, socket.create_connection(("127.0.0.1", port)) as silent:
        assert closed_after(silent, 2.0)


def test_the_second_request_of_a_connection_has_a_deadline_too() -> None:
    with served(hello, protocol(0.3, 200)) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.settimeout(2.0)
        reply = b""
        while not reply.endswith(b"ok"):
            reply += sock.recv(4096)
        sock.sendall(b"GET / HT")
        assert closed_after(sock, 2.0)


def test_an_endless_head_is_cut_off() -> None:
    cut: list[str] = []
    http = protocol(5.0, 200, cut=lambda code, _: cut.append(code))
    with served(hello, http) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with suppress(OSError):
            for _ in range(MAX_HEAD_BYTES // 1000 + 5):
                sock.sendall(b"x-filler: " + b"a" * 990 + b"\r\n")
        assert closed_after(sock, 2.0)
    assert cut == ["conn.head_too_large"]


def test_an_endless_head_is_cut_off_while_the_request_before_it_is_answered() -> None:
    asked = threading.Event()

    async def slow(scope: object, receive: object, send: object) -> None:
        asked.set()
        await asyncio.sleep(1.0)

    with served(slow, protocol(5.0, 200)) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(PATIENCE_S)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with suppress(OSError):
            for _ in range(MAX_HEAD_BYTES // 1000 + 5):
                sock.sendall(b"x-filler: " + b"a" * 990 + b"\r\n")
        assert closed_after(sock, 0.5)


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMES = {
    "trailers": (b"1\r\na\r\n0\r\n", b"x-filler: " + b"a" * 990 + b"\r\n"),
    "one trailer": (b"1\r\na\r\n0\r\nx-filler: ", b"a" * 1000),
    "an extension": (b"1;x=", b"a" * 1000),
    "extensions": (b"", b"1;x=" + b"a" * 990 + b"\r\na\r\n"),
    "leading zeros": (b"", b"0" * 1000),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
def test_what_frames_a_body_counts_too(kind: str, reads: bool) -> None:
    """Also where the app answers without having read the body."""
    cut: list[str] = []

    async def reading(scope: object, receive: object, send: object) -> None:
        while reads and (await receive()).get("more_body"):
            pass
        await hello(scope, receive, send)

    first, more = FRAMES[kind]
    http = protocol(5.0, 200, cut=lambda code, _: cut.append(code))
    with served(reading, http) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(CHUNKED + first)
        sent = 0
        with suppress(OSError):
            for _ in range(8 * MAX_HEAD_BYTES // 1000):
                sock.sendall(more)
                sent += len(more)
                time.sleep(0.001)
        assert sent < 6 * MAX_HEAD_BYTES, "it was cut off while it went on"
    assert cut == ["conn.frame_too_large" if reads else "conn.head_too_large"], "an answered request is over"


def test_a_body_in_small_chunks_with_a_trailer_passes() -> None:
    whole: list[bytes] = []

    async def reading(scope: object, receive: object, send: object) -> None:
        whole.append(await _drain(receive))
        await hello(scope, receive, send)

    body = b"".join(b"10\r\n" + b"a" * 16 + b"\r\n" for _ in range(40_000))
    with served(reading, protocol(5.0, 200)) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(2):  # two requests on one connection, each counted anew
            sock.sendall(CHUNKED + body + b"0\r\nx-checksum: 1\r\n\r\n")
            reply = b""
            while not reply.endswith(b"ok"):
                reply += sock.recv(4096)
    assert [len(one) for one in whole] == [640_000] * 2


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]


@pytest.mark.parametrize("junk", NO_HTTP, ids=["TLS", "CONNECT", "Upgrade"])
def test_what_is_no_request_of_ours_fills_no_log(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with served(hello, protocol(5.0, 200)) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        own = logging.getLogger("uvicorn.error")
        own.setLevel(logging.WARNING)  # as the server has it
        own.addHandler(caplog.handler)  # it does not propagate
        try:
            sock.sendall(junk)
            sock.settimeout(2.0)
            assert sock.recv(8) == b"HTTP/1.1"
        finally:
            own.removeHandler(caplog.handler)
    assert caplog.records == []


def test_an_app_that_breaks_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("out of order")

    with served(broken, protocol(5.0, 200)) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 500
    assert "out of order" in caplog.text


def test_an_address_has_a_number_of_connections() -> None:
    cut: list[str] = []
    with served(hello, protocol(5.0, 3, cut=lambda code, _: cut.append(code))) as port:
        kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", port)) as fourth:
            assert closed_after(fourth, 2.0)
        for one in kept:
            one.close()
        time.sleep(0.1)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    assert cut == ["conn.too_many"]


FILES = """
import resource
from moonflower.server.door.limits import take_all_files
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, min(most, 4096) if most > 0 else 4096))
take_all_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_server_opens_as_many_files_as_it_may() -> None:
    done = subprocess.run([sys.executable, "-c", FILES], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert int(done.stdout) == 4096


def _body(*parts: tuple[float, bytes, bool]):
    queue = list(parts)

    async def receive() -> dict[str, object]:
        delay, data, more = queue.pop(0)
        await asyncio.sleep(delay)
        return {"type": "http.request", "body": data, "more_body": more}

    return receive


async def _drain(receive) -> bytes:
    whole = b""
    while True:
        message = await receive()
        whole += message["body"]
        if not message["more_body"]:
            return whole


def test_a_body_within_its_bounds_passes() -> None:
    assert asyncio.run(_drain(bounded(_body((0, b"ab", True), (0, b"cd", False)), 4, 1.0))) == b"abcd"


@pytest.mark.parametrize(
    ("parts", "code", "status"),
    [
        ([(0, b"abc", True), (0, b"de", False)], "http.body_too_large", 413),
        ([(0, b"a", True), (5, b"b", False)], "http.body_timeout", 408),
    ],
)
def test_a_body_beyond_its_bounds_does_not(parts, code: str, status: int) -> None:
    with pytest.raises(TooMuch) as refusal:
        asyncio.run(_drain(bounded(_body(*parts), 4, 0.2)))
    assert (refusal.value.code, refusal.value.status) == (code, status)


def test_an_address_that_is_refused_too_often_waits() -> None:
    now = [0.0]
    allowance = Allowance(3, lambda: now[0])
    for _ in range(3):
        assert allowance.wait_s("a") == 0
        allowance.spend("a")
    assert allowance.wait_s("a") == pytest.approx(20.0)
    assert allowance.wait_s("b") == 0
    now[0] = 21.0
    assert allowance.wait_s("a") == 0


def test_the_number_of_addresses_is_bounded() -> None:
    allowance = Allowance(3)
    for number in range(MAX_ADDRESSES + 50):
        allowance.spend(str(number))
    assert len(allowance._spent) == MAX_ADDRESSES


# The loopback listener


def test_the_owner_of_a_socket_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        table = peers.TABLE.read_text().splitlines()
        theirs, ours = client.getsockname(), server.getsockname()
        assert peers.owner(theirs, ours, table) == os.geteuid()
        assert peers.owner(ours, theirs, table) is None, "nobody has accepted it yet"
        assert peers.owner(theirs, ("127.0.0.1", 1), table) is None, "another connection from the same port"
    table = peers.TABLE.read_text().splitlines()
    assert peers.owner(theirs, ours, table) is None, "closed; the kernel shows it as root's"


ASK = """
import encodings.idna, os, sys, socket
os.setuid(int(sys.argv[2]))
try:
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print(sock.recv(12))
except OSError:
    print(b"")
"""


SHOUT = """
import encodings.idna, os, sys, socket
os.setuid(int(sys.argv[2]))
for _ in range(50):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as sock:
        sock.sendall(b"POST /v1/runtime/acquire-task HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_who_does_not_wait_for_an_answer_is_not_heard_either(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows a connection that was closed as root's."""
    monkeypatch.setattr(peers.OwnUserOnly, "told", -peers.QUIET_S)
    heard: list[str] = []

    async def listening(scope: dict[str, str], receive: object, send: object) -> None:
        heard.append(scope["path"])
        await hello(scope, receive, send)

    with served(listening, peers.OwnUserOnly) as port:
        subprocess.run([sys.executable, "-c", SHOUT, str(port), "65534"], check=True, timeout=PATIENCE_S)
        assert httpx.get(f"http://127.0.0.1:{port}/own").status_code == 200
    assert heard == ["/own"]
    assert caplog.text.count("refused a connection") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_does_not_reach_the_loopback_listener() -> None:
    def asked_by(user: int) -> str:
        line = [sys.executable, "-c", ASK, str(port), str(user)]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout.strip()

    with served(hello, peers.OwnUserOnly) as port:
        assert asked_by(0) == "b'HTTP/1.1 200'"
        assert asked_by(65534) == "b''"
