"""What a model says about its inputs, and fitting arrays to that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input as its model declares it: name, Open Inference Protocol datatype ("" unknown), shape with the batch first.

    A dimension of None may have any size; `shape` None says that nothing is known.
    """

    name: str
    datatype: str = ""
    shape: tuple[int | None, ...] | None = None

    @property
    def batch(self) -> int | None:
        """How many inputs a call must carry, None for any number."""
        return self.shape[0] if self.shape else None

    def __str__(self) -> str:
        shape = "?" if self.shape is None else "(" + ", ".join("N" if d is None else str(d) for d in self.shape) + ")"
        return f"{self.name} {shape} {self.datatype}".rstrip()


def spec(name: str, datatype: str, dims: Sequence[Any]) -> TensorSpec:
    """From a declaration: dimensions that are no positive integers are free; none at all say nothing.

    Raises: InvalidObservation.
    """
    if datatype and datatype not in DTYPES:
        raise InvalidObservation(
            f"input {name}: expected one of {', '.join(DTYPES)}, the model wants {datatype}; demur collects with numbers only"
        )
    return TensorSpec(name, datatype, tuple(d if isinstance(d, int) and d > 0 else None for d in dims) or None)


def fitted(array: NDArray[Any], wanted: TensorSpec, where: str) -> NDArray[Any]:
    """The array (n, ...) in the dtype and shape of the input.

    Axes of size 1 may come or go, and flat rows are folded when every dimension is static.
    Raises: InvalidObservation when the shape does not fit, or the conversion would change what the numbers mean.
    """
    return np.ascontiguousarray(_shaped(_converted(array, wanted, where), wanted, where))


def _converted(array: NDArray[Any], wanted: TensorSpec, where: str) -> NDArray[Any]:
    if not wanted.datatype:
        if array.dtype.newbyteorder("<") not in NAMES:
            raise InvalidObservation(f"{where}: expected numbers for input {wanted}, got {array.dtype}")
        return array
    dtype = DTYPES[wanted.datatype]
    ranks = {"b": 0, "u": 1, "i": 1, "f": 2}
    if ranks.get(array.dtype.kind, 9) > ranks[dtype.kind]:
        raise InvalidObservation(
            f"{where}: expected {dtype.name} for input {wanted}, got {array.dtype}; convert the column"
        )
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(dtype, copy=False)
    limits = np.iinfo(dtype) if dtype.kind in "ui" else None
    if (
        limits
        and array.size
        and array.dtype.kind in "ui"
        and not limits.min <= array.min() <= array.max() <= limits.max
    ):
        raise InvalidObservation(f"{where}: expected {dtype.name} for input {wanted}, got {array.min()}..{array.max()}")
    return array.astype(dtype, copy=False)


def _shaped(array: NDArray[Any], wanted: TensorSpec, where: str) -> NDArray[Any]:
    if wanted.shape is None or _agrees(array.shape[1:], wanted.shape[1:]):
        return array
    target = _target(array.shape[1:], wanted.shape[1:])
    if target is None:
        raise InvalidObservation(
            f"{where}: expected shape {wanted} asks for, got (N, {', '.join(map(str, array.shape[1:]))}); "
            "reshape the column, or name another one with --input"
        )
    return array.reshape(len(array), *target)


def _agrees(dims: Sequence[int], declared: Sequence[int | None]) -> bool:
    return len(dims) == len(declared) and all(d in (None, n) for n, d in zip(dims, declared, strict=True))


def _target(dims: Sequence[int], declared: Sequence[int | None]) -> tuple[int, ...] | None:
    """The shape to fold a row into, None when rows do not fit or could be folded in more than one way."""
    static = [d for d in declared if d is not None]
    if len(static) == len(declared) and len(dims) == 1 and math.prod(static) == dims[0]:
        return tuple(static)
    if len(static) == len(declared) == 1 and static[0] == math.prod(dims):
        return (static[0],)
    real = iter(d for d in dims if d != 1)
    made = [1 if d == 1 else next(real, None) for d in declared]
    if None in made or next(real, None) is not None:
        return None
    found = tuple(d for d in made if d is not None)
    return found if _agrees(found, declared) else None


def one_of(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(names) or "none"
