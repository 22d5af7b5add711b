"""Scores of regressions: how wide a calibrated interval is, and how far a number that came later lies off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Float64
from demur.detectors.hyper import between, one_of
from demur.detectors.numpy_ops import TINY, Array
from demur.detectors.promises.order import marginal_rank, units_for_marginal
from demur.detectors.promises.promise import exact
from demur.detectors.sample import sample_of
from demur.detectors.score import Batch, Reference, Scaling, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 100_000
LARGEST = 1e38
BY = {"spread": ("estimate", "spread"), "quantiles": ("low", "high")}


@dataclass(frozen=True, eq=False)
class IntervalWidth:
    """The width of an interval that holds the target with a given probability.

    q is the ceil((n + 1) coverage)-th smallest error of n reference rows whose `target` is known. by: spread, intervals
    estimate -+ q spread, errors |target - estimate| / spread, width 2 q spread. by: quantiles, intervals
    [low - q, high + q] with low and high in order, errors max(low - target, target - high), width high - low + 2 q, 0 where
    that is negative. For rows exchangeable with the reference rows, which the model must not have been trained on, the
    interval holds the target with at least that probability, over all rows and draws: not among the accepted rows alone.
    A spread that is not positive makes its row INVALID.
    Shapes: spread (N, 1), or low and high (N, 1) -> (N,). Range: [0, inf), the target's unit. Higher is less trustworthy.
    Raises: ValueError in fit without targets, with too few rows for the coverage, or a spread that is not positive or so
    small that the quantile is no float32.
    Source: Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173, section 5.2; Romano et al. 2019, arXiv:1905.03222, eq. 6 to 8.
    """

    quantile: Array  # (1,), q rounded up
    by: str
    coverage: float
    rows: int
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Lei et al. 2018, arXiv:1604.04173, section 5.2; Romano et al. 2019, arXiv:1905.03222 (CQR)"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return ("spread",) if self.by == "spread" else ("low", "high")

    @classmethod
    def fit(cls, reference: Reference, *, by: str = "spread", coverage: float = 0.9, seed: int = 0) -> Self:
        one_of("interval_width", "by", by, tuple(BY))
        between("interval_width", "coverage", coverage, 0.0, 1.0)
        if reference.target is None:
            raise ValueError("interval_width: expected `target` (N,) in the reference set, the right numbers; add it")
        errors = _errors(reference, by, seed)
        quantile = conformal_quantile(errors, coverage)
        if quantile > LARGEST:
            raise ValueError(
                f"interval_width: no interval of {quantile:g} spreads can be computed; check the spread's unit"
            )
        return cls(_up(quantile), by, float(coverage), len(errors))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        if self.by == "spread":
            spread = xp.column(signals["spread"])
            return xp.where(xp.greater(spread, 0.0), spread * self.quantile * 2.0, float("nan"))
        apart = xp.abs(xp.column(signals["high"]) - xp.column(signals["low"]))
        return xp.maximum(apart + self.quantile * 2.0, 0.0)

    def interval(self, signals: Mapping[str, NDArray[Any]]) -> tuple[Float64, Float64]:
        """Lower and upper end of each row, (N,) float64 each, from `estimate` and `spread`, or `low` and `high`, (N, 1).

        An empty interval becomes its middle. NaN where a signal is not finite or a spread not positive.
        Raises: ValueError naming a signal that is missing or has another shape.
        """
        first, second = (_one(signals, name) for name in BY[self.by])
        q = float(self.quantile[0])
        if self.by == "spread":
            half = np.where((second > 0) & np.isfinite(second), q * second, np.nan)
            return first - half, first + half
        middle, half = (first + second) / 2, np.maximum(np.abs(second - first) / 2 + q, 0.0)
        return middle - half, middle + half


def conformal_quantile(errors: NDArray[Any], coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest error: a further one, exchangeable with these, is at most that with
    probability `coverage` or more. With errors |target - estimate| it is the half-width of a constant interval.

    Shapes: errors (n,), finite. Raises: ValueError when n errors cannot carry the coverage.
    Source: Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173, theorem 2.2.
    """
    alpha, n = 1 - exact(coverage), len(errors)
    if not 0 < alpha < 1 or marginal_rank(n, alpha) > n:
        least = f"needs at least {units_for_marginal(alpha)} rows" if 0 < alpha < 1 else "is no share below 1"
        raise ValueError(f"coverage {coverage:g} {least} with targets, got {n}")
    rank = marginal_rank(n, alpha)
    return float(np.partition(errors, rank - 1)[rank - 1])


def _one(signals: Mapping[str, NDArray[Any]], name: str) -> Float64:
    held = np.asarray(signals[name]) if name in signals else None
    if held is None or held.ndim != 2 or held.shape[1] != 1:
        raise ValueError(f"interval: expected {name} (N, 1), got {'nothing' if held is None else held.shape}")
    with np.errstate(over="ignore"):
        column = held[:, 0].astype(np.float32).astype(np.float64)  # as the graph and the fit read it
    return np.where(np.isfinite(column), column, np.nan)


def _up(value: float) -> Array:
    """As float32, not below: an interval may be wider than promised, never narrower."""
    near = np.float32(value)
    return np.array([near if near >= value else np.nextafter(near, np.float32(np.inf))], np.float32)


@dataclass(frozen=True, eq=False)
class _Errors:
    of: Float64

    def merge(self, other: Self) -> Self:
        return type(self)(np.concatenate([self.of, other.of]))


def _errors(reference: Reference, by: str, seed: int) -> Float64:
    """Errors (n,) of at most SAMPLE_ROWS rows, drawn without replacement, and of these only where the target is known."""
    chosen = np.ones(reference.rows, np.bool_)
    if reference.rows > SAMPLE_ROWS:
        drawn = np.random.default_rng(seed).choice(reference.rows, SAMPLE_ROWS, replace=False)
        chosen = np.isin(np.arange(reference.rows), drawn)

    def part(batch: Batch) -> _Errors:
        assert batch.target is not None  # noqa: S101 - the caller looked
        here = chosen[batch.start : batch.start + len(batch.correct)] & ~np.isnan(batch.target)
        first, second = (_one(batch.signals, name)[here] for name in BY[by])
        y = batch.target[here]
        if by == "spread":
            if not (second > 0).all():
                raise ValueError("interval_width: expected spread above 0 in every reference row")
            return _Errors(np.abs(y - first) / second)
        return _Errors(np.maximum(np.minimum(first, second) - y, y - np.maximum(first, second)))

    errors = reference.reduce(part, *BY[by]).of
    if not np.isfinite(errors).all():
        raise ValueError(
            f"interval_width: {int((~np.isfinite(errors)).sum())} reference rows are not finite; drop them"
        )
    return errors


@dataclass(frozen=True, eq=False)
class Veracity:
    """How far a number that came later lies off the estimate, by how well it could be known: |truth - estimate| / u / m.

    u is the sum of the `uncertainty` signals (epistemic and aleatoric standard deviations, or one spread), at least 1e-9
    standard deviations of the reference truths; m the median of the same ratio over the reference rows (1 where that is 0).
    The published score is exp(-this), low for a wrong number: `demur.monitor.curate.veracity` gives 1 - exp(-this).
    Shapes: truth, estimate and each uncertainty (N, 1) -> (N,). Range: [0, inf), medians. Higher is less trustworthy.
    Raises: ValueError in fit when a reference row is not finite.
    Source: Zhou et al. 2023, arXiv:2305.16583, eq. 3; constants fitted on the reference set.
    """

    floor: Array  # (1,)
    median: Array  # (1,)
    uncertainty: tuple[str, ...]
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Zhou et al. 2023, arXiv:2305.16583, eq. 3 (veracity score)"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return ("truth", "estimate", *self.uncertainty)

    @classmethod
    def fit(cls, reference: Reference, *, uncertainty: Any = ("spread",), seed: int = 0) -> Self:
        if isinstance(uncertainty, str) or not uncertainty:
            raise ValueError(f"veracity: uncertainty must list at least one signal, got {uncertainty!r}")
        names = tuple(str(name) for name in uncertainty)
        rows = sample_of(reference, "truth", "estimate", *names, size=SAMPLE_ROWS, seed=seed).signals
        truth, estimate, *parts = (_one(rows, name) for name in ("truth", "estimate", *names))
        floor = np.float32(max(1e-9 * (float(truth.std()) or 1.0), TINY))
        ratio = np.abs(truth - estimate) / np.maximum(np.sum(parts, axis=0), floor)
        middle = float(np.median(ratio))
        if not math.isfinite(middle) or not np.isfinite(ratio).all():
            raise ValueError("veracity: expected finite truth, estimate and uncertainty in every reference row")
        return cls(np.array([floor]), np.array([middle if middle > 0 else 1.0], np.float32), names)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        known = [xp.column(signals[name]) for name in self.uncertainty]
        total = known[0]
        for more in known[1:]:
            total = total + more
        off = xp.abs(xp.column(signals["truth"]) - xp.column(signals["estimate"]))
        return off / xp.maximum(total, self.floor) / self.median  # type: ignore[no-any-return]
