"""A ClientApp for a worker under test: it crashes, hangs, raises, looks for a network, and sends a lot."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from moonflower.client.node.confine import interfaces

BIG = 50_000_000


def open_app(_: Any) -> ClientApp:
    app = ClientApp()

    def says(**values: Any) -> RecordDict:
        return RecordDict({"said": ConfigRecord(values)})

    @app.query("echo")
    def echo(message: Message, _: Context) -> Message:
        return Message(message.content, reply_to=message)

    @app.query("pid")
    def pid(message: Message, context: Context) -> Message:
        context.state["seen"] = ConfigRecord({"n": int(context.state["seen"]["n"]) + 1 if context.state else 1})
        return Message(says(pid=os.getpid(), seen=context.state["seen"]["n"]), reply_to=message)

    @app.query("crash")
    def crash(message: Message, _: Context) -> Message:
        os.kill(os.getpid(), signal.SIGKILL)
        return message

    @app.query("hang")
    def hang(message: Message, _: Context) -> Message:
        time.sleep(1000)
        return message

    @app.query("raise")
    def fail(message: Message, _: Context) -> Message:
        raise ValueError("row 42 of patient Jane")

    @app.query("network")
    def network(message: Message, _: Context) -> Message:
        port = int(message.content["said"]["port"])
        found = []
        for where in (("127.0.0.1", port), ("192.0.2.1", 9)):
            try:
                socket.create_connection(where, timeout=2).close()
                found.append("connected")
            except OSError as error:
                found.append(type(error).__name__)
        return Message(says(found=found, interfaces=sorted(interfaces()), names=sorted(os.environ)), reply_to=message)

    @app.query("big")
    def big(message: Message, _: Context) -> Message:
        data = os.urandom(BIG)
        array = Array(dtype="uint8", shape=(BIG,), stype="test", data=data)
        return Message(RecordDict({"big": ArrayRecord({"all": array})}), reply_to=message)

    return app
