"""A class-conditional flow on the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import whole
from demur.detectors.learned.couplings import BOUND, LOG_TAU, Couplings, alternating, layers_of
from demur.detectors.learned.layer import Coupling, Dense, scaling
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import sample_of
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 10_000


@dataclass(frozen=True, eq=False)
class Flow:
    """-max_c [sum_d log N(y_d; mu_cd, sigma_cd) + log|det dy/dh|] of a RealNVP y = f((h - centre) / scale).

    `layers` affine couplings x -> x exp(s) + t, s = 2 tanh(.), s and t from one rectified layer of `hidden` units that reads
    a seeded half of the entries and moves the other; the halves change places. Trained by Adam in float64 to the largest
    mean log-likelihood of correctly answered rows under the normal distribution of their label; centre and scale are
    their mean and deviation. Per row, in nats: the determinant includes the scale. The best class is found from products of
    matrices, its density by differences.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), nats. Higher is less trustworthy.
    Raises: ValueError in fit without labels, or with under 2 features.
    Source: Dinh et al. 2017, arXiv:1605.08803, eq. 7-8; FlowCon 2024, arXiv:2407.03489; differs: maximum likelihood, no
    contrastive term, no input perturbation, the determinant of each row and not the batch's mean.
    """

    centre: Array  # (D,)
    gain: Array  # (D,), 1 / scale
    couplings: tuple[Coupling, ...]
    means: Array  # (C, D)
    sharpness: Array  # (C, D), 1 / sigma
    offset: Array  # (C,), sum_d (log sigma_cd + log scale_d + log(2 pi) / 2)
    curve: Array  # (C, 2 D), sharpness^2 / 2 and -means sharpness^2: of y^2 and y
    level: Array  # (C,), offset + sum_d (means sharpness)^2 / 2
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Dinh et al. 2017, arXiv:1605.08803, eq. 7-8; FlowCon 2024, arXiv:2407.03489"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        layers: int = 4,
        hidden: int = 64,
        epochs: int = 20,
        bank: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> Self:
        for name, value in (("layers", layers), ("hidden", hidden), ("epochs", epochs)):
            whole("flow", name, value)
        start = whole("flow", "seed", seed, least=0)
        if reference.labels is None:
            raise ValueError(
                "flow: expected labels in the reference, as it is fitted class by class; add a `label` column, or take a score without, such as knn"
            )
        drawn = sample_of(reference, "features", size=whole("flow", "bank", bank), seed=start)
        assert drawn.labels is not None  # noqa: S101 - refused above
        rows, labels = drawn.signals["features"][drawn.correct], drawn.labels[drawn.correct]
        if len(rows) < 2 or rows.shape[1] < 2:
            raise ValueError(f"flow: expected at least 2 correctly answered rows of 2 features, got {rows.shape}")
        classes, places = np.unique(labels, return_inverse=True)
        centre, spread = scaling(rows)
        frame = Couplings(alternating(rows.shape[1], layers, start))
        weights = frame.train((rows - centre) / spread, places, len(classes), hidden, epochs, start)
        moves = tuple(Coupling(Dense.of(i), Dense.of(s), Dense.of(t), BOUND) for i, s, t in layers_of(weights))
        offset = (weights[-1] + np.log(spread) + 0.5 * LOG_TAU).sum(axis=1)
        means, sharpness = weights[-2], np.exp(-weights[-1])
        curve = np.concatenate([0.5 * sharpness**2, -means * sharpness**2], axis=1)
        level = offset + 0.5 * ((means * sharpness) ** 2).sum(axis=1)
        return cls(f32(centre), f32(1 / spread), moves, *map(f32, (means, sharpness, offset, curve, level)))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        y = (signals["features"] - self.centre) * self.gain
        volume = 0.0 * xp.sum(y)
        for coupling in self.couplings:
            y, grown = coupling(xp, y)
            volume = volume + grown
        order = xp.linear(xp.concat([y * y, y]), self.curve, self.level)  # not (N, C, D): 2 GB at 256 rows, C = 1000
        best = xp.argkth_smallest(order, 1)
        z = (y - xp.take(self.means, best)) * xp.take(self.sharpness, best)
        overflow = 0.0 * xp.min(order)  # NaN: no class was best
        return 0.5 * xp.sum(z * z) + xp.take(self.offset, best) + overflow - volume  # type: ignore[no-any-return]
