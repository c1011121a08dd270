"""The Merkle tree of the audit log: RFC 9162 section 2.1, hashing as in RFC 6962, SHA-256.

A leaf and a node are hashed under different prefixes, so that no node passes for an entry. Everything here
takes and returns leaf hashes (32 bytes), never entries; nothing is stored. Writing D[a:b] for the leaves a to
b-1 and k for the largest power of two below n, the tree over n leaves is the tree over D[0:k] beside that
over D[k:n].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import Refused

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry as a leaf (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two subtrees (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over these leaf hashes, by the definition in RFC 9162 section 2.1.1; O(n).

    >>> root([leaf_hash(b""), leaf_hash(b"\\x00")]).hex()[:8]
    'fac54203'
    """
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


@dataclass(frozen=True)
class Frontier:
    """What a growing tree must remember: the roots of its perfect subtrees, largest first.

    Attributes:
        size: number of leaves.
        nodes: one 32-byte root for each set bit of ``size``, from the highest bit down.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.nodes) != self.size.bit_count():
            raise ValueError(f"a tree of size {self.size} with {len(self.nodes)} subtrees; expected one for each bit")

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier with one more leaf hash; O(log n)."""
        nodes = list(self.nodes)
        size = self.size
        while size & 1:
            leaf = node_hash(nodes.pop(), leaf)
            size >>= 1
        return Frontier(self.size + 1, (*nodes, leaf))

    def root(self) -> bytes:
        """Return the root of the tree; equals :func:`root` over the same leaves."""
        if not self.nodes:
            return EMPTY_ROOT
        *left, found = self.nodes
        for node in reversed(left):
            found = node_hash(node, found)
        return found


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return PATH(index, D[0:n]) of RFC 9162 section 2.1.3.1: the siblings from the leaf up; O(n).

    Raises:
        ValueError: ``index`` is not that of a leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"expected an index below {len(leaves)}, got {index}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), root(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), root(leaves[:k])]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Check that ``leaf`` is leaf ``index`` of the tree of ``size`` with root ``expected``.

    RFC 9162 section 2.1.3.2. Only ``size`` and ``expected`` are trusted; the rest may come from an adversary.

    Raises:
        Refused: the proof does not lead to that root (audit.entry).
    """
    if not 0 <= index < size:
        raise Refused("audit.entry", f"expected an index below the tree size {size}, got {index}")
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Refused("audit.entry", f"an inclusion proof of {len(proof)} hashes is too long for {size} leaves")
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise Refused("audit.entry", f"an inclusion proof of {len(proof)} hashes is too short for {size} leaves")
    if found != expected:
        raise Refused("audit.entry", f"entry {index}: expected the root {expected.hex()}, got {found.hex()}")


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return PROOF(old_size, D[0:n]) of RFC 9162 section 2.1.4.1; O(n).

    Raises:
        ValueError: ``old_size`` is not between 0 and n.
    """
    if not 0 <= old_size <= len(leaves):
        raise ValueError(f"expected an old size of at most {len(leaves)}, got {old_size}")
    return _subproof(leaves, old_size, True) if old_size else []


def verify_consistency(old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, expected: bytes) -> None:
    """Check that the tree of ``size``, root ``expected``, only appends to that of ``old_size``, ``old_root``.

    RFC 9162 section 2.1.4.2. Both roots come from verified checkpoints; the proof may come from an adversary.

    Raises:
        Refused: the two roots are not of one growing log, as far as this proof shows (audit.fork).
    """
    if not 0 <= old_size <= size:
        raise Refused("audit.fork", f"expected a tree of at least {old_size} leaves, got {size}")
    if old_size in (0, size):
        if proof:
            raise Refused("audit.fork", f"expected an empty proof from size {old_size} to {size}, got {len(proof)}")
        if old_root != (expected if old_size == size else EMPTY_ROOT):
            raise Refused("audit.fork", f"two roots at size {old_size}: one of them is {old_root.hex()}")
        return
    # A perfect old tree is itself the first node; the proof leaves it out.
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not path:
        raise Refused("audit.fork", f"expected a proof from size {old_size} to {size}, got none")
    old_found = found = path[0]
    for node in path[1:]:
        if last == 0:
            raise Refused("audit.fork", f"a consistency proof of {len(proof)} hashes is too long")
        if at & 1 or at == last:
            old_found, found = node_hash(node, old_found), node_hash(node, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, node)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise Refused("audit.fork", f"a consistency proof of {len(proof)} hashes is too short")
    if old_found != old_root:
        raise Refused("audit.fork", f"size {old_size}: expected the root {old_root.hex()}, got {old_found.hex()}")
    if found != expected:
        raise Refused("audit.fork", f"size {size}: expected the root {expected.hex()}, got {found.hex()}")


def _split(n: int) -> int:
    """Return the largest power of two below ``n`` >= 2 (RFC 9162 section 2.1.1)."""
    return 1 << (n - 1).bit_length() - 1


def _subproof(leaves: Sequence[bytes], m: int, whole: bool) -> list[bytes]:
    """Return SUBPROOF(m, D, b) of RFC 9162 section 2.1.4.1; ``whole``: the old root needs no mention."""
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if m <= k:
        return [*_subproof(leaves[:k], m, whole), root(leaves[k:])]
    return [*_subproof(leaves[k:], m - k, False), root(leaves[:k])]
