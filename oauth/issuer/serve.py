"""The embedded issuer: an OAuth 2.0 authorization server for one machine, for trying out a federation.

It listens on loopback unless told otherwise explicitly. Its clients are those of its config. Its signing key is made at
first use, in a file that no other user can read. So are people's pass phrases (``people.py``), at every start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ... import files, logs
from ...configs.roles import IssuerClientSettings, IssuerConfig, is_loopback
from ...errors import InputError, nearest
from ..jws import SigningKey, new_key, private_key, public_key
from ..refusal import PROOF_ALGORITHMS
from .authority import ASSERTION_ALGORITHMS, METHOD, Authority, IssuerClient, Person
from .people import People

logger = logging.getLogger(__name__)
SCOPES = ("fl:train", "fl:run", "fl:approve", "fl:audit")
KEY_FILE = "issuer.key.json"
MAX_BODY_BYTES = 16 << 10
MAX_FIELDS = 32
BODY_S = 10.0


def application(config: IssuerConfig, url: str, *, clock: Callable[[], float] = time.time) -> Starlette:
    """Return the issuer as an ASGI app. ``app.state.clients`` holds its clients and may change.

    Args:
        config: the issuer's config.
        url: its address, which is also its name in tokens.
        clock: now, in seconds since 1970.

    Raises:
        InputError: ``config.key``: a client's key or the issuer's key cannot be used; ``config.value``: unknown scope.
    """
    clients = {client.client_id: _client(client) for client in config.client}
    key = signing_key(config.issuer.state / KEY_FILE)
    authority = Authority(
        url, config.issuer.audience, config.issuer.token_ttl_s, key, clients, clock, config.issuer.person_ttl_s
    )
    people = People([_person(person.name, person.scopes) for person in config.person], config.issuer.state, authority)
    metadata = _metadata(url, authority.token_endpoint)
    jwks = {"keys": [{**key.public.jwk, "use": "sig", "alg": key.algorithm}]}

    async def described(request: Request) -> Response:
        return JSONResponse(metadata)

    async def keys(request: Request) -> Response:
        return JSONResponse(jwks)

    async def token(request: Request) -> Response:
        try:
            form = await _form(request)
        except ValueError as error:
            problem = {"error": "invalid_request", "error_description": str(error)}
            return JSONResponse(problem, 400, {"Cache-Control": "no-store"})
        proofs = [value for name, value in request.headers.raw if name == b"dpop"]
        return await run_in_threadpool(authority.respond, form, proofs)

    app = Starlette(
        routes=[
            Route("/.well-known/openid-configuration", described),
            Route("/.well-known/oauth-authorization-server", described),
            Route("/jwks", keys),
            Route("/token", token, methods=["POST"]),
            *people.routes(_form),
        ]
    )
    app.router.redirect_slashes = False  # it would send the client to whatever the request calls this host
    app.state.clients = clients
    return app


def serve(config: IssuerConfig, *, expose: bool = False, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: the issuer's config.
        expose: allow an address that other machines can reach.
        on_ready: called with the issuer's address once it answers. Port 0 in ``listen`` takes any free port.

    Raises:
        InputError: ``config.value``: the address is not loopback, not this machine's, or taken; and as
            :func:`application`.
    """
    host, _, port = config.issuer.listen.rpartition(":")
    host = host.strip("[]")
    if not expose and not is_loopback(host):
        raise InputError(
            "config.value",
            f"[issuer] listen: {config.issuer.listen!r} can be reached from other machines; expected 127.0.0.1:PORT",
            hint="the embedded issuer is for one machine; for other machines use a real issuer, or pass --expose",
        )
    logs.to_stderr(config.issuer.log_format, "issuer")
    with _listening(host, int(port), config.issuer.listen) as listener:
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (compared, not listened on)
        url = f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"
        settings = uvicorn.Config(
            application(config, url),
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )

        def ready() -> None:
            logger.info("listening on %s", url)
            if on_ready:
                on_ready(url)

        _Server(settings, ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A uvicorn server that says when it is ready, and that ends without an error on a signal."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def signing_key(path: Path) -> SigningKey:
    """Return the key in ``path``, which is made (P-256, mode 0600) if it is missing.

    Raises:
        InputError: ``config.key``: others can read it, or it is not a private JWK; ``config.value``: cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError):  # if another process was faster its key stays
                files.create(path, json.dumps(new_key()[0]).encode(), 0o600)
        if path.stat().st_mode & 0o077:
            raise InputError(
                "config.key",
                f"{path} can be read by others; expected mode 0600",
                hint=f"chmod 600 {path}, or delete it",
            )
        return private_key(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError("config.value", f"[issuer] state: {path} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise InputError(
            "config.key", f"{path} is not a private JWK", hint="delete it and moonflower makes a new key"
        ) from error


def _person(name: str, scopes: tuple[str, ...]) -> Person:
    return Person(name, _scopes(f"[[person]] {name}", scopes))


def _scopes(named: str, scopes: tuple[str, ...]) -> frozenset[str]:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise InputError("config.value", f"{named}: unknown scope {unknown[0]!r}; {nearest(unknown[0], SCOPES)}")
    return frozenset(scopes)


def _client(settings: IssuerClientSettings) -> IssuerClient:
    named = f"[[client]] {settings.client_id}"
    scopes = _scopes(named, settings.scopes)
    try:
        jwk = json.loads(settings.key.read_bytes())
        key = public_key(jwk)
    except OSError as error:
        raise InputError("config.key", f"{named}: {settings.key} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            "config.key", f"{named}: {settings.key} is not a public JWK", hint="the private half stays with the client"
        ) from error
    return IssuerClient(settings.client_id, key, scopes, redirect=settings.redirect)


def _metadata(url: str, token_endpoint: str) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url.rstrip('/')}/authorize",
        "authorization_response_iss_parameter_supported": True,
        "token_endpoint": token_endpoint,
        "jwks_uri": f"{url.rstrip('/')}/jwks",
        "grant_types_supported": ["client_credentials", "authorization_code"],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": list(SCOPES),
        "token_endpoint_auth_methods_supported": [METHOD],
        "token_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
        "dpop_signing_alg_values_supported": list(PROOF_ALGORITHMS),
    }


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        ValueError: not a form, too long, too slow, or a field twice. The text is for the client.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise ValueError("expected application/x-www-form-urlencoded")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError(f"the request is longer than {MAX_BODY_BYTES} bytes")
    except (TimeoutError, ClientDisconnect):
        raise ValueError("the request did not arrive in time") from None
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise ValueError("the form is malformed") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a parameter occurs twice")
    return fields


@contextmanager
def _listening(host: str, port: int, listen: str) -> Iterator[socket.socket]:
    """Yield a listening socket. It is bound first, because its port is part of the issuer's name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InputError("config.value", f"[issuer] listen: {listen!r}: {error.strerror or error}") from error
    with listener:
        yield listener
