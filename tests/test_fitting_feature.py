"""Fits of feature and head scores: few rows, flat directions, large offsets, small batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf, oas

from demur.detectors.accumulate import Spread
from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.detectors.storage import settings
from tests.contract.entries import C, D, near, reference


def value(score, features):
    return evaluate({"s": score}, {"features": np.asarray(features, np.float32)})["s"]


@pytest.mark.parametrize(("count", "size"), [(30, 60), (200, 8), (1000, 3), (5, 4)])
def test_oas_is_that_of_scikit_learn(count, size):
    residuals = np.random.default_rng(size).normal(size=(count, size)) * np.linspace(0.1, 3, size)
    expected, share = oas(residuals, assume_centered=True)
    spread = Spread.of(residuals[:3]).merge(Spread.of(residuals[3:]))
    assert spread.oas() == pytest.approx(share, rel=1e-9)
    np.testing.assert_allclose(spread.covariance("oas"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_a_covariance_a_class_with_fewer_rows_than_features(unit):
    """12 rows a class in 40 dimensions, at an offset of a thousand spreads; never negative, right in float64."""
    rng = np.random.default_rng(3)
    labels = np.arange(36) % 3
    features = (unit * (1e3 + rng.normal(size=(36, 40)) * np.logspace(-1, 1, 40) * (1 + labels[:, None]))).astype(
        np.float32
    )
    fitted = build_score("mahalanobis", {"covariance": "class"}, Reference({"features": features}, labels))
    asked = (unit * (1e3 + 3 * rng.normal(size=(20, 40)))).astype(np.float32)
    want = []
    for c in range(3):
        rows = features[labels == c].astype(float)
        away = asked - rows.mean(axis=0)
        covariance, _ = ledoit_wolf(rows - rows.mean(axis=0), assume_centered=True)
        want.append(np.einsum("nd,nd->n", away, np.linalg.solve(covariance, away.T).T))
    got = value(fitted, asked)
    assert (got >= 0).all()
    np.testing.assert_allclose(got, np.min(want, axis=0), rtol=2e-3)


def test_robust_covariance_with_fewer_rows_than_features_is_positive():
    rng = np.random.default_rng(4)
    features = (500 + rng.normal(size=(30, 60))).astype(np.float32)
    fitted = build_score("robust_mahalanobis", {}, Reference({"features": features}))
    precision = fitted.whiten.astype(float) @ fitted.whiten.T
    values = np.linalg.eigvalsh(precision)
    assert values[0] > 0
    assert values[-1] / values[0] < 1e5
    assert (value(fitted, features) > 0).all()


def test_robust_covariance_of_sparse_activations():
    """Most values of some features are 0, so their median absolute deviation is: shrinkage gives them a scale."""
    rng = np.random.default_rng(5)
    features = np.maximum(rng.normal(-1, 1, (300, 8)), 0).astype(np.float32)
    features[:, :4] = rng.normal(size=(300, 4))
    fitted = build_score("robust_mahalanobis", {}, Reference({"features": features}))
    assert np.isfinite(value(fitted, features)).all()
    spiked = np.zeros((1, 8), np.float32)
    spiked[0, 7] = 30
    assert value(fitted, spiked)[0] > value(fitted, features).max()


def test_regret_is_largest_outside_the_span_of_the_reference():
    """Two features are copies of others: a row that breaks the copy lies outside the span."""
    base = reference()
    features = base.signals["features"].copy()
    features[:, 8:] = features[:, :8]
    flat = dataclasses.replace(base, signals={"features": features}, head_weight=base.head_weight / 8)
    fitted = build_score("pnml", {}, flat)
    assert fitted.outside.shape == (D, 8)
    broken = features[:50].copy()
    broken[:, 8:] = 0
    assert value(fitted, broken).min() > 2 * value(fitted, features).max()
    swollen = features[:50] * np.float32(1000)
    np.testing.assert_allclose(value(fitted, swollen), value(fitted, features[:50]), rtol=1e-3)


def test_a_constant_feature_is_a_thin_wall_of_the_box():
    base = reference()
    features = base.signals["features"].copy()
    features[:, 3] = 7
    fitted = build_score("box", {}, dataclasses.replace(base, signals={**base.signals, "features": features}))
    rows = {"features": features[:5].copy(), "logits": base.signals["logits"][:5]}
    assert evaluate({"s": fitted}, rows)["s"].max() <= 1
    rows["features"][:, 3] = np.float32(7.000001)
    assert evaluate({"s": fitted}, rows)["s"].min() > 1e12


def test_boxes_keep_their_walls_under_a_large_offset():
    """Walls are reference values: (low + high) / 2 is not a float32 here, and rows on a wall would be outside."""
    base = reference()
    features = (1e3 + 1e-3 * base.signals["features"]).astype(np.float32)
    fitted = build_score("box", {}, dataclasses.replace(base, signals={**base.signals, "features": features}))
    inside = evaluate({"s": fitted}, {"features": features, "logits": base.signals["logits"]})["s"]
    assert inside.max() == pytest.approx(1, abs=1e-5)


def test_tied_mixture_has_one_covariance():
    fitted = build_score("gmm", {"components": 3, "covariance": "tied"}, reference())
    blocks = fitted.whiten.reshape(D, 3, D)
    np.testing.assert_array_equal(blocks[:, 0], blocks[:, 2])
    assert settings(fitted)["covariance"] == "tied"
    rows = near(30)["features"]
    assert np.std(value(fitted, rows) - value(build_score("gmm", {"components": 3}, reference()), rows)) > 1e-3


def test_classes_that_the_last_layer_never_got_right_are_left_out_of_core():
    base = reference()
    correct = base.correct & (base.labels != 2)
    assert build_score("core", {}, dataclasses.replace(base, correct=correct)).directions.shape[0] == C - 1


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("mahalanobis", {"covariance": "class"}),
        ("class_gmm", {}),
        ("residual", {"dim": 6}),
        ("core", {}),
        ("fdbd", {}),
        ("she", {}),
        ("pnml", {}),
        ("nac", {"edges": 20}),
        ("box", {"boxes": 3}),
        ("robust_pca", {"dim": 6}),
        ("mean_shifted", {"bank": 100}),
        ("drpo", {"bank": 100}),
    ],
)
def test_batches_do_not_change_the_fit(monkeypatch, name, hyper):
    rows = near(20)
    whole = evaluate({"s": build_score(name, hyper, reference())}, rows)["s"]
    monkeypatch.setattr("demur.detectors.score.BATCH_ROWS", 37)
    monkeypatch.setattr("demur.detectors.score.CHUNK_ROWS", 74)
    assert reference().chunks == 6
    np.testing.assert_allclose(
        evaluate({"s": build_score(name, hyper, reference())}, rows)["s"], whole, rtol=1e-4, atol=1e-4
    )
