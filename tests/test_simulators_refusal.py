"""Refusal promises that hold at every level at once, and the Neyman-Pearson choice, against what a single limit does."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.promises import CalibrationSample, conditional, neyman_pearson, order
from tests.simulators import DRAWS, novel, thresholds, within

LEVELS = np.arange(0.02, 0.9, 0.04)


def rates(rng, draws, n, ranks):
    """(draws, levels): the share of good units above each of these order statistics of n uniforms; rank n + 1 refuses none."""
    table = np.sort(rng.random((draws, n)), axis=1)
    return 1 - np.hstack([table, np.ones((draws, 1))])[:, np.array(ranks) - 1]


@pytest.mark.parametrize(
    ("n", "draws"), [(100, 4 * DRAWS), (1000, 4 * DRAWS), pytest.param(5000, 10 * DRAWS, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("by", ["simes", "asymptotic"])
def test_conditional_p_values_hold_at_every_level_at_once_and_the_tolerance_limit_does_not(by, n, draws):
    rng = np.random.default_rng(n)
    ranks = [conditional.rank(n, a, 0.1, by) for a in LEVELS]
    assert within((rates(rng, draws, n, ranks) > LEVELS).any(axis=1), 0.1)
    single = [order.tolerance_rank(n, a, 0.9) for a in LEVELS]
    assert not within((rates(rng, draws, n, single) > LEVELS).any(axis=1), 0.1)


@pytest.mark.parametrize("by", ["simes", "asymptotic"])
def test_the_bounds_cover_all_order_statistics_together(by):
    for n in (100, 400, 1000):
        u = np.sort(np.random.default_rng(n).random((4 * DRAWS, n)), axis=1)
        missed = (u > conditional.BOUNDS[by](n, 0.1)).any(axis=1)
        assert within(missed, 0.1)
        assert np.mean(missed) > (0.07 if by == "simes" else 0.03)


def test_a_rule_by_simes_keeps_its_level_and_the_marginal_threshold_does_not():
    rng = np.random.default_rng(5)
    samples = [CalibrationSample({"v": rng.random(400).astype(np.float32)}) for _ in range(DRAWS)]
    assert within(1 - thresholds([novel(0.1, 0.9, by="simes")], samples)[:, 0] > 0.1, 0.1)
    assert not within(1 - thresholds([novel(0.1)], samples)[:, 0] > 0.1, 0.1)


def test_the_column_chosen_for_its_power_keeps_the_false_alarm_bound_and_an_unpaid_choice_does_not():
    """Candidates without any power: their outliers are good units, so the choice prefers a low threshold."""
    rng = np.random.default_rng(6)
    paid, unpaid, inside = [], [], []
    for _ in range(DRAWS):
        good, outliers = rng.random((8, 300)).astype(np.float32), rng.random((8, 2000)).astype(np.float32)
        names = {str(i): (good[i], outliers[i]) for i in range(8)}
        chosen = neyman_pearson.choose(names, 0.1, 0.9)
        paid.append(1 - chosen.threshold > 0.1)
        inside.append(chosen.low <= 1 - chosen.threshold <= chosen.high)
        rank = order.tolerance_rank(300, 0.1, 0.9)
        single = np.sort(good, axis=1)[:, rank - 1]
        unpaid.append(1 - single[np.argmax((outliers > single[:, None]).mean(axis=1))] > 0.1)
    assert within(paid, 0.1)
    assert not within(unpaid, 0.1)
    assert np.mean(inside) > 0.95
