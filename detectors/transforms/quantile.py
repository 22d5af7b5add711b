"""Exact quantiles of every column of a signal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Counts, ordered_keys
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Signal

BITS, BINS = 8, 256


def order_statistics(reference: Reference, signal: Signal, quantile: float) -> Array:
    """The ceil(q n)-th smallest value of each column, (D,) float32, exactly, in four passes and 2 KiB a column."""
    width = next(reference.batches(signal, size=1)).signals[signal].shape[1]
    return ranked_values(reference, signal, np.full(width, max(1, int(np.ceil(quantile * reference.rows)))))


def ranked_values(reference: Reference, signal: Signal, rank: NDArray[np.int64]) -> Array:
    """The rank-th smallest value of each column, ranks (D,) from 1; NaN counts as greater than every number.

    Each of four passes counts the next 8 bits of the values' order-preserving keys, among those that share the bits found
    so far.
    """
    width = len(rank)
    found = np.zeros(width, np.int64)
    for shift in (24, 16, 8, 0):
        counts = _counts(reference, signal, found, shift)
        upto = counts.cumsum(axis=1)
        place = (upto < rank[:, None]).sum(axis=1)
        rank = rank - np.where(place > 0, upto[np.arange(width), place - 1], 0)
        found = found << BITS | place
    bits = np.where(found & 0x80000000, found ^ 0x80000000, found ^ 0xFFFFFFFF)
    return bits.astype(np.uint32).view(np.float32)


def _counts(reference: Reference, signal: Signal, found: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """How many values of each column continue the bits found with each of the 256 next ones, (D, 256)."""

    def part(batch: Batch) -> Counts:
        values = batch.signals[signal]
        keys = ordered_keys(np.where(np.isnan(values), np.float32(np.nan), values))  # a NaN may carry a sign
        rows, columns = np.nonzero(keys >> (shift + BITS) == found)
        places = columns * BINS + (keys[rows, columns] >> shift & BINS - 1)
        return Counts(np.bincount(places, minlength=BINS * len(found)).reshape(-1, BINS))

    return reference.reduce(part, signal).of
