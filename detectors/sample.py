"""A seeded sample of reference rows, bounded whatever the reference's size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import Reference
from demur.detectors.tensor import Signal


def sample_rows(reference: Reference, signal: Signal, size: int, seed: int) -> NDArray[np.float64]:
    """At most `size` rows (n, width) float64, without replacement, in their order; all rows when there are fewer."""
    chosen = np.arange(reference.rows)
    if reference.rows > size:
        chosen = np.sort(np.random.default_rng(seed).choice(reference.rows, size, replace=False))
    parts, start = [], 0
    for batch in reference.batches(signal):
        rows = batch.signals[signal]
        here = chosen[(chosen >= start) & (chosen < start + len(rows))] - start
        parts.append(rows[here].astype(np.float64))
        start += len(rows)
    return np.concatenate(parts)
