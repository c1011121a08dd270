"""What hostile bytes meet: one function that feeds them to every parser of the wire, shared by test and soak.

``python tests/fuzzing.py -runs=100000`` runs it under atheris, coverage-guided (``make soak``).
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from functools import cache
from typing import Any

import numpy as np

with contextlib.ExitStack() as _stack:
    if __name__ == "__main__":
        import atheris

        _stack.enter_context(atheris.instrument_imports(include=["moonflower"]))
    from moonflower.crypto import bits, planner
    from moonflower.crypto.identity import Identity, parse_card
    from moonflower.crypto.sealed import SealedVector
    from moonflower.errors import InputError, Refused
    from moonflower.protocol import envelope
    from moonflower.protocol.approval import SignedDecision
    from moonflower.protocol.context import RoundContext
    from moonflower.protocol.envelope import MAGIC, RawEnvelope
    from moonflower.protocol.model_version import parse as parse_version
    from moonflower.protocol.statement import Proof, Statement
    from moonflower.server.aggregate import RunningSum

PLAN = planner.plan(4, 16, 10)
CONTEXT = RoundContext(
    "f", "r", 1, 1, "update", "0" * 64, 1.0, {}, "0" * 64, {}, "0", PLAN.as_dict(), 1, "0" * 64, 3, "0" * 64, ""
)
LANES = 13


@cache
def identity() -> Identity:
    return Identity.generate("anna")


@cache
def honest() -> bytes:
    """An honest envelope's bytes, to mutate."""
    residues = np.arange(PLAN.degree, dtype=np.uint64)[None]
    body = bytes(64) + bits.pack(residues, PLAN.modulus_bits).tobytes()
    vector = SealedVector(body, hashlib.sha256(bytes(64)).hexdigest(), (1,) * PLAN.mac_points)
    return envelope.seal(identity(), CONTEXT, vector).data


def feed(data: bytes) -> str:
    """Give ``data`` to the parser that its first byte names; return "" or the refusal's code. Nothing else may rise."""
    kind, rest = (data[0] % 7, data[1:]) if data else (0, b"")
    running = RunningSum(PLAN, LANES)
    before = running.dump()
    try:
        if kind == 0:  # an envelope as it comes
            _receive(running, RawEnvelope(rest))
        elif kind == 1:  # a header that its member signed, whatever it holds
            signature = identity().sign("envelope", rest)
            _receive(running, RawEnvelope(MAGIC + len(rest).to_bytes(4, "little") + rest + signature))
        elif kind == 2:  # a body behind an honest header
            body = (rest + bytes(running.body_bytes))[: running.body_bytes]
            vector = SealedVector(body, hashlib.sha256(body[:64]).hexdigest(), (1,) * PLAN.mac_points)
            _receive(running, envelope.seal(identity(), CONTEXT, vector))
        elif kind == 3:
            parse_version(rest)
        elif kind == 4:
            Statement.parse(rest)
        elif kind == 6:  # a decision about a model, as text beside a signature
            text: Any = rest.decode(errors="replace")
            with contextlib.suppress(Refused):
                SignedDecision.from_dict({"decision": text, "signature": text})
            SignedDecision(rest, bytes(96)).verify({"anna": identity().card})
        else:
            value: Any = rest.decode(errors="replace")
            with contextlib.suppress(Refused):
                Proof.from_dict({"statement": value, "signatures": {"anna": value}})
            parse_card({"name": value, "issuer": value, "client_id": "", "node": {}, "x25519": value, "signature": ""})
    except (Refused, InputError) as refusal:
        assert running.dump() == before, "a refused envelope left a trace"
        return refusal.code
    return ""


def _receive(running: RunningSum, raw: RawEnvelope) -> None:
    checked = envelope.check(raw, identity().card, CONTEXT, running.body_bytes)
    running.vet(checked)
    running.add(checked.body)


def main() -> None:
    def once(data: bytes) -> None:
        feed(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
