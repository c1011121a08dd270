"""The gateway in front of Flower's real app, in this process, and nodes that ask it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from moonflower.configs.roles import ServerSettings
from moonflower.crypto.identity import PublicKey
from moonflower.oauth.login import DpopKey
from moonflower.oauth.tokens import Principal
from moonflower.server.door.api import Api
from moonflower.server.door.flower.hold import Hold
from moonflower.server.door.flower.superlink import SuperLink
from moonflower.server.door.gateway import ACTIVATE, Gateway
from moonflower.server.records import denied
from moonflower.server.records import members as roster
from moonflower.server.records.members import RosterMember
from moonflower.server.records.state import State

from support.forge import SERVER, Clock, Headers, Issuer, verifier

PULL, PUSH, PULL_OBJECT = "/v1/fleet/pull-messages", "/v1/fleet/push-object", "/v1/fleet/pull-object"
HERE = "192.0.2.7"
ANNA, BERT = "Anna's hospital", "Bert's hospital"
Parts = list[tuple[float, bytes]]


@dataclass
class Reply:
    """A response; ``code`` is ours, or what Flower said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])

    @property
    def verdict(self) -> tuple[int, str]:
        return self.status, self.code


class Counting:
    """An app that counts what reaches it and hands it on, or answers in another's place."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.reached: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])
        await self.app(scope, receive, send)


@dataclass
class Node:
    """A member's node: its keys and its OAuth client."""

    name: str
    client_id: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def pin(self) -> str:
        return PublicKey(self.key.public_key()).pin

    @property
    def dpop(self) -> DpopKey:
        return DpopKey(self.key)

    def flower(self, signer: Node | None = None) -> Headers:
        """What Flower's node signs a request with."""
        stamp = now().isoformat()
        signature = sign_message((signer or self).key, stamp.encode())
        return [
            (FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), base64.b64encode(self.pem)),
            (TIMESTAMP_HEADER.lower().encode(), stamp.encode()),
            (FLEET_HTTP_SIGNATURE_HEADER.lower().encode(), base64.b64encode(signature)),
            (b"content-type", PROTOBUF_MEDIA_TYPE.encode()),
        ]

    def activate(self) -> bytes:
        return bytes(ActivateNodeRequest(public_key=self.pem, heartbeat_interval=30).SerializeToString())


class Door:
    """Gateway, Flower's app, our routes and a state, in this process."""

    def __init__(self, folder: Path, *, flower: Any = None, **settings: Any) -> None:
        self.issuer = Issuer(clock=Clock(time.time()))
        self.state = State(folder, "heart")
        self.link = SuperLink(1)
        self.flower = Counting(Hold(flower or self.link.app, 0.2, 0.0))
        self.woken: list[bool] = []
        self.api = Api(self.state, "heart", lambda: self.woken.append(True))
        self.ours = Counting(self.api.app)
        self.logins: list[str] = []
        limits = {"tls_cert": "x", "tls_key": "x", "federation": "heart", "refusals_per_minute": 1000, **settings}
        self.verifier = verifier(self.issuer, binding="dpop")
        self.app = Gateway(
            flower=self.flower,
            api=self.ours,
            scopes=self.api.scopes,
            verifier=self.verifier,
            member_of=self.member_of,
            denied=self.denied,
            login=self.login,
            note=self.note,
            settings=ServerSettings.model_validate(limits),
        )
        self.anna, self.bert = Node(ANNA, "client-a"), Node(BERT, "client-b")
        self.desk = Node("", "desk")
        for one in (self.anna, self.bert):
            self.add(one)

    def add(self, node: Node, issuer: str | None = None) -> None:
        with self.state.store.transaction() as db:
            roster.add(db, self.state.log, RosterMember(node.name, issuer or self.issuer.url, node.client_id, node.pin))

    def revoke(self, node: Node) -> None:
        with self.state.store.transaction() as db:
            roster.revoke(db, self.state.log, node.name, "test")

    def member_of(self, issuer: str, client_id: str) -> RosterMember | None:
        with self.state.store.read() as db:
            return roster.by_client(db, issuer, client_id)

    def denied(self, principal: Principal) -> bool:
        with self.state.store.read() as db:
            return denied.is_denied(db, principal.client_id, principal.subject)

    def note(self, code: str, member: str, details: dict[str, Any]) -> None:
        with self.state.store.transaction() as db:
            self.state.log.append(db, "refused_member", member=member, code=code, **details)

    def login(self, member: RosterMember, pem: bytes) -> None:
        self.logins.append(member.name)
        self.link.login(pem)

    def token(self, node: Node, **claims: Any) -> str:
        bound = {"sub": node.client_id, "client_id": node.client_id, "cnf": {"jkt": node.pin}}
        return self.issuer.token(self.issuer.claims(**{**bound, **claims}))

    def proven(self, method: str, path: str, token: str, key: DpopKey) -> Headers:
        proof = key.proof(method, SERVER + path, token=token)
        return [(b"authorization", b"DPoP " + token.encode()), (b"dpop", proof.encode())]

    async def ask(
        self, method: str, path: str, headers: Headers = (), body: bytes | Parts = b"", address: str = HERE
    ) -> Reply:
        """Send a request as uvicorn would hand it on; ``body`` may come in parts, each after a pause."""
        parts = [(0.0, body)] if isinstance(body, bytes) else list(body)
        sent: list[Any] = []

        async def receive() -> Any:
            if not parts:
                await asyncio.Event().wait()
            pause, data = parts.pop(0)
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": data, "more_body": bool(parts)}

        async def send(message: Any) -> None:
            is_start = message["type"] == "http.response.start"
            assert is_start != bool(sent), "a reply has one start, and it comes first"
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path.partition("?")[0],
            "raw_path": path.partition("?")[0].encode(),
            "query_string": path.partition("?")[2].encode(),
            "root_path": "",
            "headers": list(headers),
            "client": (address, 4711),
            "server": ("192.0.2.1", 8443),
        }
        await self.app(scope, receive, send)
        named = {name.decode().lower(): value.decode() for name, value in sent[0].get("headers", ())}
        return Reply(sent[0]["status"], named, b"".join(one.get("body", b"") for one in sent[1:]))

    async def fleet(
        self,
        node: Node,
        path: str = ACTIVATE,
        body: bytes | Parts | None = None,
        *,
        token: str | None = None,
        proof: DpopKey | None = None,
        flower: Headers | None = None,
        address: str = HERE,
    ) -> Reply:
        """A node's request; each part of it may be another's."""
        held = token or self.token(node)
        lines = self.proven("POST", path, held, proof or node.dpop)
        lines = [*lines, *(node.flower() if flower is None else flower)]
        return await self.ask("POST", path, lines, node.activate() if body is None else body, address)

    async def desked(self, method: str, path: str, body: Any = b"", scope: str = "fl:run", **token: Any) -> Reply:
        """An operator's request."""
        held = self.token(self.desk, scope=scope, **token)
        lines = self.proven(method, path.partition("?")[0], held, self.desk.dpop)
        data = body if isinstance(body, bytes | list) else json.dumps(body).encode()
        return await self.ask(method, path, lines, data)

    def refusals(self) -> list[dict[str, Any]]:
        found = [one for one in self.state.log.after(-1, 1000) if one["event"] == "refused_member"]
        return [{"member": "", **one} for one in found]

    def online(self, node: Node) -> bool:
        found = self.link._state.get_node_id_by_public_key(node.pem)
        return found is not None and self.link._state.get_node_info(node_ids=[found])[0].status == "online"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.state.close()


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    """Makes doors with other limits, or with another app in Flower's place."""
    made: list[Door] = []

    def make(**settings: Any) -> Door:
        made.append(Door(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make
    for one in made:
        one.state.close()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    """An app that reads a body and says 200."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
