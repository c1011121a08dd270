"""The coordinator as a Flower ServerApp. Read ``client/app.py`` first, then ``coordinator.py`` and ``round.py``."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from .coordinator import Coordinator


def server_app(coordinator_for: Callable[[Grid], Coordinator]) -> ServerApp:
    """Return the Flower ServerApp that carries out one run."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        coordinator_for(grid).carry_out()

    return app
