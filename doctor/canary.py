"""Check that encryption is on: a canary update is sealed, and a process with the server's data tries to read it.

Members that exist only here seal, answer and open; there are as many as the plan is for. The other process is
``server/evidence/onlooker.py``. It is started anew, not forked, so it holds nothing of this process. While it holds the
sum, its memory is searched for the seeds of all seals and the circle's key. As a control that the search works, the
memory must also hold the round's context, which the process was given.

What this shows: the code that is installed here seals; the server's half adds without a key; all answers together
open exactly the sum. What it does not show: what another member's machine runs, and that the lattice problem is hard.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..crypto import answers, bits, pairs, sealed
from ..crypto.answer_plan import AnswerSum, answer_plan
from ..crypto.answers import AnswerKey
from ..crypto.identity import Identity
from ..crypto.planner import Plan
from ..crypto.quantise import Contribution, Ints, OpenedSum, Scale, Stretch, Update, lanes_of
from ..crypto.sealed import Secrets
from ..errors import MoonflowerError
from ..protocol import envelope
from ..protocol.context import RoundContext
from ..server.evidence.onlooker import CHI_SQUARE_MOST, SHARE_MOST, is_blind

Sealing = Callable[[Plan, str, Secrets, Ints], bytes]
COUNTERS = (2**40 + 12345,)
CLIP = 1.0
NEEDLE_BYTES = 16
MAX_REGION = 1 << 30  # bytes of memory that are searched in one piece


@dataclass(frozen=True)
class Found:
    """What became of the canary.

    Attributes:
        blind: the other process could read nothing.
        added: it took all envelopes and added them.
        opened: all answers together open exactly the sum.
        held: the other process's memory holds a key; None if the memory could not be read.
        chi_square: the largest of the residues.
        detail: how the canary was read, or the code of a refusal; "" for neither.
    """

    blind: bool
    added: bool
    opened: bool
    held: bool | None
    chi_square: float
    detail: str

    @property
    def ok(self) -> bool:
        """Whether encryption is on."""
        return self.blind and self.added and self.opened and not self.held

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if not self.added:
            return f"the server's half refuses what was sealed here ({self.detail}); expected it to add it"
        if not self.blind:
            return f"a process with the server's data reads a canary update ({self.detail}); expected that it cannot"
        if self.held:
            return "the server's process holds a key; expected that it cannot get one"
        if not self.opened:
            return "the answers of all members do not open exactly what was sealed; expected the same, value for value"
        memory = "whose memory holds no key" if self.held is False else "whose memory could not be looked at"
        return (
            f"a canary update was sealed and added by a process without key or SEAL, {memory}, and which could not "
            f"read it; its residues look uniform (chi-square {self.chi_square:.0f}, at most {CHI_SQUARE_MOST:.0f}); "
            "all answers together open exactly the sum"
        )


def release(plan: Plan, values: int, sealing: Sealing = sealed.seal) -> Found:
    """Seal a canary of ``values`` parameters under ``plan``, as all its members, and return what became of it.

    Args:
        plan: the sum's plan; not one of hundreds of members, because each pair of them agrees on masks.
        values: number of parameters; at most two ring elements are sealed.
        sealing: the function that seals. Tests pass a function that does not.
    """
    values = max(1, min(values, 2 * plan.lanes * plan.degree - len(COUNTERS) * plan.limbs))
    scale = Scale((Stretch(values, "canary", CLIP),), plan.value_bits)
    contribution = Contribution(COUNTERS, _canary(values), 0.5, scale, os.urandom(32))
    lanes, members = contribution.lanes(plan), [Identity.generate(f"canary {at}") for at in range(plan.members)]
    key = answers.generate(answer_plan(plan))
    context = _context(members[0], plan)
    contents = lanes_of(contribution, plan)
    seals = {
        member.name: Secrets.fresh(os.urandom(32), os.urandom(32), context.digest, sealed.digest_of(contents))
        for member in members
    }
    envelopes = [
        envelope.seal(
            member,
            context,
            sealing(plan, context.digest, seals[member.name], contents),
            pairs.public_mask(seals[member.name].mask_key),
        ).data
        for member in members
    ]
    asked = {
        "plan": plan.as_dict(),
        "lanes": lanes,
        "context": asdict(context),
        "cards": [member.card.as_dict() for member in members],
        "needles": [needle.hex() for needle in needles(contribution, plan)],
        "plaintext": _plaintext(plan, contents),
        "envelopes": [base64.b64encode(data).decode() for data in envelopes],
    }
    secrets_held = (key, *(own.seed for own in seals.values()))
    answer, in_memory = _shown_to_the_server(asked, secrets_held, context.run.encode())
    if "code" in answer:
        return Found(False, False, False, in_memory, 0.0, str(answer["code"]))
    opened = _opened(plan, context, AnswerKey(plan, key), seals, base64.b64decode(answer["total"]), contribution)
    return Found(is_blind(answer), True, opened, in_memory, float(answer["chi_square"]), _how(answer))


def _plaintext(plan: Plan, contents: Ints) -> list[int]:
    """Return the coefficients that lanes make, whole numbers below t."""
    padded = np.zeros(plan.coefficients(len(contents)) * plan.lanes, dtype=np.int64)
    padded[: len(contents)] = contents
    table = padded.reshape(-1, plan.lanes).tolist()
    return [sum(value << (plan.lane_bits * lane) for lane, value in enumerate(row)) for row in table]


def _canary(values: int) -> Update:
    """Return an update that is easy to recognise: half of it constant, the other half a ramp."""
    update = np.full(values, 0.5, dtype=np.float32)
    update[values // 2 :] = np.linspace(-0.9, 0.9, values - values // 2, dtype=np.float32)
    return update


def needles(contribution: Contribution, plan: Plan) -> list[bytes]:
    """Return pieces of every form in which a contribution exists before it is sealed."""
    contents = lanes_of(contribution, plan)
    whole = np.concatenate([part for _, part in contribution.integers()])
    size, modulus = plan.primes[0].bit_length(), plan.primes[0]
    residues = np.array([coefficient % modulus for coefficient in _plaintext(plan, contents)], dtype=np.uint64)
    residues = residues[: len(residues) // 8 * 8]
    forms = [
        contribution.update.tobytes(),
        contribution.update.astype("<f8").tobytes(),
        bits.pack(residues[None], size).tobytes(),
        contents.astype("<i8").tobytes(),
    ]
    forms += [(whole + shift).astype(kind).tobytes() for shift in (0, plan.offset) for kind in ("<i4", "<i8")]
    pieces: list[bytes] = []
    for form in forms:  # a piece of one value over and over says nothing where that value is 0
        places = range(0, max(1, len(form) - NEEDLE_BYTES), max(NEEDLE_BYTES, len(form) // 16))
        pieces += [piece for at in places if len(set(piece := form[at : at + NEEDLE_BYTES])) > 1]
    return [piece for piece in pieces if len(piece) == NEEDLE_BYTES]


def _context(member: Identity, plan: Plan) -> RoundContext:
    return RoundContext(
        federation="doctor",
        run=f"canary-{secrets.token_hex(16)}",
        number=1,
        round=1,
        purpose="update",
        base="0" * 64,
        training={},
        schema="0" * 64,
        task={},
        package="",
        crypto=plan.as_dict(),
        circle="0" * 64,
        roster=member.card.node.pin,
        key="0" * 64,
        frozen="0" * 64,
        offer="0" * 64,
        checkpoint="",
    )


def _shown_to_the_server(
    asked: Mapping[str, Any], keys: tuple[bytes, ...], control: bytes
) -> tuple[dict[str, Any], bool | None]:
    """Return what the other process found, and whether its memory holds a key (None: it could not be looked at)."""
    line = [sys.executable, "-m", "moonflower.server.evidence.onlooker"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            marks = _in_memory(process.pid, (control, *keys))
        finally:
            process.kill()
    in_memory = any(marks[1:]) if marks and marks[0] else None
    return answer, in_memory


def _in_memory(pid: int, wanted: tuple[bytes, ...]) -> list[bool]:
    """Return which of ``wanted`` a process's memory holds; an empty list if it cannot be read."""
    present = [False] * len(wanted)
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                region = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
                if region is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    continue
                start, end = int(region[1], 16), int(region[2], 16)
                memory.seek(start)
                piece = _piece(memory, min(end - start, MAX_REGION))
                present = [already or secret in piece for already, secret in zip(present, wanted, strict=True)]
    except OSError:
        return []
    return present


def _piece(memory: Any, size: int) -> bytes:
    try:
        return bytes(memory.read(size))
    except OSError:  # a mapping beyond the end of its file
        return b""


def _opened(
    plan: Plan,
    context: RoundContext,
    key: AnswerKey,
    seals: Mapping[str, Secrets],
    total: bytes,
    contribution: Contribution,
) -> bool:
    """Return whether all answers open the total to exactly the sum of the canaries."""
    public = {name: pairs.public_mask(own.mask_key) for name, own in seals.items()}
    added, seeds = AnswerSum(answer_plan(plan)), []
    for name, own in seals.items():
        others = {other: mask for other, mask in public.items() if other != name}
        masked = pairs.mask(plan, own.mask_key, name, others, context.digest, context.offer)
        seeds.append(added.add(key.seal(pairs.answer(plan, own.key(plan), masked))))
    try:
        blocks = sealed.open_total(plan, context.digest, key.open(added.dump(), seeds), total, contribution.lanes(plan))
        result = OpenedSum(blocks, len(contribution.update), len(contribution.counters), len(seals), plan)
        sums = np.concatenate([part for _, part in result.values()])
    except MoonflowerError:
        return False
    each = np.concatenate([part for _, part in contribution.integers()])
    counted = result.counters == tuple(len(seals) * counter for counter in contribution.counters)
    return result.in_range and counted and bool((sums == len(seals) * each).all())


def _how(answer: Mapping[str, Any]) -> str:
    """Return how the other process read the canary, in words, or ""."""
    if is_blind(answer):
        return ""
    ways = [f"{way}: {share:.0%} of the residues" for way, share in answer["read"].items() if share > SHARE_MOST]
    ways += [f"{answer['needles']} pieces of it lie bare"] if answer["needles"] else []
    ways += [f"chi-square {answer['chi_square']:.0f}"] if answer["chi_square"] > CHI_SQUARE_MOST else []
    ways += [f"it has loaded {', '.join(answer['modules'])}"] if answer["modules"] else []
    return "; ".join(ways)
