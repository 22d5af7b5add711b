"""Which oracle speaks for which score of the product, by the score's name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.oracles import distance, fusion, health, logit, sequence
from tests.oracles.sample import Float, Sample

RowOracle = Callable[..., Float]  # (sample, features, logits, **hyper) -> (N,)


def _msp(_: Sample, __: Float, logits: Float) -> Float:
    return logit.msp(logits)


def _max_logit(_: Sample, __: Float, logits: Float) -> Float:
    return logit.max_logit(logits)


def _energy(_: Sample, __: Float, logits: Float, temperature: float = 1.0) -> Float:
    return logit.energy(logits, temperature)


def _entropy(_: Sample, __: Float, logits: Float) -> Float:
    return logit.entropy(logits)


def _mahalanobis(sample: Sample, features: Float, _: Float, **hyper: float | str) -> Float:
    return distance.mahalanobis(sample, features, **hyper)


def _relative_mahalanobis(sample: Sample, features: Float, _: Float, **hyper: float | str) -> Float:
    return distance.relative_mahalanobis_one_shrinkage(sample, features, **hyper)


def _knn(sample: Sample, features: Float, _: Float, k: int = 50) -> Float:
    return distance.knn_cosine(sample.features, features, k)


def _vim(sample: Sample, features: Float, logits: Float, dim: int | None = None) -> Float:
    return distance.vim(sample, features, logits, dim)


def _react_energy(sample: Sample, features: Float, _: Float, **hyper: float) -> Float:
    return distance.react_energy(sample, features, **hyper)


def _activation_kurtosis(_: Sample, features: Float, __: Float) -> Float:
    return health.activation_kurtosis(features)


ROW: dict[str, RowOracle] = {
    "msp": _msp,
    "max_logit": _max_logit,
    "energy": _energy,
    "entropy": _entropy,
    "mahalanobis": _mahalanobis,
    "relative_mahalanobis": _relative_mahalanobis,
    "knn": _knn,
    "vim": _vim,
    "react_energy": _react_energy,
    "activation_kurtosis": _activation_kurtosis,
}
WEIGHTS = (1.0, 2.0, 0.5)
FUSION: dict[str, Callable[[Float], Float]] = {
    "fisher": fusion.fisher,
    "min_p": fusion.min_p,
    "cauchy": fusion.cauchy,
    "weighted_min_p": lambda p: fusion.weighted_min_p(p, np.array(WEIGHTS)),
}
STREAM: dict[str, Callable[..., Float]] = {
    "mean_nll": sequence.mean_nll,
    "entropy_interval": sequence.mean_entropy_bound,
}
