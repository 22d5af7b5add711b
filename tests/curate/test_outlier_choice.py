"""Chosen outliers are diverse and the most like known data of their kind."""

from __future__ import annotations

import numpy as np
import pytest

from demur.monitor.curate import CurationError, choose_outliers


def kinds(seed=0):
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(6), [200, 60, 30, 20, 10, 4])
    features = (np.eye(6)[kind] + 0.02 * rng.normal(size=(324, 6))) * rng.uniform(0.5, 20, (324, 1))
    return features, rng.random(324), kind


@pytest.mark.parametrize("seed", range(4))
def test_each_kind_gives_its_rows_of_lowest_risk(seed):
    features, risk, kind = kinds(seed)
    chosen = choose_outliers(features, risk, 18, clusters=6, seed=seed)
    for k in range(6):
        inside = np.flatnonzero(kind == k)
        assert set(chosen[kind[chosen] == k]) == set(inside[np.argsort(risk[inside])[:3]])
    assert (np.diff(chosen) > 0).all()


def test_small_kinds_are_filled_up_at_random_and_the_seed_decides():
    features, risk, kind = kinds()
    chosen = choose_outliers(features, risk, 60, clusters=6, seed=1)
    assert len(set(chosen.tolist())) == 60
    assert (kind[chosen] == 5).sum() == 4
    assert np.array_equal(chosen, choose_outliers(features, risk, 60, clusters=6, seed=1))
    assert not np.array_equal(chosen, choose_outliers(features, risk, 60, clusters=6, seed=2))


def test_lowest_risk_alone_would_take_one_kind():
    features, risk, kind = kinds()
    risk = np.where(kind == 0, risk - 5, risk)
    assert set(kind[np.argsort(risk)[:12]]) == {0}
    assert set(kind[choose_outliers(features, risk, 12, clusters=6)]) == set(range(6))


def test_copies_and_all_rows():
    features, risk = np.ones((10, 3)), np.arange(10.0)
    assert choose_outliers(features, risk, 4, clusters=4).shape == (4,)
    assert choose_outliers(features, risk, 10, clusters=2).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("size", "clusters", "risk"),
    [(11, 2, np.zeros(10)), (2, 3, np.zeros(10)), (3, 0, np.zeros(10)), (3, 2, np.zeros(9))],
)
def test_what_it_refuses(size, clusters, risk):
    with pytest.raises(CurationError):
        choose_outliers(np.eye(10), risk, size, clusters=clusters)
    with pytest.raises(CurationError, match="NaN"):
        choose_outliers(np.eye(10), np.full(10, np.nan), 3, clusters=2)
