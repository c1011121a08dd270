"""Starts real processes for tests: ``keep CONFIG`` or ``node CONFIG …``, a node that runs ``strange_app``, no login."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path

from moonflower.client.node import keeper, loop
from moonflower.errors import InputError

if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "keep":
        try:
            status = keeper.keep(Path(rest[0]), command=[sys.executable, __file__, "node"])
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            status = error.exit_status
        sys.exit(status)
    loop._login = lambda *_: None  # type: ignore[assignment,return-value]
    loop.Pipe = partial(loop.Pipe, app="support.strange_app:open_app")  # type: ignore[assignment,misc]
    status = loop.main(rest)
    logging.shutdown()
    os._exit(status)
