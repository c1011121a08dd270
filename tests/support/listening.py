"""An ASGI app that listens on loopback for the length of a test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import uvicorn


@contextmanager
def listening(config: uvicorn.Config, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve an app in a thread, on a port that the system gives; gives the port."""
    with socket.create_server((address, 0)) as bound:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server ended before it listened"
            time.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def served(app: Any, http: type) -> AbstractContextManager[int]:
    """Serve an ASGI app with that protocol; gives the port."""
    return listening(uvicorn.Config(app, http=http, ws="none", lifespan="off", log_level="error"))
