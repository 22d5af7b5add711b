"""Robust locations, scatters and distances: by hand, and with foreign rows in the reference."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.detectors.scores.medians import comedian, l1_median


def value(score, features):
    return evaluate({"s": score}, {"features": np.atleast_2d(np.asarray(features, np.float32))})["s"]


def test_comedian_is_the_squared_mad_on_its_diagonal():
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 3, (4001, 3)) * [1, 10, 0.1]
    scatter, variance = comedian(rows)
    mad = 1.4826 * np.median(np.abs(rows - np.median(rows, axis=0)), axis=0)
    np.testing.assert_allclose(np.diagonal(scatter), mad**2, rtol=1e-12)
    np.testing.assert_array_equal(scatter, scatter.T)
    assert (variance >= 0).all()
    assert comedian(np.array([[0, 0], [1, 1], [2, 2], [3, 3.0]]))[0][0, 1] == pytest.approx(1.4826**2 * 1.25)


def test_l1_median_is_the_fermat_point():
    """Of a triangle with an angle over 120 degrees, the vertex there; else where all sides are seen under 120 degrees."""
    blunt = np.array([[0, 0], [10, 1], [-10, 1.0]])
    np.testing.assert_allclose(l1_median(blunt), [0, 0], atol=1e-6)
    even = np.array([[1001, 0], [999.5, np.sqrt(0.75)], [999.5, -np.sqrt(0.75)]])
    np.testing.assert_allclose(l1_median(even), [1000, 0], atol=1e-7)
    np.testing.assert_allclose(l1_median(np.array([[2.0, 2], [2, 2], [2, 2], [9, 9]])), [2, 2])


def test_robust_fits_do_not_follow_foreign_rows():
    """A tenth of the reference far away in one direction: the plain forms call that direction ordinary."""
    rng = np.random.default_rng(1)
    clean = rng.normal(size=(900, 6)) * [3, 2, 1, 0.3, 0.3, 0.3]
    foreign = rng.normal(size=(100, 6)) * 0.1 + [0, 0, 0, 0, 0, 60]
    spoiled = Reference({"features": np.vstack([clean, foreign]).astype(np.float32)})
    asked = np.zeros((1, 6), np.float32)
    asked[0, 5] = 20
    labelled = Reference(spoiled.signals, np.zeros(1000, int))
    plain = value(build_score("mahalanobis", {}, labelled), asked)[0]
    assert plain < 3
    assert value(build_score("robust_mahalanobis", {}, spoiled), asked)[0] > 100
    assert value(build_score("drpo", {}, spoiled), asked)[0] > 3
    ordinary = value(build_score("robust_mahalanobis", {}, spoiled), clean)
    assert 0.5 < np.mean(ordinary) / 6 < 2


def test_robust_pca_clips_what_would_turn_the_subspace():
    """Three rows in a thousand at 300 times the spread turn the plain subspace to them; clipped, they weigh as others."""
    rng = np.random.default_rng(2)
    clean = rng.normal(size=(1000, 8)) * [5, 4, 3, 0.2, 0.2, 0.2, 0.2, 0.2]
    spoiled = clean.copy()
    spoiled[:3] = [0, 0, 0, 0, 0, 0, 0, 1500]
    asked = np.zeros((1, 8), np.float32)
    asked[0, 7] = 5
    fitted = build_score("robust_pca", {"dim": 3}, Reference({"features": spoiled.astype(np.float32)}))
    assert value(fitted, asked)[0] > 4.5
    loose = build_score(
        "robust_pca", {"dim": 3, "contamination": 0}, Reference({"features": spoiled.astype(np.float32)})
    )
    assert value(loose, asked)[0] < 1


def test_projection_outlyingness_by_hand():
    """One dimension: every direction is +-1, so the score is |h - median| / MAD."""
    ref = Reference({"features": np.array([[1], [2], [3], [4], [100]], np.float32)})
    for by in ("mean", "max"):
        assert value(build_score("drpo", {"directions": 5, "by": by}, ref), [8])[0] == pytest.approx(5)
