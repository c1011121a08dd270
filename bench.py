"""``moonflower bench``: what sealing costs, side by side on the same vector and machine, in one run.

Each scheme runs in a process of its own, so that its peak memory is its own; seconds are the best of a few repeats.
``seal_s`` is quantise + encrypt + serialise of one member; ``add_s`` is the server's work for one member (parse,
check, add); ``open_s`` is one opener's work on the sum of all members, from received bytes to floats. Bytes are the
whole envelope's, header and signature included.

Scheme ``threshold`` has five members, who all sealed; two of them are gone at the opening. Openers work at the same
time, so its ``open_s`` is one partial opening (masks and wrapping included) and then what a member does with three of
them, from received bytes to floats; rows of their own show the two parts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .crypto import envelope, planner, sealed, shamir
from .crypto.context import RoundContext
from .crypto.flood import Opening, plan_threshold
from .crypto.identity import Identity, Roster
from .crypto.mac import Mac
from .crypto.masks import Wrapped, check_wrapped, unwrap, wrap
from .crypto.planner import Plan
from .crypto.quantise import ONE, Contribution, Ints, OpenedSum, mean, quantise, slot_blocks
from .crypto.sealed import SealedVector
from .crypto.secret import SecretKey, generate
from .crypto.threshold import Check, Seat, combine
from .server.aggregate import RunningSum

Row = dict[str, Any]
Sealing = Callable[[str, Iterable[Ints], int], SealedVector]  # context, blocks, lanes
CLIP, MEMBERS, FEW = 0.32, 16, 2
TOGETHER = tuple(f"member-{member:02}" for member in range(5))  # of scheme threshold; any three of them open
SHAPES = ((1_000_000, 1), (10_000_000, 1), (1_000_000, 200))
FIELDS = ("seal_s", "add_s", "open_s", "up_bytes_per_param", "down_bytes_per_param", "exact", "max_error")


def vector(params: int, member: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a member's update, ``float32[params]``: normal, spread 0.01, the same in every process."""
    return np.random.default_rng(member).normal(0, 0.01, params).astype(np.float32)


def timed(call: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the least seconds of ``repeats`` calls, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - began)
    return best, result


def plain(params: int, tensors: int) -> Row:
    """Numpy float32 bytes, no protection at all: the floor."""
    arrays = np.array_split(vector(params, 0), tensors)
    seal_s, data = timed(lambda: [a.tobytes() for a in arrays])
    total = [np.zeros(len(a), dtype=np.float32) for a in arrays]

    def add() -> None:
        for part, blob in zip(total, data, strict=True):
            np.add(part, np.frombuffer(blob, np.float32), out=part)

    add_s, _ = timed(add)
    open_s, _ = timed(lambda: [part / 3 for part in total])
    return _row(seal_s, add_s, open_s, 4.0, 4.0, None, None)


@dataclass(frozen=True)
class Summed:
    """What a coordinator holds once all members have sealed, and what that took.

    Attributes:
        context: of the sum.
        lanes: of each vector.
        seal_s, add_s: seconds of the fastest member.
        size: bytes of an envelope.
        signed: each member's header.
        seeds, tags: of each member's envelope.
        total: the sealed sum.
    """

    context: RoundContext
    lanes: int
    seal_s: float
    add_s: float
    size: int
    signed: dict[str, envelope.SignedHeader]
    seeds: dict[str, bytes]
    tags: dict[str, list[int]]
    total: bytes


def _summed(plan: Plan, identity: Identity, members: Mapping[str, Sealing], params: int) -> Summed:
    """Seal and add every member's update; all sign with one node key, which takes as long as with their own."""
    none = "0" * 64
    context = RoundContext(
        "bench", "bench", 1, 1, "update", none, CLIP, {}, none, {}, "0", plan.as_dict(), 1, none, 3, none, ""
    )
    lanes, weight = params + plan.limbs, ONE // len(members)
    running, signed = RunningSum(plan, lanes), dict[str, envelope.SignedHeader]()
    seeds, tags = dict[str, bytes](), dict[str, list[int]]()
    seal_s = add_s = float("inf")
    size = 0
    for member, (name, sealing) in enumerate(members.items()):
        update = vector(params, member)

        def seal(update: Any = update, sealing: Sealing = sealing) -> envelope.RawEnvelope:
            given = Contribution((weight,), update, weight, CLIP)
            return envelope.seal(identity, context, sealing(context.digest, slot_blocks(given, plan), lanes))

        seconds, raw = timed(seal, 1)
        seal_s, size = min(seal_s, seconds), len(raw.data)

        def add(raw: envelope.RawEnvelope = raw) -> tuple[bytes, envelope.Envelope]:
            checked = envelope.check(raw, identity.card, context, running.body_bytes)
            running.vet(checked)
            return running.add(checked.body), checked

        seconds, (seeds[name], checked) = timed(add, 1)
        add_s, tags[name], signed[name] = min(add_s, seconds), list(checked.header.tags), checked.signed
        del raw, checked
    return Summed(context, lanes, seal_s, add_s, size, signed, seeds, tags, running.dump())


def _opened(plan: Plan, mac: Mac, summed: Summed, rows: Callable[[], Iterator[Ints]], params: int) -> tuple[Any, bool]:
    """Return the opened integers of a sum that is checked first, and whether all of it was in range."""
    sealed.check_total(mac, summed.tags, summed.total, summed.lanes, plan)
    sums = OpenedSum(rows(), params, 1, len(summed.tags), plan)
    values = np.empty(params, dtype=np.int64)
    for at, part in sums.values():
        values[at : at + len(part)] = part
    return values, sums.in_range


def _judged(plan: Plan, values: Any, in_range: bool, members: int) -> tuple[bool, float]:
    """Return whether opened integers are exactly the sum of what was sealed, and how far their mean is off."""
    weight, params = ONE // members, len(values)
    integers, floats = np.zeros(params, dtype=np.int64), np.zeros(params)
    for member in range(members):
        integers += quantise(vector(params, member), weight, CLIP, plan.value_bits)
        floats += vector(params, member) / members
    error = float(np.abs(mean(values, weight * members, CLIP, plan.value_bits) - floats).max())
    return bool(in_range and (values == integers).all()), error


def ours(params: int, tensors: int, value_bits: int = 16) -> Row:
    """Scheme ``shared``: seeded symmetric BFV through SEAL, bit-packed, authenticated, 16 members."""
    plan = planner.plan(MEMBERS, value_bits, params)
    key, secret = SecretKey(plan, generate(plan)), os.urandom(32)

    def sealing(name: str) -> Sealing:
        return lambda context, blocks, lanes: sealed.seal(key, Mac(secret, context, plan), name, blocks, lanes, plan)

    names = [f"member-{member:02}" for member in range(MEMBERS)]
    summed = _summed(plan, Identity.generate(names[0]), {name: sealing(name) for name in names}, params)

    def opening() -> tuple[Any, bool]:
        mac = Mac(secret, summed.context.digest, plan)
        rows = sealed.open_total(key, summed.total, summed.seeds, summed.lanes, plan)
        return _opened(plan, mac, summed, lambda: rows, params)

    open_s, (values, in_range) = timed(opening, 1)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    exact, error = _judged(plan, values, in_range, MEMBERS)
    down = (len(summed.total) + sum(map(len, summed.seeds.values()))) / params
    row = _row(summed.seal_s, summed.add_s, open_s, summed.size / params, down, exact, error)
    return {**row, "peak_kib": peak_kib}


def together(params: int, tensors: int, value_bits: int = 16, part: str = "") -> Row:
    """Scheme ``threshold``: sealed by five, opened by three of them, as the other two are gone.

    Args:
        params: parameters.
        tensors: makes no difference.
        value_bits: bits of one value.
        part: ``partial`` or ``combine`` for a row about this part of an opening alone.
    """
    plan = plan_threshold(len(TOGETHER), value_bits, params)
    identities = {name: Identity.generate(name) for name in TOGETHER}
    roster = Roster(tuple(one.card for one in identities.values()))
    dealt = {name: shamir.deal(plan, TOGETHER) for name in TOGETHER}
    commitments = {name: one.commitments for name, one in dealt.items()}
    seats = {}
    for name in TOGETHER:
        payloads = {dealer: one.payloads[name] for dealer, one in dealt.items()}
        seats[name] = Seat(shamir.EpochShare(plan, TOGETHER, name, dealt[name].own, payloads, commitments))
    combiner = TOGETHER[0]
    summed = _summed(plan, identities[combiner], {name: seat.seal for name, seat in seats.items()}, params)
    about, secret = Opening(summed.context.digest, TOGETHER, TOGETHER[: plan.threshold], 0), seats[combiner].held.secret
    partial_s, partials = float("inf"), dict[str, Wrapped]()
    for name in about.openers:

        def partial(name: str = name) -> Wrapped:
            made = seats[name].partial(about, summed.lanes)
            return wrap(identities[name], about, made, roster, TOGETHER)

        seconds, partials[name] = timed(partial, 1)
        check_wrapped(about, roster.card(name), partials[name], plan.body_bytes(summed.lanes))
        partial_s = min(partial_s, seconds)

    def combining() -> Iterator[Ints]:
        came = {name: unwrap(identities[combiner], about, roster.card(name), one) for name, one in partials.items()}
        check = Check(secret, about.context, TOGETHER, plan)
        return combine(plan, summed.total, came, summed.lanes, check).blocks()

    def opening() -> tuple[Any, bool]:
        return _opened(plan, Mac(secret, about.context, plan), summed, combining, params)

    combine_s, _ = timed(combining)
    open_s, (values, in_range) = timed(opening)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    exact, error = _judged(plan, values, in_range, len(TOGETHER))
    asked = sum(len(one.data) + len(one.signature) for one in summed.signed.values()) / params
    down = asked + (len(summed.total) + sum(len(one.ciphertext) for one in partials.values())) / params
    rows = {
        "": _row(summed.seal_s, summed.add_s, partial_s + open_s, summed.size / params, down, exact, error),
        "partial": _row(None, None, partial_s, len(partials[about.openers[0]].ciphertext) / params, asked, None, None),
        "combine": _row(None, None, combine_s, None, down, exact, error),
    }
    return {**rows[part], "peak_kib": peak_kib}


def addition(params: int, tensors: int) -> Row:
    """Our addition alone, of residues in memory, as the running sum does it."""
    return _addition(params, ours=True)


def bare_addition(params: int, tensors: int) -> Row:
    """``np.add`` over the same residues in memory: the machine's own speed."""
    return _addition(params, ours=False)


def _addition(params: int, *, ours: bool) -> Row:
    plan = planner.plan(MEMBERS, 16, params)
    lanes = params + plan.limbs
    shape = (plan.chunks(lanes), plan.degree)
    residues = np.random.default_rng(0).integers(0, plan.modulus, shape, dtype=np.uint64)
    if not ours:
        total = np.zeros(shape, dtype=np.uint64)
        add_s, _ = timed(lambda: np.add(total, residues, out=total), 9)
        return _row(None, add_s, None, None, None, None, None)
    running = RunningSum(plan, lanes)
    add_s, _ = timed(lambda: running.accumulate(0, residues), 9)
    return _row(None, add_s, None, None, None, None, None)


def ckks(params: int, tensors: int, *, symmetric: bool) -> Row:
    """TenSEAL CKKS [60, 40, 40] at N = 8192, one vector a tensor: encrypt + serialise."""
    import tenseal as ts

    kind = ts.ENCRYPTION_TYPE.SYMMETRIC if symmetric else ts.ENCRYPTION_TYPE.ASYMMETRIC
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=kind)
    context.global_scale = 2**40
    slots = 4096  # chunks of this many values: TenSEAL is faster so, and prints nothing
    step = params // tensors if tensors > 1 else slots
    data = [vector(params, member).astype(np.float64) for member in range(FEW)]

    def seal(values: Any) -> list[bytes]:
        parts = (
            values[i + j : min(i + j + slots, i + step)] for i in range(0, params, step) for j in range(0, step, slots)
        )
        return [ts.ckks_vector(context, part).serialize() for part in parts]

    repeats = 2 if params <= 1_000_000 else 1
    seal_s, blobs = timed(lambda: seal(data[0]), repeats)
    other = seal(data[1])
    total = [ts.ckks_vector_from(context, blob) for blob in blobs]

    def add() -> None:
        for part, blob in zip(total, other, strict=True):
            part.add_(ts.ckks_vector_from(context, blob))

    add_s, _ = timed(add, 1)
    back = [part.serialize() for part in total]
    open_s, opened = timed(
        lambda: np.concatenate([ts.ckks_vector_from(context, blob).decrypt() for blob in back])[:params], 1
    )
    error = float(np.abs(opened - data[0] - data[1]).max())
    up, down = sum(map(len, blobs)) / params, sum(map(len, back)) / params
    return _row(seal_s, add_s, open_s, up, down, False, error)


def secagg(params: int, tensors: int) -> Row:
    """Flower SecAgg+: its own quantise, private mask and 15 pairwise masks, then the server's addition."""
    from flwr.common import ndarray_to_bytes
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_combine,
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.quantization import quantize
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    arrays = [a.astype(np.float64) for a in np.array_split(vector(params, 0), tensors)]
    seeds = [os.urandom(32) for _ in range(MEMBERS)]

    def seal() -> tuple[list[Any], list[bytes]]:
        masked = factor_combine(1, quantize(arrays, CLIP, 1 << 16))
        shapes = [a.shape for a in masked]
        masked = parameters_addition(masked, pseudo_rand_gen(seeds[0], 1 << 32, shapes))
        for i, seed in enumerate(seeds[1:]):
            join = parameters_addition if i % 2 else parameters_subtraction
            masked = join(masked, pseudo_rand_gen(seed, 1 << 32, shapes))
        masked = parameters_mod(masked, 1 << 32)
        return masked, [ndarray_to_bytes(a) for a in masked]

    seal_s, (masked, blobs) = timed(seal, 1)
    add_s, _ = timed(lambda: parameters_mod(parameters_addition(masked, masked), 1 << 32), 1)
    return _row(seal_s, add_s, None, sum(map(len, blobs)) / params, 4.0, None, None)


def phe(params: int, tensors: int) -> Row:
    """Paillier (``phe``, 2048-bit key) on 200 values, scaled to all of them."""
    from phe import paillier

    count = 200
    public, private = paillier.generate_paillier_keypair(n_length=2048)
    values = vector(params, 0)[:count].astype(np.float64)
    seal_s, boxes = timed(lambda: [public.encrypt(float(v)) for v in values], 1)
    add_s, sums = timed(lambda: [a + a for a in boxes], 1)
    open_s, opened = timed(lambda: [private.decrypt(a) for a in sums], 1)
    scale, size = params / count, 2 * public.n.bit_length() / 8
    error = float(np.abs(np.array(opened) - 2 * values).max())
    return _row(seal_s * scale, add_s * scale, open_s * scale, size, size, False, error)


NVFLARE = r"""
import json, logging, resource, sys, time
import numpy as np, tenseal as ts
logging.disable(logging.CRITICAL)
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from nvflare.app_opt.he.homomorphic_encrypt import deserialize_nested_dict, serialize_nested_dict
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
import nvflare, io, contextlib
params, tensors = int(sys.argv[1]), int(sys.argv[2])
kind = ts.ENCRYPTION_TYPE.SYMMETRIC
context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=kind)
context.global_scale = 2**40
data = [np.random.default_rng(m).normal(0, 0.01, params).astype(np.float32) for m in range(2)]
fl = FLContext()
def layers(values):
    return {str(i): part for i, part in enumerate(np.array_split(values, tensors))}
def seal(values):
    encryptor = HEModelEncryptor()
    encryptor.tenseal_context, encryptor.encrypt_layers, encryptor.n_iter = context, [True], 1
    made, flags = encryptor.encryption(layers(values), fl)
    return serialize_nested_dict(made), flags
with contextlib.redirect_stdout(io.StringIO()):
    began = time.perf_counter(); first, flags = seal(data[0]); seal_s = time.perf_counter() - began
    second, _ = seal(data[1])
    up = sum(len(v) for v in first.values()) / params
    helper = WeightedAggregationHelper(weigh_by_local_iter=False)
    helper.add(deserialize_nested_dict(dict(first), context), 1.0, "a", 0)
    began = time.perf_counter()
    helper.add(deserialize_nested_dict(dict(second), context), 1.0, "b", 0)
    add_s = time.perf_counter() - began
    total = serialize_nested_dict(dict(helper.get_result()))
    down = sum(len(v) for v in total.values()) / params
    decryptor = HEModelDecryptor(); decryptor.tenseal_context = context
    began = time.perf_counter(); opened = decryptor.decryption(total, flags, fl); open_s = time.perf_counter() - began
flat = np.concatenate([np.asarray(v) for v in opened.values()])
error = min(float(np.abs(flat - s * (data[0].astype(float) + data[1])).max()) for s in (1.0, 0.5))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(dict(seal_s=seal_s, add_s=add_s, open_s=open_s, up_bytes_per_param=up, down_bytes_per_param=down,
                      exact=False, max_error=error, peak_kib=peak, version=nvflare.__version__)))
"""

SCHEMES: dict[str, Callable[[int, int], Row]] = {
    "plain float32": plain,
    "moonflower shared, 16 bits": ours,
    "moonflower shared, 9 bits": lambda params, tensors: ours(params, tensors, 9),
    "moonflower threshold, 16 bits": together,
    "moonflower threshold, 9 bits": lambda params, tensors: together(params, tensors, 9),
    "threshold, 16 bits: a partial opening": lambda params, tensors: together(params, tensors, part="partial"),
    "threshold, 16 bits: combining three": lambda params, tensors: together(params, tensors, part="combine"),
    "TenSEAL CKKS, public key": lambda params, tensors: ckks(params, tensors, symmetric=False),
    "TenSEAL CKKS, symmetric": lambda params, tensors: ckks(params, tensors, symmetric=True),
    "Flower SecAgg+ quantise + mask": secagg,
    "Paillier (phe), scaled": phe,
    "moonflower addition alone": addition,
    "np.add, same residues": bare_addition,
}


def bench(shapes: Sequence[tuple[int, int]], nvflare: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the measured table.

    Args:
        shapes: (parameters, tensors) pairs.
        nvflare: a Python interpreter that has ``nvflare[HE]``, or None.
        say: told what is being measured.
    """
    rows: list[Row] = []
    skipped: list[dict[str, str]] = []
    for params, tensors in shapes:
        for scheme in SCHEMES:
            say(f"{scheme}: {params:,} parameters in {tensors} tensors")
            command = [sys.executable, "-m", "moonflower.bench", scheme, str(params), str(tensors)]
            _measure(command, scheme, params, tensors, rows, skipped)
        if nvflare is not None:
            say(f"NVFLARE: {params:,} parameters in {tensors} tensors")
            command = [str(nvflare), "-c", NVFLARE, str(params), str(tensors)]
            _measure(command, "NVFLARE HE (symmetric CKKS)", params, tensors, rows, skipped)
    if nvflare is None:
        skipped.append({"scheme": "NVFLARE HE", "why": "no --nvflare-python given"})
    names = ("flwr", "tenseal", "numpy", "cryptography", "torch")
    versions = {name: importlib.metadata.version(name) for name in names} | {"python": platform.python_version()}
    machine = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()}
    return {"machine": machine, "versions": versions, "rows": rows, "skipped": skipped}


def _measure(
    command: list[str], scheme: str, params: int, tensors: int, rows: list[Row], skipped: list[dict[str, str]]
) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own command)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        skipped.append({"scheme": scheme, "why": last[:200]})
        return
    found = json.loads(done.stdout.splitlines()[-1])
    peak = found.pop("peak_kib")
    found.pop("version", None)
    rows.append({"scheme": scheme, "params": params, "tensors": tensors, **found, "peak_mb": round(peak / 1024)})


def _row(*values: Any) -> Row:
    return dict(zip(FIELDS, values, strict=True))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(result: dict[str, Any]) -> str:
    """Return the result as Markdown tables, one a shape; ratios are against our 16-bit row of that shape."""
    machine, versions = result["machine"], result["versions"]
    out = [
        f"{machine['processor']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    for shape in dict.fromkeys((row["params"], row["tensors"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["params"], row["tensors"]) == shape]
        mine = next((row for row in rows if row["scheme"] == "moonflower shared, 16 bits"), None)
        out += [
            "",
            f"{shape[0]:,} parameters in {shape[1]} tensor{'s' if shape[1] > 1 else ''}:",
            "",
            "| scheme | seal s | × | add s | × | open s | up B/param | × | down B/param | exact | error | peak MB |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            ratios = {key: _ratio(row, mine, key) for key in ("seal_s", "add_s", "up_bytes_per_param")}
            cells = (
                row["scheme"],
                _cell(row["seal_s"]),
                ratios["seal_s"],
                _cell(row["add_s"]),
                ratios["add_s"],
                _cell(row["open_s"]),
                _cell(row["up_bytes_per_param"]),
                ratios["up_bytes_per_param"],
                _cell(row["down_bytes_per_param"]),
                {True: "yes", False: "no", None: "–"}[row["exact"]],
                "–" if row["max_error"] is None else f"{row['max_error']:.1e}",
                row["peak_mb"],
            )
            out.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    out += [""] + [f"Not measured: {item['scheme']} ({item['why']})." for item in result["skipped"]]
    return "\n".join(out)


def _ratio(row: Row, mine: Row | None, key: str) -> str:
    if mine is None or row[key] is None or not mine[key] or row is mine:
        return ""
    return f"{row[key] / mine[key]:.2g}"


def _cell(value: float | None) -> str:
    return (
        "–" if value is None else f"{value:.4f}" if value < 0.01 else f"{value:.3f}" if value < 10 else f"{value:.1f}"
    )


def _worker(scheme: str, params: int, tensors: int) -> None:
    row = SCHEMES[scheme](params, tensors)
    row.setdefault("peak_kib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(json.dumps(row, allow_nan=False))


if __name__ == "__main__":
    _worker(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
