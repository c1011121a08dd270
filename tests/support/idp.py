"""Starts an authorization server that is not ours: npm oidc-provider, on loopback, installed once for a test session.

Its signing keys are made here, so that tests can forge tokens with them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

HERE = Path(__file__).parent / "idp_npm"
INSTALL_S = 120
READY_S = 30


@functools.cache
def installed() -> Path:
    """Return a folder with idp.mjs and what it needs; skips the test where that cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; they run the authorization server of this test")
    # One folder for all sessions of this user and this version: installing takes seconds, and needs the registry.
    mark = hashlib.sha256((HERE / "package.json").read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"moonflower-idp-{os.getuid()}-{mark}"
    if not (folder / "installed").exists():
        beside = Path(tempfile.mkdtemp(prefix="moonflower-idp-"))
        shutil.copy(HERE / "package.json", beside)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        try:
            done = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install oidc-provider within {INSTALL_S} s")
        if done.returncode:
            pytest.skip(f"npm could not install oidc-provider: {done.stderr.strip()[-200:]}")
        (beside / "installed").touch()
        try:
            beside.rename(folder)
        except OSError:  # another session was faster
            shutil.rmtree(beside, ignore_errors=True)
    if folder.stat().st_uid != os.getuid():
        pytest.skip(f"{folder} belongs to somebody else, whose programs are not run here")
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
