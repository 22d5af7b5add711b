"""A seeded sample of reference rows, bounded whatever the reference's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import Batch, Reference
from demur.detectors.tensor import Signal


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows (n, width) float64 of each signal, with their labels (n,) and whether the model was right on them (n,)."""

    signals: dict[Signal, NDArray[np.float64]]
    labels: NDArray[np.int64] | None
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, batch: Batch, chosen: NDArray[np.int64], signals: tuple[Signal, ...]) -> Self:
        """The chosen rows, numbered in the whole reference, that are in this batch."""
        count = len(batch.correct)
        here = chosen[np.searchsorted(chosen, batch.start) : np.searchsorted(chosen, batch.start + count)] - batch.start
        rows = {s: batch.signals[s][here].astype(np.float64) for s in signals}
        return cls(rows, None if batch.labels is None else batch.labels[here], batch.correct[here])

    def merge(self, other: Self) -> Self:
        signals = {s: np.concatenate([rows, other.signals[s]]) for s, rows in self.signals.items()}
        both = self.labels is not None and other.labels is not None
        labels = np.concatenate([self.labels, other.labels]) if both else None
        return type(self)(signals, labels, np.concatenate([self.correct, other.correct]))


def sample_of(reference: Reference, *signals: Signal, size: int, seed: int) -> Rows:
    """At most `size` rows of the signals, without replacement, in their order; all rows when there are fewer."""
    chosen = np.arange(reference.rows)
    if reference.rows > size:
        chosen = np.sort(np.random.default_rng(seed).choice(reference.rows, size, replace=False))
    return reference.reduce(lambda batch: Rows.of(batch, chosen, signals), *signals)


def sample_rows(reference: Reference, signal: Signal, size: int, seed: int) -> NDArray[np.float64]:
    """At most `size` rows (n, width) float64 of one signal."""
    return sample_of(reference, signal, size=size, seed=seed).signals[signal]


def check_finite(score: str, rows: Rows, role: str = "reference") -> None:
    """Raises: ValueError for sampled rows of the reference, or of the side `role`, that hold NaN or infinity."""
    for signal, held in rows.signals.items():
        broken = int((~np.isfinite(held).all(axis=1)).sum())
        if broken:
            step = "drop them first" if broken < len(held) else "give others, no row is left to learn from"
            raise ValueError(
                f"{score}: {role}: expected finite rows of {signal!r}, got NaN or infinity in {broken} of {len(held)} "
                f"sampled ones; {step}"
            )
