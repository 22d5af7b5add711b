"""RejEx and ExCeeD against published numbers, and the threshold that a stability promise becomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    RuleSpec,
    StableAtContamination,
    calibrate,
    stability,
)
from demur.detectors.reason import Reason

STABLE = RuleSpec("stable", "v", Reason.NOVEL, StableAtContamination(0.1))


def test_rejex_of_the_published_code():
    """Computed from its formulas in SciPy: q1, q2, the refused psi, the bounds."""
    for (n, gamma, tail), want in {
        (1000, 0.1, 32): (0.0428520653, 0.1867221658, 814, 958, 0.2966750522, 0.1572390753),
        (1000, 0.05, 32): (0.0135759971, 0.1195903991, 882, 987, 0.2458521010, 0.0688767172),
        (1000, 0.1, 8): (0.0705254856, 0.1348866782, 866, 930, 0.1895967991, 0.1769616049),
        (5000, 0.02, 32): (0.0083686299, 0.0388562489, 4807, 4959, 0.1075077968, 0.0289783823),
        (100, 0.1, 32): (0.0019652229, 0.4417660708, 56, 100, 0.7228691447, 0.1459453077),
    }.items():
        found = stability.stability(n, gamma, tail)
        got = (found.anomalous, found.refused, found.low, found.high, found.rate_upper, found.cost_upper)
        np.testing.assert_allclose(got, want, atol=6e-11)
    psi = np.array([850, 880, 900, 920, 950])
    want = [9.439913808e-07, 0.017559401907, 0.451208343450, 0.982621816824, 0.9999999997835]
    np.testing.assert_allclose(stability.anomalous_probability(1000, 0.1, psi), want, rtol=1e-9)


def test_rejex_needs_as_many_units_as_its_table_says():
    needed = {
        0.1: (40, 70, 100, 160),
        0.05: (80, 140, 200, 320),
        0.02: (200, 350, 500, 850),
        0.01: (500, 700, 1000, 1700),
    }
    for gamma, counts in needed.items():
        assert tuple(stability.units_needed(gamma, t) for t in (4, 8, 16, 32)) == counts
        for n, tail in zip(counts, (4, 8, 16, 32), strict=True):
            assert stability.calls_extremes(n, gamma, tail)
            assert not stability.calls_extremes(n - 1, gamma, tail)


def test_whole_parts_are_counted_exactly():
    assert math.floor(0.29 * 100) == 28
    assert stability.flagged(100, 0.29) == 29


def test_a_far_tail_does_not_refuse_everything():
    """1 - 2 e^-40 is 1 in float64: computed as published, T = 40 would refuse every score."""
    assert 1 - 2 * math.exp(-40) == 1
    found = stability.stability(10_000, 0.1, 40)
    assert 0 < found.anomalous < found.refused < 0.2
    assert found.flip < 1e-9


def test_exceed_confidence_is_the_binomial_tail_on_the_side_of_the_call():
    training = np.sort(np.random.default_rng(1).normal(size=300)).astype(np.float32)
    queries = np.linspace(-3, 3, 41).astype(np.float32)
    called, confidence = stability.exceed_confidence(training, queries, 0.1)
    psi = np.array([(training <= q).sum() for q in queries])
    tail = stats.binom.sf(300 - 30, 300, (1 + psi) / 302)
    np.testing.assert_array_equal(called, psi > 270)
    np.testing.assert_allclose(confidence, np.where(called, tail, 1 - tail), rtol=1e-9)
    with pytest.raises(ValueError, match="needs at least 100"):
        stability.exceed_confidence(training[:20], queries, 0.01)


def test_the_stable_threshold_is_the_last_score_below_the_unstable_ones():
    sample = CalibrationSample({"v": np.arange(1000, dtype=np.float32)})
    c = calibrate([STABLE], sample)
    assert c.rules[0].threshold[0] == 812  # the 813-th smallest; psi = 814 is the first unstable rank
    assert "an expected 18.7 % is refused: 4.3 % as anomalous, 14.4 % because the call is not stable" in c.text
    assert "(at most 29.7 % with 90 % confidence)" in c.text
    assert "RejEx in the log domain (Perini & Davis 2023), from 1000 rows" in c.theorems
    tied = CalibrationSample({"v": np.r_[np.zeros(900), np.ones(100)].astype(np.float32)})
    with pytest.raises(CalibrationRefused, match="tie at the bottom"):
        calibrate([STABLE], tied)
    with pytest.raises(CalibrationRefused, match="use a group rule"):
        calibrate([STABLE], CalibrationSample(sample.scores, group=np.arange(1000) // 2))
