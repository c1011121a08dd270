"""A real Flower SuperLink on loopback, in this process, with a door in front that can be made to fail."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid
from flwr.superlink.main import create_app
from moonflower.client.keyring import make_keys
from moonflower.configs.bundle import DIGEST

from support import PATIENCE_S

QUICK = partial(inflatable_utils.pull_objects, initial_backoff=0.05)
Rule = Callable[[str], tuple[int, dict[str, str], dict[str, Any]] | None]


@dataclass
class SuperLink:
    """A running SuperLink; ``trouble`` may answer in its place, ``calls`` are the paths that it was asked."""

    port: int
    app: Any = None
    trouble: Rule | None = None
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forget()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Any:
        return self.app.state.linkstate_factory.state()

    def forget(self) -> None:
        """Lose everything, as a restart with in-memory state does."""
        self.app = create_app()

    def register(self, public: ec.EllipticCurvePublicKey) -> int:
        return int(self.state.create_node(NOOP_FLWR_AID, "none", public_key_to_bytes(public), 0))

    def status(self, node: int) -> str:
        return str(self.state.get_node_info(node_ids=[node])[0].status)

    def run(self, digest: str = DIGEST) -> Run:
        run_id = self.state.create_run(
            "moonflower/app", "1", digest, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        return Run(self, run_id)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.calls.append(scope["path"])
        said = self.trouble(scope["path"]) if self.trouble else None
        if said is None:
            await self.app(scope, receive, send)
            return
        status, headers, body = said
        lines = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


class Run:
    """A run that is going on, seen from its ServerApp."""

    def __init__(self, link: SuperLink, run_id: int) -> None:
        self.link, self.run_id = link, run_id
        info = link.state.get_run_info(run_ids=[run_id])[0]
        self.task = info.primary_task_id
        token = link.state.claim_task(self.task)
        assert link.state.activate_task(self.task)
        self.grid = http_grid.HttpGrid(f"127.0.0.1:{link.port}", insecure=True, token=token)
        self.grid.set_run(info)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, self.task

    def send(self, node: int, kind: str, content: RecordDict) -> str:
        (sent,) = self.grid.push_messages([Message(content, node, kind)])
        assert sent
        return str(sent)

    def reply(self, sent: str, timeout: float = PATIENCE_S) -> Message:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for message in self.grid.pull_messages([sent]):
                return message
            time.sleep(0.02)
        raise AssertionError("no reply came")

    def ask(self, node: int, kind: str, content: RecordDict, timeout: float = 20.0) -> Message:
        return self.reply(self.send(node, kind, content), timeout)

    def end(self) -> None:
        assert self.link.state.finish_task(self.task, "stopped", "")

    def close(self) -> None:
        self.grid.close()


@contextmanager
def superlink() -> Iterator[SuperLink]:
    """A SuperLink on a port of the system's choice."""
    listening = socket.create_server(("127.0.0.1", 0))
    link = SuperLink(listening.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(link, log_level="critical", lifespan="off", ws="none", date_header=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    before = http_grid.pull_objects
    http_grid.pull_objects = QUICK  # its own first pause is a second
    try:
        yield link
    finally:
        http_grid.pull_objects = before
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()


def wait_for(condition: Callable[[], Any], timeout: float = PATIENCE_S) -> Any:
    until = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)
    return found


CONFIG = """
[client]
member = "{member}"
server = "{server}"
tasks = ["moonflower.client.tasks.tabular:task"]
poll_s = 0.05
idle_poll_s = 0.05
isolate = {isolate}

[circle]
min_members = 3
runs_a_day = 20
max_envelope_mb = 64

[oauth]
issuer = "http://127.0.0.1:1"
client_id = "node"
key = "oauth.jwk"

[data]
path = "{heart}"
site = "site"
"""


def client_config(
    folder: Path, data: Path, *, server: str = "http://127.0.0.1:1", member: str = "Cleveland", isolate: bool = True
) -> Path:
    """A client config on the heart data, with its keys."""
    path = folder / "client.toml"
    path.write_text(
        CONFIG.format(
            member=member,
            server=server,
            isolate=str(isolate).lower(),
            heart=data / "heart.csv.gz",
        )
    )
    make_keys(folder / "state")
    return path
