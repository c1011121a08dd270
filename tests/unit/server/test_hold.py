"""Requests for what will be there soon are held; nothing else is touched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from moonflower.server.door.flower import hold
from moonflower.server.door.flower.hold import ANSWERED, MESSAGE, REPLY, SENT, TASK, Hold
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
        app = Hold(objects, 10.0)
        pulled = asyncio.create_task(ask(app, PULL))
        await asyncio.sleep(0.05)
        assert not pulled.done()
        await ask(app, PUSH)
        reply = await asyncio.wait_for(pulled, PATIENCE_S)
        assert reply.object_content == b"the object"
        assert objects.asked == 2

    asyncio.run(scene())


def test_a_pull_is_not_held_for_ever() -> None:
    reply = asyncio.run(ask(Hold(Objects(), 0.1), PULL))
    assert reply.object_found
    assert not reply.object_available


def test_an_object_that_nobody_announced_is_answered_at_once() -> None:
    objects = Objects(announced=False)
    assert not asyncio.run(asyncio.wait_for(ask(Hold(objects, 60.0), PULL), 2.0)).object_found
    assert objects.asked == 1


def test_other_requests_pass() -> None:
    objects = Objects()
    objects.there = True
    asyncio.run(ask(Hold(objects, 60.0), "/v1/fleet/confirm-message-received"))
    assert objects.asked == 1


# Who asks for messages, for replies, or for a ServerApp to start, and hears that there is nothing


class Quiet:
    """A SuperLink that counts who asks it for something, and answers as it is told to."""

    def __init__(self) -> None:
        self.answer, self.asked = b"", 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        self.asked += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.answer if "pull" in scope["path"] else b""})


async def said(app: Any, path: str, body: bytes = b"") -> bytes:
    replies: list[bytes] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        replies.append(message.get("body", b""))

    await app({"type": "http", "path": path}, receive, send)
    return b"".join(replies)


def pull_of(node: int) -> bytes:
    return PullMessagesRequest(node=Node(node_id=node)).SerializeToString()


def push_to(node: int) -> bytes:
    return PushAppMessagesRequest(messages_list=[Message(metadata=Metadata(dst_node_id=node))]).SerializeToString()


def let_go(app: Hold) -> Any:
    return asyncio.to_thread(app.wake)


@pytest.mark.parametrize(
    ("asked", "body", "news"),
    [
        (MESSAGE, pull_of(7), lambda app: said(app, SENT, push_to(7))),
        (REPLY, b"", lambda app: said(app, ANSWERED)),
        (TASK, b"", let_go),
        (MESSAGE, pull_of(7), let_go),  # as the server ends
    ],
)
def test_nothing_is_said_when_there_may_be_something(
    monkeypatch: pytest.MonkeyPatch, asked: str, body: bytes, news: Any
) -> None:
    """The answer is the one from before: whoever asked asks again, and nobody that is gone is given anything."""
    monkeypatch.setattr(hold, "NOTHING_S", dict.fromkeys(hold.NOTHING_S, PATIENCE_S))

    async def scene() -> None:
        quiet = Quiet()
        app = Hold(quiet, most_s=PATIENCE_S)
        asking = asyncio.create_task(said(app, asked, body))
        await asyncio.sleep(0.05)
        assert not asking.done()
        await said(app, SENT, push_to(8))
        await asyncio.sleep(0.05)
        assert not asking.done(), "a message for another node"
        before, quiet.answer = quiet.asked, b"something"
        await news(app)
        assert await asyncio.wait_for(asking, PATIENCE_S) == b""
        assert quiet.asked - before <= 1, "the news, not the question again"
        assert app._held == {}
        assert await asyncio.wait_for(said(app, MESSAGE, body), PATIENCE_S) == b"something", "at once"

    asyncio.run(scene())


@pytest.mark.parametrize("path", [MESSAGE, REPLY, TASK])
def test_nothing_is_not_held_for_ever(path: str) -> None:
    quiet = Quiet()
    assert asyncio.run(said(Hold(quiet, most_s=0.1), path, b"no protobuf \xff")) == b""
    assert quiet.asked == 1
