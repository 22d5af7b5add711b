"""Merkle tree hashing, proofs and their verification. Pure: no IO, SHA-256 only.

Source: RFC 6962 section 2.1 (hashing, audit paths, consistency proofs); verification as in RFC 9162 sections 2.1.3.2
and 2.1.4.2. Hashes are 32 bytes; sizes count leaves; indices start at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()


class InvalidProof(ValueError):
    """A proof that does not lead from what is known to what is claimed."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of leaves, or of equally deep perfect subtrees."""
    peaks = CompactRange()
    for item in hashes:
        peaks.append(item)
    return peaks.root()


class CompactRange:
    """The roots of the perfect subtrees of a growing tree, largest first: O(log size) memory."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, hashed: bytes) -> None:
        """Add one leaf hash."""
        self.size += 1
        merges = (self.size & -self.size).bit_length() - 1  # trailing zeros
        for _ in range(merges):
            hashed = node_hash(self._peaks.pop(), hashed)
        self._peaks.append(hashed)

    def root(self) -> bytes:
        """The Merkle tree hash at the present size."""
        if not self._peaks:
            return EMPTY_ROOT
        hashed = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            hashed = node_hash(peak, hashed)
        return hashed


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, D[n]): the audit path of one leaf, from the leaf upwards.

    Raises: ValueError when the index is not in the tree.
    """
    size = len(hashes)
    if not 0 <= index < size:
        raise ValueError(f"inclusion proof: expected an index in 0..{size - 1}, got {index}")
    if size == 1:
        return []
    k = _split(size)
    if index < k:
        return [*inclusion_proof(hashes[:k], index), root(hashes[k:])]
    return [*inclusion_proof(hashes[k:], index - k), root(hashes[:k])]


def consistency_proof(hashes: Sequence[bytes], size: int) -> list[bytes]:
    """PROOF(size, D[n]): what leads from the tree of the first `size` leaves to the whole tree.

    Raises: ValueError unless 1 <= size <= n.
    """
    if not 1 <= size <= len(hashes):
        raise ValueError(f"consistency proof: expected an older size in 1..{len(hashes)}, got {size}")
    return _subproof(hashes, size, known=True)


def _subproof(hashes: Sequence[bytes], size: int, *, known: bool) -> list[bytes]:
    if size == len(hashes):
        return [] if known else [root(hashes)]
    k = _split(len(hashes))
    if size <= k:
        return [*_subproof(hashes[:k], size, known=known), root(hashes[k:])]
    return [*_subproof(hashes[k:], size - k, known=False), root(hashes[:k])]


def verify_inclusion(index: int, size: int, hashed: bytes, proof: Sequence[bytes], claimed: bytes) -> None:
    """Check that the leaf with this hash stands at `index` of the tree of `size` leaves with root `claimed`.

    Raises: InvalidProof.
    """
    if not 0 <= index < size:
        raise InvalidProof(f"inclusion: index {index} is outside a tree of {size} leaves")
    node, last = index, size - 1
    for step in proof:
        if last == 0:
            raise InvalidProof(f"inclusion: the proof has more than the {_depth(index, size)} hashes it needs")
        if node & 1 or node == last:
            hashed = node_hash(step, hashed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            hashed = node_hash(hashed, step)
        node, last = node >> 1, last >> 1
    if last or hashed != claimed:
        raise InvalidProof(f"inclusion: the proof for leaf {index} does not lead to the root of size {size}")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the tree of `old` leaves is a prefix of the tree of `new` leaves.

    Raises: InvalidProof.
    """
    if old > new or old < 0:
        raise InvalidProof(f"consistency: size {new} is smaller than the {old} leaves seen before")
    if old in (0, new):
        if proof or old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise InvalidProof(f"consistency: the roots of sizes {old} and {new} disagree")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise InvalidProof("consistency: the proof is empty")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    if _climb(node, last, path) != (old_root, new_root):
        raise InvalidProof(f"consistency: the proof does not lead from size {old} to size {new}")


def _climb(node: int, last: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    first = second = path[0]
    for step in path[1:]:
        if last == 0:
            raise InvalidProof("consistency: the proof is longer than the tree is deep")
        if node & 1 or node == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, step)
        node, last = node >> 1, last >> 1
    if last:
        raise InvalidProof("consistency: the proof is shorter than the tree is deep")
    return first, second


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def _depth(index: int, size: int) -> int:
    inner = (index ^ (size - 1)).bit_length()
    return inner + (index >> inner).bit_count()
