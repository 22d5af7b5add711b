"""Promised against realised, and whether p-values are uniform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, kstest

import demur
from demur.monitor.evaluate import EvaluationError
from demur.monitor.evaluate.calibration import uniformity


@pytest.fixture(scope="module")
def honest(bundle, sample):
    return demur.evaluate(bundle, sample(1500, 21), bootstrap=0)


def test_exchangeable_data_keep_what_was_promised(honest):
    novel, ambiguous = honest.promises
    assert (novel.rule, novel.promised, novel.units) == ("novel", 0.05, 1500)
    assert novel.state in ("kept", "within chance")
    assert novel.bound > 0.05  # one bundle of 360 calibration rows may exceed 5 % on average over draws
    assert (ambiguous.promised, ambiguous.bound) == (0.2, 0.2)
    assert ambiguous.units == honest.outcome("id").accepted
    assert ambiguous.part == honest.outcome("id").wrong_accepted
    low, high = novel.realised.low, novel.realised.high
    assert binom.sf(novel.part - 1, 1500, low) == pytest.approx(0.025, abs=1e-9)
    assert binom.cdf(novel.part, 1500, high) == pytest.approx(0.025, abs=1e-9)


def test_shifted_data_contradict_it(bundle, sample):
    found = demur.evaluate(bundle, sample(500, 22, shift=0.8), bootstrap=0)
    assert found.promises[0].state == "contradicted"
    assert found.promises[0].realised.value > 0.3


def test_a_promise_about_correct_inputs_is_checked_on_them_alone(sample, tables):
    policy = {
        "monitor": "right",
        "signals": {"logits": 4, "features": 8},
        "scores": ["energy", "msp"],
        "rules": [
            {
                "novel": {
                    "when": "energy",
                    "promise": {"refuse_good_at_most": 0.1, "good": "correct", "confidence": 0.9},
                }
            },
            {"joint": {"when": "msp", "promise": {"wrong_and_accepted_at_most": 0.1}, "reason": "ambiguous"}},
        ],
    }
    bundle = demur.fit(policy, reference=sample(300, 1), calibration=sample(600, 2))
    found = demur.evaluate(bundle, tables["test"], bootstrap=0)
    right = int((tables["test"]["logits"].argmax(axis=1) == tables["test"]["label"]).sum())
    assert found.promises[0].units == right < 400
    assert found.promises[0].bound == found.promises[0].promised == 0.1
    assert (found.promises[1].units, found.promises[1].part) == (400, found.outcome("id").wrong_accepted)


def test_p_values_of_exchangeable_data_are_uniform_and_of_others_are_not(honest, bundle, sample):
    assert all(u.ks_p > 0.001 for u in honest.calibration.values())
    assert set(honest.calibration) >= {"msp", "energy", "fused"}
    found = demur.evaluate(bundle, sample(500, 22, shift=0.8), bootstrap=0).calibration["mahalanobis"]
    assert found.ks_p < 1e-6
    assert found.anticonservative == found.ks > 0.3


def test_the_distance_is_that_of_kolmogorov_and_smirnov_up_to_the_grid():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 10_001, 400) / 10_000
    found = uniformity(values, 9_999)
    assert found.ks == pytest.approx(kstest(values, "uniform").statistic, abs=2e-4)
    assert found.below[1] == (0.05, pytest.approx((values <= 0.05).mean()))


def test_a_p_value_at_a_level_is_at_the_level_in_float32_too():
    assert uniformity(np.array([0.01, 0.05, 0.1, 1.0], np.float32), 99).below == (
        (0.01, 0.25),
        (0.05, 0.5),
        (0.1, 0.75),
    )


def test_a_perfect_grid_has_no_distance():
    grid = np.arange(1, 101) / 100
    assert uniformity(grid, 99).ks == pytest.approx(0.0, abs=1e-12)
    half = uniformity(np.repeat(grid[:50], 2), 99)
    assert (half.ks, half.anticonservative, half.at) == pytest.approx((0.5, 0.5, 0.5))
    upper = uniformity(np.repeat(grid[50:], 2), 99)
    assert (upper.ks, upper.anticonservative) == pytest.approx((0.5, 0.0))


def test_the_chance_of_a_distance_counts_both_samples():
    rng = np.random.default_rng(1)
    small = []
    for _ in range(300):
        calibration, test = rng.normal(size=80), rng.normal(size=400)
        p = (1 + (calibration[None, :] >= test[:, None]).sum(axis=1)) / 81
        small.append(uniformity(p, 80).ks_p < 0.05)
    assert np.mean(small) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(small) > 0.005


@pytest.mark.parametrize(("values", "units"), [([0.0, 0.5], 9), ([0.5, 1.1], 9), ([0.5], 0), ([np.nan], 9)])
def test_what_is_no_p_value_is_refused(values, units):
    with pytest.raises(EvaluationError, match="expected"):
        uniformity(values, units)
