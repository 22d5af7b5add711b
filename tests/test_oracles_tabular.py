"""Outlier scores of tables against their float64 oracles, and scikit-learn as a second witness."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from demur.detectors.storage import parameters
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.judged import EVERYWHERE, ROUNDING, Case, Seeded, judge, runs
from tests.oracles import bank, distance, tabular
from tests.oracles.sample import Float
from tests.oracles.worlds import World, world

SMALL = tuple(name for name in EVERYWHERE if name != "many_batches")
EPS32 = 2.0**-23


def centre_size(w: World) -> float:
    return float(np.linalg.norm(w.sample.features.mean(axis=0)))


def of_density(w: World, want: Float) -> Float:
    """Distances are off by the rounding of the centre and of the rows; where that may swap the k-th neighbour for the
    next, one density in k may be another's."""
    k = 20
    known, asked = w.sample.features, w.test64[0]
    off = 4 * ROUNDING * (centre_size(w) + np.linalg.norm(asked - known.mean(axis=0), axis=1))
    gaps = np.sort(bank.distances(known, asked), axis=1)
    swapped = gaps[:, k] - gaps[:, k - 1] <= 2 * off
    return (
        want * (2 * off / gaps[:, :k].mean(axis=1).clip(1e-300) + 2 * off / np.median(gaps[:, k - 1]))
        + swapped * want / k
    )


def of_counts(_: World, want: Float) -> Float:
    """Counts are exact; the logarithms are a sum of D."""
    return 4 * ROUNDING * (want + 1)


def of_components(w: World, want: Float) -> Float:
    """The centre's rounding, in deviations of the narrowest component that counts."""
    values, _ = tabular.principal(w.sample.features)
    narrow = np.sqrt(values[values > w.features.shape[1] * EPS32 * values[0]].min())
    off = (
        2 * ROUNDING * (centre_size(w) + np.linalg.norm(w.test64[0] - w.sample.features.mean(axis=0), axis=1)) / narrow
    )
    return 2 * np.sqrt(want) * off + off**2


def of_projection(w: World, _: Float) -> Float:
    mean = w.sample.features.mean(axis=0)
    return 4 * ROUNDING * (np.linalg.norm(w.test64[0] - mean, axis=1) + centre_size(w))


def pca(dim: int) -> Callable[[World, Any], Float]:
    return lambda w, _: tabular.pca_mahalanobis(w.sample.features, w.test64[0], dim, w.features.shape[1] * EPS32)


CASES = {
    "lof": Case("lof", lambda w, _: tabular.lof(w.sample.features, w.test64[0]), of_density, worlds=SMALL),
    "ecod": Case("ecod", lambda w, _: tabular.ecod(w.sample.features, w.test64[0]), of_counts),
    "copod": Case("copod", lambda w, _: tabular.copod(w.sample.features, w.test64[0]), of_counts),
    "hbos": Case("hbos", lambda w, _: tabular.hbos(w.sample.features, w.test64[0]), of_counts),
    "hbos_4": Case({"hbos": {"bins": 4}}, lambda w, _: tabular.hbos(w.sample.features, w.test64[0], 4), of_counts),
    "pca": Case("pca", pca(0), of_components),
    "pca_3": Case({"pca": {"dim": 3}}, pca(3), of_components),
    "pca_rest": Case(
        {"pca": {"by": "reconstruction", "dim": 4}},
        lambda w, _: tabular.pca_reconstruction(w.sample.features, w.test64[0], 4),
        of_projection,
    ),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_score_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)


def whole_numbers() -> tuple[np.ndarray, np.ndarray]:
    """A table of small whole numbers, one column constant, one of two values: everything ties. And rows to ask."""
    rng = np.random.default_rng(0)
    rows = rng.poisson(2.0, size=(200, 5)).astype(np.float32)
    rows[:, 3], rows[:, 4] = 7.0, rng.integers(2, size=200)
    asked = np.vstack([rows[:20], rng.integers(-2, 12, size=(40, 5)).astype(np.float32)])
    return rows, asked


@pytest.mark.parametrize("name", ["ecod", "copod", "hbos"])
def test_ties_and_constant_columns_count_as_defined(name: str):
    rows, asked = whole_numbers()
    want = getattr(tabular, name)(rows.astype(np.float64), asked.astype(np.float64))
    for got in on_both({name: build_score(name, None, Reference({"features": rows}))}, {"features": asked}):
        assert_close(got[name], want, RTOL * np.abs(want) + 1e-5)


@pytest.mark.parametrize("name", ["tall", "two_classes", "many_unbalanced", "tiny_scale", "rectified"])
def test_lof_is_scikit_learns(name: str):
    w = world(name, 0)
    peer = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(w.sample.features)
    want = -peer.score_samples(w.test64[0])
    np.testing.assert_allclose(tabular.lof(w.sample.features, w.test64[0]), want, rtol=1e-8)
    for got in on_both({"lof": build_score("lof", None, reference(w))}, signals(w)):
        assert_close(got["lof"], want, RTOL * want + of_density(w, want))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_isolation_forest_is_scikit_learns(name: str, seed: int):
    """Bit for bit the same paths: a row goes left where its float32 is at most the threshold."""
    w = world(name, 0)
    peer = IsolationForest(n_estimators=30, max_samples=min(128, len(w.features)), random_state=seed).fit(w.features)
    want = -peer.score_samples(w.test_features)
    score = build_score("isolation_forest", {"trees": 30, "rows": 128, "seed": seed}, reference(w))
    for got in on_both({"f": score}, signals(w)):
        assert_close(got["f"], want, RTOL * want)


def test_forest_score_is_two_to_the_mean_path():
    """scikit-learn itself against the paper: 2^(-E h / c(n)), an unfinished leaf of m rows c(m) deeper."""
    w = world("tall", 0)
    peer = IsolationForest(n_estimators=10, max_samples=64, random_state=0).fit(w.features)
    depths = np.zeros(len(w.test_features))
    for tree in (estimator.tree_ for estimator in peer.estimators_):
        for row, values in enumerate(w.test_features):
            node, depth = 0, 0
            while tree.children_left[node] >= 0:
                left = values[tree.feature[node]] <= tree.threshold[node]
                node, depth = (tree.children_left if left else tree.children_right)[node], depth + 1
            depths[row] += depth + tabular.path_length_of_search(tree.n_node_samples[node])
    want = 2 ** (-depths / 10 / tabular.path_length_of_search(64))
    np.testing.assert_allclose(-peer.score_samples(w.test_features), want, rtol=1e-12)


MAGNITUDE: list[dict[str, Any]] = [{}, {"bank": 30, "ridge": 0.1, "scale": 0.3}]


@pytest.mark.parametrize("hyper", MAGNITUDE, ids=str)
@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "rank_deficient", "tiny_scale", "rectified"])
def test_magnitude_is_the_weight_in_the_enlarged_bank(name: str, hyper: dict[str, Any]):
    w = world(name, 0)
    if "scale" in hyper:
        hyper = {**hyper, "scale": float(hyper["scale"] / w.features.std())}
    score: Any = build_score("magnitude", hyper, reference(w))
    rows, gaps = distance.nearest_rows(parameters(score)["bank"].astype(np.float64), w.sample.features)
    assert gaps.max() == 0
    assert len(set(rows.tolist())) == min(hyper.get("bank", 128), len(w.features))
    held = w.sample.features[rows]
    if "scale" not in hyper:
        assert score.scale == pytest.approx(1 / tabular.median_gap(held), rel=1e-6)
    ridge = hyper.get("ridge", 0.01)
    want = tabular.magnitude_weight(held, w.test64[0], score.scale, ridge)
    for got in on_both({"m": score}, signals(w)):
        assert_close(got["m"], want, RTOL * np.abs(want) + of_weight(held, score.scale, ridge, w))


def of_weight(held: Float, scale: float, ridge: float, w: World) -> Float:
    """(1 - z'A1) / (1 + ridge - z'Az): both differences cancel near the bank, where z is off by rounding times t d."""
    z = np.exp(-scale * bank.distances(held, w.test64[0]))
    inverse = np.linalg.inv(np.exp(-scale * bank.distances(held, held)) + ridge * np.eye(len(held)))
    off = 8 * ROUNDING * z * (1 + scale * bank.distances(held, w.test64[0]))
    weights, solved = np.abs(inverse.sum(axis=1)), z @ inverse
    below = 1 + ridge - (z * solved).sum(axis=1)
    above = 1 - z @ inverse.sum(axis=1)
    moved = off @ weights + 4 * ROUNDING
    moved_below = 2 * (off * np.abs(solved)).sum(axis=1) + 4 * ROUNDING * np.sqrt(len(held))
    return moved / below + np.abs(above) / below**2 * moved_below


def test_golden_magnitude_of_three_points():
    """Of the reference notes: (0,0), (1,0), (0,3) at t = 1 weigh .6940366, .7050750, .9356007."""
    points = np.array([[0.0, 0], [1, 0], [0, 3]])
    want = [0.6940366, 0.7050750, 0.9356007]
    for place in range(3):
        others = np.delete(points, place, axis=0)
        assert tabular.magnitude_weight(others, points[[place]], 1.0)[0] == pytest.approx(want[place], abs=5e-8)
        held = Reference({"features": others.astype(np.float32)})
        given = {"features": points[[place]].astype(np.float32)}
        for got in on_both({"m": build_score("magnitude", {"scale": 1.0, "ridge": 0.0}, held)}, given):
            assert got["m"][0] == pytest.approx(want[place], rel=RTOL)
