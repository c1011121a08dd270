"""Replies from Flower's Runtime API: one that does not come whole holds up nobody."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from moonflower.server.door.flower.replies import Replies


class Flower:
    """The Runtime API as far as replies go: what was announced, and which objects are there."""

    def __init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.announced: dict[str, tuple[Any, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.withheld: dict[str, bytes] = {}
        self.known: set[str] = set()
        self.confirmed: list[str] = []
        self.grid = SimpleNamespace(_runtime_client=self, node=None, run=SimpleNamespace(run_id=1))

    def reply(self, asked: str, text: str, *, missing: int = 0) -> None:
        """Announce a reply; ``missing`` of its objects are not uploaded."""
        message = Message(RecordDict({"message": ConfigRecord({"text": text})}), 1, "query")
        message.metadata.__dict__["_reply_to_message_id"] = asked
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        self.announced[asked] = message_to_proto(message), get_object_tree(message)
        self.known |= {*objects}
        for place, (name, one) in enumerate(objects.items()):
            (self.withheld if place < missing else self.objects)[name] = one.deflate()

    def PullMessages(self, request: Any) -> Any:
        found = [self.announced.pop(one) for one in request.message_ids if one in self.announced]
        heads, trees = zip(*found, strict=True) if found else ((), ())
        return PullAppMessagesResponse(messages_list=heads, message_object_trees=trees)

    def PullObject(self, request: Any) -> Any:
        name = request.object_id
        there = name in self.objects
        content = self.objects.get(name, b"")
        return PullObjectResponse(object_found=name in self.known, object_available=there, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


def forge(flower: Flower, asked: str, content: bytes) -> None:
    """Announce a reply whose root is an object of the member's own making."""
    flower.reply(asked, "hello")
    head, tree = flower.announced[asked]
    head.metadata.message_id = get_object_id(content)
    flower.objects[head.metadata.message_id] = content
    flower.known.add(head.metadata.message_id)
    flower.announced[asked] = head, ObjectTree(object_id=head.metadata.message_id, children=tree.children)


def pulled(replies: Replies, *asked: str, within_s: float = 2.0) -> Message | None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for message in replies.pull_messages(asked):
            return message
        time.sleep(0.01)
    return None


def text(message: Message | None) -> str:
    assert message is not None
    return str(message.content.config_records["message"]["text"])


def test_a_reply_comes_whole_and_is_confirmed() -> None:
    flower = Flower()
    replies = Replies(flower.grid)
    assert list(replies.pull_messages(["a"])) == []
    flower.reply("a", "hello")
    message = pulled(replies, "a")
    assert text(message) == "hello"
    assert message is not None
    assert message.metadata.reply_to_message_id == "a"
    assert flower.confirmed == [message.metadata.message_id]
    replies.close()


def test_a_reply_that_is_not_whole_holds_up_nobody_and_is_given_up() -> None:
    flower = Flower()
    replies = Replies(flower.grid, stall_s=0.5)
    flower.reply("a", "never", missing=1)
    flower.reply("b", "hello")
    began = time.monotonic()
    assert text(pulled(replies, "a", "b")) == "hello"
    assert time.monotonic() - began < 0.4
    error = pulled(replies, "a")
    assert error is not None
    assert error.has_error()
    assert error.metadata.reply_to_message_id == "a"
    assert len(flower.confirmed) == 1
    replies.close()


def test_a_slow_upload_is_waited_for() -> None:
    flower = Flower()
    replies = Replies(flower.grid, stall_s=0.4)
    flower.reply("a", "slow", missing=3)
    assert list(replies.pull_messages(["a"])) == []
    for name, content in flower.withheld.items():
        time.sleep(0.25)
        flower.objects[name] = content
    assert text(pulled(replies, "a")) == "slow"
    replies.close()


FORGED = {
    "junk": b"junk",
    "a message that is none": b"Message  4\0junk",
    "an empty message": b"Message  0\0",
    "another kind of object": b"RecordDict  2\0{}",
    "a kind that nobody knows": b"Nothing  0\0",
    "a part that did not come": b"Message " + b"a" * 64 + b" 0\0",
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_a_reply_that_makes_no_sense_is_an_error_of_its_own(content: bytes) -> None:
    flower = Flower()
    replies = Replies(flower.grid)
    forge(flower, "a", content)
    flower.reply("b", "hello")
    error = pulled(replies, "a")
    assert error is not None
    assert (error.has_error(), error.metadata.reply_to_message_id) == (True, "a")
    assert text(pulled(replies, "b")) == "hello"
    replies.close()


def test_a_reply_that_says_it_answers_another_message_is_given_up() -> None:
    """Its announcement, which Flower checks, names the right one; what counts for the exchange is in the reply."""
    flower = Flower()
    replies = Replies(flower.grid)
    flower.reply("b", "in the name of another member")
    head, tree = flower.announced.pop("b")
    head.metadata.reply_to_message_id = "a"
    flower.announced["a"] = head, tree
    error = pulled(replies, "a")
    assert error is not None
    assert (error.has_error(), error.metadata.reply_to_message_id) == (True, "a")
    replies.close()


def test_a_reply_without_a_dictionary_of_records_is_given_up() -> None:
    flower = Flower()
    replies = Replies(flower.grid)
    flower.reply("a", "hello")
    _, tree = flower.announced["a"]
    (inner,) = tree.children[0].children  # the ConfigRecord within the RecordDict
    body = flower.objects[tree.object_id].partition(b"\0")[2]
    content = f"Message {inner.object_id} {len(body)}\0".encode() + body
    forge(flower, "a", content)
    error = pulled(replies, "a")
    assert error is not None
    assert error.has_error()
    replies.close()


def test_one_reply_is_handed_out_at_a_time() -> None:
    flower = Flower()
    replies = Replies(flower.grid)
    for asked in ("a", "b", "c"):
        flower.reply(asked, asked)
    found = []
    while len(found) < 3:
        came = list(replies.pull_messages([one for one in ("a", "b", "c") if one not in found]))
        assert len(came) <= 1
        found += [text(message) for message in came]
    assert sorted(found) == ["a", "b", "c"]
    replies.close()
