"""SCOD: the Bayes rule, the budget form, the fitted density ratio, and the score that a policy names."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.detectors.build import build_score
from demur.detectors.promises import scod
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both

P_MAX = np.array([0.70, 0.98, 0.40])
RATIO = np.array([0.1, 5.0, 0.2])


def test_the_published_example():
    excess = scod.cost_excess(1 - P_MAX, RATIO, 0.3, 0.4)
    np.testing.assert_allclose(excess + 0.3, [0.13, 2.006, 0.26], rtol=1e-12)
    assert (excess > 0).tolist() == [False, True, False]
    assert scod.black_box_rejects(P_MAX, 1 / RATIO, 0.3, 0.4).tolist() == [False, True, False]


def traffic(rng, rows=40_000):
    """Inliers with a known risk and outliers with a known ratio: P_in is uniform, P_out has density 2 x."""
    x_in, x_out = rng.random(rows), np.sqrt(rng.random(rows))
    risk_in = rng.beta(1, 4, rows)
    return x_in, risk_in, rng.random(rows) < risk_in, x_out, rng.beta(1, 4, rows)


def test_the_bayes_rule_costs_less_than_its_neighbours():
    x_in, risk_in, wrong, x_out, risk_out = traffic(np.random.default_rng(0))
    c_in, c_out = 0.15, 0.2

    def cost(a, b, c):
        refused_in = a * risk_in + b * 2 * x_in > c
        refused_out = a * risk_out + b * 2 * x_out > c
        harm = (1 - c_in - c_out) * np.mean(wrong & ~refused_in)
        return harm + c_in * np.mean(refused_in) + c_out * np.mean(~refused_out)

    best = cost(1 - c_in - c_out, c_out, c_in)
    for a, b, c in ((1, 1, 1.3), (1, 1, 0.7), (1, 3, 1), (1, 0.2, 1), (3, 1, 1), (0.2, 1, 1)):
        assert best < cost(a * (1 - c_in - c_out), b * c_out, c * c_in)


def test_the_price_spends_a_budget_better_than_any_fixed_mix_of_risk_and_ratio():
    x_in, risk_in, wrong, x_out, risk_out = traffic(np.random.default_rng(1))
    c_fn, share, budget = 0.5, 0.6, 0.2

    def loss(score):
        """At the threshold that rejects the budget of the mixture."""
        inside, outside = score(risk_in, 2 * x_in), score(risk_out, 2 * x_out)
        mixed = np.r_[inside[: int(share * inside.size)], outside[: int((1 - share) * outside.size)]]
        t = scod.price_for_budget(mixed, budget)
        assert np.mean(mixed > t) <= budget
        return (1 - c_fn) * np.mean(wrong & (inside <= t)) + c_fn * np.mean(outside <= t)

    best = loss(lambda risk, ratio: scod.rejection_price(risk, ratio, c_fn, share))
    for weight in (0.0, 0.1, 0.5, 2.0, 10.0):
        assert best < loss(lambda risk, ratio, w=weight: w * risk + ratio) + 1e-3


def test_the_fitted_ratio_is_the_ratio_of_two_gaussians_whatever_the_row_counts():
    rng = np.random.default_rng(3)
    for n_in, n_out in ((4000, 4000), (8000, 500), (500, 8000)):
        found = scod.LogRatio.fit(rng.normal(0, 1, n_in), rng.normal(2, 1, n_out))
        assert found.slope == pytest.approx(2, abs=0.25)
        assert found.intercept == pytest.approx(-2, abs=0.3)


def test_wild_traffic_gives_the_same_ratio_once_its_inliers_are_taken_out():
    mixed = 0.7 + 0.3 * RATIO
    np.testing.assert_allclose(scod.outlier_ratio(mixed, 0.7), RATIO, rtol=1e-12)
    assert scod.outlier_ratio(np.array([0.1]), 0.7).tolist() == [0.0]


def test_separable_scores_keep_a_finite_slope_and_reversed_ones_are_refused():
    found = scod.LogRatio.fit(np.arange(50.0), np.arange(100.0, 150.0))
    assert 0 < found.slope < 10
    with pytest.raises(ValueError, match="do not score higher"):
        scod.LogRatio.fit(np.arange(100.0, 150.0), np.arange(50.0))
    with pytest.raises(ValueError, match="at least 10 finite outlier or wild scores, got 3"):
        scod.LogRatio.fit(np.arange(50.0), np.arange(3.0))


def world(rows=300, seed=4):
    rng = np.random.default_rng(seed)
    return {"logits": (4 * rng.normal(size=(rows, 5))).astype(np.float32)}


@pytest.mark.parametrize("form", ["costs", "price", "wild"])
def test_the_score_is_its_definition(form):
    given = world()
    z = given["logits"].astype(np.float64)
    risk = 1 - np.exp(z.max(axis=1) - np.log(np.exp(z).sum(axis=1)))
    ratio = np.exp(0.4 * -np.log(np.exp(z).sum(axis=1)) + 1.5)
    hyper = {"score": "energy", "slope": 0.4, "intercept": 1.5}
    if form == "price":
        hyper |= {"c_fn": 0.6, "inlier_share": 0.8}
        want = scod.rejection_price(risk, ratio, 0.6, 0.8)
    else:
        hyper |= {"c_in": 0.2, "c_out": 0.3} | ({"wild_inlier_share": 0.5} if form == "wild" else {})
        want = scod.cost_excess(risk, scod.outlier_ratio(ratio, 0.5) if form == "wild" else ratio, 0.2, 0.3)
    for got in on_both({"s": build_score("scod", hyper, Reference(given))}, given):
        assert_close(got["s"], want, RTOL * np.abs(want) + 2e-6)


@pytest.mark.parametrize(
    ("hyper", "says"),
    [
        ({"c_in": 0.2}, "together"),
        ({"c_in": 0.7, "c_out": 0.5}, "at most 1"),
        ({"c_fn": 2}, "c_fn must be"),
        ({"inlier_share": 0}, "inlier_share"),
        ({"slope": -1.0}, "slope"),
        ({"wild_inlier_share": 1.0}, "wild_inlier_share"),
        ({}, "expected outliers, got none"),
        ({"wild_inlier_share": 0.5}, "expected wild, got none"),
    ],
)
def test_what_cannot_be_a_cost_or_has_no_outliers_is_refused(hyper, says):
    with pytest.raises(ValueError, match=says):
        build_score("scod", {"score": "energy", **hyper}, Reference(world()))


def test_a_policy_learns_the_ratio_from_outliers_and_promises_on_it(sample):
    def signals(rows, seed, shift=0.0):
        return {k: v for k, v in sample(rows, seed, shift).items() if k != "label"}

    policy = {
        "monitor": "scod",
        "signals": {"logits": 4, "features": 8},
        "scores": [{"scod": {"score": {"gmm": {"components": 2}}}}],
        "rules": [{"novel": {"when": "scod", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    bundle = demur.fit(
        policy, reference=signals(400, 1), calibration=signals(600, 2), outliers=signals(300, 5, shift=1.0)
    )
    monitor = demur.Monitor.of(bundle)
    good, far = monitor.assess(**signals(2000, 7)), monitor.assess(**signals(500, 8, shift=1.0))
    assert 0.02 < np.mean(~good.accept) < 0.09
    assert np.mean(~far.accept) > 0.9
    assert demur.calibrate(bundle).encode() == bundle.encode()
