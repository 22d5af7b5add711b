"""In how many reference rows' neighbourhoods a row lies: CFOOD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Float64
from demur.detectors.hyper import between, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import closeness, kept_rows, stored
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.ranked import below, blocks_of
from demur.detectors.tensor import Ops, Signal, Signals, T

CFOOD_ROWS = 1_000


@dataclass(frozen=True, eq=False)
class CFOOD:
    """The smallest neighbourhood size, a share of the bank, at which enough bank rows count the row among theirs.

    With unit vectors u of M bank rows and their squared distances: the ball of bank row i at neighbour count m reaches to
    its m-th nearest other bank row. The counts m are the distinct whole numbers nearest to `grid` numbers spaced
    geometrically from 1 to M - 1, G of them; the sizes are m / (M - 1). The row is in the ball when its squared distance
    is at most the ball's. Score: the smallest size at which at least K = ceil(covered M) bank rows hold the row in their
    balls. A row outside even at size 1 scores beyond it, by the K-th smallest ratio of its squared distance to a bank
    row's largest ball (> 1), so that far rows stay ordered. The zero vector is taken as it is, at squared distance 1.
    Shapes: features (N, D) -> (N,). Range: (0, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit with under 3 rows that have a direction, or `covered` outside (0, 1].
    Source: CFOOD, as OpenOOD's cfood_postprocessor (2025); differs: a seeded bank of `bank` rows, own grid, unit features,
    ratios beyond the largest size in the place of one value.
    """

    centre: Array  # (D,), the mean of the unit vectors in the bank
    bank: Array  # (M, D), unit vectors minus the centre
    bank_sq: Array  # (M,)
    knots: Array  # (M, B - 1): the balls of each row, ascending squared distances, in blocks
    blocks: Array  # (M * B, W)
    starts: Array  # (M,)
    largest: Array  # (M,)
    sizes: Array  # (G + 1,), the last one twice
    needed: int  # K
    width: int  # W
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(CFOOD_ROWS)
    source: ClassVar[str] = "CFOOD, as OpenOOD's cfood_postprocessor (2025)"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        covered: float = 0.01,
        grid: int = 230,
        bank: int = CFOOD_ROWS,
        select: str = "random",
        seed: int = 0,
    ) -> Self:
        share = between("cfood", "covered", covered, 0.0, 1.0)
        units = kept_rows(
            reference, "cfood", "features", size=bank, seed=seed, select=select, unit=True, least=3
        ).signals["features"]
        counts = _counts(len(units) - 1, whole("cfood", "grid", grid, least=2))
        balls = _balls(units, counts)
        if not (balls[:, -1] > np.finfo(np.float32).tiny).all():
            raise ValueError("cfood: all rows of the bank point the same way")
        centre = units.mean(axis=0).astype(np.float32)
        rows, _, squares = stored("cfood", units - centre, "float32")
        sizes = np.append(counts / (len(units) - 1), 1.0)
        needed = max(1, int(np.ceil(share * len(units))))
        knots, values, starts = blocks_of(f32(balls))
        width = values.shape[1]
        return cls(centre, rows, squares, knots, values, starts, f32(balls[:, -1]), f32(sizes), needed, width)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        here = xp.unit(signals["features"]) - self.centre
        near = closeness(xp, here, self.bank, self.bank_sq, None, "float32")
        squares = xp.maximum(near + xp.sum(here * here, keepdims=True), 0.0)
        passed = below(xp, squares, (self.knots, self.blocks, self.starts), self.width)
        smaller = xp.max(xp.bottom(passed, self.needed)[0])
        beyond = xp.max(xp.bottom(squares / self.largest, self.needed)[0])
        covered = xp.take(self.sizes, xp.index(smaller))
        return xp.where(xp.greater(beyond, 1.0), beyond, covered)


def _counts(most: int, grid: int) -> NDArray[np.int64]:
    return np.unique(np.rint(np.geomspace(1, most, grid)).astype(np.int64))


def _balls(units: Float64, counts: NDArray[np.int64]) -> Float64:
    """(M, G): squared distances of each row to its m-th nearest others, m of the counts."""
    balls = np.empty((len(units), len(counts)))
    for i, row in enumerate(units):
        squares = np.sort(((np.delete(units, i, axis=0) - row) ** 2).sum(axis=1))
        balls[i] = squares[counts - 1]
    return balls
