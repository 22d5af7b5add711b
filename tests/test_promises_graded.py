"""Losses between 0 and 1: what carries them, what refuses them, and the sentence that speaks of a mean loss."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import demur
from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    WrongAndAcceptedAtMost,
    calibrate,
    control,
    selective,
)
from demur.detectors.reason import Reason
from demur.monitor.fit.table import SignalsTable, TableError
from tests.simulators import DRAWS, novel, on_average, thresholds, within

ALPHA = 0.05


def joint(confidence=None, by="binomial", alpha=ALPHA):
    return RuleSpec("risky", "s", Reason.AMBIGUOUS, WrongAndAcceptedAtMost(alpha, confidence, by))


def draw(rng, n):
    """v, s uniform; with probability 0.4 s^2 the loss is 1, else uniform in [0, 0.05] with probability 0.3, else 0."""
    v, s = rng.random((2, n)).astype(np.float32)
    slight = np.where(rng.random(n) < 0.3, rng.random(n) / 20, 0.0)
    loss = np.where(rng.random(n) < 0.4 * s**2, 1.0, slight)
    return CalibrationSample({"v": v, "s": s}, loss)


def mean_loss(u, t=1.0):
    """E[loss; v <= t, s <= u]."""
    u = np.asarray(u, np.float64)
    return t * (0.4 * u**3 / 3 + 0.0075 * (u - 0.4 * u**3 / 3))


def empirical(samples):
    """The highest threshold at which the observed mean loss is at most alpha."""
    found = []
    for x in samples:
        order = np.argsort(x.scores["s"])
        sums = np.cumsum(x.loss[order])
        at = np.flatnonzero(sums <= ALPHA * x.rows)
        found.append(x.scores["s"][order][at[-1]] if at.size else 0.0)
    return np.array(found)


@pytest.mark.parametrize("n", [30, 60, 400])
def test_on_average_the_mean_loss_is_controlled_and_by_the_observed_mean_it_is_not(n):
    rng = np.random.default_rng(n)
    samples = [draw(rng, n) for _ in range(2 * DRAWS)]
    controlled = mean_loss(thresholds([joint()], samples)[:, 0])
    assert on_average(controlled, ALPHA)
    assert np.mean(controlled) > (0.03 if n == 30 else 0.034)
    if n == 30:
        assert not on_average(mean_loss(empirical(samples)), ALPHA)


@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_by_betting_it_holds_for_this_calibration_behind_another_rule_and_the_average_does_not(draws):
    rng = np.random.default_rng(51)
    samples = [draw(rng, 300) for _ in range(draws)]
    t, u = thresholds([novel(0.1), joint(0.9, "betting")], samples).T
    assert within(mean_loss(u, t) > ALPHA, 0.1)
    assert np.mean(u > 0.4) > 0.9
    t, u = thresholds([novel(0.1), joint()], samples).T
    assert not within(mean_loss(u, t) > ALPHA, 0.1)


def test_on_average_it_is_the_general_form_of_theorem_one_with_a_bound_of_one():
    rng = np.random.default_rng(52)
    for n in (25, 80):
        for _ in range(20):
            s = rng.integers(0, 12, n).astype(np.float32)
            loss = rng.random(n) ** 3 * (rng.random(n) < 0.5)
            best = -1.0
            for u in sorted(set(s.tolist())):
                total = sum(
                    (Fraction(x) for x, at in zip(loss.tolist(), s.tolist(), strict=True) if at <= u), Fraction(0)
                )
                if (total + 1) / (n + 1) <= Fraction(15, 100):
                    best = u
            found = thresholds([joint(alpha=0.15)], [CalibrationSample({"s": s}, loss)])[0, 0]
            assert found == (best if best >= 0 else 0.0)


def wealth_refutes(losses, risk, delta):
    """The betting test in loops: one running maximum of the wealth."""
    n, logs, total, spread, bet = len(losses), 0.0, 0.5, 0.25, 0.0
    highest, variance = -math.inf, 0.25
    for j, loss in enumerate(losses, 1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
        logs += math.log1p(-bet * (loss - risk)) if bet * (loss - risk) < 1 else -math.inf
        highest = max(highest, logs)
        total += loss
        spread += (loss - total / (j + 1)) ** 2
        variance = spread / (j + 1)
    return highest > math.log(1 / delta)


def test_by_betting_it_is_the_walk_from_the_lowest_threshold_written_out():
    rng = np.random.default_rng(53)
    reached = set()
    for seed in range(12):
        n = 120
        s, loss = rng.permutation(n).astype(np.float32), rng.beta(0.3, 2.7, n) * (rng.random(n) < 0.7)
        places, by_score = np.random.default_rng(seed).permutation(n), np.argsort(s)
        order = [i for i in by_score if loss[i] > 0]
        best = -1
        for k in range(n):
            seen = np.zeros(n)
            for place, i in zip(places, order, strict=False):
                seen[place] = loss[i] if s[i] <= k else 0.0
            if not wealth_refutes(seen, 0.1, 0.1):
                break
            best = k
        counts = selective.graded_prefixes(s, loss)
        assert control.largest(counts, n, 0.1, 0.1, "betting", seed) == best
        reached.add(best)
    assert len(reached) > 3


def test_losses_of_zero_and_one_give_what_they_always_gave():
    rng = np.random.default_rng(54)
    s, wrong = rng.random(200).astype(np.float32), (rng.random(200) < 0.1).astype(np.float64)
    counts, graded = selective.prefixes(s, wrong), selective.graded_prefixes(s, wrong)
    for delta, by in ((None, "binomial"), (0.1, "betting")):
        assert control.largest(counts, 200, 0.08, delta, by, 3) == control.largest(graded, 200, 0.08, delta, by, 3)
        least = [control.smallest_supported(c, 200, delta, by, 3) for c in (counts, graded)]
        assert least[0] == least[1]


def test_a_level_that_is_said_to_work_works():
    rng = np.random.default_rng(55)
    loss = 0.3 + 0.7 * rng.random(40)
    sample = CalibrationSample({"s": rng.random(40).astype(np.float32)}, loss)
    with pytest.raises(CalibrationRefused, match="would accept nothing: needs at least") as caught:
        calibrate([joint(alpha=0.01)], sample)
    calibrate([joint(alpha=caught.value.supported)], sample)
    with pytest.raises(CalibrationRefused, match="have too large a loss, of 40"):
        calibrate([joint(alpha=0.03)], sample)


@pytest.mark.parametrize(("confidence", "by"), [(None, "binomial"), (0.9, "betting"), (0.6, "betting")])
def test_it_works_with_ties_and_in_the_order_in_which_bets_are_made(confidence, by):
    rng, tried = np.random.default_rng(56), 0
    for _ in range(60):
        n = int(rng.integers(20, 120))
        loss = np.where(rng.random(n) < 0.5, rng.random(n), 0)
        sample = CalibrationSample({"s": np.round(rng.random(n), 1).astype(np.float32)}, loss)
        with pytest.raises(CalibrationRefused) as caught:
            calibrate([joint(confidence, by, alpha=0.0011)], sample)
        if caught.value.supported is not None:
            calibrate([joint(confidence, by, alpha=caught.value.supported)], sample)
            tried += 1
    assert tried > 40


@pytest.mark.parametrize(
    "promise",
    [
        ErrorWhenAcceptedAtMost(0.2, 0.9, "sgr"),
        ErrorWhenAcceptedAtMost(0.2, 0.9, "fixed_sequence"),
        ErrorWhenAcceptedAtMost(0.2, 0.9, "learn_then_test"),
        WrongAndAcceptedAtMost(0.2, 0.9, "binomial"),
    ],
    ids=lambda p: p.by,
)
def test_promises_that_count_errors_refuse_them_by_name_and_say_what_would_do(promise):
    with pytest.raises(CalibrationRefused, match=rf'rule "r": .*by {promise.by} counts .*by: betting') as caught:
        calibrate([RuleSpec("r", "s", Reason.AMBIGUOUS, promise)], draw(np.random.default_rng(56), 200))
    assert "losses lie between 0 and 1" in str(caught.value)
    with pytest.raises(CalibrationRefused, match="counts right and wrong answers"):
        calibrate(
            [RuleSpec("r", "s", Reason.NOVEL, RefuseGoodAtMost(0.1, good="correct"))],
            draw(np.random.default_rng(56), 200),
        )


def policy(promise, **more):
    rules = [
        {"novel": {"when": "mahalanobis", "promise": {"refuse_good_at_most": 0.05}}},
        {"careful": {"promise": promise} | more},
    ]
    return {
        "monitor": "graded",
        "signals": {"logits": 4, "features": 8},
        "scores": ["msp", "mahalanobis"],
        "rules": rules,
    }


def rows(sample, count, seed):
    table = sample(count, seed)
    rng = np.random.default_rng([seed, 5])
    return table | {"loss": rng.beta(0.5, 4, count) * (rng.random(count) < 0.5)}


@pytest.mark.parametrize(
    ("promise", "says", "theorem"),
    [
        (
            {"wrong_and_accepted_at_most": 0.04},
            "the loss of inputs that the whole policy accepts, averaged over all inputs, is at most 0.04 on average over calibration draws (n = 900; losses lie",
            "conformal risk control",
        ),
        (
            {"wrong_and_accepted_at_most": 0.04, "confidence": 0.9, "by": "betting"},
            "With 90 % confidence over the calibration draw, the loss of inputs that the whole policy accepts, averaged over all inputs like the calibration data, is at most 0.04 (n = ",
            "the betting bound",
        ),
    ],
    ids=["average", "betting"],
)
def test_the_sentence_speaks_of_the_mean_loss_and_the_bundle_keeps_it(sample, promise, says, theorem):
    bundle = demur.fit(policy(promise, when="msp"), reference=sample(300, 1), calibration=rows(sample, 900, 2))
    rule = bundle.manifest.rules[1]
    assert says in rule.statement
    assert "wrong" not in rule.statement
    assert any("careful, " in s and theorem in s for s in bundle.manifest.statements)
    novel, careful = demur.evaluate(bundle, sample(300, 3), bootstrap=0).promises
    assert novel.state != careful.state == "not checked"
    assert "promised of a mean loss" in careful.note
    _, careful = demur.evaluate(bundle, rows(sample, 4000, 3), bootstrap=0).promises
    assert careful.state in ("kept", "within chance")
    assert demur.calibrate(bundle).encode() == bundle.encode()
    loose = demur.calibrate(bundle, config=policy(promise | {"wrong_and_accepted_at_most": 0.045}, when="msp"))
    assert loose.manifest.rules[1].thresholds[0] >= rule.thresholds[0]
    fresh = rows(sample, 4000, 3)
    verdicts = demur.Monitor.of(bundle).assess(logits=fresh["logits"], features=fresh["features"])
    at = verdicts.columns.index("msp")
    novel_at = verdicts.columns.index("mahalanobis")
    over = [bundle.manifest.rules[i].thresholds[0] for i in (0, 1)]
    np.testing.assert_array_equal(
        verdicts.accept, (verdicts.scores[:, novel_at] <= over[0]) & (verdicts.scores[:, at] <= over[1])
    )
    assert 0.02 < np.mean(fresh["loss"] * verdicts.accept) < 0.05
    assert careful.realised.value == pytest.approx(np.mean(fresh["loss"] * verdicts.accept))


def test_the_loss_of_a_group_is_the_largest_of_its_rows(sample):
    table = rows(sample, 900, 2) | {"group_id": np.arange(900) // 3}
    document = policy({"wrong_and_accepted_at_most": 0.1}, when="msp", unit="group")
    del document["rules"][0]
    bundle = demur.fit(document, reference=sample(300, 1), calibration=table)
    (rule,) = bundle.manifest.rules
    assert "the loss of groups that the whole policy accepts" in rule.statement
    assert "The loss of a group is the largest of its rows'." in rule.statement
    groups, worst = bundle.arrays("calibration")["scores/msp@max"], table["loss"].reshape(300, 3).max(axis=1)
    taken = [u for u in sorted(groups.tolist()) if (worst[groups <= u].sum() + 1) / 301 <= 0.1]
    assert rule.thresholds[0] == taken[-1]


def test_tables_hold_losses_as_they_are():
    logits = np.ones((3, 4), np.float32)
    assert SignalsTable.from_arrays(logits=logits, loss=[0.0, 1.0, 1.0]).loss.dtype == np.int64
    assert SignalsTable.from_arrays(logits=logits, loss=[True, False, True]).right.tolist() == [False, True, False]
    table = SignalsTable.from_arrays(logits=logits, loss=[0, 0.25, 1])
    assert (table.graded, table.right, table.loss.tolist()) == (True, None, [0, 0.25, 1])
    assert table.take([0, 2]).graded
    for wrong in ([0, 0.5, 1.5], [0, np.nan, 1], [-0.1, 0, 1], ["a", "b", "c"]):
        with pytest.raises(TableError, match="loss: expected numbers from 0"):
            SignalsTable.from_arrays(logits=logits, loss=wrong)
