"""Health of a network's activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from demur.detectors.accumulate import Sums, order_statistic
from demur.detectors.hyper import between, one_of
from demur.detectors.numpy_ops import TINY, Array
from demur.detectors.score import EXACT_MERGE, Batch, Reference, Scaling, k_pass
from demur.detectors.tensor import Ops, Signal, Signals, T


@dataclass(frozen=True, eq=False)
class ActivationKurtosis:
    """Excess kurtosis of a row's activations: how far a few outlier features carry everything.

    E[x^4] / s^4 - 3, with the fourth moment about zero and the unbiased variance s^2. Taken after scaling by max|x|; a
    constant row has no kurtosis and is not finite.
    Shapes: features (N, D) -> (N,). Range: [-3, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when the features have fewer than 2 columns.
    Source: Park et al. 2025, arXiv:2506.19697, as its code measures it; differs: not cut off at 0.
    """

    width: int  # D
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Park et al. 2025, arXiv:2506.19697 (excess kurtosis of activations)"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        first = next(reference.batches("features", size=1))
        width = first.signals["features"].shape[1]
        if width < 2:
            raise ValueError(f"activation_kurtosis: expected at least 2 features, got {width}")
        return cls(width)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        y = x / xp.maximum(xp.max(xp.abs(x), keepdims=True), TINY)
        squares = y * y
        from_mean = y - xp.mean(y, keepdims=True)
        variance = xp.sum(from_mean * from_mean) / (self.width - 1.0)
        return xp.mean(squares * squares) / (variance * variance) - 3.0  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class MassiveActivation:
    """The largest |activation| of a row, over a typical one: 1000 is the literature's bound for a massive activation.

    `against: reference`: over the mean |activation| of all reference rows, so that a whole row that grows shows too.
    `against: row`: over the row's own median |activation| (mean of the middle two when D is even), taken after scaling by
    max|x|; not finite where the median is 0.
    Shapes: features (N, D) -> (N,). Range: [0, inf), dimensionless; against the row [1, inf). Higher is less trustworthy.
    Raises: ValueError in fit when every reference activation is 0; against the row, when over 1 % of the medians are.
    Source: Sun et al. 2024, arXiv:2402.17762 (median); An et al. 2025, arXiv:2502.06415 (mean of the layer).
    """

    level: float
    width: int
    against: str
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Sun et al. 2024, arXiv:2402.17762; An et al. 2025, arXiv:2502.06415"

    @classmethod
    def fit(cls, reference: Reference, *, against: str = "reference") -> Self:
        one_of("massive_activation", "against", against, ("reference", "row"))

        def part(batch: Batch) -> Sums:
            rows = np.abs(batch.signals["features"].astype(np.float64))
            idle = np.count_nonzero(np.median(rows, axis=1) == 0) if against == "row" else 0
            return Sums(len(rows), {"size": rows.sum(axis=0), "idle": np.array(float(idle))})

        total = reference.reduce(part, "features")
        means, idle = total.mean("size"), float(total.mean("idle"))
        if idle > 0.01:
            raise ValueError(
                f"massive_activation: the median activation of {idle:.0%} of the reference rows is 0, as after a ReLU; "
                "use against: reference"
            )
        level = float(means.mean())
        if not level > 0:
            raise ValueError("massive_activation: every reference activation is 0; there is no level to compare with")
        return cls(level, len(means), against)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        size = xp.abs(signals["features"])
        largest = xp.max(size, keepdims=True)
        if self.against == "reference":
            return xp.column(largest) / self.level  # type: ignore[no-any-return]
        scaled = size / xp.maximum(largest, TINY)
        upper = xp.min(xp.top(scaled, (self.width + 1) // 2, ordered=False))
        lower = xp.min(xp.top(scaled, self.width // 2 + 1, ordered=False))
        return 2.0 / (upper + lower)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class OutlierDimensions:
    """How far a row strays in a dimension that was ordinary: max_d (h_d - mu_d)^2 / (mean variance of the dimensions).

    mu_d and the variances (divided by n) are those of all reference rows. Left out are the dimensions that were outlier
    dimensions in the reference already: variance at least `factor` times the mean variance. A value above `factor` is what
    an outlier dimension looks like.
    Shapes: features (N, D) -> (N,). Range: [0, inf), dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when the reference features do not vary.
    Source: Rudman et al. 2023, arXiv:2310.17715 (5 times the mean variance); differs: one row's squared deviation.
    """

    centre: Array  # (D,)
    gain: Array  # (D,), 1 / sqrt(mean variance), 0 for outlier dimensions of the reference
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Rudman et al. 2023, arXiv:2310.17715 (outlier dimensions: 5 times the mean variance)"

    @classmethod
    def fit(cls, reference: Reference, *, factor: float = 5.0) -> Self:
        between("outlier_dimensions", "factor", factor, 1.0, 1e6)
        centre = reference.reduce(
            lambda b: Sums(len(b.correct), {"h": b.signals["features"].sum(axis=0, dtype=np.float64)}), "features"
        ).mean("h")

        def part(batch: Batch) -> Sums:
            return Sums(len(batch.correct), {"v": ((batch.signals["features"] - centre) ** 2).sum(axis=0)})

        variance = reference.reduce(part, "features").mean("v")
        level = variance.mean()
        if not level > 0:
            raise ValueError("outlier_dimensions: the reference features are constant; there is no variance")
        gain = np.where(variance < factor * level, 1 / np.sqrt(level), 0.0)
        return cls(centre.astype(np.float32), gain.astype(np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        apart = xp.max(xp.abs((signals["features"] - self.centre) * self.gain))
        return apart * apart  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class LLMInt8:
    """Share of a row's activations with |a| >= `bound`: what 8-bit matrix products must treat apart.

    Shapes: features (N, D) -> (N,). Range: [0, 1], in steps of 1/D. Higher is less trustworthy.
    Raises: ValueError in fit for a bound that is not positive.
    Source: Dettmers et al. 2022, arXiv:2208.07339, section 4 (|a| >= 6); differs: the share within a row, not over layers.
    """

    bound: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Dettmers et al. 2022, arXiv:2208.07339, section 4"

    @classmethod
    def fit(cls, reference: Reference, *, bound: float = 6.0) -> Self:
        next(reference.batches("features", size=1))
        return cls(between("llm_int8", "bound", bound, 0.0, 1e30))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return _share_at_least(xp, signals["features"], self.bound)


@dataclass(frozen=True, eq=False)
class AttentionSink:
    """Share of all attention that the most attended key draws: max_k a_k / sum_k a_k of the column sums a_k = sum_q A_qk.

    0.1 is the literature's bound for an attention outlier. Taken after scaling by max|a|; the zero row is not finite.
    Shapes: attention (N, L) column sums, not negative -> (N,). Range: [1/L, 1]. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 keys, or for negative reference sums.
    Source: An et al. 2025, arXiv:2502.06415 (sum_q A_qk >= 0.1 L); Xiao et al. 2023, arXiv:2309.17453 (sinks).
    """

    inputs: ClassVar[tuple[Signal, ...]] = ("attention",)
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "An et al. 2025, arXiv:2502.06415; Xiao et al. 2023, arXiv:2309.17453"

    @classmethod
    def fit(cls, reference: Reference) -> Self:
        first = next(reference.batches("attention")).signals["attention"]
        if first.shape[1] < 2 or first.min() < 0:
            raise ValueError(
                f"attention_sink: expected column sums of at least 2 keys, none negative; got width {first.shape[1]}, "
                f"smallest {first.min():g}"
            )
        return cls()

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        a = signals["attention"]
        y = a / xp.max(xp.abs(a), keepdims=True)
        return xp.max(y) / xp.sum(y)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """|features| in the place of features."""

    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    outputs: ClassVar[tuple[Signal, ...]] = ("features",)
    passes: ClassVar[int] = 0

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]:
        return {**signals, "features": xp.abs(signals["features"])}


@dataclass(frozen=True, eq=False)
class Saturation:
    """Share of a row's activations at or beyond the limit of a symmetric quantisation range: |a| >= limit.

    The limit is the ceil(q n)-th smallest of the n reference |a|, exactly: how static quantisation picks its range.
    Shapes: features (N, D) -> (N,). Range: [0, 1], in steps of 1/D. Higher is less trustworthy.
    Raises: ValueError in fit for a quantile outside (0, 1], or when the limit is 0.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1 (ranges from data); Wu et al. 2020, arXiv:2004.09602 (percentile).
    """

    limit: Array  # (1,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = k_pass(2)
    source: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877, section 3.1; Wu et al. 2020, arXiv:2004.09602"

    @classmethod
    def fit(cls, reference: Reference, *, quantile: float = 0.999) -> Self:
        between("saturation", "quantile", quantile, 0.0, 1.0)
        limit = order_statistic(reference.shaped(Magnitudes()), "features", quantile)
        if not limit > 0:
            raise ValueError(f"saturation: the {quantile:g} quantile of |features| is 0; there is no range to saturate")
        return cls(np.array([limit], np.float32))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return _share_at_least(xp, signals["features"], self.limit)


def _share_at_least(xp: Ops[T], x: T, bound: Any) -> T:
    """Share of |x| >= bound: not (-|x| > -bound), which is exact."""
    return xp.mean(xp.where(xp.greater(-xp.abs(x), -bound), 0.0, 1.0))
