"""What hostile bytes meet: one function that feeds them to every parser of the wire, shared by test and soak.

``python tools/fuzzing.py -runs=100000`` runs it under atheris, coverage-guided (``make soak``).
"""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from typing import Any

with contextlib.ExitStack() as _stack:
    if __name__ == "__main__":
        import atheris

        _stack.enter_context(atheris.instrument_imports(include=["moonflower"]))
    from moonflower.crypto import planner, sealed
    from moonflower.crypto.identity import Identity, parse_card
    from moonflower.crypto.pairs import public_mask
    from moonflower.errors import InputError, Refused
    from moonflower.protocol import envelope
    from moonflower.protocol.answer import AnswerDocument, SignedAnswer
    from moonflower.protocol.approval import SignedDecision
    from moonflower.protocol.context import RoundContext
    from moonflower.protocol.envelope import MAGIC, RawEnvelope
    from moonflower.protocol.model_version import parse as parse_version
    from moonflower.protocol.statement import Proof, Statement

PLAN = planner.plan(4, 16, 10)
CONTEXT = RoundContext(
    federation="f",
    run="r",
    number=1,
    round=1,
    purpose="update",
    base="0" * 64,
    training={},
    schema="0" * 64,
    task={},
    package="0",
    crypto=PLAN.as_dict(),
    circle="0" * 64,
    roster="0" * 64,
    key="0" * 64,
    frozen="0" * 64,
    offer="0" * 64,
    checkpoint="",
)
LANES = 13
MASK = public_mask(bytes(range(32)))
KINDS = 8


@cache
def identity() -> Identity:
    return Identity.generate("anna")


@cache
def honest() -> bytes:
    """An honest envelope's bytes, to mutate."""
    return envelope.seal(identity(), CONTEXT, bytes(PLAN.body_bytes(LANES)), MASK).data


def feed(data: bytes) -> str:
    """Give ``data`` to the parser that its first byte names; return "" or the refusal's code. Nothing else may rise."""
    kind, rest = (data[0] % KINDS, data[1:]) if data else (0, b"")
    running = sealed.Sum(PLAN, LANES)
    before = running.dump()
    try:
        if kind == 0:  # an envelope as it comes
            _receive(running, RawEnvelope(rest))
        elif kind == 1:  # a header that its member signed, whatever it holds
            signature = identity().sign("envelope", rest)
            _receive(running, RawEnvelope(MAGIC + len(rest).to_bytes(4, "little") + rest + signature))
        elif kind == 2:  # a body behind an honest header
            body = (rest + bytes(running.body_bytes))[: running.body_bytes]
            _receive(running, envelope.seal(identity(), CONTEXT, body, MASK))
        elif kind == 3:
            parse_version(rest)
        elif kind == 4:
            Statement.parse(rest)
        elif kind == 6:  # a decision about a model, as text beside a signature
            text: Any = rest.decode(errors="replace")
            with contextlib.suppress(Refused):
                SignedDecision.from_dict({"decision": text, "signature": text})
            SignedDecision(rest, bytes(96)).verify({"anna": identity().card})
        elif kind == 7:  # an answer's document, signed or not
            with contextlib.suppress(Refused):
                AnswerDocument.parse(rest)
            signed = SignedAnswer(rest, identity().sign("answer", rest))
            signed.verify(identity().card, CONTEXT.digest, "0" * 64, "0" * 64)
        else:
            _give_cards(rest.decode(errors="replace"))
    except (Refused, InputError) as refusal:
        assert running.dump() == before, "a refused envelope left a trace"
        return refusal.code
    return ""


def _give_cards(value: Any) -> None:
    with contextlib.suppress(Refused):
        Proof.from_dict({"statement": value, "best": value, "signatures": {"anna": value}, "votes": value})
    votes = {"anna": value}
    with contextlib.suppress(Refused):
        Proof.from_dict(
            {"statement": value, "best": value, "signatures": votes, "votes": votes, "vote_signatures": votes}
        )
    parse_card({"name": value, "issuer": value, "client_id": "", "node": {}, "x25519": value, "signature": ""})


def _receive(running: sealed.Sum, raw: RawEnvelope) -> None:
    checked = envelope.check(raw, identity().card, CONTEXT, running.body_bytes)
    running.add(checked.body)


def main() -> None:
    def once(data: bytes) -> None:
        feed(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
