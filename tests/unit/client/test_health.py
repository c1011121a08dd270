"""``moonflower health`` and the node's sign of life."""

from __future__ import annotations

import http.server
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moonflower.__main__ import main
from moonflower.client.node import alive
from moonflower.client.node.pulse import Pulse
from moonflower.federation.certificates import for_loopback
from support import PATIENCE_S

CLIENT = """
[client]
member = "cleveland"
server = "https://fl.example.org:8443"
tasks = ["moonflower.client.tasks.tabular:task"]
[oauth]
issuer = "https://idp.example.org"
client_id = "cleveland"
key = "oauth.jwk"
[data]
path = "rows.csv"
"""
SERVER = """
[server]
federation = "heart"
listen = "127.0.0.1:{port}"
tls_cert = "server.pem"
tls_key = "server.key"
[oauth]
issuer = "https://idp.example.org"
audience = "https://fl.example.org/"
"""
Say = Callable[[Path], tuple[int, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what runs ``moonflower health CONFIG`` and gives status and sentence."""

    def said(config: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["moonflower", "health", str(config)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        assert output.err == ""
        assert output.out.count("\n") == 1
        return int(str(ended.value.code)), output.out.strip()

    return said


@pytest.fixture
def client(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    config = tmp_path / "client.toml"
    config.write_text(CLIENT)
    return config


def test_a_node_that_the_server_heard_from_is_well(client: Path, say: Say) -> None:
    alive.give(client.parent / "state")
    assert say(client) == (0, "cleveland: the server last heard from the node 0 s ago")


def test_a_node_that_is_not_connected_is_not_well(client: Path, say: Say) -> None:
    assert say(client) == (1, "cleveland: the node is not connected")
    alive.give(client.parent / "state")
    alive.take_back(client.parent / "state")
    assert say(client) == (1, "cleveland: the node is not connected")


@pytest.mark.parametrize("age", [90, -90])
def test_an_old_sign_of_life_is_none(client: Path, say: Say, age: int) -> None:
    alive.give(client.parent / "state")
    then = time.time() - age
    os.utime(client.parent / "state" / alive.FILE_NAME, (then, then))
    status, sentence = say(client)
    assert status == 1
    assert sentence.endswith(f"{age} s ago; expected at most 45 s")


def test_a_config_that_is_wrong_or_missing_is_status_1(client: Path, say: Say) -> None:
    client.write_text("[client]\n")
    assert say(client)[0] == 1
    assert say(client.parent / "absent.toml")[0] == 1


def test_a_sign_for_a_disk_that_takes_none_is_left_out(tmp_path: Path) -> None:
    alive.give(tmp_path / "absent")
    alive.take_back(tmp_path / "absent")
    assert alive.age_s(tmp_path / "absent") is None


def test_the_pulse_says_when_the_server_has_heard_it() -> None:
    class Fleet:
        def __init__(self) -> None:
            self.answers = iter([None, OSError("out of reach"), None])
            self.asked = 0

        def heartbeat(self) -> None:
            self.asked += 1
            answer = next(self.answers, OSError("out of reach"))
            if answer is not None:
                raise answer

    fleet: Any = Fleet()
    heard = []
    beats = Pulse(fleet, 0.01, lambda: heard.append(fleet.asked))
    beats.start()
    deadline = time.monotonic() + PATIENCE_S
    while fleet.asked < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    beats.stop()
    assert heard == [1, 3]


# The server


@contextmanager
def listening(folder: Path, status: int = 200) -> Iterator[int]:
    """Serve ``status`` over TLS with the certificate in ``folder``; yields the port."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Quiet(http.server.HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with Quiet(("127.0.0.1", 0), Answers) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def certified(folder: Path, now: datetime) -> Path:
    folder.mkdir(exist_ok=True)
    made = for_loopback(now)
    (folder / "server.pem").write_bytes(made.certificate)
    (folder / "server.key").write_bytes(made.key)
    return folder


def config(folder: Path, port: int) -> Path:
    file = folder / "server.toml"
    file.write_text(SERVER.format(port=port))
    return file


def test_a_server_that_answers_is_well(tmp_path: Path, say: Say) -> None:
    certified(tmp_path, datetime.now(UTC))
    with listening(tmp_path) as port:
        assert say(config(tmp_path, port)) == (0, f"heart: the server at 127.0.0.1:{port} answers")
    assert say(config(tmp_path, port)) == (
        1,
        f"heart: the server at 127.0.0.1:{port} does not answer (ConnectionRefusedError)",
    )


def test_a_server_that_cannot_serve_is_not_well(tmp_path: Path, say: Say) -> None:
    certified(tmp_path, datetime.now(UTC))
    with listening(tmp_path, 503) as port:
        assert say(config(tmp_path, port)) == (1, f"heart: the server at 127.0.0.1:{port} answers with status 503")


@pytest.mark.parametrize("what", ["another", "expired", "no certificate"])
def test_the_certificate_must_be_the_servers_own_and_hold(tmp_path: Path, say: Say, what: str) -> None:
    now = datetime.now(UTC)
    certified(tmp_path, now - timedelta(days=90) if what == "expired" else now)
    shown = certified(tmp_path / "other", now) if what == "another" else tmp_path
    with listening(shown) as port:
        if what == "no certificate":
            (tmp_path / "server.pem").write_text("nothing")
        status, sentence = say(config(tmp_path, port))
    assert status == 1
    assert "certificate" in sentence
    assert ("expired" in sentence) == (what == "expired")
