"""RFC 9162 trees: the published reference tree, and properties over every small tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto import merkle
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
ROOT_OF = [merkle.root(MANY[:size]) for size in range(len(MANY) + 1)]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size]


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
    proof = merkle.inclusion_proof(LEAVES[:size], index)
    assert [node.hex() for node in proof] == [NODE[at] for at in path]
    merkle.verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "size", "path"), CONSISTENCY)
def test_published_consistency_proofs(old: int, size: int, path: list[tuple[int, int]]) -> None:
    proof = merkle.consistency_proof(LEAVES[:size], old)
    assert [node.hex() for node in proof] == [NODE[at] for at in path]
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
    assert (frontier.size, frontier.root()) == (len(leaves), merkle.root(leaves))


def test_every_inclusion_proof_of_every_small_tree_verifies_and_no_other_place_does() -> None:
    for size in range(1, 41):
        for index in range(size):
            proof = merkle.inclusion_proof(MANY[:size], index)
            merkle.verify_inclusion(MANY[index], index, size, proof, ROOT_OF[size])
            for other in {(index + 1) % size, index ^ 1, size - 1} - {index}:
                with pytest.raises(Refused) as refusal:
                    merkle.verify_inclusion(MANY[index], other, size, proof, ROOT_OF[size])
                assert refusal.value.code == "audit.entry"


@given(st.integers(1, 40), st.data())
def test_a_changed_inclusion_proof_does_not_verify(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(MANY[:size], index)
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
        merkle.inclusion_proof(MANY[:size], index)
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
            proof = merkle.consistency_proof(MANY[:size], old)
            merkle.verify_consistency(old, size, proof, ROOT_OF[old], ROOT_OF[size])


@given(st.integers(0, 40), st.data())
def test_a_changed_consistency_proof_does_not_verify(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(0, size))
    proof = merkle.consistency_proof(MANY[:size], old)
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
        proof = merkle.consistency_proof(MANY[:size], old)
        for path, match in (
            ([], "got none|too short"),
            (proof[:-1], "too short"),
            ([*proof, MANY[0]], "too long"),
        ):
            with pytest.raises(Refused, match=match) as refusal:
                merkle.verify_consistency(old, size, path, ROOT_OF[old], ROOT_OF[size])
            assert refusal.value.code == "audit.fork"


def test_a_rewritten_history_has_no_consistency_proof() -> None:
    rewritten = [_flip(MANY[0]), *MANY[1:]]
    proof = merkle.consistency_proof(rewritten, 6)
    with pytest.raises(Refused) as refusal:
        merkle.verify_consistency(6, 40, proof, ROOT_OF[6], merkle.root(rewritten))
    assert refusal.value.code == "audit.fork"


def test_consistency_with_a_larger_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 3, got 4"):
        merkle.consistency_proof(MANY[:3], 4)
    with pytest.raises(Refused, match="at least 4 leaves, got 3"):
        merkle.verify_consistency(4, 3, [], ROOT_OF[4], ROOT_OF[3])


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]
