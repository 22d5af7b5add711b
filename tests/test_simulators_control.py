"""How much is wrong and accepted: conformal risk control, exact and betting bounds, and what goes wrong without them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    RefuseGoodAtMost,
    RuleSpec,
    WrongAndAcceptedAtMost,
    calibrate,
    control,
    selective,
)
from demur.detectors.reason import Reason
from tests.simulators import (
    DRAWS,
    draw,
    easy_when_novel,
    novel,
    on_average,
    risk_below,
    thresholds,
    within,
)

ALPHA = 0.05


def joint(confidence=None, by="binomial"):
    return RuleSpec("risky", "s", Reason.AMBIGUOUS, WrongAndAcceptedAtMost(ALPHA, confidence, by))


def harm(t, u, g=np.ones_like):
    """P(wrong, v <= t, s <= u)."""
    return np.array([a * b * risk_below(b, a, g) for a, b in zip(t, u, strict=True)])


def empirical(samples):
    """The highest threshold whose observed share of wrong and accepted is at most alpha."""
    found = []
    for x in samples:
        counts = selective.prefixes(x.scores["s"], x.loss)
        at = np.flatnonzero(counts.wrong <= ALPHA * x.rows)
        found.append(counts.thresholds[at[-1]] if at.size else 0.0)
    return np.array(found)


@pytest.mark.parametrize("n", [30, 60, 400])
def test_conformal_risk_control_holds_on_average_and_the_empirical_threshold_does_not(n):
    rng = np.random.default_rng(n)
    samples = [draw(rng, n) for _ in range(2 * DRAWS)]
    ones = np.ones(len(samples))
    controlled = harm(ones, thresholds([joint()], samples)[:, 0])
    assert on_average(controlled, ALPHA)
    assert np.mean(controlled) > (0.02 if n == 30 else 0.03)
    if n < 100:
        assert not on_average(harm(ones, empirical(samples)), ALPHA)


def policy(case):
    """A policy of that kind: refusal rules in front of the promise."""
    by = {"sliced": True, "coded": "site"}.get(case, False)
    first = novel(0.3, good="correct" if case == "labels" else "id", sliced=by)
    other = RuleSpec("other", "w", Reason.NOVEL, RefuseGoodAtMost(0.2))
    return [first, other, joint()] if case == "two" else [first, joint()]


def policy_sample(case, rng, n):
    x = draw(rng, n, easy_when_novel)
    v = np.ceil(x.scores["v"] * 20).astype(np.float32) / np.float32(20) if case == "ties" else x.scores["v"]
    scores = {"v": v, "s": x.scores["s"], "w": rng.random(n).astype(np.float32)}
    place = rng.integers(0, 2, n)
    return CalibrationSample(scores, x.loss, place, classes=2, codes={"site": place})


@pytest.mark.parametrize(
    ("case", "n"), [("one", 60), ("one", 300), ("two", 60), ("sliced", 60), ("coded", 60), ("labels", 60), ("ties", 60)]
)
def test_the_whole_policy_is_controlled_on_average_with_every_unit_in_the_denominator(case, n):
    """The units that set the refusal thresholds count too: with n = 60 a unit more or less would show."""
    rng, found = np.random.default_rng(n), []
    for _ in range(DRAWS):
        try:
            *refusing, last = calibrate(policy(case), policy_sample(case, rng, n)).rules
        except CalibrationRefused:
            found.append(0.0)
            continue
        kept = float(refusing[1].threshold[0]) if case == "two" else 1.0
        by_class = refusing[0].threshold[:2].astype(float)
        found.append(kept * np.mean(harm(by_class, np.full(by_class.size, last.threshold[0]), easy_when_novel)))
    assert on_average(found, ALPHA)
    assert np.mean(found) > (0.01 if case in ("labels", "ties") else 0.025)


@pytest.mark.parametrize("by", ["binomial", "betting"])
@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_with_confidence_the_promise_holds_for_this_calibration_and_the_average_threshold_does_not(by, draws):
    rng = np.random.default_rng(31)
    samples = [draw(rng, 400, easy_when_novel) for _ in range(draws)]
    t, u = thresholds([novel(0.25), joint(0.9, by)], samples).T
    assert within(harm(t, u, easy_when_novel) > ALPHA, 0.1)
    assert np.mean(u > 0) > 0.9
    t, u = thresholds([novel(0.25), joint()], samples).T
    assert not within(harm(t, u, easy_when_novel) > ALPHA, 0.1)


def halves(losses, risk, delta):
    """MAPIE 1.6.0's test: the log-wealth is cut in two and the largest of each half are added."""
    wealth = control.log_wealth(losses, risk, delta)
    middle = losses.shape[-1] // 2
    later = wealth[..., middle:] - wealth[..., middle - 1 : middle]
    return wealth[..., :middle].max(axis=-1) + later.max(axis=-1) > math.log(1 / delta)


@pytest.mark.parametrize(("n", "rate"), [(200, 0.05), (200, 0.1), (500, 0.1), (1000, 0.2)])
@pytest.mark.parametrize("draws", [2 * DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_one_running_maximum_covers_the_mean_and_a_sum_of_two_maxima_does_not(n, rate, draws):
    """The bound is below the true mean exactly when the mean itself is refuted, because wealth grows with the risk."""
    losses = (np.random.default_rng(n).random((draws, n)) < rate).astype(np.float64)
    assert within(control.betting_rejects(losses, rate, 0.1), 0.1)
    assert np.mean(halves(losses, rate, 0.1)) > 0.16
    assert not within(halves(losses, rate, 0.1), 0.1)


def test_the_betting_bound_holds_for_graded_losses_and_is_refuted_just_above():
    rng = np.random.default_rng(33)
    losses = rng.beta(0.3, 2.7, (2 * DRAWS, 300))
    assert within(control.betting_rejects(losses, 0.1, 0.1), 0.1)
    for one in losses[:20]:
        bound = control.betting_upper(one, 0.1)
        assert not control.betting_rejects(one, bound * (1 - 1e-9), 0.1)
        assert control.betting_rejects(one, bound * (1 + 1e-9), 0.1)
