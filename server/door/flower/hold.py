"""Holds a request for an object that is announced but not yet uploaded, so that no client has to ask again.

Flower shows a message before its objects have arrived, and a client that asks too early waits a second. Wrapped around
the SuperLink's app, this answers as soon as the object is there.
"""

from __future__ import annotations

import asyncio
from typing import Any

from flwr.proto.message_pb2 import PullObjectResponse

PULL = frozenset({"/v1/fleet/pull-object", "/v1/runtime/pull-object"})
PUSH = frozenset({"/v1/fleet/push-object", "/v1/runtime/push-object"})
SMALL = 64  # bytes; a reply without an object is smaller


class HoldObjects:
    """An ASGI app around another.

    Args:
        app: the SuperLink's.
        hold_s: longest time a request is held; after it the request is answered as the app answers it then.
    """

    def __init__(self, app: Any, hold_s: float) -> None:
        self._app, self._hold_s = app, hold_s
        self._came, self._pushes = asyncio.Condition(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path in PUSH:
            try:
                await self._app(scope, receive, send)
            finally:
                async with self._came:
                    self._pushes += 1
                    self._came.notify_all()
        elif scope["type"] == "http" and path in PULL:
            await self._pull(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _pull(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
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
        """Return the app's reply to the request, asked once more."""
        asked, start, parts = False, {}, []

        async def receive() -> Any:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await self._app({**scope, "state": dict(scope.get("state") or {})}, receive, send)
        return start, b"".join(parts)


def _awaited(reply: bytes) -> bool:
    if len(reply) > SMALL:
        return False
    answer = PullObjectResponse.FromString(reply)
    return bool(answer.object_found and not answer.object_available)
