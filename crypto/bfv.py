"""What may be done to sealed vectors without a key: parameters, bytes, addition. The server's half of BFV.

A sealed vector is a list of TenSEAL ``bfv_vector`` chunks of N slots each, one ciphertext a chunk (longer vectors
make TenSEAL print to stdout). On the wire: for each chunk a u32 length (little-endian) and TenSEAL's bytes.
"""

from __future__ import annotations

import tenseal as ts

from ..errors import Refused
from .planner import Plan

SealedVector = list[ts.BFVVector]


def public_context(plan: Plan) -> ts.Context:
    """Return a context that parses, adds and writes ciphertexts, and holds no key at all."""
    whole = ts.context(ts.SCHEME_TYPE.BFV, plan.degree, plan.plain_modulus, list(plan.coeff_bits))
    bare = whole.serialize(save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    return ts.context_from(bare)


def max_bytes(plan: Plan, values: int) -> int:
    """Return the most bytes that a sealed vector of ``values`` lanes may take on the wire."""
    chunk = 2 * plan.degree * 8 * (len(plan.coeff_bits) - 1)
    return plan.chunks(values) * (chunk + chunk // 64 + 4096)


def dump(vector: SealedVector) -> bytes:
    """Return the wire form of a sealed vector."""
    parts = []
    for chunk in vector:
        data = chunk.serialize()
        parts += [len(data).to_bytes(4, "little"), data]
    return b"".join(parts)


def parse(context: ts.Context, data: bytes, chunks: int) -> SealedVector:
    """Return the sealed vector in ``data``; all of it is parsed before anything is used.

    Args:
        context: a context of the epoch's parameters.
        data: wire form.
        chunks: how many ciphertexts there must be.

    Raises:
        Refused: ``envelope.malformed``, or ``envelope.params`` where ciphertexts have other parameters.
    """
    vector: SealedVector = []
    start = 0
    view = memoryview(data)
    while start < len(data) and len(vector) < chunks:
        end = start + 4 + int.from_bytes(view[start : start + 4], "little")
        if end > len(data):
            raise Refused("envelope.malformed", "a ciphertext is cut off")
        vector.append(_parse_chunk(context, bytes(view[start + 4 : end])))
        start = end
    if start != len(data) or len(vector) != chunks:
        raise Refused("envelope.malformed", f"{len(vector)} ciphertexts, expected {chunks} and nothing after them")
    return vector


def add(total: SealedVector, other: SealedVector) -> None:
    """Add ``other`` to ``total`` in place; both have the same number of chunks."""
    for left, right in zip(total, other, strict=True):
        left.add_(right)


def _parse_chunk(context: ts.Context, data: bytes) -> ts.BFVVector:
    try:
        chunk = ts.bfv_vector_from(context, data)
        ciphertexts = chunk.ciphertext()
        sizes = [ciphertext.size() for ciphertext in ciphertexts]
        degrees = {ciphertext.poly_modulus_degree() for ciphertext in ciphertexts}
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        code = "envelope.params" if "parameters" in str(error) else "envelope.malformed"
        raise Refused(code, "a ciphertext cannot be read under this epoch's parameters") from None
    if sizes != [2] or len(degrees) != 1:
        raise Refused("envelope.malformed", "a chunk is not one fresh ciphertext")
    return chunk
