"""The protocol's datatypes as NumPy's, from and to raw little-endian bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.servers.oip.reading import UnreadableOutputError

SHARED_MEMORY = "shared_memory_region"
SIGNAL_DATATYPES = ("FP32", "FP64", "FP16", "BF16")
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
TYPED_FIELDS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
LENGTH = struct.Struct("<I")


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview) -> NDArray[Any]:
    """The elements of raw contents, 1-D: a view of them, except that BF16 is widened to float32 and BYTES are objects.

    Raises: UnreadableOutputError when datatype, shape and bytes do not belong together.
    """
    count = elements(shape)
    if datatype == "BYTES":
        return _strings(name, raw, count)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise UnreadableOutputError(f"output {name}: expected one of {', '.join(DTYPES)}, BYTES, got {datatype!r}")
    if len(raw) != count * dtype.itemsize:
        raise UnreadableOutputError(
            f"output {name}: expected {count * dtype.itemsize} bytes for {datatype} {shape}, got {len(raw)}"
        )
    values: NDArray[Any] = np.frombuffer(raw, dtype)
    return (values.astype(np.uint32) << 16).view(np.float32) if datatype == "BF16" else values


def from_contents(tensor: Any) -> NDArray[Any]:
    """The elements of a message's tensor in typed contents, which FP16 and BF16 do not have.

    Raises: UnreadableOutputError when they are not as many as its shape says, or do not fit its datatype.
    """
    name, shape = tensor.name, tuple(tensor.shape)
    field = TYPED_FIELDS.get(tensor.datatype)
    if field is None:
        raise UnreadableOutputError(f"output {name}: {tensor.datatype} exists as raw contents only, got none")
    values, count = getattr(tensor.contents, field), elements(shape)
    if len(values) != count:
        raise UnreadableOutputError(
            f"output {name}: expected {count} elements in {field} for shape {shape}, got {len(values)}"
        )
    if tensor.datatype == "BYTES":
        found = np.empty(count, object)
        found[:] = list(values)
        return found
    try:
        return np.asarray(values, DTYPES[tensor.datatype])
    except (OverflowError, ValueError) as error:
        raise UnreadableOutputError(f"output {name}: a value does not fit {tensor.datatype}") from error


def to_raw(values: NDArray[Any], datatype: str) -> bytes:
    """Raw contents of these elements. BF16 takes float32 and cuts its mantissa."""
    if datatype == "BYTES":
        return b"".join(LENGTH.pack(len(v)) + v for v in values.ravel().tolist())
    if datatype == "BF16":
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype(DTYPES[datatype]).tobytes()


def elements(shape: Iterable[int]) -> int:
    """How many elements a shape has; -1 when a dimension is negative."""
    count = 1
    for dimension in shape:
        if dimension < 0:
            return -1
        count *= dimension
    return count


def _strings(name: str, raw: bytes | memoryview, count: int) -> NDArray[Any]:
    found: list[bytes] = []
    at, end = 0, len(raw)
    while at + 4 <= end:
        size = LENGTH.unpack_from(raw, at)[0]
        if at + 4 + size > end:
            break
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != end or len(found) != count:
        raise UnreadableOutputError(
            f"output {name}: expected {count} strings with their lengths, got {end} other bytes"
        )
    values = np.empty(count, object)
    values[:] = found
    return values
