"""The arithmetic of a round, with known answers: where one changes, ``version.NUMERICS`` has to be raised.

A recipe names that number, and a node signs no recipe that names another one: who computes otherwise would seal,
open or judge otherwise. Everything here is exact, whatever machine computes it. Training itself is torch's.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from moonflower.canonical import canonical
from moonflower.client.optimisers import Averaging
from moonflower.configs.settings import GateSettings
from moonflower.crypto import pairs, quantise, sealed, tau
from moonflower.crypto.answer_plan import answer_plan
from moonflower.crypto.planner import plan
from moonflower.protocol import gate, model_version
from moonflower.protocol.model_version import TensorSpec
from moonflower.version import NUMERICS

ANSWERS = {
    "plan": "e873069560388cc2cd772cb2fa72ddeb",
    "lanes": "578ec3455344c50c45773067e80e2dca",
    "sealed": "0db87421498090690021f7183bb960c6",
    "functionals": "0903094be2aacf64e12a00166ed4e26c",
    "answer": "3be43494220e5839c2ee404a9742c722",
    "opened mean": "322ed584b8c7e7fd458ee5ac4dea7d6d",
    "clip and norm": "102dfd8adb4f9cd22a3cf9945dc7adc7",
    "candidate": "15fde400a137ee760caac0a900b53403",
    "version": "87d78abdbf1698ab707697411fcea8d3",
    "gate": "617688b102be3efc62c49b23a03371f1",
}
NAMES, CONTEXT = ("anna", "bert", "cleo"), "c" * 64


def computed() -> dict[str, Any]:
    """Return what a round of three members computes, from fixed numbers and keys."""
    rng = np.random.default_rng(15)
    found = plan(3, 16, 1000)
    size = 900
    weight = [quantise.weight_of(rows, 600) for rows in (100, 200, 300)]
    updates = [rng.normal(0, 0.3, size).astype(np.float32) for _ in NAMES]
    lanes = [
        quantise.lanes_of(quantise.Contribution((own,), update, own, 1.5), found)
        for own, update in zip(weight, updates, strict=True)
    ]
    secrets = [sealed.Secrets(bytes([at]) * 32) for at in range(1, 4)]
    bodies = [sealed.seal(found, CONTEXT, own, lane) for own, lane in zip(secrets, lanes, strict=True)]
    adder = sealed.Sum(found, len(lanes[0]))
    for body in bodies:
        adder.add(body)
    total = adder.dump()
    residues = sealed.residues_of(found, total, len(lanes[0]))
    public = {name: pairs.public_mask(own.mask_key) for name, own in zip(NAMES, secrets, strict=True)}
    answers = []
    for name, own in zip(NAMES, secrets, strict=True):
        others = {other: key for other, key in public.items() if other != name}
        masked = pairs.mask(found, own.mask_key, name, others, "d" * 64, "e" * 64)
        answers.append(pairs.answer(found, own.key(found), masked))
    key = pairs.key_sum(found, np.sum(np.array(answers, dtype=np.int64), axis=0))
    blocks = sealed.open_total(found, CONTEXT, key, total, len(lanes[0]))
    opened = quantise.OpenedSum(blocks, size, 1, 3, found)
    values = np.concatenate([part for _, part in opened.values()])
    mean = quantise.mean(values, opened.counters[0], 1.5, 16)
    base = rng.normal(0, 1, size).astype(np.float32)
    vector, _ = Averaging().step(base, {}, mean)
    layout = (TensorSpec("weight", (30, 30)),)
    norm = quantise.mean_norm(quantise.squares(values), opened.counters[0], 1.5, 16)
    votes = {"anna": -0.01, "bert": 0.02, "cleo": None}
    verdict = gate.judge(votes, norm, (0.5, 0.7), in_range=True, min_members=2, settings=GateSettings())
    return {
        "plan": [found.as_dict(), answer_plan(found).as_dict()],
        "lanes": b"".join(one.astype("<i8").tobytes() for one in lanes),
        "sealed": b"".join(bodies) + total,
        "functionals": [str(one) for one in tau.functionals(found, "d" * 64, "e" * 64, residues)],
        "answer": b"".join(one.astype("<u2").tobytes() for one in answers),
        "opened mean": mean.astype("<f8").tobytes(),
        "clip and norm": [quantise.next_clip(1.5, float(np.abs(mean).max())), norm],
        "candidate": vector.astype("<f4").tobytes(),
        "version": model_version.build(layout, vector, {"format": 1}).data,
        "gate": [verdict.code, verdict.median],
    }


def digest_of(value: Any) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()[:32]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_arithmetic_gives_what_it_gave(name: str) -> None:
    assert NUMERICS == 1
    assert digest_of(computed()[name]) == ANSWERS[name], "raise NUMERICS where this is meant, and write the new answers"
