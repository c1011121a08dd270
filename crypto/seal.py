"""Microsoft SEAL, through ``tenseal.sealapi``, for the circle's key. Members import this; the server must not.

A ciphertext is SEAL's symmetric BFV encryption of a polynomial of N integers below t (without batching, which sums do
not need), with a 64-byte seed instead of its second polynomial. Only seeds and residues travel. SEAL's own headers are
made here from what the local SEAL writes, so that members may run different builds of it.

SEAL reads and writes files only, so the file here is anonymous memory.

    Plaintext and key: header | parms_id 32 | count u64 | scale f64 | array
    Ciphertext:        header | parms_id 32 | is_ntt u8 | size u64 | N u64 | primes u64 | scale f64 | factor u64 | array
    array:             header | count u64 | count residues u64;  seeded: N residues | header | PRNG type u8 | seed 64
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tenseal.sealapi as seal
import zstandard
from numpy.typing import NDArray

from .answer_plan import SEED_BYTES, AnswerPlan

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
BLAKE2XB = 1  # SEAL's PRNG for seeds
_HEADER, _META = 16, 73
_MAX_OBJECT = 1 << 22
_PLAIN_META = 48


class SealKey:
    """A secret key in SEAL, ready to encrypt and to decrypt sums.

    Args:
        plan: its parameters.
        key: ``uint64[N]`` below q, in SEAL's number-theoretic order.
    """

    def __init__(self, plan: AnswerPlan, key: Words) -> None:
        self._degree = plan.degree
        self._seal = _Seal(plan)
        loaded = self._seal.load(seal.SecretKey(), self._seal.key_meta, key.astype("<u8").tobytes(), plan.degree)
        self._encryptor = seal.Encryptor(self._seal.context, loaded)
        self._decryptor = seal.Decryptor(self._seal.context, loaded)

    def encrypt(self, rows: NDArray[np.int64]) -> tuple[Words, Bytes]:
        """Encrypt ``rows`` ``int64[k, N]``, each in [0, t).

        Returns:
            First polynomials ``uint64[k, N]`` below q, and seeds of the second ones, ``uint8[k, 64]``.
        """
        n = self._degree
        residues = np.empty((len(rows), n), dtype=np.uint64)
        seeds = np.empty((len(rows), SEED_BYTES), dtype=np.uint8)
        for i, row in enumerate(rows):
            plain = self._seal.load(seal.Plaintext(), self._seal.plain_meta, row.astype("<u8").tobytes(), n)
            raw = self._seal.save(self._encryptor.encrypt_symmetric(plain))
            start = _META + _HEADER + 8
            if raw[start + 8 * n + _HEADER] != BLAKE2XB:
                raise RuntimeError("SEAL wrote a seed of an unknown kind")
            residues[i] = np.frombuffer(raw, "<u8", n, start)
            seeds[i] = np.frombuffer(raw, np.uint8, SEED_BYTES, len(raw) - SEED_BYTES)
        return residues, seeds

    def decrypt(self, totals: Words, seeds: Sequence[Bytes]) -> NDArray[np.int64]:
        """Decrypt a sum.

        Args:
            totals: summed first polynomials ``uint64[k, N]``, each below q.
            seeds: of each summand, ``uint8[k, 64]``.

        Returns:
            ``int64[k, N]``, the sums modulo t.
        """
        out = np.zeros(totals.shape, dtype=np.int64)
        for i, total in enumerate(totals):
            whole = self._seal.summed(total.astype("<u8").tobytes(), [seed[i].tobytes() for seed in seeds])
            plain = seal.Plaintext()
            self._decryptor.decrypt(whole, plain)
            raw = self._seal.save(plain)
            count = struct.unpack_from("<Q", raw, _PLAIN_META + _HEADER)[0]
            out[i, :count] = np.frombuffer(raw, "<i8", count, _PLAIN_META + _HEADER + 8)
        return out


def generate(plan: AnswerPlan) -> Words:
    """Return a new key from SEAL's generator: ``uint64[N]`` in SEAL's number-theoretic order."""
    ours = _Seal(plan)
    raw = ours.save(seal.KeyGenerator(ours.context).secret_key())
    return np.frombuffer(raw, "<u8", plan.degree, len(raw) - 8 * plan.degree)


class _Seal:
    """A SEAL context, and conversion of SEAL's objects to and from bytes through a file in memory."""

    def __init__(self, plan: AnswerPlan) -> None:
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(plan.degree)
        parameters.set_coeff_modulus([seal.Modulus(plan.modulus)])
        parameters.set_plain_modulus(plan.plain_modulus)
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise RuntimeError(f"SEAL refuses the plan: {self.context.parameters_error_message()}")
        self.evaluator = seal.Evaluator(self.context)
        self._degree = plan.degree
        with _memory_file() as file:
            self._header = b""
            self.plain_meta = self._read(file, seal.Plaintext(f"1x^{plan.degree - 1}"))[:_PLAIN_META]
            key = seal.KeyGenerator(self.context).secret_key()
            self.key_meta = self._read(file, key)[:_PLAIN_META]
            ciphertext = seal.Encryptor(self.context, key).encrypt_symmetric(seal.Plaintext("1"))
            self._cipher_meta = self._read(file, ciphertext)[:_META]

    def save(self, obj: Any) -> bytes:
        """Return SEAL's bytes of an object, without its outer header and compression."""
        with _memory_file() as file:
            return self._read(file, obj)

    def load(self, obj: Any, meta: bytes, residues: bytes, count: int) -> Any:
        """Return ``obj`` with the content that these bytes describe. SEAL checks every residue."""
        with _memory_file() as file:
            self._write(file, obj, self._framed(meta + self._array(residues, count)))
        return obj

    def summed(self, first: bytes, seeds: Sequence[bytes]) -> Any:
        """Return the sum of ciphertexts, from the sum of their first polynomials and the seeds, which SEAL expands."""
        whole, summand = seal.Ciphertext(), seal.Ciphertext()
        with _memory_file() as file:
            self._write(file, whole, self._seeded(first, seeds[0]))
            rest = self._seeded(bytes(len(first)), seeds[0])
            os.pwrite(file, rest, 0)
            for seed in seeds[1:]:  # all else stays as it is in the file
                self._write(file, summand, seed, len(rest) - SEED_BYTES)
                self.evaluator.add_inplace(whole, summand)
        return whole

    def _seeded(self, first: bytes, seed: bytes) -> bytes:
        """Return SEAL's bytes of a ciphertext that has this first polynomial and seed."""
        tail = self._framed(bytes([BLAKE2XB]) + seed)
        return self._framed(self._cipher_meta + self._array(first, self._degree) + tail)

    def _array(self, residues: bytes, count: int) -> bytes:
        return self._framed(struct.pack("<Q", count) + residues)

    def _framed(self, body: bytes) -> bytes:
        return self._header + struct.pack("<Q", _HEADER + len(body)) + body

    def _write(self, file: int, obj: Any, raw: bytes, at: int = 0) -> None:
        """Replace a file's bytes from ``at`` on, and let SEAL read an object from the file."""
        os.pwrite(file, raw, at)
        obj.load(self.context, f"/proc/self/fd/{file}")

    def _read(self, file: int, obj: Any) -> bytes:
        os.ftruncate(file, 0)
        obj.save(f"/proc/self/fd/{file}")
        raw = os.pread(file, _MAX_OBJECT, 0)
        magic, size, _, _, compression, _, _ = struct.unpack_from("<HBBBBHQ", raw)
        if magic != 0xA15E or size != _HEADER or compression not in (0, 2):
            raise RuntimeError("SEAL writes a format that moonflower does not know")
        self._header = raw[:5] + b"\0\0\0"  # this build's version, no compression
        body = raw[_HEADER:]
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=_MAX_OBJECT) if compression else body


@contextmanager
def _memory_file() -> Iterator[int]:
    file = os.memfd_create("moonflower")
    try:
        yield file
    finally:
        os.close(file)
