"""Promises on a simulator whose population risk is known in closed form, and what naive thresholds do there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demur.detectors.promises import (
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    binomial,
    calibrate,
    selective,
)
from demur.detectors.reason import Reason
from tests.simulators import (
    DRAWS,
    ERROR,
    OPTION_LOGITS,
    POWER,
    RISK,
    answers,
    draw,
    easy_when_novel,
    novel,
    on_average,
    risk_below,
    thresholds,
    within,
)


@pytest.mark.parametrize("n", [20, 50, 407])
def test_marginal_refusal_holds_on_average_and_the_empirical_quantile_does_not(n):
    rng = np.random.default_rng(n)
    samples = [CalibrationSample({"v": rng.random(n).astype(np.float32)}) for _ in range(DRAWS)]
    assert on_average(1 - thresholds([novel()], samples)[:, 0], 0.05)
    naive = [1 - np.quantile(x.scores["v"], 0.95, method="inverted_cdf") for x in samples]
    if n < 100:
        assert not on_average(naive, 0.05)


def test_the_refused_share_of_a_bundle_stays_below_its_printed_bound():
    rng = np.random.default_rng(2)
    calibrated = [
        calibrate([novel()], CalibrationSample({"v": rng.random(412).astype(np.float32)})) for _ in range(DRAWS)
    ]
    over = [1 - c.rules[0].threshold[0] > c.statements[0].bound for c in calibrated]
    assert within(over, 0.05)
    assert np.mean(over) > 0.02


def test_refusal_with_confidence_holds_and_the_marginal_threshold_does_not():
    rng = np.random.default_rng(3)
    samples = [CalibrationSample({"v": rng.random(300).astype(np.float32)}) for _ in range(DRAWS)]
    assert within(1 - thresholds([novel(confidence=0.9)], samples)[:, 0] > 0.05, 0.1)
    assert not within(1 - thresholds([novel()], samples)[:, 0] > 0.05, 0.1)


def test_ties_do_not_break_a_marginal_promise():
    rng = np.random.default_rng(4)
    levels = 10
    samples = [CalibrationSample({"v": rng.integers(0, levels, 30).astype(np.float32)}) for _ in range(DRAWS)]
    t = thresholds([novel(0.2)], samples)[:, 0]
    assert on_average((levels - 1 - t) / levels, 0.2)
    naive = [np.mean(np.arange(levels) >= np.quantile(x.scores["v"], 0.8)) for x in samples]
    assert not on_average(naive, 0.2)


def test_sliced_refusal_holds_in_each_class_where_one_threshold_does_not():
    rng = np.random.default_rng(5)
    shift = np.array([0.0, 0.5, 2.0])
    rates, pooled = [], []
    for _ in range(DRAWS):
        predicted = rng.choice(3, 200, p=[0.6, 0.25, 0.15])
        v = (rng.random(200) + shift[predicted]).astype(np.float32)
        sample = CalibrationSample({"v": v}, predicted=predicted, classes=3)
        rule = calibrate([novel(0.1, sliced=True)], sample).rules[0]
        rates.append(
            np.clip(1 - (rule.threshold - shift), 0, 1)[~rule.pooled] if not rule.pooled.any() else np.zeros(3)
        )
        pooled.append(np.clip(1 - (calibrate([novel(0.1)], sample).rules[0].threshold[0] - shift), 0, 1))
    for c in range(3):
        assert on_average(np.array(rates)[:, c], 0.1)
    assert not on_average(np.array(pooled)[:, 2], 0.1)


def test_two_refusal_rules_keep_their_shared_total():
    rng = np.random.default_rng(6)
    specs = [RuleSpec(c, c, Reason.NOVEL, RefuseGoodAtMost()) for c in ("v", "s")]
    total, inside = [], []
    for _ in range(DRAWS):
        c = calibrate(specs, draw(rng, 150), refuse_good_at_most=0.1)
        t, u = (float(r.threshold[0]) for r in c.rules)
        total.append(1 - t * u)
        inside.append(c.total.low <= 1 - t * u <= c.total.high)
    assert on_average(total, 0.1)
    assert np.mean(inside) > 0.93


def test_selective_risk_holds_and_the_empirical_threshold_breaks_it():
    rng = np.random.default_rng(7)
    samples = [draw(rng, 1000) for _ in range(DRAWS)]
    u = thresholds([ERROR], samples)[:, 0]
    assert within(risk_below(u) > RISK, 0.1)
    assert np.mean(u > 0) > 0.95
    naive = []
    for sample in samples:
        counts = selective.prefixes(sample.scores["s"], sample.loss)
        naive.append(counts.thresholds[np.flatnonzero(counts.wrong / counts.accepted <= RISK)[-1]])
    assert not within(risk_below(np.array(naive)) > RISK, 0.1)


def test_calibrated_alone_a_selective_promise_breaks_when_a_refusal_rule_is_added_and_on_survivors_it_holds():
    rng = np.random.default_rng(8)
    refuse = novel(0.25)
    samples = [draw(rng, 2000, easy_when_novel) for _ in range(DRAWS)]
    t, together = thresholds([refuse, ERROR], samples).T
    alone = thresholds([ERROR], samples)[:, 0]
    risk = np.array([risk_below(1.0, x, easy_when_novel) for x in t])
    assert within(risk_below(alone) > RISK, 0.1)
    assert np.mean(alone**POWER * risk > RISK) > 0.2
    assert within(together**POWER * risk > RISK, 0.1)
    assert np.mean(together > 0) > 0.95


@pytest.mark.parametrize("case", ["labels", "ties", pytest.param("clusters", marks=pytest.mark.slow)])
def test_selective_risk_holds_where_the_rows_must_be_split(case):
    rng = np.random.default_rng(9)
    samples = []
    for _ in range(DRAWS):
        x = draw(rng, 2000, easy_when_novel)
        if case == "ties":
            x = CalibrationSample(
                {"v": np.ceil(x.scores["v"] * 20).astype(np.float32) / np.float32(20), "s": x.scores["s"]}, loss=x.loss
            )
        if case == "clusters":
            x = copied(rng, x, 1, 3)
        samples.append(x)
    t, u = thresholds([novel(0.25, good="correct" if case == "labels" else "id"), ERROR], samples).T
    risk = np.array([risk_below(1.0, x, easy_when_novel) for x in t])
    assert np.mean(u > 0) > 0.9
    assert within(u**POWER * risk > RISK, 0.1)


def copied(rng, x, least, most):
    """The same rows, each as a group of identical ones: as dependent as rows can be."""
    group = np.repeat(np.arange(x.rows), rng.integers(least, most + 1, x.rows))
    return CalibrationSample({k: v[group] for k, v in x.scores.items()}, loss=x.loss[group], group=group)


def test_selective_risk_holds_for_clustered_rows_and_pooling_them_breaks_it():
    rng = np.random.default_rng(10)
    samples = [copied(rng, draw(rng, 300), 5, 15) for _ in range(DRAWS)]
    assert within(risk_below(thresholds([ERROR], samples)[:, 0]) > RISK, 0.1)
    pooled = [CalibrationSample({"s": x.scores["s"]}, loss=x.loss) for x in samples]
    assert not within(risk_below(thresholds([ERROR], pooled)[:, 0]) > RISK, 0.1)


@pytest.mark.slow
def test_no_excess_where_risk_is_not_monotone_in_the_score():
    rng = np.random.default_rng(11)
    edges = np.linspace(0, 1, 9)
    rate = np.array([0.02, 0.15, 0.02, 0.12, 0.05, 0.2, 0.02, 0.3])
    mean = np.concatenate([[0], np.cumsum(rate * np.diff(edges))])
    u = []
    for _ in range(DRAWS):
        s = rng.random(800).astype(np.float32)
        loss = (rng.random(800) < rate[np.minimum((s * 8).astype(int), 7)]).astype(np.float64)
        u.append(thresholds([ERROR], [CalibrationSample({"s": s}, loss=loss)])[0, 0])
    true = np.interp(u, edges, mean) / np.maximum(u, 1e-9)
    assert within(true > RISK, 0.1)


def grouped(rng, groups):
    """Groups of 1 to 9 rows around a centre of their own; the larger the group, the higher its scores."""
    sizes = rng.integers(1, 10, groups)
    group = np.repeat(np.arange(groups), sizes)
    centre = rng.normal(size=groups) + 0.2 * sizes
    return group, (centre[group] + 0.5 * rng.normal(size=group.size)).astype(np.float32)


def row_rates(t):
    """P(row > t), a group drawn and then one of its rows, and P(some row > t)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    tail = np.vectorize(math.erfc)
    above = {m: 0.5 * tail((np.subtract.outer(t, nodes) - 0.2 * m) / 0.5 / math.sqrt(2)) for m in range(1, 10)}
    row = np.mean([p @ weights for p in above.values()], axis=0)
    some = np.mean([(1 - (1 - p) ** m) @ weights for m, p in above.items()], axis=0)
    return row, some


def test_clustered_rows_hold_their_weighted_promise_and_pooled_rows_do_not_hold_the_groups():
    rng = np.random.default_rng(12)
    weighted, pooled, by_group, bounds = [], [], [], []
    image = RuleSpec("novel", "v", Reason.NOVEL, RefuseGoodAtMost(0.05), unit="group")
    for _ in range(DRAWS):
        group, v = grouped(rng, 80)
        most = np.full(80, -np.inf, dtype=np.float32)
        np.maximum.at(most, group, v)
        c = calibrate([novel()], CalibrationSample({"v": v}, group=group))
        weighted.append(c.rules[0].threshold[0])
        bounds.append(c.statements[0].bound)
        pooled.append(calibrate([novel()], CalibrationSample({"v": v})).rules[0].threshold[0])
        by_group.append(calibrate([image], CalibrationSample({"v": most}, group=group)).rules[0].threshold[0])
    rate = row_rates(np.array(weighted))[0]
    assert on_average(rate, 0.05)
    assert np.mean(rate) > 0.03
    assert within(rate > np.array(bounds), 0.05)
    assert on_average(row_rates(np.array(by_group))[1], 0.05)
    assert np.mean(row_rates(np.array(pooled))[1]) > 0.08


def test_without_the_test_groups_own_weight_the_promise_breaks():
    rng = np.random.default_rng(13)
    with_own, without = [], []
    for _ in range(DRAWS):
        group, v = grouped(rng, 30)
        share = 1 / np.bincount(group)[group]
        order = np.argsort(v)
        above = share.sum() - np.cumsum(share[order])
        without.append(v[order][np.flatnonzero(above <= 0.05 * 30)[0]])
        with_own.append(calibrate([novel()], CalibrationSample({"v": v}, group=group)).rules[0].threshold[0])
    assert on_average(row_rates(np.array(with_own))[0], 0.05)
    assert not on_average(row_rates(np.array(without))[0], 0.05)


def test_clustered_rows_hold_a_promise_with_confidence():
    rng = np.random.default_rng(14)
    t = []
    for _ in range(DRAWS):
        group, v = grouped(rng, 150)
        t.append(calibrate([novel(0.1, 0.9)], CalibrationSample({"v": v}, group=group)).rules[0].threshold[0])
    assert within(row_rates(np.array(t))[0] > 0.1, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, 3000])
def test_the_whole_policy_over_many_draws(n):
    rng = np.random.default_rng(n)
    samples = [draw(rng, n, easy_when_novel) for _ in range(10 * DRAWS)]
    t, u = thresholds([novel(0.1, 0.9), ERROR], samples).T
    assert within(1 - t[t > 0] > 0.1, 0.1)
    risk = np.array([risk_below(1.0, x, easy_when_novel) for x in t])
    assert within(u**POWER * risk > RISK, 0.1)


@pytest.mark.skipif(not OPTION_LOGITS.is_file(), reason="real option logits are absent; set DEMUR_DATA to their folder")
@pytest.mark.parametrize(("model", "risk"), [("Mistral-7B-v0.1", 0.10), ("Llama-2-13b-hf", 0.10), ("Qwen-72B", 0.02)])
def test_selective_risk_on_resplits_of_real_answers(model, risk, record_property):
    """A violation counts only when the exact one-sided 99 % lower bound of the test error exceeds the promise."""
    s, wrong = answers(model)
    spec = RuleSpec("ambiguous", "s", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(risk, 0.9))
    rng = np.random.default_rng(15)
    broken, naive, coverage = [], [], []
    for _ in range(300):
        order = rng.permutation(len(s))
        cal, rest = order[:1000], order[1000:]
        u = thresholds([spec], [CalibrationSample({"s": s[cal]}, loss=wrong[cal])])[0, 0]
        counts = selective.prefixes(s[cal], wrong[cal])
        loose = counts.thresholds[np.flatnonzero(counts.wrong / counts.accepted <= risk)[-1]]
        coverage.append(np.mean(s[rest] <= u) if u > 0 else 0.0)
        for t, found in ((u, broken), (loose, naive)):
            taken = wrong[rest][s[rest] <= t]
            found.append(taken.size > 0 and binomial.lower(int(taken.sum()), taken.size, 0.01) > risk)
    abstained = float(np.mean(np.array(coverage) == 0))
    record_property("coverage", float(np.mean(coverage)))
    print(
        f"{model} risk {risk}: broken {np.mean(broken):.3f}, naive {np.mean(naive):.3f}, coverage {np.mean(coverage):.2f}, all-abstain {abstained:.2f}"
    )
    assert within(broken, 0.1)
    assert np.mean(naive) > np.mean(broken)
    assert np.mean(coverage) > 0.3
    assert abstained < 0.05
