"""Our fits beside scikit-learn's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import OAS, EmpiricalCovariance, LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from demur.detectors.accumulate import Spread
from demur.detectors.build import build_score
from tests.differential.deviations import SCIKIT_LEARN
from tests.differential.rows import Rows, assert_same

pytestmark = pytest.mark.differential

Both = tuple[NDArray[np.float64], NDArray[np.float64]]


@functools.cache
def rows() -> Rows:
    """One class."""
    made = Rows.made(7, rows=400, width=12, classes=4)
    return replace(made, labels=np.zeros(400, np.int64))


def covariance(estimate: type[EmpiricalCovariance], shrinkage: str) -> Both:
    features = rows().features.astype(np.float64)
    theirs = estimate().fit(features)
    spread = Spread.of(features - features.mean(axis=0))
    assert getattr(spread, shrinkage)() == pytest.approx(theirs.shrinkage_, rel=1e-9)
    return spread.covariance(shrinkage).ravel(), theirs.covariance_.ravel()


def distance(estimate: type[EmpiricalCovariance], shrinkage: str | float) -> Both:
    theirs = estimate().fit(rows().features.astype(np.float64)).mahalanobis(rows().test.astype(np.float64))
    return rows().ours("mahalanobis", shrinkage=shrinkage), theirs


def factor() -> Both:
    theirs = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(rows().features.astype(np.float64))
    return rows().ours("lof"), -theirs.score_samples(rows().test.astype(np.float64))


def forest() -> Both:
    theirs = IsolationForest(n_estimators=100, max_samples=256, random_state=3).fit(rows().features)
    return rows().ours("isolation_forest", seed=3), -theirs.score_samples(rows().test)


def mixture(kind: str) -> Both:
    """Theirs with the ridge in the features' own unit."""
    features = rows().features.astype(np.float64)
    ridge = 1e-4 * features.var(axis=0).mean()
    theirs = GaussianMixture(4, covariance_type=kind, reg_covar=ridge, max_iter=300, random_state=0).fit(features)
    return rows().ours("gmm", components=4, covariance=kind), -theirs.score_samples(rows().test.astype(np.float64))


def reconstruction() -> Both:
    theirs = PCA(10).fit(rows().features.astype(np.float64))
    test = rows().test.astype(np.float64)
    away = np.linalg.norm(test - theirs.inverse_transform(theirs.transform(test)), axis=1)
    return rows().ours("pca", by="reconstruction", dim=10), away


CASES: dict[str, Callable[[], Both]] = {
    "ledoit_wolf": lambda: covariance(LedoitWolf, "ledoit_wolf"),
    "oas": lambda: covariance(OAS, "oas"),
    "empirical": lambda: distance(EmpiricalCovariance, 0.0),
    "shrunk": lambda: distance(LedoitWolf, "ledoit_wolf"),
    "lof": factor,
    "isolation_forest": forest,
    "gmm": lambda: mixture("full"),
    "gmm_tied": lambda: mixture("tied"),
    "pca": reconstruction,
}


def test_every_agreement_of_the_table_is_tested():
    assert list(CASES) == list(SCIKIT_LEARN)


@pytest.mark.parametrize("name", CASES)
def test_same_numbers(name):
    assert_same(*CASES[name]())


def test_a_covariance_a_class_is_theirs_fitted_a_class():
    r = Rows.made(7, rows=400, width=12, classes=4)
    laws = [LedoitWolf().fit(r.features[r.labels == c].astype(np.float64)) for c in range(4)]
    theirs = np.min([law.mahalanobis(r.test.astype(np.float64)) for law in laws], axis=0)
    assert_same(r.ours("mahalanobis", covariance="class"), theirs)
    assert build_score("mahalanobis", {"covariance": "class"}, r.reference).classes == 4
