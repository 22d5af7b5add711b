"""Scores of features, with and without the model's last layer, against their float64 oracles."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from tests.backends import RTOL
from tests.judged import ROUNDING, Case, Seeded, judge, runs
from tests.oracles import covariance, distance, headed, prototype
from tests.oracles.sample import Float
from tests.oracles.worlds import WORLDS, World, world


def largest(w: World) -> Float:
    return np.abs(w.test64[1]).max(axis=1)


def length(w: World) -> Float:
    return np.linalg.norm(w.test64[0], axis=1)


def offset(w: World) -> Float:
    """|mu| / |h - mu|: how much of a float32 the removal of the mean costs."""
    mean = w.sample.features.mean(axis=0)
    return np.linalg.norm(mean) / np.linalg.norm(w.test64[0] - mean, axis=1)


def of_centre(w: World, want: Float) -> Float:
    return 2 * ROUNDING * offset(w) * np.abs(want)


def of_head_cosine(w: World, _: Float) -> Float:
    """The first term crosses 0 below |W_c|."""
    return 8 * ROUNDING * np.linalg.norm(w.sample.head_weight, axis=1).max() * (1 + offset(w))


def of_product(w: World, _: Float) -> Float:
    """An inner product of lengths |h| and |S_c| crosses 0."""
    longest = max(np.linalg.norm(m) for m in distance.class_means(w.sample).values())
    return 4 * ROUNDING * length(w) * longest


def of_directions(_: World, want: Float) -> Float:
    """Half the square of a difference of unit vectors, each rounded."""
    return 4 * ROUNDING * np.sqrt(2 * np.abs(want)) + 1e-7


def of_projection(w: World, _: Float) -> Float:
    """The projection rounds at the size of the features, not of what is left of them."""
    return 4 * ROUNDING * length(w)


def of_beside(w: World, _: Float) -> Float:
    """A direction within the part that the head cannot see, rounded at the size of the centred features."""
    mean = w.sample.features.mean(axis=0)
    rest = np.linalg.norm(headed.beside_the_head(w.sample, w.test64[0] - mean), axis=1)
    return 4 * ROUNDING * np.linalg.norm(w.test64[0] - mean, axis=1) / rest * (1 + offset(w))


def of_gradient(w: World, _: Float) -> Float:
    """p - 1/C rounds at the size of p, whose exponents are differences of logits: p (1 - p) of their rounding."""
    p = softmax(w.test64[1], axis=1)
    off = 4 * ROUNDING * (largest(w)[:, None] * p * (1 - p) + p + 1 / p.shape[1])
    return (np.abs(w.test64[0]).sum(axis=1) + 1) * off.sum(axis=1)


def of_regret(w: World, want: Float) -> Float:
    """g moves with the unit feature, whose rounding is large against the reference's narrowest direction; the exponents
    are differences of the unit feature's logits."""
    features, g = w.test64[0], headed.leverage(w.sample, w.test64[0])
    off = 8 * ROUNDING / headed.span(w.sample)[1].min()
    high, low = ((np.sqrt(g) + sign * off).clip(0, 1) ** 2 for sign in (1, -1))
    moved = headed.regret(w.sample, features, high) - headed.regret(w.sample, features, low)
    return moved + 4 * ROUNDING * (1 + np.abs(headed.unit_logits(w.sample, features)).max(axis=1) * np.abs(want))


def of_whitening(matrices: Callable[[World], list[Float]]) -> Callable[[World, Float], Float]:
    """The centre taken off the features is rounded: each row moves by up to ROUNDING |c_j|, whitened, so d^2 by 2 d times."""

    def room(w: World, want: Float) -> Float:
        centre = np.abs(w.sample.features.mean(axis=0))
        moved = max(np.sqrt(centre @ np.abs(np.linalg.inv(m)) @ centre) for m in matrices(w))
        return 2 * ROUNDING * np.sqrt(want) * moved

    return room


def each_class(w: World) -> list[Float]:
    return covariance.class_covariances(w.sample, "ledoit_wolf")


def tied_oas(w: World) -> list[Float]:
    return [covariance.tied(w.sample, "oas")]


SMALL = tuple(name for name in WORLDS if name != "many_batches")  # where the sample is the whole reference


@functools.cache
def robust_fit(w: World) -> tuple[Float, Float]:
    return covariance.robust_location_and_scatter(w.sample.features)


@functools.cache
def median_of(w: World) -> Float:
    return covariance.l1_median(w.sample.features)


def robust(w: World, _: Any) -> Float:
    return distance.squared_distance(w.test64[0], *robust_fit(w))


def of_robust(w: World, want: Float) -> Float:
    return of_whitening(lambda v: [robust_fit(v)[1]])(w, want)


def of_mixture(w: World, want: Float) -> Float:
    """-log density crosses 0: half a squared distance and constants, each in float32."""
    squares = covariance.mahalanobis(w.sample, w.test64[0], "ledoit_wolf")
    moved = of_whitening(lambda v: [distance.tied_covariance(v.sample, "ledoit_wolf")])(w, squares)
    matrix = distance.tied_covariance(w.sample, "ledoit_wolf")
    constant = np.abs(np.linalg.slogdet(2 * np.pi * matrix)[1]) + np.log(len(w.head_weight))
    return RTOL * squares + moved + 4 * ROUNDING * constant


def drpo(by: str, count: int, seed: int = 0) -> Callable[[World, Any], Float]:
    def want(w: World, _: Any) -> Float:
        u = prototype.random_directions(count, w.features.shape[1], seed)
        fit = prototype.median_and_spread(w.sample.features @ u.T)
        return prototype.projection_outlyingness(w.test64[0], u, *fit, by)

    return want


def of_projections(w: World, _: Float) -> Float:
    """Projections round at the size of the features and of what is taken off them, in units of the least spread."""
    u = prototype.random_directions(256, w.features.shape[1], 0)
    _, spread = prototype.median_and_spread(w.sample.features @ u.T)
    return 4 * ROUNDING * (length(w) + np.abs(w.sample.features).max()) / np.median(spread)


def robust_pca(w: World, _: Any) -> Float:
    centre = median_of(w)
    basis = prototype.clipped_subspace(w.sample.features, centre, 0.1, 4)
    return prototype.beyond_subspace(w.test64[0], centre, basis)


def of_centred_projection(w: World, _: Float) -> Float:
    """The projection rounds at the size of the centred features, the centre at its own; the median's last digits are
    those of an iteration."""
    centre = median_of(w)
    return 4 * ROUNDING * np.linalg.norm(w.test64[0] - centre, axis=1) + 2 * ROUNDING * np.linalg.norm(centre)


def of_shift(w: World, want: Float) -> Float:
    """Unit vectors are rounded, then divided by what is left of them after the mean direction is taken off."""
    units = distance.unit(w.test64[0])
    centre = distance.unit(w.sample.features).mean(axis=0)
    known = np.linalg.norm(distance.unit(w.sample.features) - centre, axis=1)
    off = 4 * ROUNDING * (1 / np.linalg.norm(units - centre, axis=1) + 1 / np.median(known))
    return 2 * off * np.sqrt(7 * want) + 7 * off**2


CASES = {
    "she": Case("she", lambda w, _: prototype.she(w.sample, *w.test64), of_product),
    "she_cosine": Case(
        {"she": {"metric": "cosine"}}, lambda w, _: prototype.she(w.sample, *w.test64, "cosine"), of_directions
    ),
    "she_euclidean": Case(
        {"she": {"metric": "euclidean"}}, lambda w, _: prototype.she(w.sample, *w.test64, "euclidean"), of_projection
    ),
    "residual": Case("residual", lambda w, _: prototype.residual(w.sample, w.test64[0]), of_projection),
    "residual_5": Case(
        {"residual": {"dim": 5}}, lambda w, _: prototype.residual(w.sample, w.test64[0], 5), of_projection
    ),
    "fdbd": Case("fdbd", lambda w, _: headed.fdbd(w.sample, *w.test64), of_centre),
    "nci": Case("nci", lambda w, _: headed.nci(w.sample, *w.test64), of_head_cosine),
    "nci_1": Case({"nci": {"alpha": 0.1}}, lambda w, _: headed.nci(w.sample, *w.test64, 0.1), of_head_cosine),
    "core": Case(
        "core",
        lambda w, _: headed.core(w.sample, w.test64[0]),
        of_beside,
        refused={"many_unbalanced": "sees all 20 features"},
    ),
    "grad_norm": Case("grad_norm", lambda w, _: headed.grad_norm(*w.test64), of_gradient),
    "grad_norm_bias": Case(
        {"grad_norm": {"bias": True}}, lambda w, _: headed.grad_norm(*w.test64, bias=True), of_gradient
    ),
    "pnml": Case("pnml", lambda w, _: headed.pnml(w.sample, w.test64[0]), of_regret),
    "robust_mahalanobis": Case("robust_mahalanobis", robust, of_robust, worlds=SMALL),
    "class_gmm": Case("class_gmm", lambda w, _: covariance.class_mixture(w.sample, w.test64[0]), of_mixture),
    "drpo": Case("drpo", drpo("mean", 256), of_projections),
    "drpo_max": Case({"drpo": {"by": "max", "directions": 40, "seed": 3}}, drpo("max", 40, 3), of_projections),
    "robust_pca": Case({"robust_pca": {"dim": 4}}, robust_pca, of_centred_projection),
    "mean_shifted": Case("mean_shifted", lambda w, _: prototype.mean_shifted(w.sample.features, w.test64[0]), of_shift),
    "mean_shifted_7": Case(
        {"mean_shifted": {"k": 7}},
        lambda w, _: prototype.mean_shifted(w.sample.features, w.test64[0], 7),
        of_shift,
    ),
    "mahalanobis_class": Case(
        {"mahalanobis": {"covariance": "class"}},
        lambda w, _: covariance.class_mahalanobis(w.sample, w.test64[0]),
        of_whitening(each_class),
    ),
    "mahalanobis_oas": Case(
        {"mahalanobis": {"shrinkage": "oas"}},
        lambda w, _: covariance.mahalanobis(w.sample, w.test64[0], "oas"),
        of_whitening(tied_oas),
    ),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_score_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)


def test_grad_norm_is_the_gradient():
    w = world("tall", 0)
    head = w.sample.head_weight, w.sample.head_bias
    exact = w.test64[0][:8] @ head[0].T + head[1]
    for bias in (False, True):
        want = [-headed.grad_norm_by_differences(*head, h, with_bias=bias) for h in w.test64[0][:8]]
        np.testing.assert_allclose(headed.grad_norm(w.test64[0][:8], exact, bias=bias), want, rtol=1e-6)
