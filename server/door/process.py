"""The server's process: Flower's SuperLink on loopback, our gateway with TLS in front of it, and the runs' supervisor.

The SuperLink keeps its state in memory. What must outlive a crash is in ``moonflower.db``, and nodes log in again by
themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from ... import logs
from ...configs.roles import ServerConfig
from ...errors import InputError
from ...oauth.tokens import Principal, TokenVerifier
from ..dashboard.routes import Dashboard
from ..dashboard.sessions import Sessions
from ..dashboard.signin import Login
from ..records import denied
from ..records import members as roster
from ..records.envelopes import WARNING
from ..records.members import RosterMember
from ..records.pseudonyms import read_pseudonyms
from ..records.state import State
from ..watch import narrator, scrape
from ..watch.feed import Feed
from ..watch.follow import Follower
from ..watch.metrics import Metrics, Process, registry
from ..watch.views import Views
from . import peers
from .api import Api
from .flower import overheard
from .flower.superlink import SuperLink, runtime_only, surround
from .gateway import Gateway
from .limits import protocol, take_all_files
from .supervisor import Supervisor

logger = logging.getLogger(__name__)
HANDSHAKE_S = 10.0
EXPIRE_S = 600.0  # how often the server looks for envelopes to delete
YOUNG_S = 3600.0  # an envelope may be written before the row that says who needs it


class _Loop(uvloop.Loop):
    """An event loop that closes connections whose TLS handshake takes too long."""

    async def create_server(self, *arguments: Any, **more: Any) -> Any:
        if more.get("ssl") is not None:
            more["ssl_handshake_timeout"] = HANDSHAKE_S
        return await super().create_server(*arguments, **more)


class NoSignals(uvicorn.Server):
    """One of several listeners in a process that handles signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


def serve(config: ServerConfig, path: Path) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        config: of the server.
        path: its file; the ServerApp reads it too.

    Raises:
        InputError: an address is taken; certificate, key or token cannot be read; another process uses the state; or
            the config's members contradict the roster on record.
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
        surround(settings.state, path, overheard.opened(settings.log_format))
        with asyncio.Runner(loop_factory=_Loop) as runner:  # half the time of asyncio's own
            runner.run(_run(config, state, Sockets(outer, inner, scraped), tls, token))


async def _run(config: ServerConfig, state: State, sockets: Sockets, tls: ssl.SSLContext, token: bytes | None) -> None:
    await ServerProcess(config, state, sockets, tls, token).run()


@dataclass(frozen=True)
class Sockets:
    """What the server listens on: for members and submitters, for its own ServerApp, and for scrapes of its metrics."""

    outer: socket.socket
    inner: socket.socket
    scraped: socket.socket | None


class ServerProcess:
    """The listeners of a server and its background tasks, on one event loop.

    Args:
        config: of the server.
        state: the coordinator's records.
        sockets: bound already.
        tls: for the public listener, and for the metrics if they are not on loopback.
        token: the token that a scrape of the metrics must show; None if none is required.
    """

    def __init__(
        self, config: ServerConfig, state: State, sockets: Sockets, tls: ssl.SSLContext, token: bytes | None
    ) -> None:
        settings = config.server
        self._state, self._sockets = state, sockets
        self.url = settings.url or f"https://{settings.listen.rpartition(':')[0]}:{sockets.outer.getsockname()[1]}"
        self._superlink = SuperLink(sockets.inner.getsockname()[1])
        flower = self._superlink.held
        self._supervisor = Supervisor(state, self._superlink, settings.restarts)
        self._follower = Follower(state.log)
        self._follower.join(narrator.tell, news_only=True)
        self._feed = Feed(settings.feed, settings.federation)
        self._follower.join(self._feed.entry, news_only=True)
        views = Views(state, self._superlink.online, self._follower)
        names = read_pseudonyms(settings.pseudonym_key)
        api = Api(state, settings.federation, self._supervisor.wake, settings.min_approvals, views, names)
        verifier = TokenVerifier(config.oauth, url=self.url)
        self._dashboard = _dashboard(config, api, verifier, self.url, self._is_denied, self._feed)
        gateway = Gateway(
            flower=flower,
            api=api.app,
            scopes=api.scopes,
            verifier=verifier,
            member_of=self._member_of,
            denied=self._is_denied,
            login=lambda _member, key: self._superlink.login(key),
            note=self._note,
            settings=settings,
            dashboard=self._dashboard,
            tell=self._feed.door,
        )
        connections: Counter[str] = Counter()
        self._inside = _listener(runtime_only(flower), http=peers.OwnUserOnly)
        self._outside = _listener(
            gateway,
            http=protocol(settings.head_timeout_s, settings.connections_per_address, connections, gateway.cut),
            ssl_context_factory=lambda *_: tls,
            lifespan="off",
            server_header=False,
        )
        process = Process(self._superlink.online, lambda: sum(connections.values()), lambda: dict(gateway.refusals))
        metrics = Metrics(state, process, self._follower)
        self._beside = NoSignals(scrape.served(scrape.Scrape(registry(metrics), token), settings, tls))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        opened = loop.create_task(self._outside.serve([self._sockets.outer]))
        watched = loop.create_task(self._supervisor.watch())
        others = (
            loop.create_task(self._follower.follow()),
            loop.create_task(_expire(self._state)),
            loop.create_task(self._announce()),
        )
        shown = loop.create_task(self._show())

        def leave() -> None:
            watched.cancel()
            self._superlink.rest()
            self._inside.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        try:
            await self._inside.serve([self._sockets.inner])
        finally:
            self._outside.should_exit = self._beside.should_exit = True
            if self._dashboard is not None:
                self._dashboard.close()
            for task in (watched, *others):
                task.cancel()
            await asyncio.gather(opened, shown, watched, *others, return_exceptions=True)
            self._feed.close()
            logger.info("stopped")

    async def _announce(self) -> None:
        while not (self._inside.started and self._outside.started):
            await asyncio.sleep(0.05)
        logger.info("listening on %s", self.url)

    async def _show(self) -> None:
        """Show the metrics once Flower has started and can say who is connected."""
        while not (self._inside.started or self._beside.should_exit):
            await asyncio.sleep(0.05)
        if self._sockets.scraped is not None:
            await self._beside.serve([self._sockets.scraped])

    def _member_of(self, issuer: str, client_id: str) -> RosterMember | None:
        with self._state.store.read() as db:
            return roster.by_client(db, issuer, client_id)

    def _is_denied(self, principal: Principal) -> bool:
        with self._state.store.read() as db:
            return denied.is_denied(db, principal.client_id, principal.subject)

    def _note(self, code: str, member: str, details: dict[str, Any]) -> None:
        with self._state.store.transaction() as db:
            self._state.log.append(db, "refused_member", member=member, code=code, **details)


def _listener(app: Any, **more: Any) -> NoSignals:
    """Return a listener that logs through our own log."""
    quiet: dict[str, Any] = {
        "log_level": "warning",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": 5,
        "ws": "none",
    }
    return NoSignals(uvicorn.Config(app, **quiet, **more))


def _dashboard(
    config: ServerConfig, api: Api, verifier: TokenVerifier, url: str, denied: Callable[[Principal], bool], feed: Feed
) -> Dashboard | None:
    """Return the pages for people, if the config asks for them."""
    settings = config.dashboard
    if settings is None:
        return None
    return Dashboard(
        login=Login(settings, config.oauth, verifier, url),
        sessions=Sessions(settings.idle_s, settings.longest_s, time.time),
        api=api.app,
        scopes=api.scopes,
        denied=denied,
        tell=feed.door,
        views=api.views,
        federation=config.server.federation,
        url=url,
        clock=time.time,
    )


async def _expire(state: State) -> None:
    """Delete kept envelopes when their time is over: at the start, and then from time to time until cancelled."""
    while True:
        try:
            gone = await asyncio.to_thread(state.expire, YOUNG_S)
            if gone:
                logger.info("%d kept envelopes deleted: kept as long as the config says", gone)
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
            "config.key", f"{certificate} and {key}: expected a certificate and its key: {error.args[-1]}"
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
            why = error.strerror or error
            raise InputError("config.value", f"{setting} = {listen!r}: cannot listen there: {why}") from None
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
    """Add the config's members to the roster. The roster on record is what counts."""
    with state.store.transaction() as db:
        gone = roster.revoked(db)
        for member in config.member:
            if member.name in gone:
                logger.warning("member %s was revoked and stays revoked; remove it from the config", member.name)
                continue
            assert member.client_id is not None
            roster.add(db, state.log, RosterMember(member.name, config.oauth.issuer, member.client_id, member.pin))
