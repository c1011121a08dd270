"""The metrics' own listener: its settings, its token, and that nothing else is there."""

from __future__ import annotations

import ssl
import subprocess
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from moonflower.configs.roles import ServerConfig, ServerSettings, load_config
from moonflower.configs.settings import parse
from moonflower.errors import InputError
from moonflower.federation import processes
from moonflower.federation import stage as staging
from moonflower.federation.certificates import for_loopback
from moonflower.server.records.state import State
from moonflower.server.watch import scrape
from moonflower.server.watch.metrics import Metrics, registry
from prometheus_client import CollectorRegistry
from support import PATIENCE_S
from support.federation import cast
from support.listening import listening

BASE = {"tls_cert": "server.pem", "tls_key": "server.key", "federation": "heart"}
TOKEN = "m" * 40


def configured(**more: Any) -> ServerSettings:
    return parse(ServerSettings, {**BASE, **more}, where="server.toml")


def test_metrics_are_off_by_default() -> None:
    assert configured().metrics is None


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "metrics.example.org:9464"])
def test_an_address_that_others_reach_needs_a_token(address: str) -> None:
    with pytest.raises(InputError, match="can be reached from other machines") as refusal:
        configured(metrics=address)
    assert refusal.value.code == "config.value"
    assert configured(metrics=address, metrics_token_file="t").metrics == address


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "[::1]:9464", "127.1.2.3:1"])
def test_loopback_needs_none(address: str) -> None:
    assert configured(metrics=address).metrics == address


def test_a_token_without_metrics_is_a_mistake() -> None:
    with pytest.raises(InputError, match="metrics_token_file"):
        configured(metrics_token_file="t")


def test_the_token_file_is_found_beside_the_config(tmp_path: Path) -> None:
    lines = 'metrics = "127.0.0.1:0"\nmetrics_token_file = "t"\ntls_cert = "c"\ntls_key = "k"\nfederation = "heart"\n'
    oauth = '[oauth]\nissuer = "http://127.0.0.1:1"\naudience = "x"\n'
    (tmp_path / "server.toml").write_text(f"[server]\n{lines}{oauth}")
    assert load_config(ServerConfig, tmp_path / "server.toml").server.metrics_token_file == tmp_path / "t"


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        (TOKEN, 0o640, "0600"),
        (TOKEN, 0o604, "0600"),
        ("short", 0o600, "32 to 512"),
        ("", 0o600, "32 to 512"),
        (f"{TOKEN} {TOKEN}", 0o600, "32 to 512"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "32 to 512"),
        ("ü" * 40, 0o600, "32 to 512"),
        (TOKEN * 20, 0o600, "32 to 512"),
    ],
)
def test_a_token_file_that_will_not_do(tmp_path: Path, content: str, mode: int, what: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(InputError, match=what) as refusal:
        scrape.read_token(file)
    assert refusal.value.code == "config.key"
    assert TOKEN not in str(refusal.value)


def test_a_token_file_that_will_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        scrape.read_token(tmp_path / "token")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token").chmod(0o600)
    assert scrape.read_token(tmp_path / "token") == TOKEN.encode()


def scraped(
    config: ServerSettings, tls: Any = None, registered: CollectorRegistry | None = None
) -> AbstractContextManager[int]:
    """Serve metrics as the server does; gives the port."""
    assert config.metrics is not None
    token = None if config.metrics_token_file is None else TOKEN.encode()
    app = scrape.Scrape(registered or CollectorRegistry(), token)
    return listening(scrape.served(app, config, tls), config.metrics.rpartition(":")[0])


LOOPBACK = {"metrics": "127.0.0.1:0"}


def test_nothing_but_get_metrics_is_there(tmp_path: Path) -> None:
    state = State(tmp_path, "heart")
    with scraped(configured(**LOOPBACK), registered=registry(Metrics(state))) as port:
        url = f"http://127.0.0.1:{port}"
        answer = httpx.get(f"{url}/metrics?name[]=x")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "\nmoonflower_log_intact 1.0\n" in answer.text
        for path in (
            "/",
            "/metrics/",
            "/metricsx",
            "/Metrics",
            "/health",
            "/api/runs",
            "/v1/fleet/pull-messages",
            "//",
        ):
            assert httpx.get(url + path).status_code == 404, path
        for method in ("POST", "PUT", "HEAD", "OPTIONS", "DELETE"):
            assert httpx.request(method, f"{url}/metrics").status_code == 404, method
    state.close()


@pytest.mark.parametrize(
    "given",
    [
        [],
        [b"Bearer"],
        [b"Bearer " + TOKEN[:-1].encode()],
        [b"Bearer " + TOKEN.encode() + b"m"],
        [b"Basic " + TOKEN.encode()],
        [TOKEN.encode()],
        [b"Bearer " + TOKEN.encode(), b"Bearer " + TOKEN.encode()],
        [b"Bearer \xff"],
    ],
    ids=range(8),
)
def test_without_the_token_there_is_nothing(given: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    with scraped(configured(**LOOPBACK, metrics_token_file="t")) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=[(b"authorization", one) for one in given])
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="metrics"'
        assert "moonflower" not in answer.text
    assert TOKEN not in caplog.text


def test_with_the_token_there_is(caplog: pytest.LogCaptureFixture) -> None:
    with scraped(configured(**LOOPBACK, metrics_token_file="t")) as port:
        for scheme in ("Bearer", "bearer"):
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"{scheme} {TOKEN}"})
            assert answer.status_code == 200
    assert not caplog.text


def test_where_others_can_reach_it_it_speaks_tls(tmp_path: Path) -> None:
    made = for_loopback(datetime.now(UTC))
    for name, data in (("ca.pem", made.ca), ("server.pem", made.certificate), ("server.key", made.key)):
        (tmp_path / name).write_bytes(data)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with scraped(configured(metrics="0.0.0.0:0", metrics_token_file="t"), tls) as port:
        asked = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"https://127.0.0.1:{port}/metrics", headers=asked, verify=trusted).status_code == 200
        assert httpx.get(f"https://127.0.0.1:{port}/metrics", verify=trusted).status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/metrics", headers=asked)


def test_what_breaks_is_503_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def collect(self) -> Any:
            raise OSError(28, "No space left on device")

    broken = CollectorRegistry()
    broken.register(Broken())  # type: ignore[arg-type]
    with scraped(configured(**LOOPBACK), registered=broken) as port:
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 503
    assert caplog.text.count("the metrics cannot be read") == 1


def test_a_server_without_the_right_to_its_token_does_not_start(tmp_path: Path) -> None:
    """By the real command: the config is whole but for the file's mode."""
    made = cast()
    (tmp_path / "up").mkdir()
    token = tmp_path / "up/metrics.token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    more = {"metrics": "127.0.0.1:0", "metrics_token_file": "metrics.token"}
    stage = staging.stage(made.settings, made.names, tmp_path / "up", server=more)
    done = subprocess.run(processes.command("server", stage.server), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2, done.stderr
    assert "expected mode 0600" in done.stderr
