"""Digests of a signals table: one for the whole, one for each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 8


class TableDigest:
    """SHA-256 over columns fed in canonical order: role, name, dtype, shape, then little-endian contents."""

    def __init__(self) -> None:
        self._running = hashlib.sha256(b"demur signals table 1\n")

    def add(self, role: str, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[NDArray[Any]]) -> None:
        heading = json.dumps([role, name, dtype, [int(size) for size in shape]])
        self._running.update(heading.encode("ascii") + b"\n")
        for part in parts:
            self._running.update(_little_endian(part))

    def add_all(self, role: str, columns: Mapping[str, NDArray[Any]]) -> None:
        for name in sorted(columns):
            array = columns[name]
            dtype = "str" if array.dtype.kind == "U" else array.dtype.name
            self.add(role, name, dtype, array.shape, [array])

    def hexdigest(self) -> str:
        return self._running.hexdigest()


def row_hashes(batches: Iterator[list[NDArray[np.float32]]]) -> NDArray[np.uint64]:
    """(N,) 64-bit BLAKE2b of each row's float32 bytes, the arrays of a batch side by side; -0.0 counts as 0.0.

    Some two different rows among a million by a million agree with a chance of 5e-8.
    """
    digests = bytearray()
    for arrays in batches:
        joined = np.concatenate(arrays, axis=1) + np.float32(0)
        rows = joined.astype("<f4", copy=False)
        digests += b"".join(hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in rows)
    return np.frombuffer(bytes(digests), "<u8").astype(np.uint64)


def _little_endian(array: NDArray[Any]) -> bytes:
    if array.dtype.kind == "U":
        return json.dumps(array.tolist()).encode("ascii")
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
