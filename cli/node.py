"""``moonflower client``: an organisation's node beside its data."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ClientFile


def client(
    config: ClientFile,
    once: Annotated[bool, typer.Option("--once", help="Do not start the node again when it ends.")] = False,
) -> None:
    """Run this organisation's node beside its data, until it is stopped.

    Exit status: 0 stopped on request, 2 bad input, 75 broken (with --once), 77 refused by server or issuer.
    """
    from ..client.node.keeper import keep  # POSIX only

    status = keep(config, once=once)
    if status:
        raise typer.Exit(status)
