"""Other schemes, as the bench measures them: with their own code, on the same vector."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .row import CLIP, FEW, MEMBERS, Row, row, timed, vector


def plain(params: int, tensors: int) -> Row:
    """Measure plain float32 bytes without any protection: the lower bound."""
    arrays = np.array_split(vector(params, 0), tensors)
    seal_s, data = timed(lambda: [a.tobytes() for a in arrays])
    total = [np.zeros(len(a), dtype=np.float32) for a in arrays]

    def add() -> None:
        for part, blob in zip(total, data, strict=True):
            np.add(part, np.frombuffer(blob, np.float32), out=part)

    add_s, _ = timed(add)
    open_s, _ = timed(lambda: [part / 3 for part in total])
    return row(seal_s, add_s, open_s, 4.0, 4.0, None, None)


def ckks(params: int, tensors: int, *, symmetric: bool) -> Row:
    """Measure TenSEAL CKKS [60, 40, 40] at N = 8192, with one vector per tensor: encrypt and serialise."""
    import tenseal as ts

    kind = ts.ENCRYPTION_TYPE.SYMMETRIC if symmetric else ts.ENCRYPTION_TYPE.ASYMMETRIC
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=kind)
    context.global_scale = 2**40
    slots = 4096  # values in a chunk: TenSEAL is faster this way, and prints nothing
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
    return row(seal_s, add_s, open_s, up, down, False, error)


def secagg(params: int, tensors: int) -> Row:
    """Measure Flower's SecAgg+: its own quantisation, a private mask, 15 pairwise masks, and the server's addition."""
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
    return row(seal_s, add_s, None, sum(map(len, blobs)) / params, 4.0, None, None)


def phe(params: int, tensors: int) -> Row:
    """Measure Paillier (``phe``, 2048-bit key) on 200 values; times are scaled up to all values."""
    from phe import paillier

    count = 200
    public, private = paillier.generate_paillier_keypair(n_length=2048)
    values = vector(params, 0)[:count].astype(np.float64)
    seal_s, boxes = timed(lambda: [public.encrypt(float(v)) for v in values], 1)
    add_s, sums = timed(lambda: [a + a for a in boxes], 1)
    open_s, opened = timed(lambda: [private.decrypt(a) for a in sums], 1)
    scale, size = params / count, 2 * public.n.bit_length() / 8
    error = float(np.abs(np.array(opened) - 2 * values).max())
    return row(seal_s * scale, add_s * scale, open_s * scale, size, size, False, error)


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
    sealed, flags = encryptor.encryption(layers(values), fl)
    return serialize_nested_dict(sealed), flags
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
