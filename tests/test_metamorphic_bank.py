"""What must not change a bank score or a table's score, or must change it by a known rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from tests.contract.entries import D, M, near, outliers, permuted, reference

ALL = {
    "knn": {"k": 4},
    "knn:mean": {"k": 4, "aggregate": "mean"},
    "knn:euclidean": {"k": 4, "metric": "euclidean"},
    "knn:bytes": {"k": 4, "metric": "euclidean", "dtype": "int8"},
    "nnguide": {},
    "relation": {},
    "cfood": {},
    "contrastive_banks": {"k": 4},
    "lof": {"k": 10},
    "isolation_forest": {"trees": 30},
    "ecod": {},
    "copod": {},
    "hbos": {},
    "pca": {},
    "pca:reconstruction": {"by": "reconstruction"},
    "magnitude": {"bank": M},
}
COSINE = ("knn", "knn:mean", "nnguide", "relation", "cfood", "contrastive_banks")
COLUMNS = ("isolation_forest", "ecod", "copod", "hbos")  # read each column by itself
DISTANCE = ("knn:euclidean", "lof", "pca", "pca:reconstruction", "magnitude")


def scored(name, hyper, ref, rows):
    return evaluate({"s": build_score(name.partition(":")[0], hyper, ref)}, rows)["s"].astype(float)


def asked():
    return {s: np.concatenate([near(20)[s], permuted(20)[s]]) for s in ("features", "logits")}


def changed(change):
    """The reference, its outliers and the asked rows with their features changed alike; logits stay."""

    def of(signals):
        return {"features": np.ascontiguousarray(change(signals["features"]), np.float32), "logits": signals["logits"]}

    sides = {"outliers": Reference(of(outliers(300)))}
    return Reference(of(reference().signals), reference().labels, sides=sides), of(asked())


def both(name, change, **more):
    hyper = {**ALL[name], **more}
    return scored(name, hyper, *changed(lambda x: x)), scored(name, hyper, *changed(change))


def same(found, want, rtol=1e-4):
    np.testing.assert_allclose(found, want, rtol=rtol, atol=rtol * np.abs(want).max())


ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))[0]


@pytest.mark.parametrize("name", [n for n in ALL if n != "isolation_forest"])
def test_the_order_of_reference_rows_does_not_matter(name):
    """Of the forest it does: its trees are grown on seeded draws by position."""
    order = np.random.default_rng(1).permutation(M)
    base = reference()
    shuffled = dataclasses.replace(
        base,
        signals={s: x[order] for s, x in base.signals.items()},
        labels=base.labels[order],
        correct=base.correct[order],
    )
    same(scored(name, ALL[name], shuffled, asked()), scored(name, ALL[name], base, asked()))


@pytest.mark.parametrize("name", ALL)
def test_turning_the_axes(name):
    """Distances and angles stay; scores of single columns do not, and int8 rounds along the axes."""
    before, after = both(name, lambda x: x.astype(float) @ ROTATION)
    if name in COLUMNS:
        assert np.abs(after - before).max() > 0.01 * np.abs(before).max()
    else:
        same(after, before, rtol=1e-2 if name == "knn:bytes" else 1e-3)


@pytest.mark.parametrize("name", [n for n in ALL if n != "isolation_forest"])
def test_the_order_of_columns_does_not_matter(name):
    """Of the forest it does: its trees draw columns by position."""
    order = np.random.default_rng(3).permutation(D)
    same(*both(name, lambda x: x[:, order]))


@pytest.mark.parametrize("name", ALL)
def test_the_unit_of_length(name):
    """Distances grow with it, cosines, ratios of densities and shares of rows do not."""
    before, after = both(name, lambda x: 8 * x)
    lengths = name.startswith("knn:e") or name in ("knn:bytes", "pca:reconstruction")
    same(after, 8 * before if lengths else before)


@pytest.mark.parametrize("name", [*COLUMNS, *DISTANCE])
def test_the_origin_does_not_matter(name):
    """The shift is exact in float32 on multiples of 1/256, so every cut and edge can move along."""

    def on_grid(x):
        return np.rint(x * 256) / 256

    same(scored(name, ALL[name], *changed(lambda x: on_grid(x) + 64)), scored(name, ALL[name], *changed(on_grid)), 1e-3)


@pytest.mark.parametrize("name", COSINE)
def test_the_length_of_each_row_does_not_matter(name):
    lengths = np.random.default_rng(5)
    same(*both(name, lambda x: x * lengths.uniform(0.1, 10, (len(x), 1))))


@pytest.mark.parametrize("name", ["ecod", "copod"])
def test_only_the_order_within_columns_matters(name):
    """Stretched columns keep every tail; which side is a column's own follows its skewness, held fixed here."""
    (base, rows), (stretched, moved) = changed(lambda x: x), changed(np.exp)
    before, after = build_score(name, {}, base), build_score(name, {}, stretched)
    assert (before.left != after.left).any()
    alike = dataclasses.replace(after, left=before.left)
    np.testing.assert_array_equal(evaluate({"s": alike}, moved)["s"], evaluate({"s": before}, rows)["s"])


def doubled():
    base = reference()
    twice = {s: np.concatenate([x, x]) for s, x in base.signals.items()}
    rows = {name: np.tile(getattr(base, name), 2) for name in ("labels", "correct", "target")}
    return dataclasses.replace(base, signals=twice, **rows)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("knn", {"k": 8}),
        ("knn:mean", {"k": 8}),
        ("knn:euclidean", {"k": 8}),
        ("nnguide", {"k": 20}),
        ("relation", {}),
        ("hbos", {}),
        ("pca", {}),
        ("pca:reconstruction", {}),
    ],
)
def test_a_reference_given_twice(name, more):
    """Means, shares and covariances stay; neighbours stay when twice as many are asked for."""
    same(scored(name, {**ALL[name], **more}, doubled(), asked()), scored(name, ALL[name], reference(), asked()))


def test_a_reference_given_twice_moves_conformal_tails_by_their_one():
    """(1 + 2c) / (2n + 1) for (1 + c) / (n + 1): down, by less than log 2 a column, most where nothing was seen."""
    for name in ("ecod", "copod"):
        once, twice = (scored(name, {}, ref, asked()) for ref in (reference(), doubled()))
        assert (twice >= once - 1e-4).all()
        assert (twice <= once + D * np.log(2)).all()
        assert not np.allclose(once, twice, rtol=1e-4)


@pytest.mark.parametrize("name", ["lof", "isolation_forest", "magnitude", "cfood"])
def test_a_reference_given_twice_changes_what_counts_rows(name):
    """A copy is a neighbour at distance 0 (LOF, CFOOD), other draws (forest), and shares its twin's weight (magnitude)."""
    hyper = {"bank": 2 * M} if name in ("magnitude", "lof") else {}
    once, twice = (scored(name, {**ALL[name], **hyper}, ref, asked()) for ref in (reference(), doubled()))
    assert np.abs(twice - once).max() > 1e-3
    assert np.corrcoef(once, twice)[0, 1] > 0.9
