"""The app bundle that Flower asks for. It holds no code: it names what every server and node has installed.

It is made once (``tests/unit/configs/test_bundle.py`` says how) and shipped as data, so its digest is the same
everywhere. A node takes part only in runs of exactly this bundle and never asks the server for another bundle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from ..errors import InputError

BYTES = resources.files(__package__).joinpath("moonflower.fab").read_bytes()
DIGEST = hashlib.sha256(BYTES).hexdigest()
RUN_KEY = "run"  # the one key of the bundle's config: which of our runs a ServerApp carries out
SERVER_CONFIG, SERVER_LOG = "MOONFLOWER_SERVER_CONFIG", "MOONFLOWER_SERVER_LOG"
SERVER_PROCESS = "MOONFLOWER_SERVER_PROCESS"


def server_config(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the server's config file, which the server names to the ServerApp that Flower starts.

    Raises:
        InputError: ``config.file``: not started by ``moonflower server``.
    """
    name = environment.get(SERVER_CONFIG, "")
    if not name:
        raise InputError("config.file", f"{SERVER_CONFIG} is not set; only moonflower server starts this process")
    return Path(name)


def server_log(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return where the ServerApp's own log goes, as the server says; None if nothing reads it."""
    return Path(environment[SERVER_LOG]) if environment.get(SERVER_LOG) else None


def server_process(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the process id of the server, as the server says; None if there is no server."""
    return int(environment[SERVER_PROCESS]) if environment.get(SERVER_PROCESS) else None
