"""The arithmetic of a round, with known answers: where one changes, ``version.NUMERICS`` has to be raised.

A recipe names that number, and a node signs no recipe that names another one: who computes otherwise would seal,
open or judge otherwise. Everything here is exact, whatever machine computes it. Training itself is torch's.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moonflower.canonical import canonical
from moonflower.client.optimisers import Averaging, optimiser_of, rate_of
from moonflower.configs.settings import GateSettings
from moonflower.configs.training import SERVER_OPTIONS, TrainingSettings
from moonflower.crypto import pairs, quantise, sealed, tau
from moonflower.crypto.answer_plan import answer_plan
from moonflower.crypto.planner import plan
from moonflower.protocol import gate, model_version
from moonflower.protocol.model_version import TensorSpec
from moonflower.version import NUMERICS

ANSWERS = {
    "plan": "e873069560388cc2cd772cb2fa72ddeb",
    "lanes": "319cb56f6f651c745a5cb292fa6dbe4d",
    "sealed": "4769ea5295380eae4af580882ab2d862",
    "functionals": "f9ac05d7cf31bf6043e77a2211642d81",
    "answer": "3be43494220e5839c2ee404a9742c722",
    "opened mean": "36a839eafea51d1670ad5e944283899e",
    "length": "1d0bdf3da5c8c2ef953507b23961b2e3",
    "candidate": "06a93e5bdda13c0c55dc6aa703d46cf0",
    "version": "aa5ebd1541a77f42efce2455c4e8d902",
    "average": "dfb2b5b945e921c44217abe8ef14f875",
    "momentum": "2b00bcaea72531a627c013587cfe1273",
    "adam": "55fef8320fce44b9ebe7bd1659427e91",
    "yogi": "06884b9ccdf2754f141fc590ce1246fe",
    "adagrad": "4661ba627f99e5d9eb69132595d8c5da",
    "gate": "dfdde7d687035aa56c03c941b566460b",
}
NAMES, CONTEXT = ("anna", "bert", "cleo"), "c" * 64


def computed() -> dict[str, Any]:
    """Return what a round of three members computes, from fixed numbers and keys."""
    rng = np.random.default_rng(15)
    found = plan(3, 16, 1000)
    size = 900
    scale = quantise.Scale((quantise.Stretch(800, "*", 1.5), quantise.Stretch(100, "b", 30.0)), 16)
    updates = [rng.normal(0, 0.3, size).astype(np.float32) for _ in NAMES]
    lanes = [
        quantise.lanes_of(quantise.Contribution((), update, rows / 600, scale, bytes([rows // 100]) * 32), found)
        for rows, update in zip((100, 200, 300), updates, strict=True)
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
    opened = quantise.OpenedSum(blocks, size, 0, 3, found)
    values = np.concatenate([part for _, part in opened.values()])
    mean = values * scale.steps(0, size)
    base = rng.normal(0, 1, size).astype(np.float32)
    vector, _ = Averaging().step(base, {}, mean, 1.0)
    layout = (TensorSpec("weight", (30, 30)),)
    length = quantise.Length(scale)
    length.add(0, values)
    settings = GateSettings()
    votes = {name: gate.vote_on(loss, [0.5], settings) for name, loss in zip(NAMES, (0.499, 0.4999, 0.53), strict=True)}
    verdict = gate.judge(votes, length.value, (length.value / 2,), in_range=True, settings=settings)
    return {
        "plan": [found.as_dict(), answer_plan(found).as_dict()],
        "lanes": b"".join(one.astype("<i8").tobytes() for one in lanes),
        "sealed": b"".join(bodies) + total,
        "functionals": [str(one) for one in tau.functionals(found, "d" * 64, "e" * 64, residues)],
        "answer": b"".join(one.astype("<u2").tobytes() for one in answers),
        "opened mean": mean.astype("<f8").tobytes(),
        "length": [length.value, length.of_coins(3)],
        "candidate": vector.astype("<f4").tobytes(),
        "version": model_version.build(layout, vector, {"format": 1}).data,
        **{name: three_rounds(name, base, mean) for name in SERVER_OPTIONS},
        "gate": [votes, verdict.status, verdict.code, list(verdict.minority)],
    }


def three_rounds(name: Any, base: Any, mean: Any) -> bytes:
    """Return the versions and states that a server optimiser makes in three rounds, with a rate that falls."""
    training = TrainingSettings(server_optimizer=name, server_decay=0.7)
    optimiser, made = optimiser_of(training), b""
    state = dict.fromkeys(optimiser.state, np.zeros_like(base))
    for number in (1, 2, 3):
        base, state = optimiser.step(base, state, mean / number - 1e-3, rate_of(training, number))
        made += base.astype("<f4").tobytes() + b"".join(state[one].astype("<f4").tobytes() for one in optimiser.state)
    return made


def digest_of(value: Any) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()[:32]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_arithmetic_gives_what_it_gave(name: str) -> None:
    assert NUMERICS == 2
    assert digest_of(computed()[name]) == ANSWERS[name], "raise NUMERICS where this is meant, and write the new answers"


def test_it_gives_the_same_on_a_processor_with_fewer_instructions() -> None:
    """NumPy's exp, dot and sums differ there; the operations of rule 4 do not."""
    features = " ".join(np._core._multiarray_umath.__cpu_dispatch__)  # type: ignore[attr-defined]
    code = "from test_numerics import *; print({name: digest_of(value) for name, value in computed().items()})"
    there = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features, "PYTHONPATH": os.pathsep.join([_HERE, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=there, capture_output=True, check=True, text=True
    )
    assert ast.literal_eval(done.stdout) == ANSWERS


_HERE = str(Path(__file__).parent)
