"""Small honest pieces of the protocol for tests: identities, a roster, a context, an envelope."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from moonflower.crypto.identity import Identity, Roster, parse_roster
from moonflower.crypto.pairs import public_mask
from moonflower.crypto.planner import plan
from moonflower.protocol import envelope
from moonflower.protocol.circle import Circle
from moonflower.protocol.context import RoundContext, checkpoint_label
from moonflower.protocol.statement import Proof, Statement, Words, sign_statement, vote_bytes

from support.circles import heart_recipe

NAMES = ("anna", "bert", "cleo", "dora")
BASE = "b" * 64
CHECKPOINT = checkpoint_label("log+key", 5, b"r" * 32)


@lru_cache
def identity(name: str) -> Identity:
    return Identity.generate(name)


def pins() -> dict[str, str]:
    return {name: identity(name).card.node.pin for name in NAMES}


@lru_cache
def roster() -> Roster:
    return parse_roster([identity(name).card.as_dict() for name in NAMES], pins())


def circle() -> Circle:
    return Circle.of(heart_recipe("federation.name=f"), pins())


def context(**changes: Any) -> RoundContext:
    honest = RoundContext(
        federation="f",
        run="r",
        number=3,
        round=3,
        purpose="update",
        base=BASE,
        training={"lr": 0.1},
        schema="s" * 64,
        task={"ref": "a:b"},
        package="0",
        crypto=plan(4, 16, 10).as_dict(),
        circle=circle().digest,
        roster=roster().digest,
        key="k" * 64,
        frozen="f" * 64,
        checkpoint=CHECKPOINT,
        offer="o" * 64,
    )
    return replace(honest, **changes)


def sealed(name: str, about: RoundContext, body: bytes = b"body") -> envelope.OwnEnvelope:
    return envelope.seal(identity(name), about, body, public_mask(name.encode() * 8))


def statement(about: RoundContext, members: tuple[str, ...] = NAMES, **changes: Any) -> Statement:
    fields: dict[str, Any] = {"sha256": "c" * 64, "norm": 0.5, "in_range": True, **changes}
    return Statement.of(about, {name: f"{name:0>64}" for name in members}, **fields)


def words(name: str, said: Statement, best: str = "", vote: str = "better") -> Words:
    voted = identity(name).sign("vote", vote_bytes(said.encode(), best, vote))
    return Words(sign_statement(identity(name), said), vote, voted)


def proof(said: Statement, signers: tuple[str, ...] = NAMES, best: str = "", vote: str = "better") -> Proof:
    return Proof(said.encode(), best, {name: words(name, said, best, vote) for name in signers})
