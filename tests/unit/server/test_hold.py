"""Requests for objects that are announced and not yet there are held; nothing else is touched."""

from __future__ import annotations

import asyncio
from typing import Any

from flwr.proto.message_pb2 import PullObjectResponse
from moonflower.server.door.flower.hold import HoldObjects
from support import PATIENCE_S

PULL, PUSH = "/v1/fleet/pull-object", "/v1/runtime/push-object"


class Objects:
    """A SuperLink as far as objects go: one that is announced, and there once it was pushed."""

    def __init__(self, announced: bool = True) -> None:
        self.announced, self.there, self.asked = announced, False, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        body = b""
        if scope["path"] == PUSH:
            self.there = True
        else:
            self.asked += 1
            content = b"the object" if self.there else b""
            said = PullObjectResponse(object_found=self.announced, object_available=self.there, object_content=content)
            body = said.SerializeToString()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def ask(app: Any, path: str) -> PullObjectResponse:
    replies: list[bytes] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        replies.append(message.get("body", b""))

    await app({"type": "http", "path": path}, receive, send)
    return PullObjectResponse.FromString(b"".join(replies))


def test_a_pull_is_answered_when_the_push_comes() -> None:
    async def scene() -> None:
        objects = Objects()
        app = HoldObjects(objects, 10.0)
        pulled = asyncio.create_task(ask(app, PULL))
        await asyncio.sleep(0.05)
        assert not pulled.done()
        await ask(app, PUSH)
        reply = await asyncio.wait_for(pulled, PATIENCE_S)
        assert reply.object_content == b"the object"
        assert objects.asked == 2

    asyncio.run(scene())


def test_a_pull_is_not_held_for_ever() -> None:
    reply = asyncio.run(ask(HoldObjects(Objects(), 0.1), PULL))
    assert reply.object_found
    assert not reply.object_available


def test_an_object_that_nobody_announced_is_answered_at_once() -> None:
    objects = Objects(announced=False)
    assert not asyncio.run(asyncio.wait_for(ask(HoldObjects(objects, 60.0), PULL), 2.0)).object_found
    assert objects.asked == 1


def test_other_requests_pass() -> None:
    objects = Objects()
    objects.there = True
    asyncio.run(ask(HoldObjects(objects, 60.0), "/v1/fleet/pull-messages"))
    assert objects.asked == 1
