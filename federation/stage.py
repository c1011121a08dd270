"""The files of a federation on one machine: keys, circle, certificates and configs, each in its folder.

Reading these files is the shortest way to see what a real deployment consists of.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from .. import files
from ..client.circles import circles_of
from ..client.keyring import load_keys, make_keys
from ..client.ledger.mark import open_ledger
from ..client.secret import NodeSecret
from ..configs.names import slug
from ..configs.recipe import Recipe
from ..configs.roles import ClientConfig, ServerConfig, load_config
from ..configs.settings import RunSettings
from ..oauth.keys import new_client_key
from ..server.records.state import State
from . import practice
from .certificates import for_loopback

AUDIENCE = "https://moonflower.invalid/"
DESK = "desk:operator"  # no member can have this name
OPERATOR = ["fl:run", "fl:audit"]


@dataclass(frozen=True)
class Stage:
    """Where the files of a federation on one machine are.

    Attributes:
        folder: holds all of them; it is also the server's state folder.
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


def stage(
    settings: RunSettings,
    members: tuple[str, ...],
    folder: Path,
    *,
    server: Mapping[str, Any] | None = None,
    oauth: Mapping[str, Any] | None = None,
    issuer: Mapping[str, Any] | None = None,
    issuer_url: str = "",
    recipe: Recipe | None = None,
) -> Stage:
    """Write keys and configs for a federation on this machine.

    Args:
        settings: the run's settings; [data] says where the rows are.
        members: the members' names.
        folder: an empty folder.
        server, oauth, issuer: settings that differ from the defaults, in [server], the server's [oauth] and [issuer].
        issuer_url: address of another authorization server; "" for the embedded one.
        recipe: recipe of a circle that all members sign here; None if their operators sign a circle later.
    """
    ports = free_ports(2)
    accounts = slugs(members)
    issuer_url = issuer_url or f"http://127.0.0.1:{ports[0]}"
    staged = Stage(
        folder,
        folder / "issuer.toml",
        folder / "server.toml",
        folder / "operator" / "operator.toml",
        {name: folder / "clients" / plain / "client.toml" for name, plain in accounts.items()},
        issuer_url,
        f"https://127.0.0.1:{ports[1]}",
    )
    _certificates(folder)
    practice = settings.federation.practice
    pins = {
        name: _pin(config.parent / "state", NodeSecret.for_practice(settings.training.seed, name) if practice else None)
        for name, config in staged.clients.items()
    }
    homes = {**{name: config.parent for name, config in staged.clients.items()}, DESK: staged.operator.parent}
    clients = [
        {
            "client_id": accounts.get(name, name),
            "key": str(client_key(home).relative_to(folder)),
            "scopes": OPERATOR if name == DESK else ["fl:train"],
        }
        for name, home in homes.items()
    ]
    listed = {"listen": f"127.0.0.1:{ports[0]}", "state": "issuer", "audience": AUDIENCE, **(issuer or {})}
    _config(staged.issuer, {"issuer": listed, "client": clients})
    asked = {"listen": f"127.0.0.1:{ports[1]}", "url": staged.server_url, **(server or {})}
    _config(staged.server, _server(settings, asked, {"issuer": issuer_url, **(oauth or {})}, pins, accounts))
    login = {"issuer": issuer_url, "audience": AUDIENCE, "key": "oauth.key"}
    desk = {"server": staged.server_url, "ca": "../ca.pem"}
    _config(staged.operator, {"operator": desk, "oauth": {**login, "client_id": DESK}})
    for name, config in staged.clients.items():
        _config(config, _client(settings, name, staged.server_url, {**login, "client_id": accounts[name]}))
    if recipe is not None:
        _begin_circle(staged, recipe)
    return staged


def _begin_circle(staged: Stage, recipe: Recipe) -> None:
    """Sign the circle of a recipe for all members, as their operators would."""
    before = os.umask(0o077)  # the files written here belong to the nodes and the server
    try:
        with ExitStack() as stack:
            server = load_config(ServerConfig, staged.server).server
            state = stack.enter_context(closing(State(server.state, server.federation)))
            members = {}
            for name, path in staged.clients.items():
                config, keys = load_config(ClientConfig, path), load_keys(path.parent / "state")
                ledger = stack.enter_context(closing(open_ledger(config.client.state, keys.secret)))
                members[name] = circles_of(config, keys, ledger.circles)
            practice.begin(recipe, members, state)
    finally:
        os.umask(before)


def _certificates(folder: Path) -> None:
    certificates = for_loopback(datetime.now(UTC))
    write(folder / "ca.pem", certificates.ca)
    write(folder / "server.pem", certificates.certificate)
    write(folder / "server.key", certificates.key, private=True)


def _server(
    settings: RunSettings,
    asked: Mapping[str, Any],
    oauth: Mapping[str, Any],
    pins: Mapping[str, str],
    accounts: Mapping[str, str],
) -> dict[str, Any]:
    """Return the tables of server.toml."""
    usual = {
        "state": ".",
        "tls_cert": "server.pem",
        "tls_key": "server.key",
        "federation": settings.federation.name,
        "min_approvals": settings.gate.approvals,
    }
    return {
        "server": {**usual, **asked},
        "oauth": {"audience": AUDIENCE, **oauth},
        "member": [{"name": name, "client_id": accounts[name], "pin": pin} for name, pin in pins.items()],
    }


def _client(settings: RunSettings, name: str, server_url: str, login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a member's client.toml. Each node takes only its own part of the shared table of rows."""
    floor = settings.floor().model_dump(mode="json", exclude_none=True)
    node = {**floor, "member": name, "server": server_url, "ca": "../../ca.pem", "idle_poll_s": 0.5}
    given = {name: getattr(settings.data, name) for name in ("path", "site", "checkpoint")}
    data = {name: str(value) for name, value in given.items() if value}
    simulate = settings.simulate.model_dump(mode="json", exclude_none=True)
    circle = practice.floor(settings.federation.min_members).model_dump(mode="json", exclude_defaults=True)
    return {"client": node, "circle": circle, "oauth": login, "data": data, "simulate": simulate}


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that are free now. The federation's processes take them soon."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def slugs(names: tuple[str, ...]) -> dict[str, str]:
    """Return a folder name for each member. If two would be the same, a number is added."""
    folders: dict[str, str] = {}
    for name in names:
        plain = slug(name)
        folder, number = plain, 1
        while folder in folders.values():
            number += 1
            folder = f"{plain}-{number}"
        folders[name] = folder
    return folders


def _pin(state: Path, practice: NodeSecret | None) -> str:
    """Make a node's keys and return its pin. In practice, the secret is that of a simulated member of this name."""
    make_keys(state, practice=practice)
    return load_keys(state).pin


def client_key(home: Path) -> Path:
    """Write a new OAuth key into a folder; return the path of the public half."""
    secret, shared = new_client_key()
    write(home / "oauth.key", json.dumps(secret).encode(), private=True)
    public = home / "oauth.pub"
    write(public, json.dumps(shared).encode())
    return public


def _config(path: Path, tables: Mapping[str, Any]) -> None:
    write(path, tomli_w.dumps(tables).encode())


def write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a new file, and its folder if needed. A private file is readable by this user only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.create(path, data, 0o600 if private else 0o644)
