"""Takes replies from Flower's Runtime API, each in a thread of its own.

Flower shows a reply when it is announced, before its parts have been uploaded, and its own Grid waits for the parts of
one reply before it looks at the next: a member that is killed in the middle of an upload, or announces and uploads
nothing, would hold up everybody for three minutes. Here it holds up nobody, and is given up once nothing has come
from it for a while; whoever asked may ask it again.

What is in a reply is the member's own making. One of which Flower can make nothing, or that says that it answers
something else, is an error of that member, and not the end of this process.
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
AT_ONCE = 16  # replies that are being fetched; one at a time is handed out


class Replies:
    """Flower's Grid as the exchange needs it.

    Args:
        grid: an ``HttpGrid``.
        stall_s: a reply of which no part came for so long is given up.
    """

    def __init__(self, grid: Any, stall_s: float = STALL_S) -> None:
        self._grid, self._client, self._stall_s = grid, grid._runtime_client, stall_s
        self._coming: dict[str, Future[Message]] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="replies")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids in order."""
        return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the reply to one of these messages, if one is here whole; an error where its parts did not come."""
        wanted = list(message_ids)
        unseen = [one for one in wanted if one not in self._coming]
        if unseen:
            answer = self._client.PullMessages(PullAppMessagesRequest(message_ids=unseen))
            for head, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                asked = str(head.metadata.reply_to_message_id)
                self._coming[asked] = self._pool.submit(self._fetched, asked, str(head.metadata.message_id), tree)
        for one in wanted:
            if one in self._coming and self._coming[one].done():
                return [self._coming.pop(one).result()]
        return []

    def close(self) -> None:
        """Wait for nothing more."""
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
        except Exception as error:  # junk makes Flower stumble in many ways; its words may be the member's
            logger.warning("dropped a reply that cannot be read (%s)", type(error).__name__)
            return _given_up(asked, run, "it cannot be read")
        message.metadata.__dict__["_message_id"] = identifier
        return message


def _answering(asked: str, found: Any) -> Message:
    """Return what was found, if it is a message that answers this one."""
    if not isinstance(found, Message) or found.metadata.reply_to_message_id != asked:
        raise ValueError("not a message, or not a reply to this one")
    if not (found.has_error() or isinstance(found.content, RecordDict)):
        raise ValueError("the content is not a RecordDict")
    return found


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
