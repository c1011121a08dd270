"""A federation of real processes on this machine: issuer, server and one client a member, from a run config.

Everything that separate machines would have is made here, each in its own folder: keys, cards, pins, certificates,
configs. Reading these files is the shortest way to see what a real deployment consists of. It protects nobody from
whoever runs it: all keys lie on one disk.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from . import report
from .client.door.login import new_client_key
from .client.keyring import load_keys, make_keys
from .configs.live import OperatorConfig, load_config
from .configs.settings import RunSettings
from .crypto.certificates import for_loopback
from .errors import Ended, MoonflowerError, Refused
from .remote import Event, Remote, await_ready

logger = logging.getLogger(__name__)
AUDIENCE = "https://moonflower.invalid/"
START_S = 60.0
STOP_S = 15.0
DESK = "desk:operator"  # no member can have this name
OPERATOR = ["fl:run", "fl:audit"]


@dataclass(frozen=True)
class Stage:
    """Where everything of a federation on one machine lies.

    Attributes:
        folder: of all; also the server's state.
        issuer, server, operator: config files.
        clients: member → config file.
        issuer_url, server_url: addresses.
    """

    folder: Path
    issuer: Path
    server: Path
    operator: Path
    clients: Mapping[str, Path]
    issuer_url: str
    server_url: str


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        result: the content of result.json.
        out: the folder.
        error: why the run did not come to its planned end, or None.
    """

    result: dict[str, Any]
    out: Path
    error: MoonflowerError | None


def stage(
    settings: RunSettings,
    members: tuple[str, ...],
    folder: Path,
    *,
    server: Mapping[str, Any] | None = None,
    oauth: Mapping[str, Any] | None = None,
    issuer: Mapping[str, Any] | None = None,
    issuer_url: str = "",
) -> Stage:
    """Write keys and configs for a federation on this machine.

    Args:
        settings: of the run; [data] says where the rows are.
        members: names.
        folder: empty.
        server, oauth, issuer: settings that differ from the defaults: [server], the server's [oauth], [issuer].
        issuer_url: of an authorization server of somebody else's; "" for the embedded one.
    """
    now = datetime.now(UTC)
    ports = _free_ports(2)
    issuer_url = issuer_url or f"http://127.0.0.1:{ports[0]}"
    server_url = f"https://127.0.0.1:{ports[1]}"
    certificates = for_loopback(now)
    _write(folder / "ca.pem", certificates.ca)
    _write(folder / "server.pem", certificates.certificate)
    _write(folder / "server.key", certificates.key, private=True)
    homes = {name: folder / "clients" / slug for name, slug in _slugs(members).items()}
    pins = {name: _pin(home / "state") for name, home in homes.items()}
    who = {**{name: (home, ["fl:train"]) for name, home in homes.items()}, DESK: (folder / "operator", OPERATOR)}
    clients = [
        {"client_id": name, "key": str(_client_key(home).relative_to(folder)), "scopes": scopes}
        for name, (home, scopes) in who.items()
    ]
    listed = {"listen": f"127.0.0.1:{ports[0]}", "state": "issuer", "audience": AUDIENCE, **(issuer or {})}
    _config(folder / "issuer.toml", {"issuer": listed, "client": clients})
    whole = {
        "server": {
            "listen": f"127.0.0.1:{ports[1]}",
            "url": server_url,
            "state": ".",
            "tls_cert": "server.pem",
            "tls_key": "server.key",
            "federation": settings.federation.name,
            "min_approvals": settings.gate.approvals,
            **(server or {}),
        },
        "oauth": {"issuer": issuer_url, "audience": AUDIENCE, **(oauth or {})},
        "member": [{"name": name, "client_id": name, "pin": pin} for name, pin in pins.items()],
    }
    _config(folder / "server.toml", whole)
    login = {"issuer": issuer_url, "audience": AUDIENCE, "key": "oauth.key"}
    asks = {"operator": {"server": server_url, "ca": "../ca.pem"}, "oauth": {**login, "client_id": DESK}}
    _config(folder / "operator" / "operator.toml", asks)
    for name, home in homes.items():
        others = [{"name": other, "pin": pin} for other, pin in pins.items() if other != name]
        floor = settings.floor().model_dump(mode="json", exclude_none=True)
        node = {**floor, "member": name, "server": server_url, "ca": "../../ca.pem", "idle_poll_s": 0.5}
        tables = {"client": node, "oauth": {**login, "client_id": name}, **_data(settings), "member": others}
        _config(home / "client.toml", tables)
    return Stage(
        folder,
        folder / "issuer.toml",
        folder / "server.toml",
        folder / "operator" / "operator.toml",
        {name: home / "client.toml" for name, home in homes.items()},
        issuer_url,
        server_url,
    )


def _data(settings: RunSettings) -> dict[str, Any]:
    """Return [data] and [simulate] as every node gets them; each takes only its own part of the table."""
    data = settings.data.model_dump(mode="json", by_alias=True, exclude_none=True)
    simulate = settings.simulate.model_dump(mode="json", exclude_none=True)
    return {"data": data, "simulate": simulate}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of one of our processes."""
    return [sys.executable, "-m", "moonflower", *map(str, arguments)]


class Processes:
    """Processes that are started, found dead, and ended together; each writes its own log file.

    Args:
        logs: folder of the log files.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, line: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process under a name."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{_slug(name)}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we end them, in order
                env=None if environment is None else {**os.environ, **environment},
            )

    def check(self) -> None:
        """Check that all are alive.

        Raises:
            Refused: ``run.unreachable``: one ended; says what it said last.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                log = self._logs / f"{_slug(name)}.log"
                said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                last = said[-1] if said else "it said nothing"
                ended = f"{name} ended with status {process.returncode}: {last}"
                raise Refused("run.unreachable", ended, hint=str(log))

    def end(self) -> None:
        """End all, the newest first."""
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.running.items():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end within %g s and was killed", name, STOP_S)
                process.kill()
                process.wait()
        self.running.clear()


@contextmanager
def raised(stage: Stage) -> Iterator[Processes]:
    """Start issuer, server and clients, and end them afterwards."""
    processes = Processes(stage.folder / "logs")
    try:
        processes.start("issuer", command("issuer", stage.issuer))
        processes.start("server", command("server", stage.server))
        for name, config in stage.clients.items():
            processes.start(name, command("client", config))
        await_ready(lambda: is_up(stage, processes), "the server", START_S)
        yield processes
    finally:
        processes.end()


def is_up(stage: Stage, processes: Processes | None = None) -> bool:
    """Return whether issuer and server answer."""
    if processes is not None:
        processes.check()
    trusted = ssl.create_default_context(cafile=stage.folder / "ca.pem")
    try:
        discovery = f"{stage.issuer_url}/.well-known/openid-configuration"
        return all(
            httpx.get(url, verify=trusted, timeout=5.0, trust_env=False).is_success
            for url in (discovery, f"{stage.server_url}/health")
        )
    except httpx.TransportError:
        return False


def up(
    settings: RunSettings,
    members: tuple[str, ...],
    schema_digest: str,
    folder: Path,
    on_event: Callable[[Event], None],
) -> Finished:
    """Run a federation of real processes and return its result; everything is written to ``folder``."""
    staged = stage(settings, members, folder)
    with raised(staged):
        remote = Remote(load_config(OperatorConfig, staged.operator))
        try:
            run = remote.submit(settings.offer(schema_digest))
            for event in remote.follow(run):
                on_event(event)
            shown = remote.show(run)
        finally:
            remote.close()
    result = shown["result"]
    report.write(result, folder)
    return Finished(result, folder, ending(shown))


def ending(shown: Mapping[str, Any]) -> MoonflowerError | None:
    """Return why a run did not come to its planned end, or None."""
    status, code = shown["status"], shown["code"]
    if status == "done":
        return None
    kind = Ended if status in ("policy", "stopped") else Refused
    return kind(code or "run.crashed", f"the run ended as {status}: {code}")


def _free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on now; the processes take them in a moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _slug(name: str) -> str:
    return "-".join(re.findall(r"[A-Za-z0-9]+", name)).lower() or "member"


def _slugs(names: tuple[str, ...]) -> dict[str, str]:
    """Return a folder name for each member; alike names get a number."""
    found: dict[str, str] = {}
    for name in names:
        slug, number = _slug(name), 1
        while slug in found.values():
            number += 1
            slug = f"{_slug(name)}-{number}"
        found[name] = slug
    return found


def _pin(state: Path) -> str:
    """Make a node's keys; returns its pin."""
    make_keys(state)
    return load_keys(state).pin


def _client_key(home: Path) -> Path:
    """Write a new OAuth key into a folder; returns the public file."""
    secret, shared = new_client_key()
    _write(home / "oauth.key", json.dumps(secret).encode(), private=True)
    public = home / "oauth.pub"
    _write(public, json.dumps(shared).encode())
    return public


def _config(path: Path, tables: Mapping[str, Any]) -> None:
    _write(path, tomli_w.dumps(tables).encode())


def _write(path: Path, data: bytes, *, private: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
