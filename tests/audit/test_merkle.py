"""RFC 6962 hashing against the vectors published with certificate-transparency (transparency-dev/merkle testonly)."""

import pytest

from demur.monitor.audit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    InvalidProof,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(h)
    for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
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
INCLUSION = {
    (0, 1): [],
    (0, 2): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[0, 8],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
HASHES = [leaf_hash(leaf) for leaf in LEAVES]
MANY = [leaf_hash(str(i).encode()) for i in range(40)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert root(HASHES[:size]).hex() == ROOTS[size]
    assert EMPTY_ROOT.hex() == ROOTS[0]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_audit_paths_are_the_published_ones(index: int, size: int) -> None:
    proof = inclusion_proof(HASHES[:size], index)
    assert [h.hex() for h in proof] == INCLUSION[index, size]
    verify_inclusion(index, size, HASHES[index], proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old: int, new: int) -> None:
    proof = consistency_proof(HASHES[:new], old)
    assert [h.hex() for h in proof] == CONSISTENCY[old, new]
    verify_consistency(old, new, proof, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]))


def test_every_inclusion_proof_verifies_and_no_neighbour_does() -> None:
    for size in range(1, len(MANY) + 1):
        tree, top = MANY[:size], root(MANY[:size])
        for index in range(size):
            proof = inclusion_proof(tree, index)
            verify_inclusion(index, size, tree[index], proof, top)
            for wrong in (index + 1, index - 1):
                with pytest.raises(InvalidProof):
                    verify_inclusion(wrong, size, tree[index], proof, top)
            for bad in ([*proof, top], proof[:-1], [bytes(32), *proof[1:]]):
                if bad != proof:
                    with pytest.raises(InvalidProof):
                        verify_inclusion(index, size, tree[index], bad, top)


def test_every_consistency_proof_verifies_and_no_other_root_does() -> None:
    roots = [root(MANY[:n]) for n in range(len(MANY) + 1)]
    for new in range(1, len(MANY) + 1):
        for old in range(1, new + 1):
            proof = consistency_proof(MANY[:new], old)
            verify_consistency(old, new, proof, roots[old], roots[new])
            for args in ((proof, roots[old - 1], roots[new]), (proof, roots[old], roots[new - 1])):
                with pytest.raises(InvalidProof):
                    verify_consistency(old, new, *args)
            for bad in ([*proof, roots[0]], proof[:-1]):
                if bad != proof:
                    with pytest.raises(InvalidProof):
                        verify_consistency(old, new, bad, roots[old], roots[new])


def test_a_smaller_tree_is_never_consistent() -> None:
    with pytest.raises(InvalidProof, match="smaller"):
        verify_consistency(6, 3, [], root(MANY[:6]), root(MANY[:3]))
    verify_consistency(0, 3, [], EMPTY_ROOT, root(MANY[:3]))
    with pytest.raises(InvalidProof):
        verify_consistency(0, 3, [], bytes(32), root(MANY[:3]))


def test_proofs_outside_the_tree_are_refused() -> None:
    for bad in (-1, 3):
        with pytest.raises(ValueError, match="index"):
            inclusion_proof(MANY[:3], bad)
    for bad in (0, 4):
        with pytest.raises(ValueError, match="size"):
            consistency_proof(MANY[:3], bad)


def test_compact_range_grows_to_the_same_roots() -> None:
    peaks = CompactRange()
    for n, item in enumerate(MANY, 1):
        peaks.append(item)
        assert peaks.root() == root(MANY[:n])
