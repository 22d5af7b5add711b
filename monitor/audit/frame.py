"""One journal entry as bytes. Pure.

Layout, little-endian: b"DMJ1", leaf length u32, block length u32, sequence u64, batch u64, leaf, block, CRC-32 u32 of
all that precedes. `batch` is the offset in the file at which the entry's group commit began: everything before it was
synced before this entry was written, so a readable entry proves that all damage before its batch hit acknowledged data.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from demur.monitor.audit.record import LEAF_BYTES

MAGIC = b"DMJ1"
BLOCK_BYTES = 64 << 20
_HEAD = struct.Struct("<4sIIQQ")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
OVERHEAD = _HEAD.size + _CRC.size


class BadFrame(ValueError):
    """Bytes at an offset that are not one whole entry."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An entry: where it stands in the log (`sequence`) and in its file, the leaf, and the verdict block beside it."""

    sequence: int
    batch: int
    leaf: bytes
    block: bytes

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return OVERHEAD + len(self.leaf) + len(self.block)

    def encode(self) -> bytes:
        """The entry's bytes."""
        head = _HEAD.pack(MAGIC, len(self.leaf), len(self.block), self.sequence, self.batch)
        body = b"".join((head, self.leaf, self.block))
        return body + _CRC.pack(zlib.crc32(body))


def decode(data: bytes, at: int = 0, base: int = 0) -> Frame:
    """The entry at `at` of data that was read from offset `base` of its file. Raises: BadFrame."""
    if at + HEAD_BYTES > len(data):
        raise BadFrame(f"cut short: {len(data) - at} bytes where an entry begins")
    magic, leaf, block, sequence, batch = _HEAD.unpack_from(data, at)
    if magic != MAGIC or leaf > LEAF_BYTES or block > BLOCK_BYTES or batch > at + base:
        raise BadFrame("not the beginning of an entry")
    body = at + HEAD_BYTES
    end = body + leaf + block
    if end + _CRC.size > len(data):
        raise BadFrame(f"cut short: the entry needs {end + _CRC.size - at} bytes, {len(data) - at} are there")
    if zlib.crc32(memoryview(data)[at:end]) != _CRC.unpack_from(data, end)[0]:
        raise BadFrame("the checksum does not match")
    return Frame(sequence, batch, data[body : body + leaf], data[body + leaf : end])


def body_bytes(head: bytes) -> int:
    """How many bytes follow this head. Raises: BadFrame when it claims more than an entry may have."""
    if len(head) < HEAD_BYTES:
        raise BadFrame("cut short: no entry begins here")
    magic, leaf, block, _, _ = _HEAD.unpack(head)
    if magic != MAGIC or leaf > LEAF_BYTES or block > BLOCK_BYTES:
        raise BadFrame("not the beginning of an entry")
    return int(leaf + block + _CRC.size)


def survivor(data: bytes, damage: int, base: int = 0) -> int | None:
    """The offset of a readable entry whose batch began after `damage`, which proves that acknowledged data was hit."""
    at = data.find(MAGIC, damage + 1)
    while at >= 0:
        try:
            frame = decode(data, at, base)
        except BadFrame:
            at = data.find(MAGIC, at + 1)
            continue
        if frame.batch > damage + base:
            return at + base
        at = data.find(MAGIC, at + frame.size)
    return None
