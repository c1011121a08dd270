"""Starts an authorization server that is not ours: npm oidc-provider, on loopback, installed once for a test session.

Its signing keys are made here, so that tests can forge tokens with them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey

from support import peers

HERE = Path(__file__).parent / "idp_npm"
READY_S = 30


@functools.cache
def installed() -> Path:
    """Return a folder with idp.mjs and what it needs."""
    mark = hashlib.sha256((HERE / "package.json").read_bytes()).hexdigest()[:16]

    def install(folder: Path) -> None:
        if shutil.which("node") is None:
            peers.missing("node is not installed; it runs the authorization server of this test")
        shutil.copy(HERE / "package.json", folder)
        peers.done(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder)

    folder = peers.installed(f"oidc-provider-{mark}", install)
    shutil.copy(HERE / "idp.mjs", folder)
    return folder


def signing_key(kid: str) -> dict[str, Any]:
    """Return a private JWK for the server's tokens."""
    made = ECKey.generate_key("P-256", private=True)
    return {**made.as_dict(private=True), "kid": kid, "alg": "ES256", "use": "sig"}


def start_idp(
    folder: Path,
    clients: Sequence[Mapping[str, Any]],
    audience: str,
    ttl: int = 300,
    *,
    keys: Sequence[Mapping[str, Any]] = (),
    nonce: bool = False,
) -> tuple[str, subprocess.Popen[str]]:
    """Start the server; returns its address and the process, which the caller ends with :func:`stop_idp`.

    Args:
        folder: for its settings; ``configure`` and SIGHUP change them.
        clients: each with client_id, key (public JWK), scope and bound (its tokens need DPoP).
        audience: the one resource that it knows.
        ttl: life of a token, in seconds.
        keys: private JWKs; by default one is made.
        nonce: demand DPoP nonces.
    """
    program = installed()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"audience": audience, "ttl_s": ttl, "nonce": nonce, "clients": list(clients)}
    (folder / "idp.json").write_text(json.dumps({**settings, "keys": list(keys) or [signing_key("idp-1")]}))
    command = ["node", "--no-warnings", str(program / "idp.mjs"), str(folder)]
    with (folder / "idp.log").open("w") as log:
        process = subprocess.Popen(command, cwd=program, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        return await_line(process, "ready ").removeprefix("ready "), process
    except BaseException:
        stop_idp(process)
        raise


def configure(folder: Path, process: subprocess.Popen[str], **changes: Any) -> None:
    """Change the server's settings while it runs."""
    settings = json.loads((folder / "idp.json").read_text())
    (folder / "idp.json").write_text(json.dumps({**settings, **changes}))
    process.send_signal(signal.SIGHUP)
    await_line(process, "reloaded")


def stop_idp(process: subprocess.Popen[str]) -> None:
    """End the server."""
    process.terminate()
    try:
        process.wait(600)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def await_line(process: subprocess.Popen[str], start: str) -> str:
    """Return the next line that begins so."""
    assert process.stdout is not None
    watchdog = threading.Timer(READY_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith(start):
                return line.strip()
    finally:
        watchdog.cancel()
    raise AssertionError(f"the authorization server did not say {start!r} within {READY_S} s")


@contextmanager
def running(folder: Path, clients: Sequence[Mapping[str, Any]], audience: str, **settings: Any) -> Iterator[Any]:
    """Give (address, process) of a server that ends with the block."""
    url, process = start_idp(folder, clients, audience, **settings)
    try:
        yield url, process
    finally:
        stop_idp(process)
