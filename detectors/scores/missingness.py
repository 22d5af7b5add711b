"""How rare it is that just these cells are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Counts
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Batch, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class Missingness:
    """-sum_d log q_d, q_d the reference frequency of what column d does in the row: missing, or present.

    Of n reference rows, m_d of them missing column d: q_d = (m_d + 1) / (n + 2) when the cell is missing, else
    (n - m_d + 1) / (n + 2). Columns count as independent.
    Shapes: features_missing (N, D) of 1 (missing) and 0, as `missing` gives it -> (N,). Range: (0, inf), nats. Higher is less
    trustworthy.
    Raises: ValueError in fit when the mask holds anything but 0 and 1.
    Source: own form; negative log-likelihood of independent Bernoulli columns, frequencies by Laplace's rule of succession.
    """

    present: Array  # (1,), of a row without missing cells, nats
    rarer: Array  # (D,), what a missing cell adds, nats
    inputs: ClassVar[tuple[Signal, ...]] = ("features_missing",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "own form: independent Bernoulli columns, Laplace's rule of succession"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        def counted(batch: Batch) -> Counts:
            mask = batch.signals["features_missing"]
            return Counts(np.stack([(mask == 1).sum(axis=0), (mask == 0).sum(axis=0)]))

        missing, there = reference.reduce(counted, "features_missing").of
        if (missing + there != reference.rows).any():
            raise ValueError("missingness: expected features_missing of 0 and 1 only; 1 marks a missing cell")
        total = np.log(reference.rows + 2.0)
        absent, present = total - np.log(missing + 1.0), total - np.log(there + 1.0)
        return cls(np.array([present.sum()], np.float32), (absent - present).astype(np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.sum(signals["features_missing"] * self.rarer) + self.present  # type: ignore[no-any-return]
