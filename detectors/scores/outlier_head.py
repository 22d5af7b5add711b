"""A classifier of the features that has seen outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from demur.detectors.hyper import between, flag, one_of, whole
from demur.detectors.learned.diverse import diverse
from demur.detectors.learned.exposure import Exposure, Mixture, blended
from demur.detectors.learned.layer import Dense, Float64, rectified, scaling
from demur.detectors.learned.network import Layers, forward
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import Rows, check_finite, sample_of
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.softmax import log_rest
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 10_000
CLUSTERS = 64


@dataclass(frozen=True, eq=False)
class OutlierHead:
    """Risk of a classifier retrained on frozen features with outliers: one rectified layer of `hidden` units, 0 for none.

    Mean cross entropy of the labels on correctly answered reference rows + weight * a term on `outliers` + penalty / 2 |W|^2,
    by L-BFGS in float64 from seeded weights, features less their mean over those rows and over their deviation.
    oe: 0.5 * mean(logsumexp z - mean z). mix_oe: 1.0 * cross entropy of blends l x + (1 - l) x_out to l onehot + (1 - l)/C,
    l ~ Beta(0.1, 1) a row. energy_margin: 0.1 * (mean relu(E - energy_in)^2 of reference rows + mean relu(energy_out - E)^2
    of outliers), E = -logsumexp z. `dos`: trained twice; the second time on half of the outliers: of each of 64 k-means
    clusters of their unit vectors those of least risk under the first head.
    The score is log(1 - max softmax z) for oe and mix_oe (the order of -max softmax, without its ties), E for energy_margin.
    Shapes: features (N, D) -> (N,). Range: (-inf, log(1 - 1/C)], or (-inf, inf) for energy_margin; nats. Higher is less
    trustworthy.
    Raises: ValueError in fit without labels or outliers, with under 2 classes, when outliers have another width, or a row is not finite.
    Source: Hendrycks et al. 2019, arXiv:1812.04606 (oe); Zhang et al. 2023, arXiv:2106.03917 (mix_oe); Liu et al. 2020,
    arXiv:2010.03759, eq. 8 (energy_margin); Jiang et al. 2024 (dos); differ: on frozen features, not the whole network.
    """

    centre: Array  # (D,)
    layers: tuple[Dense, ...]
    by: str
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = (
        "Hendrycks et al. 2019, arXiv:1812.04606; Zhang et al. 2023; Liu et al. 2020; Jiang et al. 2024"
    )

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        by: str = "oe",
        dos: bool = False,
        hidden: int = 64,
        energy_in: float = -23.0,
        energy_out: float = -5.0,
        penalty: float = 1e-2,
        iterations: int = 100,
        bank: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> Self:
        one_of("outlier_head", "by", by, ("oe", "mix_oe", "energy_margin"))
        flag("outlier_head", "dos", dos)
        units = (whole("outlier_head", "hidden", hidden, least=0),) if hidden else ()
        size, start = whole("outlier_head", "bank", bank), whole("outlier_head", "seed", seed, least=0)
        margins = tuple(between("outlier_head", "energies", e, -1e6, 1e6) for e in (energy_in, energy_out))
        between("outlier_head", "penalty", penalty, 0.0, 1e6)
        whole("outlier_head", "iterations", iterations)
        other = reference.side("outliers", "outlier_head")
        rows, targets = _known(sample_of(reference, "features", size=size, seed=start))
        centre, spread = scaling(rows)
        foreign = other_rows(other, "outlier_head", len(centre), size, start)
        told = Teaching((rows - centre) / spread, targets, by, (margins[0], margins[1]), penalty, units, iterations)
        layers = told.learn((foreign - centre) / spread, dos=dos, seed=start)
        weight, bias = layers[0]
        return cls(centre.astype(np.float32), tuple(map(Dense.of, [(weight / spread, bias), *layers[1:]])), by)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        z = rectified(xp, self.layers, signals["features"] - self.centre)
        return -xp.logsumexp(z) if self.by == "energy_margin" else log_rest(xp, xp.log_softmax(z))


@dataclass(frozen=True, eq=False)
class Teaching:
    """Scaled reference rows (n, D), their classes (n, C), and how a head is trained beside outliers."""

    rows: Float64
    targets: Float64
    by: str
    margins: tuple[float, float]
    penalty: float
    units: tuple[int, ...]
    iterations: int

    def learn(self, foreign: Float64, *, dos: bool, seed: int) -> Layers:
        layers = self._once(foreign, seed)
        kept = len(foreign) // 2
        if not dos or kept < 1:
            return layers
        z, _ = forward(layers, foreign)
        peak = z - z.max(axis=1, keepdims=True)
        risk = -np.log(np.exp(z).sum(axis=1)) if self.by == "energy_margin" else np.log(np.exp(peak).sum(axis=1))
        return self._once(foreign[diverse(foreign, risk, kept, min(CLUSTERS, kept), seed)], seed)

    def _once(self, foreign: Float64, seed: int) -> Layers:
        rng = np.random.default_rng(seed)
        sizes = (self.rows.shape[1], *self.units, self.targets.shape[1])
        if self.by == "mix_oe":
            mixed, blend = blended(self.rows, self.targets, foreign, rng)
            given = (self.rows, self.targets, mixed, self.by, self.margins, self.penalty, sizes)
            return Mixture(*given, blend).train(rng, self.iterations)
        given = (self.rows, self.targets, foreign, self.by, self.margins, self.penalty, sizes)
        return Exposure(*given).train(rng, self.iterations)


def other_rows(side: Reference, score: str, width: int, size: int, seed: int) -> Float64:
    """A sample of features of outliers. Raises: ValueError for another width than the reference's, or a row that is not finite."""
    found = sample_of(side, "features", size=size, seed=seed)
    check_finite(score, found, "outliers")
    rows = found.signals["features"]
    if rows.shape[1] != width:
        raise ValueError(f"{score}: expected features of width {width} as in the reference, got {rows.shape[1]}")
    return rows


def _known(rows: Rows) -> tuple[Float64, Float64]:
    """Correctly answered rows (n, D) and their classes (n, C) as one-hot rows."""
    if rows.labels is None:
        raise ValueError("outlier_head: expected labels in the reference; the head is a classifier")
    check_finite("outlier_head", rows)
    classes, places = np.unique(rows.labels[rows.correct], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"outlier_head: expected correctly answered rows of at least 2 classes, got {len(classes)}")
    return rows.signals["features"][rows.correct], np.eye(len(classes))[places]
