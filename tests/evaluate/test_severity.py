"""Severity against all pairs, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from demur.monitor.evaluate import EvaluationError, roc
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.severity import SeverityCounts, c_index, kendall_tau_b
from tests.evaluate import oracles


@pytest.mark.parametrize("values", [3, 10**6])
def test_tau_and_concordance_are_their_definitions(values):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        level = rng.integers(0, 4, 50)
        scores = rng.integers(0, values, 50) + level * rng.integers(0, 3) * values // 4
        counts = SeverityCounts.of(scores, level)
        assert kendall_tau_b(counts) == pytest.approx(kendalltau(scores, level).statistic, abs=1e-12)
        assert c_index(counts) == pytest.approx(oracles.c_index(scores, level), abs=1e-12)
        assert kendall_tau_b(SeverityCounts.of(-scores, level)) == pytest.approx(-kendall_tau_b(counts))


def test_with_two_levels_concordance_is_the_area_under_roc():
    rng = np.random.default_rng(1)
    scores, level = rng.integers(0, 9, 80), np.repeat([0, 1], 40)
    assert c_index(SeverityCounts.of(scores, level)) == pytest.approx(roc.auroc(Counts.of(scores, level)))


def test_resamples_are_judged_as_the_units_they_repeat():
    rng = np.random.default_rng(2)
    scores, level = rng.integers(0, 9, 40), rng.integers(0, 3, 40)
    repeats = rng.multinomial(40, np.full(40, 1 / 40), size=3)
    units = np.zeros((9, 3, 3))
    for column, repeat in enumerate(repeats):
        np.add.at(units[:, :, column], (scores, level), repeat)
    counts = SeverityCounts(np.arange(3.0), units)
    for column, repeat in enumerate(repeats):
        alone = SeverityCounts.of(np.repeat(scores, repeat), np.repeat(level, repeat))
        assert kendall_tau_b(counts)[column] == pytest.approx(kendall_tau_b(alone), abs=1e-12)
        assert c_index(counts)[column] == pytest.approx(c_index(alone), abs=1e-12)


def test_one_level_is_refused():
    with pytest.raises(EvaluationError, match="at least two levels"):
        SeverityCounts.of([1.0, 2.0], [3, 3])
