"""Takes replies from Flower's Runtime API, each in a thread of its own.

Flower shows a reply when it is announced, before its parts have been uploaded. Its own Grid waits for the parts of one
reply before it looks at the next. A member that is killed during an upload, or announces and uploads nothing, would
hold up all others for three minutes. Here it holds up no one. Its reply is given up after a while without news, and the
member may be asked again.

A reply's content is chosen by the member. A reply that Flower cannot read, or that answers another message, is an error
of that member and does not end this process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

logger = logging.getLogger(__name__)
STALL_S = 30.0
PAUSE_S = 0.05
AT_ONCE = 16  # replies that are fetched at once; they are handed out one at a time


class Replies:
    """Flower's Grid as the exchange needs it.

    Args:
        grid: an ``HttpGrid``.
        stall_s: a reply is given up if no part of it came for this long.
    """

    def __init__(self, grid: Any, stall_s: float = STALL_S) -> None:
        self._grid, self._client, self._stall_s = grid, grid._runtime_client, stall_s
        self._coming: dict[str, Future[Message]] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="replies")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids in order."""
        return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return a complete reply to one of these messages, if there is one; an error if its parts did not arrive."""
        wanted = list(message_ids)
        unseen = [message for message in wanted if message not in self._coming]
        if unseen:
            answer = self._client.PullMessages(PullAppMessagesRequest(message_ids=unseen))
            for head, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                asked = str(head.metadata.reply_to_message_id)
                self._coming[asked] = self._pool.submit(self._fetched, asked, str(head.metadata.message_id), tree)
        for message in wanted:
            if message in self._coming and self._coming[message].done():
                return [self._coming.pop(message).result()]
        return []

    def close(self) -> None:
        """Stop fetching."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetched(self, asked: str, identifier: str, tree: Any) -> Message:
        node, run = self._grid.node, self._grid.run.run_id
        contents: dict[str, bytes] = {}
        missing = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        newest = time.monotonic()
        while missing:
            reply = self._client.PullObject(PullObjectRequest(node=node, run_id=run, object_id=missing[0]))
            if reply.object_found and reply.object_available:
                contents[missing.pop(0)] = reply.object_content
                newest = time.monotonic()
            elif not reply.object_found or time.monotonic() - newest > self._stall_s:
                return _given_up(asked, run, "its parts did not arrive")
            else:
                time.sleep(PAUSE_S)
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=identifier)
        )
        try:
            message = _answering(asked, inflate_object_from_contents(identifier, contents))
        except Exception as error:  # junk fails in many ways; the error's text may be the member's own words
            logger.warning("dropped a reply that cannot be read (%s)", type(error).__name__)
            return _given_up(asked, run, "it cannot be read")
        message.metadata.__dict__["_message_id"] = identifier
        return message


def _answering(asked: str, reply: Any) -> Message:
    """Return ``reply`` if it is a message that answers the one with this identifier."""
    if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != asked:
        raise ValueError("not a message, or not a reply to this one")
    if not (reply.has_error() or isinstance(reply.content, RecordDict)):
        raise ValueError("the content is not a RecordDict")
    return reply


def _given_up(asked: str, run: int, why: str) -> Message:
    """Return an error in place of a reply."""
    about = Metadata(
        run_id=run,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=asked,
        group_id="",
        created_at=time.time(),
        ttl=0.0,
        message_type="system",
    )
    return make_message(metadata=about, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, why))
