"""Intervals: what is drawn, and that they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from demur.monitor.evaluate import EvaluationError, roc
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.shares import realised


def all_weights(resampler, size=64):
    return np.concatenate(list(resampler.weights(size)), axis=1)


def test_every_table_keeps_its_size_and_batches_do_not_matter():
    stratum = np.repeat([0, 1, 2], [30, 5, 12])
    resampler = Resampler(stratum, None, 200, seed=4)
    weights = all_weights(resampler)
    assert weights.shape == (47, 200)
    for number, size in enumerate((30, 5, 12)):
        assert (weights[stratum == number].sum(axis=0) == size).all()
    assert np.array_equal(weights, all_weights(resampler, 7))
    assert not np.array_equal(weights, all_weights(Resampler(stratum, None, 200, seed=5)))
    assert weights.mean() == pytest.approx(1.0)
    assert weights.var() == pytest.approx(1.0, abs=0.1)


def test_units_of_one_cluster_are_drawn_together():
    stratum, cluster = np.zeros(12, int), np.repeat([4, 9, 1, 7], 3)
    weights = all_weights(Resampler(stratum, cluster, 100))
    for one in np.unique(cluster):
        rows = weights[cluster == one]
        assert (rows == rows[0]).all()
    assert len(np.unique(weights.sum(axis=0))) == 1


def test_undefined_resamples_take_the_interval_away():
    resampler = Resampler(np.zeros(3, int), None, 100)
    found = np.linspace(0, 1, 100)
    assert resampler.interval(found) == pytest.approx((0.02, 0.97), abs=0.011)
    assert resampler.interval(np.where(np.arange(100) < 6, np.nan, found)) is None
    assert resampler.interval(np.append(found[:99], np.inf)) is not None


@pytest.mark.parametrize(("field", "value"), [("draws", 3), ("draws", -1), ("confidence", 0.2), ("confidence", 1.0)])
def test_nonsense_is_refused(field, value):
    with pytest.raises(EvaluationError, match="expected"):
        Resampler(np.zeros(3, int), **{field: value})


def interval(scores, bad, seed, cluster=None):
    resampler = Resampler(bad, cluster, 300, seed)
    distinct, index = np.unique(scores, return_inverse=True)
    found = []
    for weights in resampler.weights(300):
        sides = [
            np.stack([np.bincount(index, w * (bad == c), len(distinct)) for w in weights.T], axis=1) for c in (0, 1)
        ]
        found.append(roc.auroc(Counts(distinct, *sides)))
    return resampler.interval(np.concatenate(found))


def test_intervals_cover_a_known_area_about_as_often_as_they_say():
    truth = norm.cdf(1 / np.sqrt(2))
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        bad = np.repeat([0, 1], 60)
        low, high = interval(rng.normal(size=120) + bad, bad, trial)
        covered += low <= truth <= high
    assert 176 <= covered <= 200  # 190 expected, standard error 3; percentile intervals are a little short


def test_intervals_of_clustered_units_are_wider_than_if_they_stood_alone():
    rng = np.random.default_rng(1)
    cluster, bad = np.repeat(np.arange(40), 10), np.repeat([0, 1], 200)
    scores = np.repeat(rng.normal(size=40), 10) + 0.1 * rng.normal(size=400) + 0.5 * bad
    alone, together = interval(scores, bad, 0), interval(scores, bad, 0, cluster)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_a_realised_share_is_exact_alone_and_weighed_by_cluster_otherwise():
    hit, every = np.array([True] * 6 + [False] * 6), np.ones(12, bool)
    alone = realised(hit, every, None, 0.95, 0, 0)
    assert alone.share.value == 0.5
    assert alone.share.low == pytest.approx(0.2109, abs=1e-4)  # Clopper and Pearson's table for 6 of 12
    clusters = realised(hit, every, np.array([0] * 6 + [1, 1, 2, 2, 3, 3]), 0.95, 200, 0)
    assert clusters.share.value == 0.25
    assert clusters.share.low == 0.0
    assert realised(hit, every, np.zeros(12, int), 0.95, 0, 0).share.low is None


def test_among_chosen_units_a_cluster_weighs_by_its_share_of_them():
    """One row drawn from each group: P(wrong and accepted) / P(accepted)."""
    cluster = np.array([0, 0, 0, 0, 1, 1])
    accepted, wrong = np.array([1, 0, 0, 0, 1, 1], bool), np.array([1, 1, 1, 0, 0, 0], bool)
    found = realised(wrong, accepted, cluster, 0.95, 0, 0)
    assert found.share.value == pytest.approx(0.25 / (0.25 + 1.0))
    assert (found.part, found.whole) == (1, 3)
