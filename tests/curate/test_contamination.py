"""The contamination posterior on data whose share of anomalies is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from demur.monitor.curate import CurationError, contamination, detector_scores
from demur.monitor.curate.contamination import Components, _chances, _draw, exactly, solve_prior


def traffic(share, seed, rows=400):
    rng = np.random.default_rng(seed)
    bad = round(share * rows)
    far = 0.6 * rng.normal(size=(bad, 3)) + 5 * rng.choice([-1, 1], (bad, 3))
    return np.concatenate([rng.normal(size=(rows - bad, 3)), far])


def found(share, seed, **how):
    scores = detector_scores(traffic(share, seed), seed=seed)
    return contamination(scores, components=10, samples=2000, seed=seed, **how)


@pytest.mark.parametrize("share", [0.02, 0.06, 0.1])
def test_the_true_share_lies_in_the_interval_on_most_seeds(share):
    results = [found(share, seed) for seed in range(4)]
    assert sum(r.low <= share <= r.high for r in results) >= 3
    assert np.mean([r.mean for r in results]) == pytest.approx(share, rel=0.6)
    assert all(0 <= r.samples.min() <= r.samples.max() < 0.25 for r in results)


@pytest.mark.slow
def test_the_interval_covers_over_many_seeds():
    for share in (0.03, 0.06, 0.09):
        results = [found(share, seed) for seed in range(30)]
        assert np.mean([r.low <= share <= r.high for r in results]) >= 0.8


def test_the_prior_rules_what_data_leave_open():
    tails = detector_scores(np.random.default_rng(0).standard_t(2, size=(400, 3)))
    strict, lax = (contamination(tails, components=15, samples=2000, p_high=p) for p in (0.002, 0.2))
    assert strict.mean < lax.mean
    assert (strict.samples >= 0.15).mean() < (lax.samples >= 0.15).mean()


def test_exactly_k_by_hand():
    assert exactly(np.array([[0.9, 0.5, 0.2]])) == pytest.approx(np.array([[0.45, 0.36, 0.09]]))
    assert exactly(np.array([[0.9, 0.5, 0.2]])).sum() == pytest.approx(0.9)


def test_the_solved_prior_is_the_one_asked_for():
    r = np.array([1.5, 0.8, 0.1, -0.2])
    parts = Components(np.array([12.0, 30.0, 90.0, 400.0]), np.tile(r, (1000, 1)))
    delta, tau = solve_prior(parts, 0.02, 0.03, 0.15)
    chances = _chances(r[None], delta, tau)
    assert chances[0, 0] == pytest.approx(0.98)
    total, above = 532.0, np.cumsum(parts.concentration)
    tail = [beta.sf(0.15, a, total - a) for a in above[:-1]] + [1.0]
    assert exactly(chances)[0] @ tail == pytest.approx(0.03, rel=1e-6)
    drawn = _draw(parts, delta, tau, 200_000, np.random.default_rng(0))
    assert (drawn >= 0.15).mean() == pytest.approx(0.03, abs=0.002)
    assert (drawn == 0).mean() == pytest.approx(0.02, abs=0.002)


def test_no_anomalies_and_too_many_are_refused_instead_of_guessed():
    parts = Components(np.array([300.0, 200.0]), np.tile([1.0, 0.0], (1000, 1)))
    assert solve_prior(parts, 0.01, 0.01, 0.15) is None
    rng = np.random.default_rng(0)
    clean = detector_scores(rng.normal(size=(400, 3)))
    many = np.concatenate([rng.normal(size=(300, 2)), 8 + 0.1 * rng.normal(size=(300, 2))])
    for scores in (clean, many):
        with pytest.raises(CurationError, match="there may be no anomalies, or more than that"):
            contamination(scores, components=5, samples=500)


def test_the_seed_decides_and_nothing_is_written_to():
    scores = detector_scores(traffic(0.05, 0, rows=200))
    scores.flags.writeable = False
    a, b = (contamination(scores, components=8, samples=500, seed=4) for _ in range(2))
    assert np.array_equal(a.samples, b.samples)
    assert contamination(scores[:, :1], components=8, samples=500).mean < 0.25


def test_detectors_put_anomalies_first():
    scores = detector_scores(traffic(0.05, 3))
    for column in scores.T:
        assert column[-20:].min() > np.median(column)


@pytest.mark.parametrize(
    ("scores", "how", "message"),
    [
        (np.zeros((5, 2)), {}, "scores: expected"),
        (np.zeros(50), {}, "scores: expected"),
        (np.full((50, 1), np.nan), {}, "NaN"),
        (np.stack([np.arange(50.0), np.ones(50)], 1), {}, "detector 1 gives every row the same"),
        (np.arange(50.0)[:, None], {"high": 0.3}, "high < limit"),
        (np.arange(50.0)[:, None], {"p_high": 0.0}, "levels"),
    ],
)
def test_what_it_refuses(scores, how, message):
    with pytest.raises(CurationError, match=message):
        contamination(scores, **how)
