"""Veracity scores on responses known to be wrong, where noise differs from place to place."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from demur.monitor.curate import CurationError, veracity


def data(seed, rows=300, wrong=0.06, uneven=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    spread = np.where(x[:, 0] > 0, 0.1 + uneven, 0.1)
    y = x @ [2.0, -1, 0.5] + spread * rng.normal(size=rows)
    bad = rng.random(rows) < wrong
    return x, np.where(bad, y + rng.choice([-3, 3], rows), y), bad


def ahead(risk, bad):
    return (risk[bad][:, None] > risk[~bad][None]).mean()


@pytest.mark.parametrize("seed", range(4))
def test_wrong_numbers_stand_out_and_their_share_is_found(seed):
    x, y, bad = data(seed)
    found = veracity(x, y, regressor=LinearRegression, seed=seed)
    assert ahead(found.risk, bad) > 0.97
    assert ((found.score > 0) & (found.score <= 1)).all()
    assert found.suspect.sum() == np.ceil(found.share * len(y))
    assert np.median(found.score) == pytest.approx(np.exp(-1), abs=2e-3)


def test_uncertainty_makes_the_difference_where_noise_is_uneven():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(800, 1))
        noisy = x[:, 0] > 0
        y = 2 * x[:, 0] + np.where(noisy, 2.0, 0.05) * rng.normal(size=800)
        wrong = np.flatnonzero(x[:, 0] < -0.4)[:12]
        y[wrong] += rng.choice([-1.0, 1.0], 12)  # half a deviation where it is noisy, twenty where it is not
        bad = np.isin(np.arange(800), wrong)
        found = veracity(x, y, regressor=lambda: KNeighborsRegressor(25), resamples=5, seed=seed)
        assert found.aleatoric[noisy].mean() > 3 * found.aleatoric[~noisy].mean()
        assert ahead(found.risk, bad) > 0.9
        assert ahead(found.risk, bad) > ahead(np.abs(found.residual), bad) + 0.1


def test_epistemic_uncertainty_grows_away_from_the_data():
    x, y, _ = data(0, wrong=0)
    x[0] = 12
    found = veracity(x, y, regressor=LinearRegression)
    assert found.epistemic[0] > 5 * np.median(found.epistemic)


def test_leaving_wrong_rows_out_explains_more():
    shares = [veracity(*data(seed, wrong=0.1)[:2], regressor=LinearRegression, seed=seed).share for seed in range(4)]
    assert np.mean(shares) > 0.02


def test_residuals_are_out_of_fold():
    class Memory:
        """Knows what it has seen, and nothing else."""

        def fit(self, x, y):
            self.seen = {tuple(row): value for row, value in zip(x, y, strict=True)}
            return self

        def predict(self, x):
            return np.array([self.seen.get(tuple(row), 0.0) for row in x])

    x, y, _ = data(1, rows=60)
    assert veracity(x, y, regressor=Memory).residual == pytest.approx(y)


def test_exact_and_constant_responses_do_no_harm():
    x, _, _ = data(0, rows=60)
    for y in (np.ones(60), x @ [1.0, 2, 3]):
        found = veracity(x, y, regressor=LinearRegression)
        assert np.isfinite(found.score).all()
    default = veracity(x, y, regressor=lambda: HistGradientBoostingRegressor(max_iter=5), resamples=2)
    assert np.isfinite(default.score).all()


def test_the_seed_decides_and_nothing_is_written_to():
    x, y, _ = data(0, rows=100)
    x.flags.writeable = y.flags.writeable = False
    a, b, c = (veracity(x, y, regressor=LinearRegression, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a.score, b.score)
    assert not np.array_equal(a.score, c.score)


@pytest.mark.parametrize(
    ("x", "y", "how", "message"),
    [
        (np.zeros((5, 2)), np.zeros(5), {}, "features: expected"),
        (np.zeros((50, 2)), np.zeros(49), {}, r"response: expected \(50,\)"),
        (np.zeros((50, 2)), np.full(50, np.nan), {}, "response: 50 rows hold NaN"),
        (np.zeros((50, 2)), np.zeros(50), {"folds": 1}, "at least 2 folds"),
    ],
)
def test_what_it_refuses(x, y, how, message):
    with pytest.raises(CurationError, match=message):
        veracity(x, y, **how)
