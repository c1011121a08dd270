"""RFC 9162 trees: the published reference tree, and properties over every small tree."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.crypto import merkle
from moonflower.crypto.merkle import Tree
from moonflower.errors import Refused

# The reference tree of the Certificate Transparency log, in every implementation's tests.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
NODE = {  # (level, index) in the tree of eight
    (0, 0): "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    (0, 1): "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    (0, 4): "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    (1, 0): "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    (1, 1): "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    (1, 2): "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    (1, 3): "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    (2, 0): "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    (2, 1): "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
}
INCLUSION = [  # index, size, path
    (0, 1, []),
    (0, 8, [(0, 1), (1, 1), (2, 1)]),
    (5, 8, [(0, 4), (1, 3), (2, 0)]),
    (2, 3, [(1, 0)]),
    (1, 5, [(0, 0), (1, 1), (0, 4)]),
]
CONSISTENCY = [  # old size, size, proof
    (1, 1, []),
    (1, 8, [(0, 1), (1, 1), (2, 1)]),
    (6, 8, [(1, 2), (1, 3), (2, 0)]),
    (2, 5, [(1, 1), (0, 4)]),
]
MANY = [merkle.leaf_hash(bytes([number])) for number in range(40)]
TREE = Tree(MANY)


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162 section 2.1.1, as it stands there."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


def path_by_definition(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of RFC 9162 section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if index < k:
        return [*path_by_definition(leaves[:k], index), by_definition(leaves[k:])]
    return [*path_by_definition(leaves[k:], index - k), by_definition(leaves[:k])]


def proof_by_definition(leaves: Sequence[bytes], old: int, whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 9162 section 2.1.4.1; nothing for an empty old tree."""
    if old == len(leaves) or old == 0:
        return [] if whole else [by_definition(leaves)]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= k:
        return [*proof_by_definition(leaves[:k], old, whole), by_definition(leaves[k:])]
    return [*proof_by_definition(leaves[k:], old - k, False), by_definition(leaves[:k])]


ROOT_OF = [by_definition(MANY[:size]) for size in range(len(MANY) + 1)]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert Tree(LEAVES[:size]).root().hex() == ROOTS[size]
    assert Tree(LEAVES).root(size).hex() == ROOTS[size]
    assert by_definition(LEAVES[:size]).hex() == ROOTS[size]


def test_frontier_meets_every_published_root_and_never_holds_more_than_its_bits() -> None:
    frontier = merkle.Frontier()
    for size, leaf in enumerate(LEAVES):
        assert frontier.root().hex() == ROOTS[size]
        frontier = frontier.append(leaf)
        assert len(frontier.nodes) == (size + 1).bit_count()
    assert frontier.root().hex() == ROOTS[8]


def test_frontier_refuses_nodes_that_are_not_those_of_its_size() -> None:
    with pytest.raises(ValueError, match="size 3 with 1 subtrees"):
        merkle.Frontier(3, (LEAVES[0],))


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, path: list[tuple[int, int]]) -> None:
    proof = Tree(LEAVES[:size]).inclusion(index)
    assert [node.hex() for node in proof] == [NODE[at] for at in path]
    assert Tree(LEAVES).inclusion(index, size) == proof
    merkle.verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "size", "path"), CONSISTENCY)
def test_published_consistency_proofs(old: int, size: int, path: list[tuple[int, int]]) -> None:
    proof = Tree(LEAVES[:size]).consistency(old)
    assert [node.hex() for node in proof] == [NODE[at] for at in path]
    assert Tree(LEAVES).consistency(old, size) == proof
    merkle.verify_consistency(old, size, proof, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[size]))


def test_leaves_and_nodes_are_hashed_apart() -> None:
    node = merkle.node_hash(LEAVES[0], LEAVES[1])
    assert node != merkle.leaf_hash(LEAVES[0] + LEAVES[1]) != hashlib.sha256(LEAVES[0] + LEAVES[1]).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_frontier_equals_the_definition(entries: list[bytes]) -> None:
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    frontier = merkle.Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    assert (frontier.size, frontier.root()) == (len(leaves), by_definition(leaves))


def test_a_tree_is_the_definition_for_every_small_size_and_earlier_size() -> None:
    tree = Tree()
    for size in range(41):
        assert (tree.size, tree.root(), TREE.root(size)) == (size, ROOT_OF[size], ROOT_OF[size])
        paths = [path_by_definition(MANY[:size], index) for index in range(size)]
        proofs = [proof_by_definition(MANY[:size], old) for old in range(size + 1)]
        for grown in (tree, TREE):
            assert [grown.inclusion(index, size) for index in range(size)] == paths
            assert [grown.consistency(old, size) for old in range(size + 1)] == proofs
        tree.extend(MANY[size : size + 1])


@given(st.integers(41, 3000), st.data())
@settings(max_examples=30)
def test_a_tree_is_the_definition_for_larger_sizes(total: int, data: st.DataObject) -> None:
    leaves = [number.to_bytes(32, "big") for number in range(total)]
    split = data.draw(st.integers(0, total))
    tree = Tree(leaves[:split])
    tree.extend(leaves[split:])
    size = data.draw(st.integers(1, total))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert (tree.size, tree.root(), tree.root(size)) == (total, by_definition(leaves), by_definition(leaves[:size]))
    assert tree.inclusion(index, size) == path_by_definition(leaves[:size], index)
    assert tree.consistency(old, size) == proof_by_definition(leaves[:size], old)
    merkle.verify_inclusion(leaves[index], index, size, tree.inclusion(index, size), tree.root(size))
    merkle.verify_consistency(old, size, tree.consistency(old, size), tree.root(old), tree.root(size))


def test_a_proof_costs_the_square_of_the_height(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(number.to_bytes(32, "big") for number in range(2**14 - 1))
    hashed: list[bytes] = []
    monkeypatch.setattr(merkle, "node_hash", lambda left, right: hashed.append(left) or right)
    for prove in (lambda: tree.inclusion(0), lambda: tree.consistency(2**13 - 1), tree.root):
        hashed.clear()
        prove()
        assert 0 < len(hashed) <= 14**2 // 2


@pytest.mark.parametrize("leaf", [b"", bytes(31), bytes(33)])
def test_a_leaf_hash_of_another_length_is_not_taken(leaf: bytes) -> None:
    tree = Tree(LEAVES[:3])
    with pytest.raises(ValueError, match="expected a leaf hash of 32 bytes"):
        tree.extend([LEAVES[3], leaf, LEAVES[4]])
    assert (tree.size, tree.root().hex()) == (4, ROOTS[4])
    with pytest.raises(ValueError, match="expected a leaf hash of 32 bytes"):
        tree.append(leaf)
    assert (tree.size, tree.root().hex()) == (4, ROOTS[4])


@pytest.mark.parametrize("size", [-1, 41])
def test_a_tree_proves_nothing_of_a_size_that_it_never_had(size: int) -> None:
    for prove in (TREE.root, lambda size: TREE.inclusion(0, size), lambda size: TREE.consistency(0, size)):
        with pytest.raises(ValueError, match=f"expected a size of at most 40, got {size}"):
            prove(size)


def test_every_inclusion_proof_of_every_small_tree_verifies_and_no_other_place_does() -> None:
    for size in range(1, 41):
        for index in range(size):
            proof = TREE.inclusion(index, size)
            merkle.verify_inclusion(MANY[index], index, size, proof, ROOT_OF[size])
            for other in {(index + 1) % size, index ^ 1, size - 1} - {index}:
                with pytest.raises(Refused) as refusal:
                    merkle.verify_inclusion(MANY[index], other, size, proof, ROOT_OF[size])
                assert refusal.value.code == "audit.entry"


@given(st.integers(1, 40), st.data())
def test_a_changed_inclusion_proof_does_not_verify(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = TREE.inclusion(index, size)
    leaf, root = MANY[index], ROOT_OF[size]
    changes = [(_flip(leaf), proof, root), (leaf, proof, _flip(root)), (leaf, [*proof, MANY[0]], root)]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        changes += [(leaf, [*proof[:at], _flip(proof[at]), *proof[at + 1 :]], root), (leaf, proof[:-1], root)]
    for changed in changes:
        with pytest.raises(Refused) as refusal:
            merkle.verify_inclusion(changed[0], index, size, changed[1], changed[2])
        assert refusal.value.code == "audit.entry"


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_inclusion_outside_of_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected an index below"):
        TREE.inclusion(index, size)
    with pytest.raises(Refused, match="expected an index below") as refusal:
        merkle.verify_inclusion(MANY[0], index, size, [], ROOT_OF[size])
    assert refusal.value.code == "audit.entry"


def test_the_length_of_an_inclusion_proof_is_part_of_it() -> None:
    # One leaf and no path is the tree of size one; the same hashes prove nothing about a larger tree.
    with pytest.raises(Refused, match="too short"):
        merkle.verify_inclusion(MANY[0], 0, 2, [], MANY[0])
    with pytest.raises(Refused, match="too long"):
        merkle.verify_inclusion(MANY[0], 0, 1, [MANY[1]], ROOT_OF[2])


def test_consistency_of_every_pair_of_small_trees() -> None:
    for size in range(41):
        for old in range(size + 1):
            proof = TREE.consistency(old, size)
            merkle.verify_consistency(old, size, proof, ROOT_OF[old], ROOT_OF[size])


@given(st.integers(0, 40), st.data())
def test_a_changed_consistency_proof_does_not_verify(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(0, size))
    proof = TREE.consistency(old, size)
    changes = [(proof, _flip(ROOT_OF[old]), ROOT_OF[size]), ([*proof, MANY[0]], ROOT_OF[old], ROOT_OF[size])]
    if old:  # any tree appends to the empty one
        changes.append((proof, ROOT_OF[old], _flip(ROOT_OF[size])))
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        forged = [*proof[:at], _flip(proof[at]), *proof[at + 1 :]]
        changes += [(forged, ROOT_OF[old], ROOT_OF[size]), (proof[:-1], ROOT_OF[old], ROOT_OF[size])]
    for path, old_root, root in changes:
        with pytest.raises(Refused) as refusal:
            merkle.verify_consistency(old, size, path, old_root, root)
        assert refusal.value.code == "audit.fork"


def test_the_length_of_a_consistency_proof_is_part_of_it() -> None:
    for old, size in ((3, 5), (6, 8), (2, 5)):
        proof = TREE.consistency(old, size)
        for path, match in (
            ([], "got none|too short"),
            (proof[:-1], "too short"),
            ([*proof, MANY[0]], "too long"),
        ):
            with pytest.raises(Refused, match=match) as refusal:
                merkle.verify_consistency(old, size, path, ROOT_OF[old], ROOT_OF[size])
            assert refusal.value.code == "audit.fork"


def test_a_rewritten_history_has_no_consistency_proof() -> None:
    rewritten = Tree([_flip(MANY[0]), *MANY[1:]])
    proof = rewritten.consistency(6)
    with pytest.raises(Refused) as refusal:
        merkle.verify_consistency(6, 40, proof, ROOT_OF[6], rewritten.root())
    assert refusal.value.code == "audit.fork"


def test_consistency_with_a_larger_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 3, got 4"):
        TREE.consistency(4, 3)
    with pytest.raises(Refused, match="at least 4 leaves, got 3"):
        merkle.verify_consistency(4, 3, [], ROOT_OF[4], ROOT_OF[3])


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]
