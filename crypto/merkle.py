"""The Merkle tree of the audit log: RFC 9162 section 2.1, hashing as in RFC 6962, SHA-256.

Leaves and nodes are hashed with different prefixes, so that no node passes for an entry. Everything here takes and
returns leaf hashes (32 bytes), never entries. D[a:b] stands for the leaves a to b-1, and k for the largest power of two
below n. The tree over n leaves is the tree over D[0:k] beside the tree over D[k:n].

A :class:`Frontier` can append leaves and give the root. A :class:`Tree` can also prove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True)
class Frontier:
    """The least state of a growing tree: the roots of its perfect subtrees, largest first.

    Attributes:
        size: number of leaves.
        nodes: one 32-byte root for each set bit of ``size``, from the highest bit down.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.nodes) != self.size.bit_count():
            raise ValueError(f"a tree of size {self.size} with {len(self.nodes)} subtrees; expected one per set bit")

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier with one more leaf hash; O(log n)."""
        nodes = list(self.nodes)
        size = self.size
        while size & 1:
            leaf = node_hash(nodes.pop(), leaf)
            size >>= 1
        return Frontier(self.size + 1, (*nodes, leaf))

    def root(self) -> bytes:
        """Return the root of the tree (RFC 9162 section 2.1.1)."""
        if not self.nodes:
            return EMPTY_ROOT
        *left, root = self.nodes
        for node in reversed(left):
            root = node_hash(node, root)
        return root


class Tree:
    """A growing tree that can prove. It holds every leaf and the root of every perfect subtree: 64 bytes per leaf.

    Leaves are only ever appended, so an answer about a smaller ``size`` is about the tree as it was then. Several
    threads may read the tree, but not while it grows.

    >>> tree = Tree([leaf_hash(b""), leaf_hash(b"\\x00"), leaf_hash(b"\\x10")])
    >>> tree.root().hex()[:8], tree.root(2).hex()[:8]
    ('aeb6bcfe', 'fac54203')
    >>> verify_inclusion(leaf_hash(b"\\x10"), 2, 3, tree.inclusion(2), tree.root())
    >>> verify_consistency(2, 3, tree.consistency(2), tree.root(2), tree.root())

    Args:
        leaves: leaf hashes to begin with.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # _levels[h] holds, joined, the roots over D[0:2^h], D[2^h:2*2^h], ... as far as the leaves fill them.
        self._levels = [bytearray()]
        self.extend(leaves)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Append a leaf hash; amortised O(1).

        Raises:
            ValueError: it does not have the length of a hash. The tree is as before.
        """
        if len(leaf) != HASH_BYTES:
            raise ValueError(f"expected a leaf hash of {HASH_BYTES} bytes, got {len(leaf)}")
        node, at, level = leaf, self.size, 0
        self._levels[0] += node
        while at & 1:  # the new node is a right child: the one above both is complete
            node = node_hash(self._node(level, at - 1), node)
            at, level = at >> 1, level + 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaf hashes, in order.

        Raises:
            ValueError: one does not have the length of a hash. Those before it were appended.
        """
        for leaf in leaves:
            self.append(leaf)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves, or over all; RFC 9162 section 2.1.1; O(log n).

        Raises:
            ValueError: the tree never had that size.
        """
        size = self._past(size)
        return self._over(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return PATH(index, D[0:size]) of RFC 9162 section 2.1.3.1, the siblings from the leaf up; O(log^2 n).

        Raises:
            ValueError: the tree never had that size, or has no leaf ``index`` at that size.
        """
        start, end = 0, self._past(size)
        if not 0 <= index < end:
            raise ValueError(f"expected an index below {end}, got {index}")
        path = []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._over(middle, end))
                end = middle
            else:
                path.append(self._over(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Return PROOF(old_size, D[0:size]) of RFC 9162 section 2.1.4.1; O(log^2 n).

        Raises:
            ValueError: the tree never had that size, or ``old_size`` is not between 0 and it.
        """
        start, end = 0, self._past(size)
        if not 0 <= old_size <= end:
            raise ValueError(f"expected an old size of at most {end}, got {old_size}")
        path = []
        while old_size not in (0, end):
            middle = start + _split(end - start)
            if old_size <= middle:
                path.append(self._over(middle, end))
                end = middle
            else:
                path.append(self._over(start, middle))
                start = middle
        if start:  # else the old tree is this very subtree, and its root is left out
            path.append(self._over(start, end))
        return path[::-1]

    def _past(self, size: int | None) -> int:
        """Return ``size`` if the tree has or had it; the present size for None."""
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise ValueError(f"expected a size of at most {self.size}, got {size}")
        return size

    def _over(self, start: int, end: int) -> bytes:
        """Return the root over D[start:end], start < end, a subtree of the recursion in section 2.1.1; O(log n).

        The subtree splits into perfect subtrees, one for each set bit of its size and the largest first, because
        ``start`` is a multiple of the largest.
        """
        root = b""
        while start < end:
            level = _lowest_bit(end - start)
            node = self._node(level, (end >> level) - 1)
            root = node_hash(node, root) if root else node
            end -= 1 << level
        return root

    def _node(self, level: int, index: int) -> bytes:
        """Return the root over D[index * 2^level : (index + 1) * 2^level]."""
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Check that ``leaf`` is leaf ``index`` of the tree of ``size`` with root ``expected``.

    RFC 9162 section 2.1.3.2. Only ``size`` and ``expected`` are trusted; the rest may come from an adversary.

    Raises:
        Refused: ``audit.entry``: the proof does not lead to that root.
    """
    if not 0 <= index < size:
        raise Refused("audit.entry", f"expected an index below the tree size {size}, got {index}")
    at, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Refused("audit.entry", f"an inclusion proof of {len(proof)} hashes is too long for {size} leaves")
        if at & 1 or at == last:
            root = node_hash(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise Refused("audit.entry", f"an inclusion proof of {len(proof)} hashes is too short for {size} leaves")
    if root != expected:
        raise Refused("audit.entry", f"entry {index}: expected the root {expected.hex()}, got {root.hex()}")


def verify_consistency(old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, expected: bytes) -> None:
    """Check that the tree of ``size``, root ``expected``, only appends to that of ``old_size``, ``old_root``.

    RFC 9162 section 2.1.4.2. Both roots come from verified checkpoints; the proof may come from an adversary.

    Raises:
        Refused: ``audit.fork``: this proof does not show that the two roots are of one growing log.
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
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            raise Refused("audit.fork", f"a consistency proof of {len(proof)} hashes is too long")
        if at & 1 or at == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, node)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise Refused("audit.fork", f"a consistency proof of {len(proof)} hashes is too short")
    if old != old_root:
        raise Refused("audit.fork", f"size {old_size}: expected the root {old_root.hex()}, got {old.hex()}")
    if new != expected:
        raise Refused("audit.fork", f"size {size}: expected the root {expected.hex()}, got {new.hex()}")


def _split(n: int) -> int:
    """Return the largest power of two below ``n`` >= 2 (RFC 9162 section 2.1.1)."""
    return 1 << (n - 1).bit_length() - 1


def _lowest_bit(n: int) -> int:
    """Return the position of the lowest set bit of ``n`` > 0."""
    return (n & -n).bit_length() - 1
