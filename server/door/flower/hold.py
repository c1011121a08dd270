"""Holds requests that have no answer yet, so that no client has to ask again and again.

Flower shows a message before its objects have arrived, and a client that asks too early waits a second. Wrapped around
the SuperLink's app, this answers as soon as the object is there.

Nodes ask for messages, a ServerApp for replies, SuperExec for a ServerApp to start, each several times a second. Here
they hear that there is nothing when there may be something after all, or after a while. They ask again then, and pass
the gateway again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from google.protobuf.message import DecodeError

PULL = frozenset({"/v1/fleet/pull-object", "/v1/runtime/pull-object"})
PUSH = frozenset({"/v1/fleet/push-object", "/v1/runtime/push-object"})
TASK, MESSAGE, REPLY = "/v1/runtime/acquire-task", "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
SENT, ANSWERED = "/v1/runtime/push-messages", "/v1/fleet/push-messages"
NOTHING_S = {TASK: 2.0, MESSAGE: 1.0, REPLY: 0.5}
"""Longest time for which the answer that there is nothing is held, in seconds."""
HOLD_S = 5.0
SMALL = 64  # bytes; a reply without an object is smaller
Key = str | int


class Hold:
    """An ASGI app around another.

    Args:
        app: the SuperLink's.
        hold_s: longest time a request for an object is held; after it the request is answered as the app answers it
            then.
        most_s: longest time for which any answer that there is nothing is held.
    """

    def __init__(self, app: Any, hold_s: float = HOLD_S, most_s: float = max(NOTHING_S.values())) -> None:
        self._app, self._hold_s, self._most_s = app, hold_s, most_s
        self._came, self._pushes = asyncio.Condition(), 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[Key, list[asyncio.Event]] = {}

    def wake(self) -> None:
        """Let everybody ask again now: there is a ServerApp to start, or the server ends. For any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._let_go([*self._held]))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        path = scope.get("path", "") if scope["type"] == "http" else ""
        if path in PUSH:
            try:
                await self._app(scope, receive, send)
            finally:
                async with self._came:
                    self._pushes += 1
                    self._came.notify_all()
        elif path in PULL:
            await self._pull(scope, receive, send)
        elif path in NOTHING_S:
            await self._ask(scope, receive, send)
        elif path == ANSWERED:
            await self._app(scope, receive, send)
            self._let_go([REPLY])
        elif path == SENT:
            body = await _whole(receive)
            if body is not None:
                await self._app(scope, _again(body), send)
                self._let_go(_receivers(body))
        else:
            await self._app(scope, receive, send)

    async def _ask(self, scope: Any, receive: Any, send: Any) -> None:
        """Hold the answer that there is nothing. The app is not asked twice: who asked may be gone by then."""
        path, body = scope["path"], await _whole(receive)
        if body is None:
            return
        self._loop = asyncio.get_running_loop()
        key, news = _sender(body) if path == MESSAGE else path, asyncio.Event()
        self._held.setdefault(key, []).append(news)
        try:
            start, reply = await self._once(scope, body)
            if start["status"] == 200 and not reply:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(NOTHING_S[path], self._most_s))
        finally:
            if news in self._held.get(key, ()):
                self._held[key].remove(news)
                if not self._held[key]:
                    del self._held[key]
        await send(start)
        await send({"type": "http.response.body", "body": reply})

    def _let_go(self, keys: Iterable[Key]) -> None:
        for key in keys:
            for news in self._held.pop(key, ()):
                news.set()

    async def _pull(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _whole(receive)
        if body is None:
            return
        deadline = asyncio.get_running_loop().time() + self._hold_s
        while True:
            before = self._pushes
            start, reply = await self._once(scope, body)
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or start["status"] != 200 or not _awaited(reply):
                break
            try:
                async with self._came:
                    await asyncio.wait_for(self._came.wait_for(lambda: self._pushes != before), left)  # noqa: B023
            except TimeoutError:
                continue
        await send(start)
        await send({"type": "http.response.body", "body": reply})

    async def _once(self, scope: Any, body: bytes) -> tuple[Any, bytes]:
        """Return the app's reply to the request."""
        start, parts = {}, []

        async def send(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await self._app({**scope, "state": dict(scope.get("state") or {})}, _again(body), send)
        return start, b"".join(parts)


async def _whole(receive: Any) -> bytes | None:
    """Return the body of a request; None if who asked is gone."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes) -> Any:
    """Return what an app receives a body from that was read already."""
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _sender(body: bytes) -> int:
    """Return the node that asks for its messages, as it says; 0 if it says nothing."""
    with suppress(DecodeError):
        return int(PullMessagesRequest.FromString(body).node.node_id)
    return 0


def _receivers(body: bytes) -> set[int]:
    """Return the nodes that messages are for."""
    with suppress(DecodeError):
        return {message.metadata.dst_node_id for message in PushAppMessagesRequest.FromString(body).messages_list}
    return set()


def _awaited(reply: bytes) -> bool:
    if len(reply) > SMALL:
        return False
    answer = PullObjectResponse.FromString(reply)
    return bool(answer.object_found and not answer.object_available)
