"""OSCR, CCR at an FPR and SCOD's joint risk against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from demur.monitor.evaluate import Costs, EvaluationError
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.open_set import OpenSet, ccr_at_fpr, joint_aurc, joint_risk, least_joint_risk, oscr
from demur.monitor.evaluate.risk_coverage import aurc, selective_area
from tests.evaluate import oracles


def three(seed, values):
    rng = np.random.default_rng(seed)
    right, wrong, novel = (rng.integers(0, values, n) / 5 + shift for n, shift in ((40, 0), (9, 1), (25, 1.2)))
    every = np.unique(np.concatenate([right, wrong, novel]))
    counts = [np.array([(part == t).sum() for t in every], float) for part in (right, wrong, novel)]
    return (right, wrong, novel), OpenSet(Counts(every, counts[0], counts[2]), counts[1])


@pytest.mark.parametrize("values", [3, 12, 10**6])
def test_open_set_metrics_are_their_definitions(values):
    for seed in range(8):
        parts, units = three(seed, values)
        assert oscr(units) == pytest.approx(oracles.oscr(*parts), abs=1e-12)
        for fpr in (0.0, 0.04, 0.1, 0.5, 1.0):
            assert ccr_at_fpr(units, fpr) == pytest.approx(oracles.ccr_at_fpr(*parts, fpr), abs=1e-12)
        for c_in, c_out in ((1 / 3, 1 / 3), (0.1, 0.75), (0.0, 0.5)):
            expected = oracles.least_joint_risk(*parts, c_in, c_out)
            assert least_joint_risk(units, Costs(c_in, c_out)) == pytest.approx(expected, abs=1e-12)


def test_oscr_never_exceeds_accuracy():
    right, novel = np.zeros(30), np.ones(10)
    counts = Counts(np.array([0.0, 1.0]), np.array([30.0, 0.0]), np.array([0.0, 10.0]))
    units = OpenSet(counts, np.array([10.0, 0.0]))
    assert oscr(units) == oracles.oscr(right, np.zeros(10), novel) == 0.75


def test_the_joint_area_counts_each_side_by_its_share():
    _, units = three(1, 10**6)
    masses = [units.ranked.good, units.wrong, units.ranked.bad]
    whole = [np.repeat(m, 1) for m in masses]
    # Half of all traffic novel: weigh 25 novel units as much as 49 known ones, then integrate risk over coverage finely.
    good, bad = whole[0] * 0.5 / 49, whole[1] * 0.5 / 49 + whole[2] * 0.5 / 25
    coverage, errors = np.append(0, np.cumsum(good + bad)), np.append(0, np.cumsum(bad))
    middle = (np.arange(200_000) + 0.5) / 200_000
    risk = np.interp(middle, coverage, errors) / middle
    assert joint_aurc(units, 0.5) == pytest.approx(risk.mean(), abs=1e-4)


def test_the_area_is_the_limit_of_ever_smaller_units():
    scores, bad = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 0, 1])
    fine = aurc(Counts.of(np.repeat(scores, 4000), np.repeat(bad, 4000)))
    counts = Counts.of(scores, bad)
    assert selective_area(counts.good, counts.bad) == pytest.approx(fine, abs=1e-3)


def test_the_joint_risk_of_doing_nothing_and_of_refusing_everything():
    costs = Costs(0.2, 0.3)
    assert joint_risk(0.1, 0.0, 1.0, costs) == pytest.approx(0.5 * 0.1 + 0.3)
    assert joint_risk(0.0, 1.0, 0.0, costs) == pytest.approx(0.2)


@pytest.mark.parametrize("pair", [(-0.1, 0.5), (0.6, 0.6)])
def test_costs_are_shares(pair):
    with pytest.raises(EvaluationError, match="sum of at most 1"):
        Costs(*pair)
