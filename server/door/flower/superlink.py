"""Flower's SuperLink in this process: its app behind our gateway, and the few calls that we make to it.

flwr's private names of the server side are used here and in ``hold.py`` only (contract test).
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.error import http_error_translator
from flwr.supercore.fab import Fab
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.servicer.control import control_handlers
from starlette.responses import PlainTextResponse

from ....configs import bundle
from ..gateway import pin_of
from .hold import Hold

logger = logging.getLogger(__name__)
TASK_POLL_S = "0.2"  # how often Flower's SuperExec looks for a ServerApp to start
NEEDED = (ProtobufTranslationMiddleware, NodeAuthMiddleware)
_superlink = importlib.import_module("flwr.superlink.cli.flower_superlink")


class SuperLink:
    """The SuperLink's app, and the few calls that we make to it in process.

    Attributes:
        app: Flower's own.
        held: the same, where requests wait for what will be there soon.
    """

    def __init__(self, port: int) -> None:
        arguments, sys.argv = (
            sys.argv,
            [
                "flower-superlink",
                "--insecure",  # plaintext stays on loopback; the gateway has TLS
                "--host=127.0.0.1",
                f"--port={port}",
                "--disable-runtime-dependency-installation",
            ],
        )
        logging.getLogger("flwr").setLevel(logging.ERROR)  # its warnings here are about what the gateway does
        try:
            settings = _superlink._parse_superlink_lifespan_config()
        finally:
            sys.argv = arguments
            logging.getLogger("flwr").setLevel(logging.WARNING)
        settings = dataclasses.replace(settings, enable_supernode_auth=True)
        self.app = create_app(settings, _superlink.SuperLinkLifespan)
        # The others serve the Control API, which cannot be reached here, and each costs half a millisecond a request.
        self.app.user_middleware = [layer for layer in self.app.user_middleware if _needed(layer)]
        self.held = Hold(self.app)
        self._fleet_api = settings.fleet_api_type

    @property
    def _state(self) -> Any:
        return self.app.state.linkstate_factory.state()

    def login(self, key: bytes) -> None:
        """Make the node with this public key (PEM) known, and end a session that its dead process left behind."""
        state = self._state
        node = state.get_node_id_by_public_key(key)
        if node is None:
            state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)
        else:
            state.deactivate_node(node)

    def online(self) -> frozenset[str]:
        """Return the pins of the nodes that are connected now."""
        pins = (pin_of(node.public_key) for node in self._state.get_node_info(statuses=["online"]))
        return frozenset(pin for pin in pins if pin)

    def start(self, run: str) -> int:
        """Start a ServerApp for one of our runs; returns Flower's id."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(bundle.DIGEST, bundle.BYTES, {})),
            override_config=user_config_to_proto({bundle.RUN_KEY: run}),
        )
        account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
        reply = control_handlers.start_run(request, account, self._state, self._fleet_api)
        if not reply.HasField("run_id"):
            raise RuntimeError("Flower did not accept the run")
        self.held.wake()
        return int(reply.run_id)

    def is_over(self, flower_run: int) -> bool:
        """Return whether a ServerApp's run is over, according to Flower."""
        runs = self._state.get_run_info(run_ids=[flower_run])
        return not runs or runs[0].status.status == "finished"

    def stop(self, flower_run: int) -> None:
        """End a ServerApp's run: nodes drop its messages."""
        self._state.stop_run(flower_run)

    def revive(self) -> None:
        """Restart SuperExec, the process that starts ServerApps, if it has died."""
        lifespan = self.app.state.superlink_lifespan
        process = lifespan.superexec_process
        if process is not None and process.poll() is not None:
            logger.warning("SuperExec ended with status %s; started again", process.returncode)
            lifespan._start_superexec_if_needed()

    def rest(self) -> None:
        """End SuperExec, which would otherwise complain that the server does not answer any more."""
        process = self.app.state.superlink_lifespan.superexec_process
        if process is not None:
            process.terminate()
        self.held.wake()


def _needed(middleware: Any) -> bool:
    """Return whether one of Flower's middlewares is needed for the Fleet API or the Runtime API."""
    return middleware.cls in NEEDED or middleware.kwargs.get("dispatch") is http_error_translator


def runtime_only(app: Any) -> Any:
    """Return an ASGI app with only the routes of Flower's app that a ServerApp needs, not those behind the gateway."""

    async def shown(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v1/runtime/"):
            await PlainTextResponse("", 404)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return shown


def surround(folder: Path, path: Path, log: Path) -> None:
    """Set the environment of Flower's processes: their home, no proxy for loopback, our config, our log."""
    home = folder / "flower"
    home.mkdir(mode=0o700, exist_ok=True)
    os.environ["FLWR_HOME"] = str(home.resolve())
    os.environ["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = TASK_POLL_S
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    for name in ("NO_PROXY", "no_proxy"):  # a proxy is for the way out, not for loopback
        os.environ[name] = ",".join(word for word in (os.environ.get(name, ""), "127.0.0.1") if word)
    os.environ[bundle.SERVER_CONFIG] = str(path.resolve())
    os.environ[bundle.SERVER_LOG] = str(log)
    os.environ[bundle.SERVER_PROCESS] = str(os.getpid())
    os.environ["FLWR_LOG_LEVEL"] = "WARNING"  # SuperExec has no other way to set it
