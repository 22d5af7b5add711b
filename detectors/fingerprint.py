"""Fingerprint of a network's weights: enough to say at load which array is another one, and in what it differs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

RELATIVE = 1e-6  # of a statistic: what another order of summation changes is below it
STATISTICS = ("norm", "mean", "std", "kurtosis", "sparsity")


@dataclass(frozen=True)
class ArrayPrint:
    """One array: shape, dtype, statistics in float64 and the SHA-256 of its little-endian bytes.

    norm: Euclidean, of all entries; mean; std, divided by n; kurtosis: excess, m4 / m2^2 - 3 about the mean, 0 for a constant
    array; sparsity: share of entries with |w| < max|w| / 100, 1 for an array of zeros.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: float
    mean: float
    std: float
    kurtosis: float
    sparsity: float
    digest: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        """Raises: ValueError for an array that is empty, no number, or not finite."""
        if not array.size or array.dtype.kind not in "fiu":
            raise ValueError(f"fingerprint: expected an array of numbers, got {array.dtype} of shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"fingerprint: the array of shape {array.shape} holds values that are not finite")
        w = array.astype(np.float64).ravel()
        scale = float(np.abs(w).max())
        unit = w / scale if scale > 0 else w
        mean, std = float(unit.mean()), float(unit.std())
        varied = std > 1e-12
        kurtosis = float((((unit - mean) / std) ** 4).mean() - 3) if varied else 0.0
        sparsity = float((np.abs(unit) < 0.01).mean())
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        moments = (scale * float(np.linalg.norm(unit)), scale * mean, scale * std)
        return cls(tuple(map(int, array.shape)), array.dtype.name, *moments, kurtosis, sparsity, digest)


@dataclass(frozen=True)
class Fingerprint:
    """Prints of named arrays, such as head_weight and head_bias."""

    arrays: Mapping[str, ArrayPrint]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Raises: ValueError, naming the array, as `ArrayPrint.of`."""
        found = {}
        for name, array in sorted(arrays.items()):
            try:
                found[name] = ArrayPrint.of(np.asarray(array))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return cls(found)

    def document(self) -> dict[str, dict[str, Any]]:
        """Ready for JSON; floats survive it exactly."""
        return {name: {**asdict(one), "shape": list(one.shape)} for name, one in self.arrays.items()}

    @classmethod
    def read(cls, document: Mapping[str, Mapping[str, Any]]) -> Self:
        """Back from `document`. Raises: ValueError for one that is not a fingerprint's."""
        known = {f.name for f in fields(ArrayPrint)}
        arrays = {}
        for name, held in document.items():
            if not isinstance(held, Mapping) or set(held) != known:
                raise ValueError(f"fingerprint of {name!r}: expected {sorted(known)}, got {held!r:.200}")
            numbers = {s: float(held[s]) for s in STATISTICS}
            shape = tuple(int(n) for n in held["shape"])
            arrays[name] = ArrayPrint(shape, str(held["dtype"]), digest=str(held["digest"]), **numbers)
        return cls(arrays)


@dataclass(frozen=True)
class Change:
    """What moved in one array: `what` is missing, new, shape, dtype, a statistic, or bytes; before and after as text."""

    array: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.array}: {self.what} was {self.before}, is {self.after}"


def compare(registered: Fingerprint, found: Fingerprint, *, relative: float = RELATIVE) -> list[Change]:
    """Everything that moved, array by array in the order of names; [] exactly when all bytes are the same.

    Statistics count as moved beyond `relative` of the larger size, means also of the standard deviation. An array whose bytes
    changed but no statistic is reported as `bytes`: a permutation, a flipped low bit.
    """
    changes: list[Change] = []
    for name in sorted({*registered.arrays, *found.arrays}):
        before, after = registered.arrays.get(name), found.arrays.get(name)
        if before is None or after is None:
            what = "new" if before is None else "missing"
            changes.append(Change(name, what, _size(before), _size(after)))
        else:
            changes += _moved(name, before, after, relative)
    return changes


def _moved(name: str, before: ArrayPrint, after: ArrayPrint, relative: float) -> list[Change]:
    plain = [(w, str(getattr(before, w)), str(getattr(after, w))) for w in ("shape", "dtype")]
    found = [Change(name, w, b, a) for w, b, a in plain if b != a]
    floor = max(before.std, after.std)
    for what in STATISTICS:
        one, two = getattr(before, what), getattr(after, what)
        least = relative * floor if what == "mean" else relative * 1e-3
        if not math.isclose(one, two, rel_tol=relative, abs_tol=least):
            found.append(Change(name, what, f"{one:.9g}", f"{two:.9g}"))
    if not found and before.digest != after.digest:
        found.append(Change(name, "bytes", before.digest[:16], after.digest[:16]))
    return found


def _size(one: ArrayPrint | None) -> str:
    return "absent" if one is None else f"{one.dtype} {one.shape}"
