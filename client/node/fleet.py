"""The node's part of Flower's Fleet protocol: log in, ask for work, fetch, answer. No other client module uses it.

Requests are those of Flower's own node, signed with the node key as Flower wants it. A token from the given
``httpx.Auth`` is added. ``replies.py`` decides what a reply means. Without a reply, the node keeps asking, with
growing pauses. It writes one log line when an outage begins and one when it is over.

Redirects are not followed, because a coordinator must not send a node's signed requests elsewhere.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from ...configs.roles import is_loopback
from ...errors import Again, FleetError, Forgotten, InputError, Refused, RunOver, Stopped
from .replies import LONGEST_PAUSE_S, Gate, Outage, unreachable

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
TIMEOUT_S = 30.0
OBJECT_PATIENCE_S = 60.0
"""A message can arrive before all its objects; after this time without them it counts as broken."""
IN_FLIGHT = 2
"""Objects (of at most 5 MiB each) that this process holds at once, in either direction."""
INVALID_APP: int = ErrorCode.INVALID_FAB
CRASHED: int = ErrorCode.CLIENT_APP_CRASHED
RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
UNAVAILABLE: int = ErrorCode.MESSAGE_UNAVAILABLE


@dataclass(frozen=True)
class Work:
    """A message for this node, whose content is still on the server.

    Attributes:
        ids: of its objects, children first, the message itself last.
    """

    run_id: int
    message_id: str
    kind: str
    ids: tuple[str, ...]
    head: Any = field(repr=False)


class Fleet:
    """This node's connection to the server. Safe for several threads; only one of them pulls.

    Args:
        url: the coordinator's address.
        key: the node key.
        ca: private CA of the coordinator (PEM); None for the machine's own list.
        auth: adds and renews the token; None if the server wants no token.
        stop: once it is set, nothing is asked again, and :class:`Stopped` is raised.
        clock: seconds since the epoch, to compare with the server's.
    """

    def __init__(
        self,
        url: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        ca: Path | None = None,
        auth: httpx.Auth | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.outage = Outage()
        self._stop = stop or threading.Event()
        self._public = public_key_to_bytes(key.public_key())
        interceptors = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
            Gate(auth, clock),
        ]
        self._client = FleetHttpClient(url.rstrip("/"), interceptors=interceptors, verify=_trust(ca))
        if is_loopback(urlsplit(url).hostname or ""):  # a proxy is only for other machines
            self._client._client.close()
            self._client._client = httpx.Client(verify=_trust(ca), timeout=TIMEOUT_S, trust_env=False)
        self._client._client.follow_redirects = False
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="objects")
        self._node: Any = Node(node_id=0)
        self._run: tuple[int, str] = (0, "")

    def activate(self) -> int:
        """Log in; return the node's id. Any obstacle except a refusal is waited out."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        answer = self._ask(self._client.ActivateNode, request, stubborn=True)
        self._node, self._run = Node(node_id=answer.node_id), (0, "")
        return int(answer.node_id)

    def deactivate(self) -> None:
        """Log out, if the server can be reached, so that it stops sending work at once."""
        if self._node.node_id:
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def heartbeat(self) -> None:
        """Say once that this node is alive.

        Raises:
            Forgotten: the server does not know it.
            Exception: anything else that went wrong; the next heartbeat will tell.
        """
        node = self._node
        request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        try:
            known = self._client.SendNodeHeartbeat(request).success
        except Forgotten:
            known = False
        if not known and node is self._node:  # not if it logged in anew meanwhile
            raise Forgotten("fleet.forgotten", "the server does not know this node")

    def pull(self) -> Work | None:
        """Return the next message, or None."""
        answer = self._ask(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not answer.messages_list or not answer.message_object_trees:
            return None
        head = message_from_proto(answer.messages_list[0])
        ids = tuple(dict.fromkeys(tree.object_id for tree in iterate_object_tree(answer.message_object_trees[0])))
        about = head.metadata
        return Work(int(about.run_id), str(about.message_id), str(about.message_type), ids, head)

    def run_fab(self, run_id: int) -> str:
        """Return the digest of the app bundle of a run that goes on; the last run's digest is cached."""
        if self._run[0] != run_id:
            answer = self._ask(self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id))
            self._run = (run_id, str(answer.run.fab_hash))
        return self._run[1]

    def is_over(self, run_id: int) -> bool:
        """Return whether a run has ended, asking once; without an answer, return False."""
        try:
            self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id))
        except (RunOver, Forgotten):
            return True
        except Exception as error:  # the network's business; the pull will say what is wrong
            logger.debug("cannot ask for run %d: %r", run_id, error)
        return False

    def objects(self, work: Work) -> Iterator[bytes]:
        """Yield the message's objects in the order of ``work.ids``, fetching two at a time."""
        waiting: list[Future[bytes]] = []
        try:
            for name in work.ids:
                waiting.append(self._pool.submit(copy_context().run, self._object, work.run_id, name))
                if len(waiting) >= IN_FLIGHT:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()

    def confirm(self, work: Work) -> None:
        """Tell the server that it may forget the message's objects."""
        request = ConfirmMessageReceivedRequest(node=self._node, run_id=work.run_id, message_object_id=work.message_id)
        self._ask(self._client.ConfirmMessageReceived, request)

    def push(self, work: Work, reply: bytes, tree: bytes, seconds: float) -> Upload:
        """Announce a reply; return which of its objects the server wants.

        Args:
            work: what is answered.
            reply: the reply without content, as a Flower protobuf.
            tree: its object tree, as a Flower protobuf.
            seconds: how long the work took.
        """
        message, objects = ProtoMessage.FromString(reply), ObjectTree.FromString(tree)
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message],
            message_object_trees=[objects],
            clientapp_runtime_list=[seconds],
        )
        answer = self._ask(self._client.PushMessages, request)
        wanted = set(answer.objects_to_push)
        order = dict.fromkeys(item.object_id for item in iterate_object_tree(objects))
        return Upload(self, work.run_id, str(answer.session_id), tuple(name for name in order if name in wanted))

    def push_error(self, work: Work, code: int, text: str) -> None:
        """Answer a message with an error: a code and a fixed text, never an exception's text (rule 12)."""
        reply = Message(Error(code, text), reply_to=work.head)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        tree = get_object_tree(reply).SerializeToString()
        upload = self.push(work, message_to_proto(reply).SerializeToString(), tree, 0.0)
        upload.send(reply.deflate() for _ in upload.wanted)

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _object(self, run_id: int, name: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=name)
        until, pause = time.monotonic() + OBJECT_PATIENCE_S, 0.05
        while True:
            answer = self._ask(self._client.PullObject, request)
            if answer.object_found and answer.object_available:
                return bytes(answer.object_content)
            if not answer.object_found or time.monotonic() > until:
                raise FleetError("fleet.object", "the server does not have an object of the message")
            if self._stop.wait(pause):
                raise Stopped
            pause = min(2 * pause, 0.5)

    def _put(self, run_id: int, session: str, name: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node, run_id=run_id, session_id=session, object_id=name, object_content=content
        )
        if not self._ask(self._client.PushObject, request).stored:
            raise FleetError("fleet.object", "the server did not take an object of the reply")

    def _ask(self, rpc: Callable[[Any], Any], request: Any, *, stubborn: bool = False) -> Any:
        """Return the answer to a request, asking until there is an answer."""
        tries = 0
        while True:
            least = 0.0
            try:
                answer = rpc(request)
            except httpx.RequestError as error:
                why, lasting = unreachable(error)
                least = LONGEST_PAUSE_S if lasting else 0.0
            except Again as error:
                why, least = str(error), error.pause_s
            except Refused as error:
                if error.code != "auth.issuer_unreachable":
                    raise
                why = str(error)
            except FleetError as error:
                if not stubborn:
                    raise
                why, least = str(error), 1.0
            except ValueError as error:  # Flower's way to say that a reply is not a protobuf
                raise FleetError("fleet.answer", "the server's answer is not a Flower message") from error
            else:
                self.outage.over()
                return answer
            tries += 1
            if tries > 1 or least >= 1.0:  # an idle connection may have closed: one failure is not worth a line
                self.outage.begin(why)
            pause = max(least, min(FIRST_PAUSE_S * 2 ** min(tries - 1, 10), LONGEST_PAUSE_S))
            if self._stop.wait(pause * (0.5 + secrets.randbelow(501) / 1000)):
                raise Stopped


@dataclass(frozen=True)
class Upload:
    """A reply that the server knows of; ``wanted`` are the ids of the objects that it lacks, in sending order."""

    fleet: Fleet = field(repr=False)
    run_id: int
    session: str
    wanted: tuple[str, ...]

    def send(self, contents: Iterable[bytes]) -> None:
        """Send the wanted objects, taking one from ``contents`` only when there is room for it."""
        going: list[Future[None]] = []
        fleet = self.fleet
        for name, content in zip(self.wanted, contents, strict=True):
            put = copy_context().run
            going.append(fleet._pool.submit(put, fleet._put, self.run_id, self.session, name, content))
            del content
            if len(going) >= IN_FLIGHT:
                going.pop(0).result()
        for future in going:
            future.result()


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError):
        raise InputError("config.file", f"ca {ca} cannot be read; expected certificates in PEM") from None
