"""Safety gain, residual hazard, availability cost, and the rest of what four counts say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from demur.monitor.evaluate.decisions import Decisions
from demur.monitor.evaluate.errors import EvaluationError
from tests.evaluate import oracles


def test_the_oracle_of_the_ood_framing_misses_the_model_s_own_errors():
    ood, wrong = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 0, 0, 1, 1])
    found = Decisions.of(ood == 0, wrong)
    assert found.precision == 1.0
    assert found.recall == pytest.approx(2 / 3)


def test_gain_hazard_and_cost_share_out_every_unit():
    found = Decisions(right_accepted=70, wrong_accepted=5, right_refused=10, wrong_refused=15)
    assert (found.safety_gain, found.residual_hazard, found.availability_cost) == (0.15, 0.05, 0.10)
    assert found.safety_gain + found.residual_hazard == pytest.approx(found.wrong / found.units)
    assert found.nra == 70 / 75 == 1 - found.selective_risk
    assert found.cq == (70 + 15) / 100
    assert found.rq == pytest.approx((15 / 10) / (20 / 80))
    assert (found + found).mcc == pytest.approx(found.mcc)


def test_correlation_is_correlation():
    rng = np.random.default_rng(0)
    for _ in range(20):
        accept, wrong = rng.integers(0, 2, 40).astype(bool), rng.integers(0, 2, 40).astype(bool)
        found = Decisions.of(accept, wrong).mcc
        assert found == pytest.approx(oracles.matthews(accept, wrong), abs=1e-12)
        assert found == pytest.approx(matthews_corrcoef(wrong, ~accept), abs=1e-12)


def test_what_is_undefined_is_nan_and_refusing_only_wrong_units_is_infinitely_good():
    nothing = Decisions.of(np.ones(4, bool), np.zeros(4, bool))
    assert all(math.isnan(v) for v in (nothing.precision, nothing.recall, nothing.mcc, nothing.rq))
    assert math.isnan(Decisions.of(np.zeros(4, bool), [0, 1, 0, 1]).selective_risk)
    assert Decisions(3, 1, 0, 2).rq == math.inf


def test_one_decision_for_each_truth():
    with pytest.raises(EvaluationError, match=r"expected \(3,\)"):
        Decisions.of([1, 0, 1], [1, 0])
