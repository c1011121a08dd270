"""``moonflower health``: whether the server or the node of a config is well, for container engines and systemd.

It prints one sentence and exits with status 0 if the process is well, else 1. It asks no other machine: it asks the
server at its own address, and reads the sign of life that a node leaves in its state folder.
"""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Annotated

import typer

from ..client.node import alive
from ..configs.roles import ClientConfig, NodeSettings, ServerConfig, ServerSettings, load_config, own_address
from ..configs.toml import read_toml
from ..errors import InputError

TIMEOUT_S = 5.0


def health(
    config: Annotated[Path, typer.Argument(help="Server or client config (TOML).", show_default=False)],
) -> None:
    """Say whether the server or the node of a config is well. Exit status: 0 it is, 1 it is not.

    A server is well if it answers. A node is well if its server heard from it in the last 45 s.
    """
    well, sentence = look(config)
    typer.echo(sentence)
    if not well:
        raise typer.Exit(1)


def look(config: Path) -> tuple[bool, str]:
    """Return whether the process of a config is well, and a sentence about it."""
    try:
        if "server" in read_toml(config, "config"):
            return server(load_config(ServerConfig, config).server)
        return node(load_config(ClientConfig, config).client)
    except InputError as error:
        return False, str(error)


def server(settings: ServerSettings) -> tuple[bool, str]:
    """Return whether the server answers on its own address, with a valid certificate."""
    host, _, port = settings.listen.rpartition(":")
    where = f"{settings.federation}: the server at {settings.listen}"
    connection = http.client.HTTPSConnection(own_address(host), int(port), timeout=TIMEOUT_S, context=_trust(settings))
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        return False, f"{where} shows a certificate that does not match tls_cert: {error.verify_message}"
    except (OSError, http.client.HTTPException) as error:
        return False, f"{where} does not answer ({type(error).__name__})"
    finally:
        connection.close()
    return status == 200, f"{where} answers" if status == 200 else f"{where} answers with status {status}"


def node(settings: NodeSettings) -> tuple[bool, str]:
    """Return whether the server heard from the node a short while ago."""
    age = alive.age_s(settings.state)
    if age is None:
        return False, f"{settings.member}: the node is not connected"
    heard = f"{settings.member}: the server last heard from the node {age:.0f} s ago"
    if abs(age) > alive.STALE_S:
        return False, f"{heard}; expected at most {alive.STALE_S:.0f} s"
    return True, heard


def _trust(settings: ServerSettings) -> ssl.SSLContext:
    """Return a TLS context that trusts only the server's own certificate, whose name is that of another address.

    Raises:
        InputError: ``config.file``: it cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file may hold no root
    try:
        context.load_verify_locations(settings.tls_cert)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            "config.file", f"tls_cert {settings.tls_cert} cannot be read; expected a certificate (PEM)"
        ) from error
    return context
