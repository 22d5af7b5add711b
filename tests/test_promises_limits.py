"""Where a promise would say more than is proved: refused, or worded for what is."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    StableAtContamination,
    WrongAndAcceptedAtMost,
    calibrate,
    conditional,
)
from demur.detectors.promises.promise import MOST_ASYMPTOTIC
from demur.detectors.reason import Reason
from tests.simulators import within

RNG = np.random.default_rng(0)


def rule(promise, column="v", **more):
    return RuleSpec(more.pop("name", "rule"), column, Reason.NOVEL, promise, **more)


def test_the_asymptotic_bound_holds_up_to_its_highest_confidence_and_not_above():
    """P(U_(i) <= b_i for all i), counted: sums of exponentials are the order statistics of uniforms."""
    n, draws = 1000, 30_000
    missed = {c: [] for c in (MOST_ASYMPTOTIC, 0.999)}
    bounds = {c: conditional.asymptotic(n, 1 - c) for c in missed}
    rng = np.random.default_rng(1)
    for _ in range(draws // 1000):
        heaped = np.cumsum(rng.standard_exponential((1000, n + 1)), axis=1)
        for confidence, found in missed.items():
            found.append((heaped[:, :-1] / heaped[:, -1:] > bounds[confidence]).any(axis=1))
    broken = {c: np.concatenate(found) for c, found in missed.items()}
    assert within(broken[MOST_ASYMPTOTIC], 1 - MOST_ASYMPTOTIC)
    assert not within(broken[0.999], 0.001)
    RefuseGoodAtMost(0.1, MOST_ASYMPTOTIC, by="asymptotic")
    with pytest.raises(ValueError, match=r"at most 0\.95, got 0\.99; simes is exact"):
        RefuseGoodAtMost(0.1, 0.99, by="asymptotic")


@pytest.mark.parametrize("by", ["split", "simes"])
def test_confidence_by_class_is_said_to_be_for_each_class_alone(by):
    sample = CalibrationSample({"v": RNG.random(600).astype(np.float32)}, predicted=np.arange(600) % 3, classes=3)
    promise = RefuseGoodAtMost(0.1, 0.9, by=by)
    assert "over the calibration draw for each class alone" in calibrate([rule(promise, sliced=True)], sample).text
    assert "for each class alone" not in calibrate([rule(promise)], sample).text


@pytest.mark.parametrize("top", [0.7, 0.12])
def test_a_stability_rule_says_how_much_it_refuses_when_scores_tie(top):
    n = 1000
    v = np.where(np.arange(n) < round(n * (1 - top)), RNG.random(n) / 2, 1.0).astype(np.float32)
    made = calibrate([rule(StableAtContamination(0.1))], CalibrationSample({"v": v}))
    refused = np.mean(v > made.rules[0].threshold[0])
    found = made.statements[0].stability
    assert found.refused == pytest.approx(refused)
    assert f"an expected {100 * refused:.1f} %" in made.text
    assert found.anomalous == pytest.approx(top)
    assert found.rate_upper >= found.rate


def test_a_total_over_correct_rows_and_correct_groups_is_refused():
    group = np.arange(400) // 2
    scores = {"v": RNG.random(400).astype(np.float32), "g": RNG.random(200).astype(np.float32)}
    sample = CalibrationSample(scores, loss=(RNG.random(400) < 0.1).astype(np.float64), group=group)

    def both(good):
        specs = [rule(RefuseGoodAtMost(good=good)), rule(RefuseGoodAtMost(good=good), "g", name="g", unit="group")]
        return calibrate(specs, sample, refuse_good_at_most=0.2)

    with pytest.raises(ValueError, match="needs one unit in every refusal rule"):
        both("correct")
    assert both("id").total.promised == 0.2


def test_levels_found_on_the_data_are_said_to_need_fresh_ones():
    v = RNG.random(200).astype(np.float32)
    sample = CalibrationSample({"v": v}, loss=np.ones(200))
    with pytest.raises(
        CalibrationRefused, match="would work with these, but a level found on them keeps its promise only on new ones"
    ):
        calibrate([rule(WrongAndAcceptedAtMost(0.001))], CalibrationSample({"v": v}, loss=1.0 * (v > 0.5)))
    with pytest.raises(CalibrationRefused, match="no number of them would do"):
        calibrate([rule(ErrorWhenAcceptedAtMost(0.1))], sample)


@pytest.mark.parametrize(("by", "shape"), [("sgr", True), ("fixed_sequence", True), ("learn_then_test", False)])
def test_a_theorem_names_the_shape_of_risk_that_it_needs(by, shape):
    v = RNG.random(2000).astype(np.float32)
    sample = CalibrationSample({"v": v}, loss=(RNG.random(2000) < 0.1 * v).astype(np.float64))
    made = calibrate([rule(ErrorWhenAcceptedAtMost(0.1, 0.9, by))], sample)
    assert ("for an error rate that does not fall as more is accepted" in made.theorems) is shape
