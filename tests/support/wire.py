"""The size of what a member sends for an update, measured on a real envelope and a real answer."""

from __future__ import annotations

import os

import numpy as np
from moonflower.crypto import pairs, sealed, tau
from moonflower.crypto.answer_plan import answer_plan
from moonflower.crypto.answers import AnswerKey, generate
from moonflower.crypto.planner import plan
from moonflower.crypto.quantise import Contribution, Scale, Stretch, lanes_of
from moonflower.crypto.sealed import Secrets
from moonflower.protocol import envelope
from moonflower.protocol.answer import AnswerDocument, SignedAnswer

from support.protocol import context, identity


def upload_bytes_per_param(*, values: int, members: int, value_bits: int) -> float:
    """Return the bytes of one sealed, signed and answered update for each of its ``values`` parameters."""
    agreed = plan(members, value_bits, values)
    about = context(crypto=agreed.as_dict())
    update = np.random.default_rng(7).normal(size=values).astype(np.float32)
    scale = Scale((Stretch(values, "*", 8.0),), value_bits)
    lanes = lanes_of(Contribution((), update, 1 / members, scale, bytes(32)), agreed)
    secrets = Secrets.fresh(os.urandom(32), bytes(32), about.digest, sealed.digest_of(lanes))
    body = sealed.seal(agreed, about.digest, secrets, lanes)
    sent = envelope.seal(identity("anna"), about, body, pairs.public_mask(secrets.mask_key)).data
    key = AnswerKey(agreed, generate(answer_plan(agreed)))
    answer = key.seal(pairs.answer(agreed, secrets.key(agreed), np.zeros(agreed.degree, dtype=np.uint16)))
    functionals = tau.functionals(agreed, "0" * 64, "0" * 64, sealed.residues_of(agreed, body, len(lanes)))
    signed = SignedAnswer.sign(
        identity("anna"), AnswerDocument(about.digest, "0" * 64, "0" * 64, functionals, "0" * 64)
    )
    return (len(sent) + len(answer) + len(signed.data) + len(signed.signature)) / values
