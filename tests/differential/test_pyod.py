"""Our scores of tables, and of what is stable, beside PyOD 3.6's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from demur.detectors.promises.stability import exceed_confidence, stability
from tests.differential.deviations import PYOD
from tests.differential.rows import Rows, assert_same

pytestmark = pytest.mark.differential

Scores = NDArray[np.float64]
Both = tuple[Scores, Scores]


@functools.cache
def rows() -> Rows:
    """Columns with the skewness of a ReLU, scaled to [0, 1]."""
    made = Rows.made(9, rows=400, width=8, classes=4, sparse=True)
    features, test = (np.expm1(a + 0.01 * np.random.default_rng(1).random(a.shape)) for a in (made.features, made.test))
    low, high = features.min(axis=0), features.max(axis=0)
    return replace(
        made,
        features=((features - low) / (high - low)).astype(np.float32),
        test=((test - low) / (high - low)).astype(np.float32),
    )


def fitted(module: str, name: str, **named: Any) -> Any:
    import importlib

    return getattr(importlib.import_module(f"pyod.models.{module}"), name)(**named).fit(
        rows().features.astype(np.float64)
    )


def theirs(module: str, name: str, **named: Any) -> Scores:
    return fitted(module, name, **named).decision_function(rows().test.astype(np.float64))


def alone(module: str, name: str) -> Scores:
    """One row at a time: their ranks then count the row itself and no others."""
    found = fitted(module, name)
    return np.array([found.decision_function(row[None])[0] for row in rows().test.astype(np.float64)])


def column(place: int) -> Rows:
    r = rows()
    return r.but(features=r.features[:, [place]], test=r.test[:, [place]], weight=r.weight[:, [place]])


def columns_of_ecod() -> Scores:
    """Our score of one column is the largest of its tails."""
    return np.sum([column(d).ours("ecod") for d in range(rows().test.shape[1])], axis=0)


def inside() -> NDArray[np.bool_]:
    low, high = rows().features.min(axis=0), rows().features.max(axis=0)
    return ((rows().test > low) & (rows().test < high)).all(axis=1)


def histogram() -> Both:
    found = fitted("hbos", "HBOS", n_bins=10)
    assert inside().sum() > 30
    return rows().ours("hbos")[inside()], found.decision_function(rows().test[inside()].astype(np.float64))


def isolation() -> Both:
    found = theirs("iforest", "IForest", random_state=3)
    ours = rows().ours("isolation_forest", seed=3)
    return ours, found + np.median(ours - found)


def confidence() -> Both:
    """Calls, and how sure they are, of the same scores."""
    found, test = fitted("knn", "KNN"), rows().test.astype(np.float64)
    training = np.sort(found.decision_scores_)
    calls, ours = exceed_confidence(training, found.decision_function(test), 0.1)
    np.testing.assert_array_equal(calls, found.predict(test) == 1)
    return ours, found.predict_confidence(test)


def rejected() -> Both:
    found, test = fitted("knn", "KNN"), rows().test.astype(np.float64)
    known, shown = np.sort(found.decision_scores_), found.decision_function(test)
    limits = stability(len(known), 0.1, 8.0)
    psi = np.searchsorted(known, shown, side="right")
    ours = (psi >= limits.low) & (psi <= limits.high)
    assert 0 < ours.sum() < len(ours)
    return ours.astype(np.float64), (found.predict_with_rejection(test, T=8, c_r=0.1) == -2).astype(np.float64)


EUCLIDEAN = {"k": 5, "metric": "euclidean"}
CASES: dict[str, Callable[[], Both]] = {
    "knn": lambda: (rows().ours("knn", **EUCLIDEAN), theirs("knn", "KNN")),
    "knn_mean": lambda: (rows().ours("knn", aggregate="mean", **EUCLIDEAN), theirs("knn", "KNN", method="mean")),
    "lof": lambda: (rows().ours("lof"), theirs("lof", "LOF")),
    "isolation_forest": isolation,
    "copod": lambda: (rows().ours("copod"), alone("copod", "COPOD")),
    "ecod": lambda: (columns_of_ecod(), alone("ecod", "ECOD")),
    "hbos": histogram,
    "stability": confidence,
    "rejection": rejected,
}


def test_every_agreement_of_the_table_is_tested():
    assert list(CASES) == list(PYOD)


@pytest.mark.parametrize("name", CASES)
def test_same_scores(name):
    assert_same(*CASES[name]())


def test_ecod_is_the_largest_of_three_sums_and_theirs_a_sum_of_largest():
    ours, most = rows().ours("ecod"), columns_of_ecod()
    assert (ours <= most * (1 + 1e-6)).all()
    assert (ours < 0.99 * most).any()


@pytest.mark.parametrize(("module", "name"), [("ecod", "ECOD"), ("copod", "COPOD")])
def test_tails_of_theirs_depend_on_the_batch(module, name):
    together, apart = theirs(module, name), alone(module, name)
    assert np.abs(together / apart - 1).max() > 1e-2
    first = rows().but(test=rows().test[:1]).ours(module)
    assert first[0] == rows().ours(module)[0]


def test_hbos_of_theirs_follows_the_unit_and_ours_does_not():
    from pyod.models.hbos import HBOS

    scale = np.logspace(-2, 2, 8)
    features, test = (a.astype(np.float64) for a in (rows().features, rows().test[inside()]))
    shown = [HBOS(n_bins=10).fit(features * s).decision_function(test * s) for s in (1.0, scale)]
    assert np.corrcoef(*shown)[0, 1] < 0.99
    moved = rows().but(features=(features * scale).astype(np.float32), test=(test * scale).astype(np.float32))
    near = np.isclose(moved.ours("hbos"), rows().but(test=rows().test[inside()]).ours("hbos"), rtol=1e-4)
    assert near.mean() > 0.9  # the rest: a value within rounding of an edge


def test_hbos_counts_far_rows_as_an_empty_bin():
    far = rows().but(test=np.full((1, 8), 50, np.float32))
    assert far.ours("hbos")[0] == pytest.approx(-8 * np.log2(0.1), rel=1e-5)
    assert far.ours("hbos")[0] >= fitted("hbos", "HBOS", n_bins=10).decision_function(np.full((1, 8), 50.0))[0]


def test_pca_of_theirs_changes_with_the_sign_of_an_eigenvector():
    found, test = fitted("pca", "PCA"), rows().test.astype(np.float64)
    before = found.decision_function(test)
    found.selected_components_ = found.selected_components_ * np.array([1, -1] * 4)[:, None]
    assert np.abs(found.decision_function(test) / before - 1).max() > 0.01
    law = np.cov(rows().features.astype(np.float64).T, bias=True)
    away = test - rows().features.mean(axis=0, dtype=np.float64)
    assert_same(rows().ours("pca"), (away @ np.linalg.inv(law) * away).sum(axis=1))


def test_everything_is_rejected_there_from_38_on_and_not_here():
    found, test = fitted("knn", "KNN"), rows().test.astype(np.float64)
    assert (found.predict_with_rejection(test, T=40, c_r=0.1) == -2).all()
    limits = stability(len(found.decision_scores_), 0.1, 40.0)
    psi = np.searchsorted(np.sort(found.decision_scores_), found.decision_function(test), side="right")
    assert ((psi < limits.low) | (psi > limits.high)).any()


def test_a_share_of_rows_is_the_decimal_it_is_written_as():
    found = fitted("knn", "KNN", contamination=0.29)
    known, test = np.sort(found.decision_scores_)[:100], rows().test.astype(np.float64)
    found.decision_scores_ = known
    shown = found.decision_function(test)
    unlike = [exceed_confidence(known, shown, share)[1] for share in (0.29, 0.28)]
    calls = found.predict(test) == 1
    anomalous = np.where(calls, found.predict_confidence(test), 1 - found.predict_confidence(test))
    ours = [
        np.where(exceed_confidence(known, shown, share)[0], c, 1 - c)
        for share, c in zip((0.29, 0.28), unlike, strict=True)
    ]
    np.testing.assert_allclose(anomalous, ours[1], rtol=1e-6, atol=1e-12)
    assert np.abs(anomalous - ours[0]).max() > 0.01
