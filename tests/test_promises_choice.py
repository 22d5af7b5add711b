"""A rule that lists several scores: the most powerful on outliers is chosen, every candidate is paid for, and one stays."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import stats

import demur
from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    calibrate,
    neyman_pearson,
)
from demur.detectors.promises.binomial import interval, upper
from demur.detectors.reason import Reason
from demur.detectors.scores import SCORES
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.gathering import TAUGHT_BY_OUTLIERS
from tests.simulators import DRAWS, on_average, within

ALPHA, NAMES = 0.1, tuple("abcdefgh")
PROMISE = RefuseGoodAtMost(ALPHA, 0.9, by="neyman_pearson")
CHOICE = RuleSpec("novel", "a", Reason.NOVEL, PROMISE, candidates=NAMES)


def columns(rng, n):
    """Eight columns without any power: their outliers are good units, so the choice prefers a low threshold."""
    return {c: rng.random(n).astype(np.float32) for c in NAMES}


@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_the_rule_that_chose_its_column_keeps_its_bound_and_a_choice_that_is_not_paid_for_does_not(draws):
    rng = np.random.default_rng(41)
    paid, unpaid, outside, naive = [], [], [], []
    for _ in range(draws):
        sample = CalibrationSample(columns(rng, 300), outliers=columns(rng, 1500))
        found = calibrate([CHOICE], sample)
        (rule,), total, (statement,) = found.rules, found.total, found.statements
        assert rule.threshold.shape == (1,)
        paid.append(1 - rule.threshold[0])
        outside.append(not total.low <= paid[-1] <= total.high)
        naive.append(paid[-1] > interval(total.refused, 300, 0.95)[1])
        assert statement.bound == upper(total.refused, 300, 0.1 / 8)
        single = {c: calibrate([RuleSpec("novel", c, Reason.NOVEL, PROMISE)], sample).rules[0] for c in NAMES[:3]}
        powers = {c: np.mean(sample.outliers[c] > r.threshold[0]) for c, r in single.items()}
        unpaid.append(1 - single[max(powers, key=powers.get)].threshold[0])
    assert within(np.array(paid) > ALPHA, 0.1)
    assert np.mean(paid) > 0.05
    assert not within(np.array(unpaid) > ALPHA, 0.1)
    assert within(outside, 0.05)
    assert not within(naive, 0.05)


def test_errors_are_judged_on_units_that_did_not_choose_the_column():
    """The thresholds that choose say something about who survives, so the choice and the errors have halves of their own."""
    rng, broken, accepted = np.random.default_rng(42), [], 0
    error = RuleSpec("ambiguous", "s", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(0.15, 0.9, "fixed_sequence"))
    choice = RuleSpec(
        "novel", "a", Reason.NOVEL, RefuseGoodAtMost(0.4, 0.6, by="neyman_pearson"), candidates=("a", "b")
    )
    for _ in range(DRAWS):
        scores = {c: rng.random(300).astype(np.float32) for c in "abs"}
        loss = (rng.random(300) < 0.4 * scores["s"]).astype(np.float64)
        sample = CalibrationSample(scores, loss, outliers={c: rng.random(200).astype(np.float32) for c in "ab"})
        try:
            found = calibrate([choice, error], sample)
        except CalibrationRefused:
            broken.append(False)
            continue
        accepted += 1
        assert found.folds == {"novel": "1 of 2", "ambiguous": "2 of 2"}
        broken.append(0.4 * found.rules[1].threshold[0] / 2 > 0.15)  # P(wrong | s <= u) = 0.2 u
    assert within(broken, 0.1)
    assert np.mean(broken) > 0.005
    assert accepted > DRAWS / 3


@pytest.mark.parametrize(("n", "rank", "ties"), [(50, 46, 2), (300, 280, 8), (30, 29, 4), (90, 85, 1)])
def test_the_worst_of_several_tails_is_bounded_on_average_whatever_their_dependence(n, rank, ties):
    """The worst dependence: one of the tails is always in its upper 1 / ties part, so the maximum is a draw from that part."""
    tail = stats.beta(n - rank + 1, rank)
    grid = tail.ppf(1 - 1 / ties + (np.arange(200_000) + 0.5) / 200_000 / ties)
    bound = neyman_pearson._worst_on_average(n, rank, ties)
    assert abs(bound - grid.mean()) < 1e-5
    independent = tail.rvs((20_000, ties), random_state=1).max(axis=1)
    assert on_average(independent, bound)


def test_a_low_confidence_still_keeps_the_share_that_a_total_counts_on():
    rng = np.random.default_rng(43)
    low = RuleSpec("novel", "a", Reason.NOVEL, RefuseGoodAtMost(ALPHA, 0.5, by="neyman_pearson"), candidates=NAMES)
    rates = [
        1 - calibrate([low], CalibrationSample(columns(rng, 100), outliers=columns(rng, 400))).rules[0].threshold[0]
        for _ in range(DRAWS)
    ]
    assert on_average(rates, ALPHA)
    with pytest.raises(CalibrationRefused) as caught:
        calibrate([low], CalibrationSample(columns(rng, 20), outliers=columns(rng, 30)))
    assert caught.value.rule == "novel"
    enough = caught.value.rows_needed
    calibrate([low], CalibrationSample(columns(rng, enough), outliers=columns(rng, 30)))
    with pytest.raises(CalibrationRefused):
        calibrate([low], CalibrationSample(columns(rng, enough - 1), outliers=columns(rng, 30)))


def policy(**more):
    rule = {
        "when": ["energy", "msp", "mahalanobis"],
        "promise": {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "neyman_pearson"},
    }
    return {
        "monitor": "choice",
        "signals": {"logits": 4, "features": 8},
        "scores": ["energy", "msp", "mahalanobis"],
        "rules": [{"novel": rule | more}],
    }


def given(sample):
    far = sample(200, 5, shift=0.6)
    return {
        "reference": sample(300, 1),
        "calibration": sample(900, 2),
        "outliers": {n: far[n] for n in ("logits", "features")},
    }


@pytest.mark.parametrize("when", [["energy", "msp", "mahalanobis"], "mahalanobis"])
def test_outliers_without_one_finite_score_are_not_taken_for_none_given(sample, when):
    tables = given(sample)
    tables["outliers"]["features"] = np.full_like(tables["outliers"]["features"], np.nan)
    message = "outliers: rule novel: expected finite scores of mahalanobis .*, got NaN or infinity for all 200"
    with pytest.raises(ConfigurationError, match=message):
        demur.fit(policy(when=when), **tables)
    tables["outliers"]["features"][:3] = 9.0
    assert (
        "Of the 3 labelled outliers 100.0 % are refused"
        in demur.fit(policy(when=when), **tables).manifest.rules[0].statement
    )


def by_hand(bundle, outliers):
    """The choice in float64 loops: thresholds by the binomial tail at delta / 3, then the greatest power."""
    scores = {c.name: np.sort(bundle.arrays("calibration")[f"scores/{c.name}"]) for c in bundle.manifest.columns}
    best = ("", -1.0, 0.0)
    for name in ("energy", "msp", "mahalanobis"):
        n = len(scores[name])
        rank = next(k for k in range(1, n + 1) if stats.binom.sf(k - 1, n, 0.9) <= 0.1 / 3)
        threshold = scores[name][rank - 1]
        power = float(np.mean(outliers[name] > threshold))
        best = max(best, (name, power, threshold), key=lambda b: b[1])
    return best


def test_one_column_and_one_threshold_reach_the_bundle_and_the_sentence_says_what_was_compared(sample):
    tables = given(sample)
    bundle = demur.fit(policy(), **tables)
    verdicts = demur.Monitor.of(bundle).assess(**tables["outliers"])
    seen = {c: verdicts.scores[:, i] for i, c in enumerate(verdicts.columns)}
    name, power, threshold = by_hand(bundle, seen)
    rule = bundle.manifest.rules[0]
    assert (rule.column, rule.thresholds) == (name, [threshold])
    np.testing.assert_array_equal(~verdicts.accept, seen[name] > threshold)
    assert f"{name} was chosen for refusing most labelled outliers, among energy " in rule.statement
    assert f"{name} {100 * power:.1f} %" in rule.statement
    assert "the promise pays for all of them" in rule.statement
    assert f"Of the 200 labelled outliers {100 * power:.1f} % are refused" in rule.statement
    assert any(
        "umbrella rule (Tong, Feng & Li 2018) among 3 columns, from 900 rows" in s for s in bundle.manifest.statements
    )
    assert demur.calibrate(bundle).encode() == bundle.encode()
    fresh = demur.calibrate(bundle, calibration=sample(700, 9)).manifest.rules[0]
    assert "Of the 200 labelled outliers" in fresh.statement


def test_rows_that_come_in_groups_pay_for_their_dependence_too():
    rng = np.random.default_rng(44)
    group = np.arange(900) // 2
    sample = CalibrationSample(columns(rng, 900), group=group, outliers=columns(rng, 200))
    rule = calibrate([CHOICE], sample).rules[0]
    kept = sample.scores[rule.column]
    tops = np.sort(kept)[
        ::-1
    ]  # two rows weigh as one group: the j-th largest of the table is the 2j-th or so of the rows
    most = next(k for k in range(450, -1, -1) if stats.binom.cdf(k, 450, ALPHA) <= 0.1 / (8 * np.e))
    assert rule.threshold[0] == tops[2 * most]


def test_a_choice_among_group_aggregates_and_among_what_fusions_read(sample):
    tables = given(sample)
    by_group = {n: t | {"group_id": np.arange(len(t["logits"])) // 2} for n, t in tables.items()}
    rule = demur.fit(policy(unit="group"), **by_group).manifest.rules[0]
    assert rule.column.endswith("@max")
    assert "Of the 100 labelled outliers" in rule.statement
    assert "groups" in rule.statement
    fused = policy()
    fused["scores"].append({"all": {"type": "fused", "of": ["energy", "mahalanobis"]}})
    fused["rules"][0]["novel"]["when"] = ["all", "energy"]
    bundle = demur.fit(fused, **tables)
    assert bundle.manifest.rules[0].column in ("all", "energy@rule")
    with pytest.raises(CalibrationRefused, match="fit with --outliers"):
        demur.calibrate(bundle, calibration=sample(700, 9))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"promise": {"refuse_good_at_most": 0.1}}, "only by: neyman_pearson chooses one"),
        ({"when": ["energy", "energy"]}, "lists a score twice"),
        ({"when": ["energy"]}, "when"),
        ({"when": ["energy", "knn"]}, "no score is named 'knn'"),
        ({"slice": "predicted_class"}, "for all rows or groups"),
    ],
)
def test_lists_that_nothing_chooses_from_are_refused_where_they_are_written(sample, more, says):
    with pytest.raises(ConfigurationError, match=says):
        demur.fit(policy(**more), **given(sample))


def test_power_on_outliers_that_a_score_learnt_from_is_said_to_be_flattered(sample):
    document = policy(when=["energy", "taught", "price", "both", "wild"])
    document["scores"] = [
        "energy",
        {"taught": {"type": "outlier_head", "iterations": 5}},
        {"price": {"type": "scod", "score": "mahalanobis"}},
        {"wild": {"type": "scod", "score": "mahalanobis", "slope": 1.0}},
        {"both": {"type": "fused", "of": ["energy", "taught"]}},
    ]
    bundle = demur.fit(document, **given(sample))
    said = "rule novel: taught, price and both learnt from the outliers that its power is counted on; on others it is lower"
    assert said in bundle.manifest.findings
    assert said in demur.calibrate(bundle).manifest.findings
    readers = {n for n, score in SCORES.items() if ".side(" in inspect.getsource(inspect.getmodule(score))}
    assert readers - {"sal"} == TAUGHT_BY_OUTLIERS  # which reads wild traffic
    document["rules"][0]["novel"] = {"when": "taught", "promise": {"refuse_good_at_most": 0.1}}
    assert not any("learnt from" in f for f in demur.fit(document, **given(sample)).manifest.findings)


def test_without_outliers_there_is_nothing_to_choose_by(sample):
    tables = given(sample)
    del tables["outliers"]
    with pytest.raises(
        ConfigurationError, match="rule novel: `when` lists energy, msp, mahalanobis, which are compared"
    ):
        demur.fit(policy(), **tables)
    with pytest.raises(CalibrationRefused, match="there are none for a, b") as caught:
        calibrate([CHOICE], CalibrationSample(columns(np.random.default_rng(1), 300)))
    assert caught.value.rule == "novel"
    for wrong in ({"promise": RefuseGoodAtMost(0.1)}, {"column": "z"}, {"sliced": True}, {"candidates": ("a", "a")}):
        with pytest.raises(ValueError, match='rule "novel"'):
            RuleSpec(
                **{"name": "novel", "column": "a", "reason": Reason.NOVEL, "promise": PROMISE, "candidates": NAMES}
                | wrong
            )
