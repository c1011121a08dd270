"""``moonflower doctor``: every check fails for its reason with the right words, and all is ok where all is."""

from __future__ import annotations

import http.server
import json
import os
import re
import secrets
import shutil
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from moonflower import simulate
from moonflower.__main__ import main
from moonflower.client.ledger.ledger import Ledger
from moonflower.configs.roles import ClientConfig, LoginSettings, VerifierSettings, load_config
from moonflower.configs.sentences import sentences
from moonflower.configs.settings import load_run
from moonflower.crypto import sealed
from moonflower.crypto.planner import Plan, plan
from moonflower.crypto.ring import Ints
from moonflower.crypto.sealed import Secrets
from moonflower.doctor import canary, checks, folders, machine, network
from moonflower.doctor.machine import Check
from moonflower.errors import IssuerUnreachable, TooSlow
from moonflower.federation import stage as staging
from moonflower.federation.certificates import for_loopback
from moonflower.oauth.jws import new_key, private_key
from moonflower.server.evidence.onlooker import FORBIDDEN
from support import CONFIGS, superlink
from support.circles import lives_in

HEART = CONFIGS / "heart.toml"
NAMES = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
NOW = datetime.now(UTC)
ISSUER = "https://idp.example.org"
Cli = Callable[..., tuple[object, str, str]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs and keys of a federation that nobody has started."""
    folder = tmp_path_factory.mktemp("stage")
    staging.stage(load_run(HEART), NAMES, folder)
    return folder


@pytest.fixture
def staged(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "stage"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder after one round."""
    out = tmp_path_factory.mktemp("simulated") / "out"
    simulate(HEART, out=out, overrides=["training.rounds=1", "training.local_epochs=1"])
    return out


@pytest.fixture
def state(simulated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simulated, tmp_path / "state"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["moonflower", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def client_config(staged: Path) -> ClientConfig:
    return load_config(ClientConfig, staged / "clients" / "cleveland" / "client.toml")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"/" for p in folder.rglob("*")}


def made(look: Callable[[], Check]) -> Check:
    """Return a check as the command makes it."""
    return checks._made(checks.Planned("it", look))


def says(check: Check, status: str, *words: str) -> None:
    assert check.status == status, check
    for word in words:
        assert word in check.found, check
    assert "\n" not in check.found


# Versions, isolation


def test_the_versions_are_those_of_the_package() -> None:
    wanted = tomllib.loads((CONFIGS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    low, high = (".".join(map(str, one)) for one in machine.FLWR)
    assert f"flwr>={low},<{high}" in wanted
    assert f"tenseal=={machine.TENSEAL}" in wanted
    says(machine.versions(member=True), "ok", "python 3.", "torch ", "tenseal 0.3.18")


@pytest.mark.parametrize(
    ("name", "version", "member", "status", "words"),
    [
        ("flwr", "1.40.0", False, "failed", "flwr 1.40.0; expected 1.41 or later, before 1.43"),
        ("flwr", "1.43.0", False, "failed", "before 1.43"),
        ("flwr", "", False, "failed", "flwr is absent"),
        ("torch", "", True, "failed", "torch is absent"),
        ("torch", "", False, "ok", "torch absent"),
        ("tenseal", "0.3.16", True, "failed", "expected 0.3.18"),
        ("tenseal", "", True, "failed", "tenseal is absent"),
        ("tenseal", "", False, "ok", "tenseal absent"),
        ("cryptography", "", False, "failed", "cryptography is absent"),
    ],
)
def test_a_wrong_version_fails(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str, member: bool, status: str, words: str
) -> None:
    real = machine._version
    monkeypatch.setattr(machine, "_version", lambda asked: version if asked == name else real(asked))
    says(machine.versions(member=member), status, words)


def test_isolation_is_tried_and_its_absence_fails(staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = client_config(staged)
    says(machine.isolation(config), "ok", "its own network namespace")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="False\n"))
    says(machine.isolation(config), "failed", "cannot get its own network namespace")
    open_ = config.model_copy(update={"client": config.client.model_copy(update={"isolate": False})})
    says(machine.isolation(open_), "warning", "isolate = false")
    monkeypatch.setattr(sys, "platform", "darwin")
    says(machine.isolation(config), "failed", "this is darwin; expected Linux")
    says(machine.linux(), "failed", "this is darwin; expected Linux")


# Keys, certificates, CAs


def test_a_nodes_keys_are_looked_at(staged: Path) -> None:
    config = client_config(staged)
    folder = config.client.state
    good = made(lambda: machine.client_keys(config))
    says(good, "ok", "pin of Cleveland: ")
    assert len(good.found.rpartition(" ")[2]) == 43
    (folder / "node.key").chmod(0o644)
    says(made(lambda: machine.client_keys(config)), "failed", "node.key has mode 0644; expected 0600")
    (folder / "node.key").chmod(0o600)
    kept = (folder / "sealing.key").read_bytes()
    (folder / "sealing.key").write_bytes((folder / "node.key").read_bytes())
    says(made(lambda: machine.client_keys(config)), "failed", "sealing.key holds no X25519 key")
    (folder / "sealing.key").write_bytes(kept)
    config.oauth.key.chmod(0o640)
    says(made(lambda: machine.client_keys(config)), "failed", "oauth.key can be read by others")
    config.oauth.key.chmod(0o600)
    config.oauth.key.write_bytes((config.oauth.key.with_name("oauth.pub")).read_bytes())
    says(made(lambda: machine.login_key(config.oauth.key)), "failed", "is not a private JWK")
    (folder / "witness.key").unlink()
    says(made(lambda: machine.client_keys(config)), "failed", "witness.key is missing")


def test_private_files_of_a_server(tmp_path: Path) -> None:
    key, later = tmp_path / "server.key", tmp_path / "log.key"
    says(machine.private_files([key], [later]), "failed", "server.key is missing")
    key.write_text("x")
    key.chmod(0o600)
    says(machine.private_files([key], [later]), "ok", "server.key with mode 0600")
    key.chmod(0o640)
    says(machine.private_files([key]), "warning", "has mode 0640; expected 0600")
    key.chmod(0o644)
    says(machine.private_files([key]), "failed", "has mode 0644; expected 0600")
    later.write_text("x")
    later.chmod(0o640)
    says(machine.private_files([], [later]), "failed", "log.key has mode 0640")


def test_keys_of_an_issuers_clients(staged: Path) -> None:
    from moonflower.configs.roles import IssuerConfig

    config = load_config(IssuerConfig, staged / "issuer.toml")
    says(machine.issuer_keys(config), "ok", "public keys of 5 clients")
    config.client[0].key.write_bytes(config.client[0].key.with_name("oauth.key").read_bytes())
    config.client[1].key.unlink()
    found = machine.issuer_keys(config)
    says(found, "failed", f"{config.client[0].client_id}: ", "is not a public JWK", "cannot be read")


@pytest.mark.parametrize(
    ("moment", "host", "status", "words"),
    [
        (NOW, "127.0.0.1", "ok", "fits its key and is for 127.0.0.1"),
        (NOW, "[::1]", "ok", "it ends on"),
        (NOW + timedelta(days=21), "127.0.0.1", "warning", "in 8 days"),
        (NOW + timedelta(days=31), "127.0.0.1", "failed", "server.pem expired on"),
        (NOW - timedelta(days=1), "127.0.0.1", "failed", "is not valid before"),
        (NOW, "fl.example.org", "failed", "is not for fl.example.org; it names 127.0.0.1, ::1, localhost"),
    ],
)
def test_the_certificate(tmp_path: Path, moment: datetime, host: str, status: str, words: str) -> None:
    chain, key = pem(tmp_path)
    says(machine.certificate(chain, key, [host], moment), status, words)


def test_a_certificate_with_the_key_of_another_fails(tmp_path: Path) -> None:
    chain, key = pem(tmp_path)
    key.write_bytes(for_loopback(NOW).key)
    says(machine.certificate(chain, key, ["::1"], NOW), "failed", "server.key is not the key of the first")
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n")
    found = machine.certificate(chain, key, ["::1"], NOW)
    says(found, "failed", "expected a certificate and its key")
    assert "U0VDUkVU" not in found.found
    key.unlink()
    says(machine.certificate(chain, key, ["::1"], NOW), "failed", "server.key cannot be read")


def test_cas(tmp_path: Path) -> None:
    good, junk = tmp_path / "ca.pem", tmp_path / "junk.pem"
    good.write_bytes(for_loopback(NOW).ca)
    junk.write_text("no certificate")
    says(machine.ca({"[client] ca": good, "[oauth] ca": None}, NOW), "ok", "[client] ca ca.pem")
    says(machine.ca({"a": None}, NOW), "ok", "no ca is set")
    says(machine.ca({"a": junk}, NOW), "failed", "is not a readable certificate in PEM")
    says(machine.ca({"a": tmp_path / "none"}, NOW), "failed", "is not a readable certificate in PEM")
    says(machine.ca({"a": good}, NOW + timedelta(days=40)), "failed", "expired on")


def pem(folder: Path) -> tuple[Path, Path]:
    certificates, chain, key = for_loopback(NOW), folder / "server.pem", folder / "server.key"
    chain.write_bytes(certificates.certificate)
    key.write_bytes(certificates.key)
    return chain, key


# Folders


@pytest.mark.parametrize(
    ("mebibytes", "flag", "status", "words"),
    [
        (2048, 0, "ok", "2.0 GiB free"),
        (500, 0, "warning", "500 MiB free; expected 1024 MiB or more"),
        (50, 0, "failed", "50 MiB free; expected at least 100 MiB"),
        (2048, os.ST_RDONLY, "failed", "cannot be written by this user"),
    ],
)
def test_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: int, flag: int, status: str, words: str
) -> None:
    there = SimpleNamespace(f_bavail=mebibytes, f_frsize=1 << 20, f_flag=flag)
    monkeypatch.setattr(os, "statvfs", lambda _: there)
    absent = tmp_path / "not" / "there" / "yet"
    says(folders.disk([absent]), status, words)
    assert list(tmp_path.iterdir()) == []


def test_a_network_file_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "/dev/a / ext4 rw 0 0\nh:/x /srv nfs4 rw 0 0\n/dev/b /srv/fl\\040one ext4 rw 0 0\n"
    assert folders.file_system(Path("/srv/state"), mounts) == "nfs4"
    assert folders.file_system(Path("/srv/fl one/state"), mounts) == "ext4"
    assert folders.file_system(Path("/srvx"), mounts) == "ext4"
    monkeypatch.setattr(folders, "file_system", lambda _: "nfs4")
    says(folders.disk([tmp_path]), "failed", "network file system (nfs4)")
    (tmp_path / "file").write_text("")
    says(folders.disk([tmp_path / "file"]), "failed", "is not a folder")


def test_a_log_that_does_not_verify_fails(state: Path) -> None:
    before = tree(state)
    says(folders.audit_log(state), "ok", "verifies: ")
    assert tree(state) == before
    with closing(sqlite3.connect(state / "moonflower.db")) as db:
        db.execute(
            "update log set entry = replace(entry, 'promoted', 'refused') where idx = 5 or entry like '%promoted%'"
        )
        db.commit()
    found = folders.audit_log(state)
    says(found, "failed", "does not verify from entry ", "(audit.entry)")
    (state / "log.pub").unlink()
    says(folders.audit_log(state), "failed", "log.pub cannot be read")
    says(folders.audit_log(state / "none"), "ok", "holds no log yet")


def test_a_damaged_model_fails(state: Path) -> None:
    before = tree(state)
    good = made(lambda: folders.good_model(state))
    says(good, "ok", "the last good version, 1, is whole")
    assert tree(state) == before
    file = next((state / "models").glob(f"{good.found.rpartition(' ')[2]}*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    says(made(lambda: folders.good_model(state)), "failed", "was changed", "(data.model)")
    file.unlink()
    says(made(lambda: folders.good_model(state)), "failed", "cannot be read")
    (state / "moonflower.db").write_bytes(b"junk" * 2000)
    says(made(lambda: folders.good_model(state)), "failed", "cannot be read as a database")


def test_a_ledger_with_a_fork_fails(tmp_path: Path) -> None:
    says(folders.ledger(tmp_path), "ok", "none yet")
    assert list(tmp_path.iterdir()) == []
    ledger, path = Ledger(tmp_path / "ledger.db"), tmp_path / "ledger.db"
    before = tree(tmp_path)
    says(made(lambda: folders.ledger(tmp_path)), "ok", "no checkpoint of a log witnessed yet")  # beside its owner
    assert before.keys() == tree(tmp_path).keys()
    ledger.keep_fork("held", "shown", proved=True)
    says(made(lambda: folders.ledger(tmp_path)), "failed", "a history of its log that contradicts")
    ledger.forget_checkpoints()
    ledger.close()
    before = tree(tmp_path)
    says(made(lambda: folders.ledger(tmp_path)), "ok", "opens")
    assert tree(tmp_path) == before
    path.chmod(0o644)
    says(made(lambda: folders.ledger(tmp_path)), "failed", "mode 0644; expected 0600")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    assert made(lambda: folders.ledger(tmp_path)).status == "failed"


def test_the_circle_in_which_a_node_lives_is_told(tmp_path: Path) -> None:
    config = superlink.client_config(tmp_path, CONFIGS / "data")
    says(folders.circle(tmp_path / "state"), "warning", "is in no circle yet")
    signed = lives_in(config)
    assert folders.living(tmp_path / "state") == signed.circle
    says(folders.circle(tmp_path / "state"), "ok", "circle 1 of 3 members: Cleveland, another, yet another")
    with closing(Ledger(tmp_path / "state" / "ledger.db")) as ledger:
        ledger.circles.leave(signed.circle)
    says(folders.circle(tmp_path / "state"), "warning", "is in no circle yet")
    with closing(Ledger(tmp_path / "state" / "ledger.db")) as ledger:
        ledger.circles.lose(1)
    says(folders.circle(tmp_path / "state"), "failed", "not the one that this node had")


def test_the_ledger_of_a_killed_node_is_read_and_left_alone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from moonflower.client.ledger.ledger import Ledger;"
        "Ledger(Path(sys.argv[1])).keep_fork('held', 'shown', proved=True); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "ledger.db"]).returncode == 9
    before = tree(tmp_path)
    assert sorted(before) == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    says(made(lambda: folders.ledger(tmp_path)), "failed", "a history of its log that contradicts")
    after = tree(tmp_path)
    assert sorted(after) == sorted(before)
    assert all(after[name] == before[name] for name in ("ledger.db", "ledger.db-wal"))  # -shm is a lock table


# Others


def replies(monkeypatch: pytest.MonkeyPatch, date: str | None) -> None:
    headers = {} if date is None else {"date": date}
    monkeypatch.setattr(network, "_get", lambda *_: httpx.Response(200, headers=headers))


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [
        (0, "ok", "clock is 0 s"),
        (-4, "ok", "behind the issuer's"),
        (12, "warning", "clock is 12 s ahead of the issuer's; expected at most 5 s"),
        (-47, "failed", "clock is 47 s behind the issuer's; expected at most 30 s"),
    ],
)
def test_the_clock(monkeypatch: pytest.MonkeyPatch, ahead: int, status: str, words: str) -> None:
    now = 1_800_000_000.5
    replies(monkeypatch, formatdate(now - ahead, usegmt=True))
    other = network.ClockReading("issuer", ISSUER, True)
    says(network.clock((other,), 30, lambda: now), status, words)


@pytest.mark.parametrize(("late_s", "status"), [(2.4, "ok"), (2.7, "failed")])
def test_a_date_that_is_as_old_as_servers_let_it_get_is_no_fault_of_the_clock(
    monkeypatch: pytest.MonkeyPatch, late_s: float, status: str
) -> None:
    """Where tokens allow a second: a Date was cut by up to a second, and written up to a second ago."""
    now = 1_800_000_000.0 + late_s
    replies(monkeypatch, formatdate(1_800_000_000, usegmt=True))
    other = network.ClockReading("issuer", ISSUER, True)
    assert network.clock((other,), 0.5, lambda: now).status == status


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_without_a_date_the_clock_is_not_checked(monkeypatch: pytest.MonkeyPatch, date: str | None) -> None:
    replies(monkeypatch, date)
    found = network.clock((network.ClockReading("issuer", ISSUER, True),), 30)
    says(found, "warning", "not checked: no time from issuer")


def fetches(monkeypatch: pytest.MonkeyPatch, metadata: Any, jwks: Any) -> None:
    def fetch(url: str) -> bytes:
        return json.dumps(jwks if url.endswith("/jwks") else metadata).encode()

    monkeypatch.setattr(network, "fetcher", lambda *_: fetch)


SECRET, PUBLIC = new_key()
METADATA = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks", "token_endpoint": f"{ISSUER}/token"}


@pytest.mark.parametrize(
    ("metadata", "jwks", "status", "words"),
    [
        (METADATA, {"keys": [PUBLIC]}, "ok", "publishes 1 usable keys"),
        ({**METADATA, "issuer": f"{ISSUER}/"}, {"keys": [PUBLIC]}, "failed", "names another issuer"),
        (METADATA, {"keys": []}, "failed", "publishes no key"),
        (METADATA, {"keys": [{**PUBLIC, "kid": 7}, {"kty": "oct"}]}, "failed", "publishes no key"),
        (METADATA, [], "failed", "not a JSON object"),
        ({**METADATA, "jwks_uri": "http://elsewhere.org/jwks"}, {}, "failed", "is not an https address"),
    ],
)
def test_the_issuer(monkeypatch: pytest.MonkeyPatch, metadata: Any, jwks: Any, status: str, words: str) -> None:
    fetches(monkeypatch, metadata, jwks)
    settings = VerifierSettings(issuer=ISSUER, audience="a")
    says(made(lambda: network.issuer(settings)), status, words)


def test_a_key_must_be_for_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    fetches(monkeypatch, METADATA, {"keys": [PUBLIC]})
    settings = VerifierSettings(issuer=ISSUER, audience="a", profile="entra")
    says(made(lambda: network.issuer(settings)), "failed", "no key of", "profile entra")


def login(**changes: Any) -> LoginSettings:
    fields = {"issuer": ISSUER, "client_id": "cleveland", "key": Path("none"), "audience": "https://fl/", **changes}
    return LoginSettings.model_validate(fields)


@pytest.mark.parametrize(
    ("claims", "status", "words"),
    [
        ({}, "ok", "cleveland gets a token for fl:train, bound to this key, for 300 s"),
        ({"aud": "https://other/"}, "failed", "the token is for ['https://other/']; expected https://fl/"),
        ({"scope": "fl:run"}, "failed", "does not grant fl:train; it grants fl:run"),
        ({"cnf": {"jkt": "x"}}, "failed", "is not bound to this key"),
        ({"cnf": None}, "failed", "is not bound to this key"),
        ({"exp": 90_000}, "warning", "the token lives 90000 s"),
        ({"exp": 10}, "warning", "the token lives 10 s"),
        ({"exp": "soon"}, "failed", "expected iat and exp"),
    ],
)
def test_the_token(claims: dict[str, Any], status: str, words: str) -> None:
    from moonflower.oauth.keys import DpopKey

    key = DpopKey.generate()
    honest = {"aud": ["https://fl/"], "scope": "fl:train", "cnf": {"jkt": key.jkt}, "iat": 0, "exp": 300}
    text = private_key(SECRET).sign({"typ": "at+jwt"}, {**honest, **claims})
    found = network.judged(text, login(), key, "fl:train")
    says(found, status, words)
    assert all(part not in found.found for part in text.split("."))


def test_an_opaque_token_and_a_refused_client_fail(staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(network.judged("opaque", login(binding="none"), None, "fl:run"), "failed", "is not a JWT")
    says(made(lambda: network.token(login(), None, ("fl:run",))), "failed", "(config.key)")

    def refused(*_: Any) -> Any:
        raise IssuerUnreachable("auth.issuer_unreachable", "the issuer answers 503")

    monkeypatch.setattr(network, "fetcher", lambda *_: refused)
    says(made(lambda: network.issuer(login())), "failed", "answers 503 (auth.issuer_unreachable)")


@contextmanager
def answering(folder: Path, status: int) -> Iterator[str]:
    """Serve ``status`` over TLS, as 127.0.0.1."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    certificates = for_loopback(NOW)
    for name, data in (("ca.pem", certificates.ca), ("s.pem", certificates.certificate), ("s.key", certificates.key)):
        (folder / name).write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.pem", folder / "s.key")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"https://127.0.0.1:{served.server_port}"
        finally:
            served.shutdown()
            thread.join()


def test_the_server(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(for_loopback(NOW).ca)
    with answering(tmp_path, 200) as url:
        says(network.server(url, network.trusting(tmp_path / "ca.pem")), "ok", "answers over TLS")
        says(network.server(url, network.itself(tmp_path / "s.pem"), own=True), "ok")
        found = network.server(url, network.trusting(other))
        says(found, "failed", "certificate is not valid")
        assert "_ssl.c" not in found.found, "in words"
        says(network.server(url, network.trusting(None, system=True)), "failed", "is not valid")
    says(network.server(url, True), "failed", "cannot be reached: ConnectError")
    says(network.server(url, True, own=True), "warning", "cannot be reached")
    with answering(tmp_path, 404) as url:
        found = network.server(url, network.trusting(tmp_path / "ca.pem"))
        says(found, "failed", "/health answers 404; expected 200")


def test_who_does_not_answer_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(TooSlow):
        network.in_time(lambda: time.sleep(3) or Check("x", "ok", ""), 0.05)
    assert time.monotonic() - began < 2

    def slow() -> Check:
        raise TooSlow

    says(made(slow), "failed", "no answer within 5 s")


# Encryption


def body(found: Plan, coefficients: list[int]) -> bytes:
    """Return coefficients as they travel, with zeros behind them."""
    whole = [*coefficients, *[0] * (found.travelling(len(coefficients) * found.lanes) - len(coefficients))]
    return sealed._packed(found, [np.array([one % p for one in whole], dtype=np.uint64) for p in found.primes])


def plain(found: Plan, context: str, secrets_: Secrets, lanes: Ints) -> bytes:
    """Seal nothing."""
    return body(found, canary._plaintext(found, lanes))


def unkeyed(found: Plan, context: str, secrets_: Secrets, lanes: Ints) -> bytes:
    """Seal with errors and without a key: t e + m."""
    contents = canary._plaintext(found, lanes)
    chunks = range(-(-len(contents) // found.degree))
    errors = secrets_.errors(found, chunks).reshape(-1)[: len(contents)].tolist()
    return body(found, [(error << found.plain_bits) + one for error, one in zip(errors, contents, strict=True)])


class OneKey(Secrets):
    """Secrets whose key is the same every time; the errors are not."""

    def key(self, found: Plan) -> Ints:
        return Secrets(bytes(32)).key(found)


def one_key(found: Plan, context: str, secrets_: Secrets, lanes: Ints) -> bytes:
    """Seal every vector with one key."""
    return sealed.seal(found, context, OneKey(secrets_.seed), lanes)


def off(found: Plan, context: str, secrets_: Secrets, lanes: Ints) -> bytes:
    """Seal something else than was asked."""
    return sealed.seal(found, context, secrets_, np.concatenate([lanes[:-1], lanes[-1:] ^ 1]))


@pytest.mark.parametrize("set_", [(2, 4, 10), (4, 16, 24), (16, 9, 30_000), (40, 14, 1000)])
def test_a_sealed_canary_cannot_be_read(set_: tuple[int, int, int]) -> None:
    found = canary.release(plan(*set_), set_[2])
    assert found.ok, found
    assert found.held is False
    assert "could not read it" in found.sentence
    assert 0 < found.chi_square <= 160


@pytest.mark.parametrize(
    ("sealing", "words"),
    [
        (plain, "unsealed: 100%"),
        (plain, "lie bare"),
        (unkeyed, "without a key: 100%"),
        (one_key, "key used twice: 100%"),
    ],
)
def test_a_canary_that_is_not_sealed_is_read(sealing: Any, words: str) -> None:
    found = canary.release(plan(4, 16, 24), 24, sealing)
    assert not found.ok
    assert not found.blind
    assert "reads a canary update" in found.sentence
    assert words in found.sentence


def test_a_sum_of_something_else_fails() -> None:
    found = canary.release(plan(4, 16, 24), 24, off)
    assert (found.blind, found.opened, found.ok) == (True, False, False)
    assert "do not open exactly" in found.sentence


def test_many_members_are_tried_as_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand, half a million pairs would agree on masks."""
    asked: list[int] = []
    honest = canary.release
    monkeypatch.setattr(
        canary, "release", lambda found, values: asked.append(found.members) or honest(plan(2, 16, 9), 9)
    )
    for members in (0, 2, 5, 1024):
        assert checks._canary(members).status == "ok"
    assert asked == [2, 2, 5, 16]


def test_a_key_in_the_other_process_is_found() -> None:
    held, other = secrets.token_bytes(32), secrets.token_bytes(32)
    code = "import sys; a = bytes.fromhex(sys.stdin.readline()); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(held.hex().encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert canary._in_memory(process.pid, (held, other)) == [True, False]
        process.kill()
    assert canary._in_memory(process.pid, (held,)) == []
    found = canary.Found(True, True, True, True, 60.0, "")
    assert not found.ok
    assert "holds a key" in found.sentence


def test_the_onlooker_loads_nothing_that_needs_a_key() -> None:
    code = f"import moonflower.server.evidence.onlooker, sys; print([n for n in {FORBIDDEN!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# The command


def test_a_config_that_cannot_be_read_is_bad_input(cli: Cli, tmp_path: Path) -> None:
    assert cli(tmp_path / "none.toml")[0] == 2
    path = tmp_path / "strange.toml"
    path.write_text("[strange]\n")
    status, out, err = cli(path)
    assert (status, out) == (2, "")
    assert "expected one of the tables [issuer], [operator], [server], [client], [federation]" in err
    path.write_text("[client]\nmember = 7\n")
    assert cli(path)[0] == 2


def test_a_run_config_is_well(cli: Cli) -> None:
    status, out, err = cli(HEART, "--json")
    said = json.loads(out)
    assert (status, err, said["ok"], said["floor"], said["recipe"]) == (0, "", True, None, None)
    assert [one["name"] for one in said["checks"]] == ["config", "versions", "disk", "data", "encryption"]
    assert all(one.keys() == {"name", "status", "found", "hint"} for one in said["checks"])
    assert {one["status"] for one in said["checks"]} == {"ok"}


def test_a_run_config_without_its_rows(cli: Cli, tmp_path: Path) -> None:
    text = HEART.read_text().replace("data/heart.csv.gz", "data/absent.csv")
    path = tmp_path / "heart.toml"
    path.write_text(text.replace("data/heart.schema.toml", str(CONFIGS / "data/heart.schema.toml")))
    status, out, _ = cli(path)
    assert status == 0
    assert "absent.csv does not exist → this is enough for moonflower run" in out


def test_a_node_whose_issuer_is_away(cli: Cli, staged: Path) -> None:
    config = staged / "clients" / "cleveland" / "client.toml"
    before = tree(staged)
    status, out, err = cli(config)
    assert (status, err) == (1, "")
    lines = {line.split()[1]: line for line in out.partition("\n\n")[0].splitlines()}
    assert re.match(r"failed   issuer      the issuer at 127.0.0.1:\d+ cannot be reached", lines["issuer"])
    assert lines["token"] == "warning  token       not checked: issuer comes first"
    assert lines["clock"] == "warning  clock       not checked: no time from issuer and server"
    assert lines["data"].startswith(
        "warning  data        not checked: the recipe that this node signs says what each column means"
    )
    assert "303" not in lines["data"]
    assert tree(staged) == before


def test_what_a_node_lacks(cli: Cli, staged: Path) -> None:
    home = staged / "clients" / "cleveland"
    (home / "state" / "node.key").chmod(0o644)
    (home / "../../ca.pem").write_text("junk")
    text = (home / "client.toml").read_text()
    (home / "client.toml").write_text(text.replace("heart.csv.gz", "absent.csv"))
    status, out, _ = cli(home / "client.toml", "--json")
    found = {one["name"]: one for one in json.loads(out)["checks"]}
    assert status == 1
    assert "chmod 600" in found["keys"]["hint"]
    assert found["CAs"]["status"] == found["keys"]["status"] == found["data"]["status"] == "failed"
    for name in ("issuer", "server", "clock"):
        assert found[name]["found"] == "not checked: CAs comes first"
    assert found["token"]["found"] == "not checked: keys comes first"
    assert found["encryption"]["status"] == "ok"


SAID = ("What may run at this node", "What is not allowed here")


def test_a_nodes_floor_is_printed_in_sentences(cli: Cli, staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = staged / "clients" / "cleveland" / "client.toml"
    lines = [one for one in config.read_text().splitlines() if not one.startswith(("runs_a_day", "max_envelope_mb"))]
    config.write_text("\n".join(lines))
    out = cli(config)[1]
    checked, _, spoken = out.partition("\n\n")
    assert "warning  floor       client.toml has no line for runs_a_day, max_envelope_mb; what these would" in checked
    assert all(len(line) <= 80 for line in spoken.splitlines()), "at 80 columns"
    assert "- No circle has fewer than 3 members.\n" in spoken
    assert "- Only this task runs here: moonflower.client.tasks.tabular:task.\n" in spoken
    for line in ("runs_a_day = 20", "max_envelope_mb = 64"):
        assert f"{line}\n" in spoken, "the line to add is on one line, at its end"
    assert [line for line in spoken.splitlines() if line in SAID] == [*SAID]
    assert "What is trained" not in out, "it lives in no circle"


def test_a_node_in_a_circle_is_told_its_recipe(cli: Cli, tmp_path: Path) -> None:
    config = superlink.client_config(tmp_path, CONFIGS / "data")
    recipe = lives_in(config).circle.recipe
    out = cli(config)[1]
    for heading, lines in sentences(recipe, 3).items():
        assert f"\n\n{heading}\n- {lines[0][:60]}" in out
    said = json.loads(cli(config, "--json")[1])
    assert said.keys() == {"ok", "checks", "floor", "recipe"}
    assert said["recipe"] == sentences(recipe, 3)
    assert tuple(said["floor"]) == SAID
    assert {one["name"]: one["status"] for one in said["checks"]}["floor"] == "ok"


def test_a_ledger_that_cannot_be_read_tells_no_recipe(cli: Cli, tmp_path: Path) -> None:
    config = superlink.client_config(tmp_path, CONFIGS / "data")
    lives_in(config)
    (tmp_path / "state" / "ledger.db").write_bytes(b"junk" * 1000)
    status, out, _ = cli(config, "--json")
    said = json.loads(out)
    assert (status, said["recipe"], tuple(said["floor"])) == (1, None, SAID)


def test_a_server_that_names_no_address(cli: Cli, staged: Path) -> None:
    config = staged / "server.toml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("url", "listen"))]
    config.write_text("\n".join(lines).replace("[server]", '[server]\nlisten = "0.0.0.0:8443"', 1))
    status, out, _ = cli(config)
    assert status == 1
    assert "failed   address     url is not set" in out
    assert "not checked: address comes first" in out


def test_a_server_without_seal_checks_no_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    says(checks._canary(4), "warning", "not checked: tenseal is not installed")


def test_a_check_that_breaks_says_nothing_it_should_not() -> None:
    def broken() -> Check:
        raise ZeroDivisionError("SECRET")

    found = made(broken)
    says(found, "failed", "the check itself broke: ZeroDivisionError")
    assert "SECRET" not in found.found + found.hint
