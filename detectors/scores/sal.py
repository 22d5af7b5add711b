"""A head learnt from unlabelled traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.hyper import between, whole
from demur.detectors.learned.exposure import log_softmax
from demur.detectors.learned.layer import Float64, scaling
from demur.detectors.learned.logistic import logistic
from demur.detectors.numpy_ops import Array
from demur.detectors.sample import check_finite, sample_of
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 20_000
FEWEST = 10


@dataclass(frozen=True, eq=False)
class SAL:
    """Logit of a linear head that tells candidate outliers of wild traffic from the reference rows.

    Gradient of the cross entropy in the last layer, row of class y: g = (p_y - 1) h; y the label of a correctly answered
    reference row, the argmax of the logits of a wild row. Statistic |<g - m_y, v_y>|: m_y the mean g of the class in the
    reference, v_y the first right singular vector of the class's rows less m_y, of the set the row is from. Wild rows above
    the ceil(q n)-th smallest statistic of the n reference rows are candidates; classes with under 2 wild rows have none.
    The head is logistic regression on features less their mean over their deviation, both sides of equal total weight n / 2
    of all n rows, penalty / 2 |w|^2, at its optimum in float64.
    Shapes: features (N, D) -> (N,). Range: (-inf, inf), log odds. Higher is less trustworthy.
    Raises: ValueError in fit without labels or wild rows, with under 10 candidates, or when a row is not finite.
    Source: Du et al. 2024, arXiv:2402.03502, eq. 5-7; differs: the gradient in closed form, a linear head, no cross entropy.
    """

    centre: Array  # (D,)
    weight: Array  # (1, D)
    bias: Array  # (1,)
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "Du et al. 2024, arXiv:2402.03502, eq. 5-7"

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        quantile: float = 0.95,
        penalty: float = 1.0,
        bank: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> Self:
        between("sal", "quantile", quantile, 0.0, 1.0)
        between("sal", "penalty", penalty, 0.0, 1e6)
        size, start = whole("sal", "bank", bank), whole("sal", "seed", seed, least=0)
        rows, gradients, places = _labelled(reference, size, start)
        wild = sample_of(reference.side("wild", "sal"), "features", "logits", size=size, seed=start)
        check_finite("sal", wild, "wild")
        told = wild.signals["logits"].argmax(axis=1)
        of_wild = gradient_rows(wild.signals["features"], wild.signals["logits"], told)
        own = np.sort(statistics(gradients, places, gradients, places))
        found = statistics(of_wild, told, gradients, places)
        candidates = wild.signals["features"][found > own[int(np.ceil(quantile * len(own))) - 1]]
        if len(candidates) < FEWEST:
            raise ValueError(
                f"sal: only {len(candidates)} of {len(found)} wild rows look foreign, expected at least {FEWEST}; "
                "give more wild rows, or a smaller quantile"
            )
        return cls(*_head(rows, candidates, penalty))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.column(xp.linear(signals["features"] - self.centre, self.weight, self.bias))


def gradient_rows(features: Float64, logits: Float64, places: NDArray[np.int64]) -> Float64:
    """(p_y - 1) h of each row, (n, D)."""
    log_p = log_softmax(logits)[np.arange(len(logits)), places]
    return np.asarray(np.expm1(log_p)[:, None] * features)


def statistics(
    gradients: Float64, groups: NDArray[np.int64], reference: Float64, of_reference: NDArray[np.int64]
) -> Float64:
    """|<g - m_c, v_c>| of each row (n,); 0 in classes with under 2 rows here or none in the reference."""
    out = np.zeros(len(gradients))
    for c in np.unique(groups):
        here, there = groups == c, of_reference == c
        if here.sum() > 1 and there.any():
            centred = gradients[here] - reference[there].mean(axis=0)
            _, directions = np.linalg.eigh(centred.T @ centred)
            out[here] = np.abs(centred @ directions[:, -1])
    return out


def _labelled(reference: Reference, size: int, seed: int) -> tuple[Float64, Float64, NDArray[np.int64]]:
    """Features, gradients and labels of correctly answered reference rows."""
    if reference.labels is None:
        raise ValueError("sal: expected labels in the reference; its gradients are those of the true classes")
    rows = sample_of(reference, "features", "logits", size=size, seed=seed)
    check_finite("sal", rows)
    assert rows.labels is not None  # noqa: S101 - refused above
    right, features, logits = rows.correct, rows.signals["features"], rows.signals["logits"]
    places = rows.labels[right]
    if not right.any() or places.min() < 0 or places.max() >= logits.shape[1]:
        raise ValueError(f"sal: expected correctly answered rows with labels in 0..{logits.shape[1] - 1}")
    return features[right], gradient_rows(features[right], logits[right], places), places


def _head(known: Float64, foreign: Float64, penalty: float) -> tuple[Array, Array, Array]:
    """Centre (D,), weight (1, D), bias (1,) of the logistic head."""
    centre, spread = scaling(known)
    rows = (np.concatenate([known, foreign]) - centre) / spread
    targets = np.repeat([0.0, 1.0], [len(known), len(foreign)])
    share = np.where(targets > 0, len(rows) / (2 * len(foreign)), len(rows) / (2 * len(known)))
    weight, bias = logistic(rows, targets, share, penalty)
    return centre.astype(np.float32), (weight / spread).astype(np.float32)[None], np.array([bias], np.float32)
