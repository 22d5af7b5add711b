"""The verdict block: every unit's scores, p-values and reasons, as defined little-endian columns.

Layout: b"DMVB", version u16, tables u16 (the rows, then the groups if the policy judges them); each table: rows u32,
columns u16, each name as u16 length and UTF-8, scores f32 column by column, p-values f32 likewise, reasons i64, accept
as bits (first unit in the lowest bit of the first byte). NaN is allowed and kept bit by bit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

MAGIC = b"DMVB"
VERSION = 1
NAME_BYTES = 255
_HEAD = struct.Struct("<4sHH")
_TABLE = struct.Struct("<IH")
_NAME = struct.Struct("<H")


class InvalidBlock(ValueError):
    """Bytes that are not a verdict block, or columns that do not fit each other."""


@dataclass(frozen=True, eq=False)
class VerdictBlock:
    """Verdicts of N units: scores and p_values (N, S) float32, reasons (N,) int64, accept (N,) bool, columns S names."""

    columns: tuple[str, ...]
    scores: NDArray[np.float32]
    p_values: NDArray[np.float32]
    reasons: NDArray[np.int64]
    accept: NDArray[np.bool_]
    groups: VerdictBlock | None = None

    def encode(self) -> bytes:
        """The block's bytes. Raises: InvalidBlock when the columns do not fit each other."""
        parts = [_HEAD.pack(MAGIC, VERSION, 1 if self.groups is None else 2)]
        self._table(parts)
        if self.groups is not None:
            self.groups._table(parts)  # noqa: SLF001 - of its own class
        return b"".join(parts)

    def _table(self, parts: list[bytes]) -> None:
        rows, width = len(self.accept), len(self.columns)
        if self.scores.shape != (rows, width) or self.p_values.shape != (rows, width) or len(self.reasons) != rows:
            raise InvalidBlock(
                f"verdict block: expected scores and p-values ({rows}, {width}) and {rows} reasons, "
                f"got {self.scores.shape}, {self.p_values.shape} and {len(self.reasons)}"
            )
        parts.append(_TABLE.pack(rows, width))
        for name in self.columns:
            encoded = name.encode("utf-8", "backslashreplace")[:NAME_BYTES].decode("utf-8", "ignore").encode()
            parts += (_NAME.pack(len(encoded)), encoded)
        parts += (
            np.asarray(self.scores, "<f4").T.tobytes(),
            np.asarray(self.p_values, "<f4").T.tobytes(),
            np.asarray(self.reasons, "<i8").tobytes(),
            np.packbits(self.accept, bitorder="little").tobytes(),
        )

    @classmethod
    def decode(cls, data: bytes) -> VerdictBlock:
        """Read a block. Raises: InvalidBlock when it is cut short, overlong, or of another version."""
        if len(data) < _HEAD.size:
            raise InvalidBlock(f"verdict block: expected at least {_HEAD.size} bytes, got {len(data)}")
        magic, version, tables = _HEAD.unpack_from(data)
        if magic != MAGIC or version != VERSION or tables not in (1, 2):
            raise InvalidBlock(f"verdict block: expected {MAGIC!r} version {VERSION}, got {magic!r} version {version}")
        rows, at = _read(data, _HEAD.size)
        groups, at = _read(data, at) if tables > 1 else (None, at)
        if at != len(data):
            raise InvalidBlock(f"verdict block: {len(data) - at} bytes follow the last table")
        return cls(rows.columns, rows.scores, rows.p_values, rows.reasons, rows.accept, groups)


def digest(block: bytes) -> str:
    """What a leaf says of its block: SHA-256 in hex, or "" for no block."""
    return sha256(block).hexdigest() if block else ""


def _read(data: bytes, at: int) -> tuple[VerdictBlock, int]:
    _room(data, at, _TABLE.size)
    rows, width = _TABLE.unpack_from(data, at)
    at += _TABLE.size
    names = []
    for _ in range(width):
        _room(data, at, _NAME.size)
        (length,) = _NAME.unpack_from(data, at)
        at += _NAME.size
        _room(data, at, length)
        names.append(_text(data[at : at + length]))
        at += length
    bits = (rows + 7) // 8
    _room(data, at, rows * width * 8 + rows * 8 + bits)  # INVARIANT: sizes are checked before anything is allocated
    scores = np.frombuffer(data, "<f4", rows * width, at).reshape(width, rows).T
    at += rows * width * 4
    p_values = np.frombuffer(data, "<f4", rows * width, at).reshape(width, rows).T
    at += rows * width * 4
    reasons = np.frombuffer(data, "<i8", rows, at)
    at += rows * 8
    packed = np.frombuffer(data, np.uint8, bits, at)
    accept = np.unpackbits(packed, count=rows, bitorder="little").astype(np.bool_)
    if np.packbits(accept, bitorder="little").tobytes() != packed.tobytes():
        raise InvalidBlock("verdict block: bits are set behind the last unit")
    return VerdictBlock(tuple(names), scores, p_values, reasons, accept), at + bits


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidBlock("verdict block: a column's name is not UTF-8") from None


def _room(data: bytes, at: int, need: int) -> None:
    if at + need > len(data):
        raise InvalidBlock(f"verdict block: cut short, {at + need} bytes needed, {len(data)} there")
