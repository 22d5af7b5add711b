"""Scores of features, with and without the model's last layer, against their float64 oracles."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both, reference, signals
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


def boxes_of(score: Any, logits: Float) -> tuple[Float, Float]:
    """Corners (N, boxes, D) of the boxes of each row's predicted class: k-means is random, so its result is read."""
    predicted = logits.argmax(axis=1)
    low, high = (corner.astype(np.float64)[predicted] for corner in (score.low, score.high))
    return low.reshape(len(logits), score.boxes, -1), high.reshape(len(logits), score.boxes, -1)


def box(w: World, score: Any) -> Float:
    return prototype.box_depth(w.test64[0], *boxes_of(score, w.test64[1]))


def of_box(w: World, score: Any) -> Float:
    """Centres and offsets round at the size of the features, not of the boxes."""
    corners = boxes_of(score, w.test64[1])
    off = 2 * ROUNDING
    return prototype.box_depth(w.test64[0], *corners, off) - prototype.box_depth(w.test64[0], *corners, -off)


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


@pytest.mark.parametrize("hyper", [{}, {"boxes": 3, "margin": 0.25}], ids=str)
@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "offset", "tiny_scale", "rectified"])
def test_box_is_the_depth_in_its_own_boxes(name: str, hyper: dict[str, Any]):
    w = world(name, 0)
    score = build_score("box", hyper, reference(w))
    want = box(w, score)
    for got in on_both({"box": score}, signals(w)):
        assert_close(got["box"], want, RTOL * want + of_box(w, score))


@pytest.mark.parametrize("name", ["tall", "offset", "many_unbalanced", "rectified"])
def test_boxes_are_the_ranges_of_correct_rows_of_their_class(name: str):
    """Every correct row of a class lies in one of its boxes; every face of every box is touched by such a row within."""
    w = world(name, 1)
    score: Any = build_score("box", {"boxes": 4}, reference(w))
    for label in range(len(w.head_weight)):
        mine = w.features[(w.labels == label) & w.correct]
        low, high = score.low[label].reshape(4, -1), score.high[label].reshape(4, -1)
        inside = (mine[:, None] >= low).all(axis=2) & (mine[:, None] <= high).all(axis=2)
        assert inside.any(axis=1).all()
        distinct = min(4, len(np.unique(mine, axis=0)))
        assert len(np.unique(low, axis=0)) == distinct
        for place in range(4):
            held = mine[inside[:, place]]
            np.testing.assert_array_equal(held.min(axis=0), low[place])
            np.testing.assert_array_equal(held.max(axis=0), high[place])


def test_box_margin_makes_half_widths_larger():
    w = world("tall", 0)
    tight, wide = (build_score("box", {"margin": m}, reference(w)) for m in (0.0, 0.5))
    np.testing.assert_allclose(wide.high - wide.low, 1.5 * (tight.high - tight.low), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(wide.high + wide.low, tight.high + tight.low, rtol=1e-5, atol=1e-6)


NAC = {"default": {}, "coarse": {"edges": 10, "saturation": 20, "sharpness": 1.0}}


@pytest.mark.parametrize("case", NAC)
@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "offset", "tiny_scale", "rectified"])
def test_nac_is_the_coverage_of_its_states(name: str, case: str):
    hyper: dict[str, Any] = {"edges": 50, "saturation": 50, "sharpness": 100.0} | NAC[case]
    w, edges = world(name, 0), headed.nac_edges(hyper["edges"])
    score: Any = build_score("nac", NAC[case], reference(w))
    weight, sharpness = w.sample.head_weight, hyper["sharpness"]
    known = headed.nac_states(weight, w.sample.features, w.sample.logits, sharpness)
    known_room = headed.nac_room(weight, w.sample.features, w.sample.logits, sharpness, ROUNDING)
    least, most = headed.nac_counts(edges, known, known_room)
    width = w.features.shape[1]
    held = score.table.astype(np.float64).reshape(width, -1) * width  # Phi of the bins within reach
    reach = held.shape[1]
    assert (most[:, reach:] == 0).all()
    assert (held >= np.minimum(least / hyper["saturation"], 1)[:, :reach] - 1e-6).all()
    assert (held <= np.minimum(most / hyper["saturation"], 1)[:, :reach] + 1e-6).all()
    asked = headed.nac_states(weight, *w.test64, sharpness)
    low, high = headed.nac_range(held, edges, asked, headed.nac_room(weight, *w.test64, sharpness, ROUNDING))
    assert np.median(high - low) <= 0.02  # not vacuous: for most rows every bin is certain, or nearly
    for got in on_both({"nac": score}, signals(w)):
        assert (got["nac"] >= low - 1e-6).all()
        assert (got["nac"] <= high + 1e-6).all()


def test_nac_layers_is_the_mean_of_its_layers():
    """With the closed-form gradient supplied as a signal, a layer's coverage is NAC's; two layers give the mean."""
    w = world("tall", 0)
    weight = w.sample.head_weight

    def given(features: Float, logits: Float) -> dict[str, Any]:
        gradient = (softmax(logits, axis=1) - 1 / logits.shape[1]) @ weight
        return {"a": features, "a_grad": gradient, "b": features[:, ::-1], "b_grad": np.sin(gradient)[:, ::-1]}

    known = {k: np.ascontiguousarray(v, np.float32) for k, v in given(w.sample.features, w.sample.logits).items()}
    asked = {k: np.ascontiguousarray(v, np.float32) for k, v in given(*w.test64).items()}
    hyper = {"layers": ["a", "b"], "saturation": [50, 20], "sharpness": [1.0, 10.0]}
    bounds = []
    for layer, saturation, sharpness in (("a", 50, 1.0), ("b", 20, 10.0)):

        def states(held: dict[str, Any], layer: str = layer, sharpness: float = sharpness) -> tuple[Float, Float]:
            product = sharpness * held[layer].astype(np.float64) * held[f"{layer}_grad"]
            a = 1 / (1 + np.exp(-product))
            return a, 4 * ROUNDING * (1 + np.abs(product)) * a

        edges = headed.nac_edges()
        least, most = headed.nac_counts(edges, *states(known))
        low, _ = headed.nac_range(np.minimum(most / saturation, 1), edges, *states(asked))
        _, high = headed.nac_range(np.minimum(least / saturation, 1), edges, *states(asked))
        bounds.append((low, high))
    low, high = np.mean(bounds, axis=0)
    assert np.median(high - low) <= 0.01
    for got in on_both({"n": build_score("nac_layers", hyper, Reference(known))}, asked):
        assert (got["n"] >= low - 1e-6).all()
        assert (got["n"] <= high + 1e-6).all()


def test_grad_norm_is_the_gradient():
    w = world("tall", 0)
    head = w.sample.head_weight, w.sample.head_bias
    exact = w.test64[0][:8] @ head[0].T + head[1]
    for bias in (False, True):
        want = [-headed.grad_norm_by_differences(*head, h, with_bias=bias) for h in w.test64[0][:8]]
        np.testing.assert_allclose(headed.grad_norm(w.test64[0][:8], exact, bias=bias), want, rtol=1e-6)


def test_golden_numbers_of_nac():
    """Of the reference notes: the closed-form gradient, its states, and the official edges."""
    weight, features = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([[1.0, 2]])
    states = headed.nac_states(weight, features, features @ weight.T, 1.0)
    np.testing.assert_allclose(states, [[0.52213673, 0.61930645]], atol=1e-8)
    edges = headed.nac_edges(50)
    assert len(edges) == 50
    np.testing.assert_allclose(edges[[0, 1, 2, 24, -3, -2, -1]], [0, 0.1191, 0.1835, 0.5, 0.8809, 1.01, 1.2], atol=1e-4)
