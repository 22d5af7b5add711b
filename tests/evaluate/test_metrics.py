"""Ranking metrics against definitions, a second witness, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from demur.monitor.evaluate import EvaluationError, precision_recall, risk_coverage, roc
from demur.monitor.evaluate.counts import Counts
from tests.evaluate import oracles

PAIRS = {
    "auroc": (roc.auroc, oracles.auroc),
    "aupr_bad": (precision_recall.aupr_bad, lambda s, b: oracles.aupr(s, b, 1)),
    "aupr_good": (precision_recall.aupr_good, lambda s, b: oracles.aupr(s, b, 0)),
    "bad_accepted": (roc.bad_accepted_at_good_tpr, oracles.bad_accepted_at_good),
    "good_rejected": (roc.good_rejected_at_bad_tpr, oracles.good_rejected_at_bad),
    "augrc": (risk_coverage.augrc, oracles.augrc),
    "f1": (lambda c: precision_recall.f1_optimal(c).f1, oracles.f1_best),
}
ORDER_ONLY = [n for n in PAIRS if n != "f1"]


def drawn(units, values, seed):
    rng = np.random.default_rng(seed)
    bad = rng.integers(0, 2, units)
    bad[:2] = 0, 1
    return rng.integers(0, values, units) / 7 + 0.3 * bad * (seed % 3), bad


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_a_metric_is_its_definition(name, values):
    metric, oracle = PAIRS[name]
    for seed in range(12):
        scores, bad = drawn(5 + 9 * seed, values, seed)
        assert metric(Counts.of(scores, bad)) == pytest.approx(oracle(scores, bad), abs=1e-12)


def test_the_area_under_risk_coverage_is_the_mean_over_all_orders_of_ties():
    for seed in range(12):
        scores, bad = drawn(7, 4 if seed % 2 else 1000, seed)
        assert risk_coverage.aurc(Counts.of(scores, bad)) == pytest.approx(oracles.aurc(scores, bad), abs=1e-12)


@pytest.mark.parametrize("values", [3, 40, 10**6])
def test_scikit_learn_agrees(values):
    for seed in range(5):
        scores, bad = drawn(400, values, seed)
        counts = Counts.of(scores, bad)
        assert roc.auroc(counts) == pytest.approx(roc_auc_score(bad, scores), abs=1e-12)
        assert precision_recall.aupr_bad(counts) == pytest.approx(average_precision_score(bad, scores), abs=1e-12)
        assert precision_recall.aupr_good(counts) == pytest.approx(average_precision_score(1 - bad, -scores), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_the_identity_of_augrc_is_exact_with_ties(units):
    scores, bad = np.array([s for s, _ in units], float), np.array([b for _, b in units], int)
    if bad.min() == bad.max():
        return
    counts, error = Counts.of(scores, bad), bad.mean()
    expected = (1 - roc.auroc(counts)) * error * (1 - error) + error**2 / 2
    assert risk_coverage.augrc(counts) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [4, 10**6])
def test_negating_scores_turns_the_area_round(values):
    scores, bad = drawn(300, values, 2)
    scores += bad * values / 30
    there, back = roc.auroc(Counts.of(scores, bad)), roc.auroc(Counts.of(-scores, bad))
    assert there == pytest.approx(1 - back, abs=1e-12)
    assert abs(there - 0.5) > 0.05


@pytest.mark.parametrize("name", ORDER_ONLY)
def test_only_the_order_of_scores_counts(name):
    metric = PAIRS[name][0]
    scores, bad = drawn(200, 30, 4)
    exact = metric(Counts.of(scores, bad))
    order = np.random.default_rng(0).permutation(200)
    assert metric(Counts.of(scores[order], bad[order])) == pytest.approx(exact, abs=1e-13)
    assert metric(Counts.of(np.exp(scores), bad)) == pytest.approx(exact, abs=1e-13)
    assert metric(Counts.of(np.where(scores == scores.max(), np.inf, scores), bad)) == pytest.approx(exact, abs=1e-13)
    assert metric(Counts.of(np.repeat(scores, 3), np.repeat(bad, 3))) == pytest.approx(exact, abs=1e-12)


def test_perfect_and_useless_rankings():
    bad = np.array([0] * 90 + [1] * 10)
    perfect, useless = Counts.of(bad * 1.0, bad), Counts.of(np.zeros(100), bad)
    assert (roc.auroc(perfect), roc.auroc(useless)) == (1.0, 0.5)
    assert (roc.bad_accepted_at_good_tpr(perfect), roc.bad_accepted_at_good_tpr(useless)) == (0.0, 1.0)
    assert precision_recall.aupr_bad(useless) == pytest.approx(0.1)
    assert risk_coverage.augrc(perfect) == pytest.approx(0.1**2 / 2)
    assert risk_coverage.aurc(useless) == pytest.approx(0.1)
    assert abs(risk_coverage.e_aurc(perfect)) < 0.01
    assert risk_coverage.e_aurc(useless) == pytest.approx(0.1 - (0.1 + 0.9 * math.log(0.9)))


def test_no_unit_is_lost_to_the_last_bit_of_95_percent():
    good = np.arange(140.0)  # 0.95 * 140 = 132.99999999999997 in floating point, 133 units
    scores, bad = np.append(good, 132.5), np.append(np.zeros(140, int), 1)
    assert roc.bad_accepted_at_good_tpr(Counts.of(scores, bad)) == 0.0
    assert roc.bad_accepted_at_good_tpr(Counts.of(np.append(good, 131.5), bad)) == 1.0


def test_two_papers_mean_different_things_by_fpr95():
    scores = np.concatenate([np.linspace(0, 1, 100), np.linspace(0.9, 1, 90), np.linspace(0, 0.01, 10)])
    counts = Counts.of(scores, np.repeat([0, 1], 100))
    assert roc.bad_accepted_at_good_tpr(counts) < 0.65
    assert roc.good_rejected_at_bad_tpr(counts) > 0.95


@pytest.mark.parametrize(
    ("scores", "bad", "match"),
    [
        ([0.1, math.nan, 0.3], [0, 1, 1], "NaN for 1 of 3 units.*unit 1"),
        ([0.1, 0.2], [0, 0], "none of them bad"),
        ([0.1, 0.2], [1, 1], "none of them good"),
        ([0.1, 0.2], [0, 1, 1], r"expected \(2,\)"),
        ([0.1, 0.2], [0, 2], "0 .good. and 1 .bad. only"),
        ([], [], "at least one unit"),
        ([[0.1, 0.2]], [[0, 1]], r"got shape \(1, 2\)"),
    ],
)
def test_what_no_metric_is_defined_on_is_refused(scores, bad, match):
    with pytest.raises(EvaluationError, match=match):
        Counts.of(scores, bad)


def test_selective_risk_needs_no_wrong_unit():
    counts = Counts.of_one_class([0.1, 0.4, 0.2], [0, 0, 0])
    assert (risk_coverage.aurc(counts), risk_coverage.augrc(counts), risk_coverage.e_aurc(counts)) == (0.0, 0.0, 0.0)
    assert risk_coverage.e_aurc(Counts.of_one_class([0.1, 0.4], [1, 1])) == 0.0


def test_resamples_are_judged_as_the_units_they_repeat():
    scores, bad = drawn(60, 9, 5)
    rng = np.random.default_rng(3)
    weight = rng.multinomial(60, np.full(60, 1 / 60), size=4)
    distinct, index = np.unique(scores, return_inverse=True)
    stacks = [np.stack([np.bincount(index, w * (bad == c), len(distinct)) for w in weight], axis=1) for c in (0, 1)]
    counts = Counts(distinct, *stacks)
    for metric in (*(m for n, (m, _) in PAIRS.items() if n != "f1"), risk_coverage.aurc, risk_coverage.e_aurc):
        alone = [float(metric(Counts.of(np.repeat(scores, w), np.repeat(bad, w)))) for w in weight]
        assert metric(counts) == pytest.approx(alone, abs=1e-12)


def test_a_resample_without_bad_units_is_undefined_not_wrong():
    counts = Counts(np.array([0.0, 1.0]), np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 0.0]]))
    for metric in (roc.auroc, roc.bad_accepted_at_good_tpr, roc.good_rejected_at_bad_tpr, precision_recall.aupr_bad):
        found = metric(counts)
        assert not np.isnan(found[0])
        assert np.isnan(found[1])


def test_the_curves_are_the_metrics():
    scores, bad = drawn(300, 25, 1)
    counts = Counts.of(scores, bad)
    curve = roc.roc_curve(counts)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc.auroc(counts), abs=1e-12)
    risk = risk_coverage.risk_coverage_curve(counts)
    assert risk.x[-1] == 1.0
    assert risk.y[-1] == pytest.approx(bad.mean())
    assert np.trapezoid(np.append(0, risk.x * risk.y), np.append(0, risk.x)) == pytest.approx(
        risk_coverage.augrc(counts)
    )
