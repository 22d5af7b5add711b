"""Every row score against its float64 oracle: in NumPy, and as the compiled graph in ONNX Runtime.

Tolerance: 2e-5 relative. Where a score is a difference of larger numbers, an absolute part covers the float32 rounding
of those numbers; each is stated in `allowed`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from demur.detectors.build import build_score
from tests.backends import RTOL, Scored, assert_close, on_both, reference, signals
from tests.oracles import distance
from tests.oracles.sample import Float
from tests.oracles.table import ROW
from tests.oracles.worlds import WORLDS, World, world

ROUNDING = 2.0**-24  # of a float32
SEEDS = (0, 1, 2)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ROW},
    "energy_warm": ("energy", {"temperature": 2.5}),
    "mahalanobis_fixed": ("mahalanobis", {"shrinkage": 0.2}),
    "relative_mahalanobis_fixed": ("relative_mahalanobis", {"shrinkage": 0.2}),
    "knn": ("knn", {"k": 10}),
    "knn_nearest": ("knn", {"k": 1}),
    "vim_5": ("vim", {"dim": 5}),
    "react_energy_60": ("react_energy", {"quantile": 0.6, "temperature": 2.0}),
}
RUNS = [(name, seed) for name in WORLDS for seed in (SEEDS[:1] if name == "many_batches" else SEEDS)]


@functools.cache
def scored(name: str, seed: int) -> list[Scored]:
    w = world(name, seed)
    ref = reference(w)
    return on_both({case: build_score(kind, hyper, ref) for case, (kind, hyper) in CASES.items()}, signals(w))


def allowed(kind: str, hyper: dict[str, Any], w: World, want: Float) -> Float:
    """Largest absolute difference allowed, (N,)."""
    features, logits = w.test64
    norm, largest = np.linalg.norm(features, axis=1), np.abs(logits).max(axis=1)
    absolute: Float | float = 0.0
    if kind == "msp":  # documented steps of 6e-8 near 0; the softmax adds C rounded terms
        absolute = 4e-7 + ROUNDING * largest * want
    elif kind == "entropy":  # p log p with p near 1 carries the rounding of p, whatever the entropy
        absolute = 2e-7 + ROUNDING * largest
    elif kind == "energy":  # crosses 0 between terms of the size of the logits
        absolute = ROUNDING * largest
    elif kind == "react_energy":  # as energy, and the logits are recomputed in float32
        absolute = 2 * ROUNDING * (norm * np.abs(w.head_weight).max() + largest)
    elif kind == "vim":  # crosses 0; the projection rounds at the size of the features, not of the residual
        absolute = 4 * ROUNDING * (distance.vim_alpha(w.sample, hyper.get("dim")) * norm + largest)
    elif kind == "knn":  # half the square of a difference of unit vectors, each rounded to float32
        absolute = 2 * ROUNDING * np.sqrt(2 * want) + (4 * ROUNDING) ** 2
    elif kind == "activation_kurtosis":  # minus 3; x / max|x| is rounded before the mean is taken off
        absolute = RTOL * 3 + 2 * ROUNDING * np.abs(features).max(axis=1) / features.std(axis=1) * (want + 3)
    elif kind.endswith("mahalanobis"):
        absolute = mahalanobis_rounding(kind, hyper, w)
    return RTOL * np.abs(want) + absolute


def mahalanobis_rounding(kind: str, hyper: dict[str, Any], w: World) -> Float:
    """The centre taken off the features is rounded to float32 after the means were taken relative to it.

    That moves every row by up to ROUNDING |c_j| in feature j, so a distance d^2 by 2 d times the whitened length of it.
    The relative distance also crosses 0: it is a difference of squares of the size of the class means, whitened.
    """
    matrix = distance.tied_covariance(w.sample, **{"shrinkage": "ledoit_wolf", **hyper})
    means = np.array(list(distance.class_means(w.sample).values()))
    centre = np.abs(means.mean(axis=0))
    shift = ROUNDING * np.sqrt(centre @ np.abs(np.linalg.inv(matrix)) @ centre)
    squares = distance.mahalanobis(w.sample, w.test64[0], **hyper)
    if kind == "mahalanobis":
        return 2 * np.sqrt(squares) * shift
    squares = squares + distance.squared_distance(means, means.mean(axis=0), matrix).max()
    return 2 * np.sqrt(squares) * shift + 8 * ROUNDING * squares


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "seed"), RUNS)
def test_score_equals_oracle(name: str, seed: int, case: str):
    kind, hyper = CASES[case]
    w = world(name, seed)
    want = ROW[kind](w.sample, *w.test64, **hyper)
    for got in scored(name, seed):
        assert_close(got[case], want, allowed(kind, hyper, w, want))


@pytest.mark.parametrize("kind", ["mahalanobis", "relative_mahalanobis"])
def test_rows_the_model_got_wrong_do_not_enter_the_class_fits(kind: str):
    """The worlds' wrong rows would move the oracle by far more than the tolerance: they are seen to be left out."""
    w = world("tall", 0)
    want = ROW[kind](w.sample, *w.test64)
    all_right = replace(w.sample, correct=np.ones_like(w.correct))
    moved = np.abs(ROW[kind](all_right, *w.test64) - want)
    assert np.median(moved / allowed(kind, {}, w, want)) > 1000


def test_relative_mahalanobis_is_the_papers_when_every_row_is_right_and_nothing_is_shrunk():
    w = world("many_batches", 1)
    w = replace(w, correct=np.ones_like(w.correct))
    want = distance.relative_mahalanobis(w.sample, w.test64[0], shrinkage=0.0)
    hyper = {"shrinkage": 0.0}
    for got in on_both({"r": build_score("relative_mahalanobis", hyper, reference(w))}, signals(w)):
        assert_close(got["r"], want, allowed("relative_mahalanobis", hyper, w, want))
