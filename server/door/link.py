"""The server process: Flower's SuperLink on loopback, our gateway with TLS in front of it, and the runs' supervisor.

The SuperLink keeps its state in memory: what must outlive a crash is in ``moonflower.db``, and nodes log in again by
themselves. Of flwr's private names, those of the server side are here and in ``hold.py`` only (contract test).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import importlib
import logging
import os
import signal
import socket
import ssl
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
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

from ... import logs
from ...configs import bundle
from ...configs.live import ServerConfig
from ...errors import InputError
from ..records import members as roster
from ..records.envelopes import WARNING
from ..records.members import Member
from ..records.state import State
from . import narrator, overheard, peers, scrape
from .api import Api
from .dashboard.login import Login
from .dashboard.routes import Dashboard
from .dashboard.sessions import Sessions
from .gateway import Gateway, pin_of
from .hold import HoldObjects
from .limits import protocol, take_all_files
from .metrics import Metrics, Process, registry
from .supervisor import Supervisor
from .tokens import Verifier

logger = logging.getLogger(__name__)
HOLD_S = 5.0
HANDSHAKE_S = 10.0
EXPIRE_S = 600.0  # how often the server looks for envelopes that were kept long enough
TASK_POLL_S = "0.2"  # how often Flower's SuperExec looks for a ServerApp to start
NEEDED = (ProtobufTranslationMiddleware, NodeAuthMiddleware)
_superlink = importlib.import_module("flwr.superlink.cli.flower_superlink")


class Flower:
    """The SuperLink's app, and the few things that are asked of it in process."""

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
        # The others serve the Control API, which nobody reaches here, and cost half a millisecond a request each.
        self.app.user_middleware = [one for one in self.app.user_middleware if _needed(one)]
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
            raise RuntimeError("Flower did not take the run")
        return int(reply.run_id)

    def is_over(self, flower_run: int) -> bool:
        """Return whether Flower takes a ServerApp's run for ended."""
        found = self._state.get_run_info(run_ids=[flower_run])
        return not found or found[0].status.status == "finished"

    def stop(self, flower_run: int) -> None:
        """End a ServerApp's run: nodes drop its messages."""
        self._state.stop_run(flower_run)

    def revive(self) -> None:
        """Start the process that starts ServerApps again, if it has died."""
        lifespan = self.app.state.superlink_lifespan
        process = lifespan.superexec_process
        if process is not None and process.poll() is not None:
            logger.warning("SuperExec ended with status %s; started again", process.returncode)
            lifespan._start_superexec_if_needed()

    def rest(self) -> None:
        """End that process: it would complain of a server that does not answer any more."""
        process = self.app.state.superlink_lifespan.superexec_process
        if process is not None:
            process.terminate()


def _needed(middleware: Any) -> bool:
    """Return whether one of Flower's middlewares has work on the Fleet or the Runtime API."""
    return middleware.cls in NEEDED or middleware.kwargs.get("dispatch") is http_error_translator


def runtime_only(app: Any) -> Any:
    """Return an ASGI app that shows of Flower's only what a ServerApp needs, and not what the gateway guards."""

    async def shown(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v1/runtime/"):
            await PlainTextResponse("", 404)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return shown


class _Loop(uvloop.Loop):
    """An event loop that is not patient with whoever opens a connection and does not get on with TLS."""

    async def create_server(self, *arguments: Any, **more: Any) -> Any:
        if more.get("ssl") is not None:
            more["ssl_handshake_timeout"] = HANDSHAKE_S
        return await super().create_server(*arguments, **more)


class _Server(uvicorn.Server):
    """One of two servers in a process that has its own way with signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(config: ServerConfig, path: Path) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        config: of the server.
        path: its file; the ServerApp reads it too.

    Raises:
        InputError: an address is taken, certificate, key or token cannot be read, the state is another process's,
            the roster contradicts the state.
    """
    peers.check_supported()
    take_all_files()
    os.umask(0o077)
    logs.to_stderr(config.server.log_format, "server")
    settings = config.server
    tls = _tls(settings.tls_cert, settings.tls_key)
    with contextlib.ExitStack() as stack:
        outer = stack.enter_context(_bound(settings.listen))
        inner = stack.enter_context(_bound("127.0.0.1:0"))
        scraped = stack.enter_context(_bound(settings.metrics, "server.metrics")) if settings.metrics else None
        token = scrape.read_token(settings.metrics_token_file) if settings.metrics_token_file else None
        state = State(settings.state, settings.federation, keep_envelopes_h=settings.keep_envelopes_h)
        stack.callback(state.close)
        stack.enter_context(_locked(settings.state))
        if settings.keep_envelopes_h:
            logger.warning(WARNING.format(hours=settings.keep_envelopes_h))
        _enter_roster(state, config)
        _environment(settings.state, path, overheard.opened(settings.log_format))
        with asyncio.Runner(loop_factory=_Loop) as runner:  # half the time of asyncio's own
            runner.run(_serve(config, state, Sockets(outer, inner, scraped), tls, token))


@dataclasses.dataclass(frozen=True)
class Sockets:
    """What the server listens on: for members and desks, for its own ServerApp, and for whoever scrapes its metrics."""

    outer: socket.socket
    inner: socket.socket
    scraped: socket.socket | None


async def _serve(
    config: ServerConfig, state: State, sockets: Sockets, tls: ssl.SSLContext, token: bytes | None
) -> None:
    settings = config.server
    url = settings.url or f"https://{settings.listen.rpartition(':')[0]}:{sockets.outer.getsockname()[1]}"
    flower = Flower(sockets.inner.getsockname()[1])
    held = HoldObjects(flower.app, HOLD_S)
    supervisor = Supervisor(state, flower, settings.restarts)
    api = Api(state, settings.federation, supervisor.wake, settings.min_approvals, flower.online)
    verifier = Verifier(config.oauth, url=url)
    dashboard = _dashboard(config, api, verifier, url)

    def member_of(issuer: str, client_id: str) -> Member | None:
        with state.store.read() as db:
            return roster.by_client(db, issuer, client_id)

    def note(code: str, member: str, details: dict[str, Any]) -> None:
        with state.store.transaction() as db:
            state.log.append(db, "refused_member", member=member, code=code, **details)

    gateway = Gateway(
        flower=held,
        api=api.app,
        scopes=api.scopes,
        verifier=verifier,
        member_of=member_of,
        login=lambda _member, key: flower.login(key),
        note=note,
        settings=settings,
        dashboard=dashboard,
    )
    quiet: dict[str, Any] = {
        "log_level": "warning",
        "log_config": None,  # it says what it says through our own
        "access_log": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": 5,
    }
    inside = _Server(uvicorn.Config(runtime_only(held), http=peers.OwnUserOnly, ws="none", **quiet))
    connections: Counter[str] = Counter()
    limited = protocol(settings.head_timeout_s, settings.connections_per_address, connections, gateway.cut)
    secured: dict[str, Any] = {"ssl_context_factory": lambda *_: tls, "lifespan": "off", "server_header": False}
    outside = _Server(uvicorn.Config(gateway, http=limited, ws="none", **secured, **quiet))
    metrics = Metrics(state, Process(flower.online, lambda: sum(connections.values()), lambda: dict(gateway.refusals)))
    beside = _Server(scrape.served(scrape.Scrape(registry(metrics), token), settings, tls))
    loop = asyncio.get_running_loop()
    opened = loop.create_task(outside.serve([sockets.outer]))
    watched = loop.create_task(supervisor.watch())
    narrated = loop.create_task(narrator.narrate(state))
    expired = loop.create_task(_expire(state))

    async def announce() -> None:
        while not (inside.started and outside.started):
            await asyncio.sleep(0.05)
        logger.info("listening on %s", url)

    async def show() -> None:
        while not (inside.started or beside.should_exit):  # Flower can be asked who is connected when it has started
            await asyncio.sleep(0.05)
        if sockets.scraped is not None:
            await beside.serve([sockets.scraped])

    def leave() -> None:
        watched.cancel()
        flower.rest()
        inside.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    ready, shown = loop.create_task(announce()), loop.create_task(show())
    try:
        await inside.serve([sockets.inner])
    finally:
        outside.should_exit = beside.should_exit = True
        if dashboard is not None:
            dashboard.close()
        for task in (watched, narrated, expired, ready):
            task.cancel()
        await asyncio.gather(opened, shown, watched, narrated, expired, ready, return_exceptions=True)
        logger.info("stopped")


def _dashboard(config: ServerConfig, api: Api, verifier: Verifier, url: str) -> Dashboard | None:
    """Return the pages for people, if the config asks for them."""
    settings = config.dashboard
    if settings is None:
        return None
    return Dashboard(
        login=Login(settings, config.oauth, verifier, url),
        sessions=Sessions(settings.idle_s, settings.longest_s, time.time),
        api=api.app,
        scopes=api.scopes,
        views=api.views,
        federation=config.server.federation,
        url=url,
        clock=time.time,
    )


async def _expire(state: State) -> None:
    """Delete kept envelopes when their time is over, at the start and then now and again, until cancelled."""
    while True:
        try:
            gone = await asyncio.to_thread(state.envelopes.expire)
            if gone:
                logger.info("%d kept envelopes deleted: their time is over", gone)
        except OSError as error:
            logger.error("kept envelopes cannot be deleted: %s", error)
        await asyncio.sleep(EXPIRE_S)


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file in (certificate, key):
        if not file.is_file():
            raise InputError("config.file", f"{file} does not exist; expected a PEM file")
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            "config.key", f"{certificate} and {key} are no certificate and key that fit: {error.args[-1]}"
        ) from None
    return context


@contextlib.contextmanager
def _bound(listen: str, setting: str = "server.listen") -> Iterator[socket.socket]:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise InputError("config.value", f"{setting} = {listen!r}: {error.strerror or error}") from None
        yield bound


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the state folder: two servers on one state would both start runs."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError("config.state", f"{folder} is in use by another moonflower server") from None
        yield


def _enter_roster(state: State, config: ServerConfig) -> None:
    """Add the config's members to the roster; the roster on record is what counts."""
    with state.store.transaction() as db:
        gone = roster.revoked(db)
        for one in config.member:
            if one.name in gone:
                logger.warning("member %s was revoked and stays so; remove it from the config", one.name)
                continue
            assert one.client_id is not None
            roster.add(db, state.log, Member(one.name, config.oauth.issuer, one.client_id, one.pin))


def _environment(folder: Path, path: Path, log: Path) -> None:
    """Tell Flower's processes where they are: own home, no network of their own, our config, our log."""
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
    os.environ["FLWR_LOG_LEVEL"] = "WARNING"  # SuperExec has no other way to be told
