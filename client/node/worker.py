"""The warm worker: the process that holds the member's rows, and has no network.

``python -m moonflower.client.node.worker FD CONFIG APP PARENT``, started by the node (``pipe.py``). It gives up its
network before it imports anything that a member may have written. Then it reads the data, says that it is ready, and
serves one job at a time over its only pipe. It ends when the pipe or its parent does.

If the app fails, only "not ok" leaves this process, without a text. The reason stays in the member's log.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from ... import logs
from ...configs.roles import ClientConfig, load_config
from ...errors import InputError
from . import confine

logger = logging.getLogger(__name__)
App = Callable[[Any, Any], Any]


def main(handle: int, config: Path, app: str, parent: int) -> None:
    """Serve until the pipe ends; exits with status 2 if config or data are wrong."""
    gc.disable()  # a collection while everything is imported costs much and finds nothing; it is enabled below
    # These signals are for the whole process group; the node decides when this process ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    confine.die_with(parent)
    with Connection(handle) as pipe:
        try:
            settings = load_config(ClientConfig, config)
            logs.to_stderr(settings.client.log_format, "worker", member=settings.client.member)
            isolated = confined(settings)
            confine.die_with(parent)
            module, _, attribute = app.partition(":")
            runs = Worker(pipe, getattr(import_module(module), attribute)(settings))
            gc.enable()
        except InputError as error:
            pipe.send_bytes(json.dumps({"wrong": error.code, "message": str(error), "hint": error.hint}).encode())
            sys.exit(error.exit_status)
        pipe.send_bytes(json.dumps({"isolated": isolated}).encode())
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                confine.give_back_memory()
                runs.serve_one()


def confined(settings: ClientConfig) -> bool:
    """Take the network away if the config says so; return whether it was taken away.

    Raises:
        InputError: ``config.isolate``: the config says so, and it could not be done.
    """
    if not settings.client.isolate:
        return False
    if not confine.take_network_away():
        raise InputError(
            "config.isolate",
            "the worker's network cannot be taken away here; expected Linux with network namespaces",
            hint="isolate = false in [client] lets the worker run with a network",
        )
    return True


class Worker:
    """Runs jobs that come through a pipe; the frames are described in ``pipe.py``.

    Args:
        pipe: to the node.
        app: Flower ClientApp.
    """

    def __init__(self, pipe: Connection, app: App) -> None:
        self._pipe, self._app = pipe, app
        self._context: Any = None

    def serve_one(self) -> None:
        """Wait for a job and do it.

        Raises:
            EOFError: the node has ended.
        """
        job, contents = json.loads(self._pipe.recv_bytes()), {}
        for name in job["ids"]:
            frame = self._pipe.recv_bytes()
            if not frame:
                return
            contents[name] = frame
        if not self._pipe.recv_bytes():
            return
        with logs.about(request=logs.message_request(job["message"])):
            self._serve(job, contents)

    def _serve(self, job: dict[str, Any], contents: dict[str, bytes]) -> None:
        began = time.monotonic()
        try:
            reply = self._reply(job, contents)
        except Exception as error:  # rule 12: its text may hold a row
            logger.error("%s failed: %s", job["kind"], type(error).__name__)
            logger.debug("the failure in full", exc_info=error)
            self._say({"ok": False})
            return
        self._send(reply, time.monotonic() - began)

    def _reply(self, job: dict[str, Any], contents: dict[str, bytes]) -> Any:
        """Return the app's reply to a message, ready to be sent."""
        from flwr.app import Context, Message, RecordDict
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, job["run"], job["node"]
        message = inflate_object_from_contents(job["message"], contents)
        contents.clear()  # the message holds its own copy
        message.metadata.__dict__["_message_id"] = job["message"]
        if self._context is None or (self._context.run_id, self._context.node_id) != (job["run"], job["node"]):
            self._context = Context(
                run_id=job["run"], node_id=job["node"], node_config={}, state=RecordDict(), run_config={}
            )
        reply = self._app(message, self._context)
        if not isinstance(reply, Message):
            raise TypeError("the app's reply is not a Message")
        return reply

    def _send(self, reply: Any, seconds: float) -> None:
        from flwr.app.message import remove_content_from_message
        from flwr.common.serde import message_to_proto
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )

        with no_object_id_recompute():  # the reply no longer changes, so hashing it once is enough
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            self._say({"ok": True, "seconds": seconds})
            self._pipe.send_bytes(message_to_proto(remove_content_from_message(reply)).SerializeToString())
            self._pipe.send_bytes(tree.SerializeToString())
            del reply, tree
            for name in json.loads(self._pipe.recv_bytes()):
                self._pipe.send_bytes(objects.pop(name).deflate())

    def _say(self, value: dict[str, Any]) -> None:
        self._pipe.send_bytes(json.dumps(value).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
