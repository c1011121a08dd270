"""The ServerApp that Flower's SuperLink starts for a run: the same coordinator as in a simulation, on real nodes.

It is a process of its own. It finds the server's config in the environment, the run in its bundle's config, and
everything else in the state folder. If it dies, another process continues from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from sqlalchemy.exc import OperationalError

from .. import logs
from ..configs import bundle
from ..configs.roles import ServerConfig, ServerSettings, is_loopback, load_config
from ..crypto.identity import PublicKey
from ..errors import MoonflowerError, Refused
from .coordinator import Coordinator
from .door.flower import overheard
from .door.flower.replies import Replies
from .door.supervisor import carrying, end_with
from .exchange import ConnectedNode, Exchange, WallClock
from .records import circles, history
from .records import members as roster
from .records.state import State

logger = logging.getLogger(__name__)
app = ServerApp()
LOOK_S = 0.5  # how often Flower is asked who is connected


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run that this process was started for."""
    end_with(bundle.server_process())
    config = load_config(ServerConfig, bundle.server_config())
    logs.to_stderr(config.server.log_format, "serverapp", stream=overheard.stream_to(bundle.server_log()))
    run = str(context.run_config[bundle.RUN_KEY])
    folder = config.server.state
    try:
        with (
            closing(State(folder, config.server.federation, keep_envelopes_h=config.server.keep_envelopes_h)) as state,
            carrying(folder, run),
        ):
            _coordinator(grid, state, run, config.server).carry_out()
    except MoonflowerError as error:  # the run's end is on record; a traceback would only hide it
        logger.warning("the run ended: %s", error, extra={"run": run, "code": error.code})
    except (OSError, OperationalError) as error:  # a full disk: the server starts another process, and says why
        logger.error("the ServerApp broke: %s", str(error).partition("\n")[0], extra={"run": run})
    except Exception:
        logger.exception("the ServerApp broke", extra={"run": run})
        raise


def _coordinator(grid: Grid, state: State, run: str, own: ServerSettings) -> Coordinator:
    with state.store.read() as db:
        row = history.run_row(db, run)
        if row is None:
            raise Refused("run.over", f"there is no run {run!r} on record")
        signed = circles.signed(db, str(row.offer["circle"]))
    pins = signed.circle.pins

    def revoked() -> frozenset[str]:
        with state.store.read() as db:
            return roster.revoked(db)

    nodes = connected(grid, pins)
    exchange = Exchange(Replies(grid), tuple(pins), nodes, WallClock(), revoked=revoked, away_after_s=own.away_after_s)
    if signed.circle.practice and not is_loopback(own.listen.rpartition(":")[0]):
        raise Refused("circle.differs", "a practice circle, but server.listen is not a loopback address")
    return Coordinator(exchange, state, row.offer, signed, run)


def connected(grid: Grid, pins: Mapping[str, str]) -> Callable[[], dict[str, ConnectedNode]]:
    """Return a function that gives the nodes that are logged in now. A node that logged in again has a new session."""
    names = {pin: name for name, pin in pins.items()}
    known: dict[bytes, str | None] = {}

    newest: tuple[float, dict[str, ConnectedNode]] = (-LOOK_S, {})

    def nodes() -> dict[str, ConnectedNode]:
        nonlocal newest
        if time.monotonic() - newest[0] < LOOK_S:
            return newest[1]
        online = {}
        for node in grid.get_nodes():
            if node.public_key not in known:
                known[node.public_key] = names.get(_pin(node.public_key))
            name = known[node.public_key]
            if name is not None and node.status == "online":
                online[name] = ConnectedNode(int(node.node_id), str(node.last_activated_at))
        newest = time.monotonic(), online
        return online

    return nodes


def _pin(pem: bytes) -> str:
    key = load_pem_public_key(pem)
    return PublicKey(key).pin if isinstance(key, ec.EllipticCurvePublicKey) else ""
