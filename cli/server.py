"""``moonflower server`` and ``moonflower issuer``: the coordinator's long-running processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..configs.roles import IssuerConfig, ServerConfig, load_config


def server(
    config: Annotated[Path, typer.Argument(help="Server config (TOML).", show_default=False)],
) -> None:
    """Run the server: SuperLink, gateway with TLS, and the runs that it accepted, until SIGTERM or Ctrl-C."""
    settings = load_config(ServerConfig, config)
    from ..server.door.process import serve  # flwr takes seconds: first look at the config

    serve(settings, config)


def issuer(
    config: Annotated[Path, typer.Argument(help="Issuer config (TOML).", show_default=False)],
    expose: Annotated[bool, typer.Option("--expose", help="Listen on an address that other machines reach.")] = False,
) -> None:
    """Run the embedded OAuth server, for trying things out on one machine. A real federation uses its own."""
    settings = load_config(IssuerConfig, config)
    from ..oauth.issuer.serve import serve

    serve(settings, expose=expose)
