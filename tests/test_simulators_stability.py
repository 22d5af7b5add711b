"""RejEx beside the plain contamination quantile: how often another calibration draw would call an accepted score anomalous."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.promises import CalibrationSample, RuleSpec, StableAtContamination, calibrate
from demur.detectors.promises.stability import anomalous_probability, flagged, stability
from demur.detectors.reason import Reason
from tests.simulators import DRAWS, within

GAMMA, TAIL = 0.1, 5.0


@pytest.mark.parametrize("n", [400, 1000])
@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_accepted_scores_stay_normal_under_another_draw_and_the_quantile_flips_a_coin(n, draws):
    rng = np.random.default_rng(n)
    spec = RuleSpec("stable", "v", Reason.NOVEL, StableAtContamination(GAMMA, TAIL))
    samples = [CalibrationSample({"v": rng.random(n).astype(np.float32)}) for _ in range(draws)]
    t = np.array([calibrate([spec], x).rules[0].threshold[0] for x in samples])
    quantile = np.array([np.sort(x.scores["v"])[n - flagged(n, GAMMA) - 1] for x in samples])
    other = np.sort(rng.random((draws, n)), axis=1)[:, n - flagged(n, GAMMA)]
    flip = stability(n, GAMMA, TAIL).flip
    assert np.mean(t >= other) <= flip + 3 * np.sqrt(flip / draws)
    assert flip < 0.1
    assert np.mean(quantile >= other) > 0.4


def test_the_printed_shares_are_those_of_fresh_traffic():
    rng, n = np.random.default_rng(7), 1000
    found = stability(n, GAMMA, TAIL)
    spec = RuleSpec("stable", "v", Reason.NOVEL, StableAtContamination(GAMMA, TAIL))
    refused, unstable = [], []
    for _ in range(DRAWS):
        v = rng.random(n).astype(np.float32)
        refused.append(1 - calibrate([spec], CalibrationSample({"v": v})).rules[0].threshold[0])
        low, high = np.sort(v)[[found.low - 1, found.high]]
        unstable.append(high - low)
    assert np.mean(refused) == pytest.approx(found.refused, abs=3 * np.std(refused) / np.sqrt(DRAWS) + 2 / n)
    assert np.mean(unstable) == pytest.approx(found.rate, abs=3 * np.std(unstable) / np.sqrt(DRAWS) + 2 / n)
    assert within(np.array(unstable) > found.rate_upper, 0.1)


def test_a_call_is_as_stable_as_exceed_says():
    """The probability that another training set of n scores calls it anomalous, counted."""
    rng, n = np.random.default_rng(8), 200
    training = np.sort(rng.random((20 * DRAWS, n)), axis=1)[:, n - flagged(n, GAMMA)]
    for psi in (165, 180, 190):
        said = float(anomalous_probability(n, GAMMA, np.array(psi)))
        assert np.mean((1 + psi) / (n + 2) > training) == pytest.approx(said, abs=3 * np.sqrt(0.25 / training.size))
