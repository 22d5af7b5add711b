"""Promised against realised, and whether p-values are uniform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, ks_2samp, kstest

import demur
from demur.monitor.evaluate import EvaluationError
from demur.monitor.evaluate.calibration import attainable, uniformity


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


def refusing(when="mahalanobis", scores=("mahalanobis",), **more):
    rule = {"when": when, "promise": {"refuse_good_at_most": 0.05}} | more
    return {"monitor": "m", "signals": {"logits": 4, "features": 8}, "scores": list(scores), "rules": [{"novel": rule}]}


def test_a_promise_by_slice_is_checked_where_it_was_made(sample):
    """Site 3 has too few calibration rows and site 9 none: the pooled table judges both, and nothing is promised there."""

    def placed(count, seed, sites, **more):
        return sample(count, seed, **more) | {"site": np.resize(np.array(sites, np.float32), count)}

    document = refusing(slice="site")
    document["signals"]["site"] = 1
    calibration = placed(400, 2, [1, 2])
    calibration["site"][:3] = 3
    bundle = demur.fit(document, reference=placed(300, 1, [1, 2]), calibration=calibration)
    good, foreign = placed(600, 3, [1, 2]), placed(400, 4, [3, 9], shift=3)
    both = {n: np.concatenate([good[n], foreign[n]]) for n in good}
    evaluation = demur.evaluate(bundle, both, bootstrap=0)
    (found,) = evaluation.promises
    assert evaluation.calibration["mahalanobis@by.site"].calibration_units == 198
    (alone,) = demur.evaluate(bundle, good, bootstrap=0).promises
    assert found == alone
    assert (found.units, found.about) == (600, "good inputs refused by this rule, all its slices together")
    assert found.state in ("kept", "within chance")


def test_what_holds_on_average_alone_is_not_contradicted_by_one_bundle(sample):
    near, wide = {"near": {"type": "knn", "k": 1}}, {"wide": {"type": "knn", "k": 9}}
    stopped = {"stopped": {"type": "early_stopped", "of": ["near", "wide"]}}
    document = refusing("stopped", (near, wide, stopped))
    bundle = demur.fit(document, reference=sample(300, 1), calibration=sample(100, 2))
    evaluation = demur.evaluate(bundle, sample(400, 5, shift=2), bootstrap=0)
    (found,) = evaluation.promises
    assert set(evaluation.calibration) == {"near", "wide"}
    assert found.realised.value > 0.3
    assert (found.bound, found.state) == (None, "within chance")
    assert found.note == "promised on average over calibration draws, with no bound for one"


def test_an_average_of_wrong_and_accepted_inputs_is_held_against_a_bound_for_one_bundle():
    """Of exact calibrations about 5 % exceed it, and about half exceed the level."""
    rng = np.random.default_rng(6)
    document = refusing("msp", ("msp",))
    document["rules"] = [{"joint": {"when": "msp", "promise": {"wrong_and_accepted_at_most": 0.1}}}]

    def rows(count):
        logits = rng.normal(size=(count, 4)).astype(np.float32)
        return {
            "logits": logits,
            "features": rng.normal(size=(count, 8)).astype(np.float32),
            "label": np.where(rng.random(count) < 0.3, logits.argmin(axis=1), logits.argmax(axis=1)),
        }

    bundle, fresh, found = demur.fit(document, reference=rows(200), calibration=rows(100)), rows(4000), []
    for _ in range(60):
        later = demur.calibrate(bundle, calibration=rows(100))
        (one,) = demur.evaluate(later, fresh, bootstrap=0).promises
        assert one.bound == pytest.approx(beta.ppf(0.95, 10, 91))  # 9 errors of 100 were let in
        found.append((one.realised.value > one.promised, one.state == "contradicted"))
    over, contradicted = np.mean(found, axis=0)
    assert over > 0.25
    assert contradicted < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


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


def by_ranks(calibration, test):
    """Conformal p-values, one by one."""
    return np.array([(1 + sum(c >= t for c in calibration)) / (len(calibration) + 1) for t in test])


def test_the_p_values_that_can_come_are_one_a_distinct_score_and_one_above_all():
    scores = [3.0, 1.0, 3.0, 2.0, 1.0, 1.0]
    assert attainable(scores).tolist() == pytest.approx(sorted(set(by_ranks(scores, [0, 1, 1.5, 2, 3, 9]))))
    assert attainable(scores).tolist() == pytest.approx([1 / 7, 3 / 7, 4 / 7, 1.0])


@pytest.mark.parametrize("values", [3, 12, 400])
def test_ties_alone_are_no_distance(values):
    """Half of the scores are one number; two draws differ as much as the two-sample test says, in 32 bits too."""
    rng = np.random.default_rng(values)
    small = []
    for _ in range(200):
        calibration, test = (np.where(rng.random(n) < 0.5, 0, rng.integers(0, values, n)) for n in (80, 200))
        found = uniformity(by_ranks(calibration, test).astype(np.float32), 80, attainable(calibration))
        both = ks_2samp(by_ranks(calibration, calibration), by_ranks(calibration, test))
        assert found.ks == pytest.approx(both.statistic, abs=1.01 / 81)
        small.append(found.ks_p < 0.05)
    assert np.mean(small) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(("test", "anticonservative"), [([2] * 50 + [0] * 50, True), ([0] * 100, False)])
def test_tied_scores_of_another_distribution_are_found(test, anticonservative):
    calibration = [0] * 60 + [1] * 35 + [2] * 5
    found = uniformity(by_ranks(calibration, test), 100, attainable(calibration))
    assert found.ks_p < 1e-6
    assert (found.anticonservative == found.ks) == anticonservative


def test_tied_scores_of_a_bundle_are_no_reason_for_a_note(policy):
    rng = np.random.default_rng(3)

    def rows(count):
        logits = np.where(rng.random((count, 1)) < 0.6, 1.0, rng.normal(size=(count, 4))).astype(np.float32)
        return {"logits": logits, "label": rng.integers(0, 4, count)}

    rule = {"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.05}}}
    made = demur.fit(
        {"monitor": "tied", "signals": {"logits": 4}, "scores": ["energy", "msp"], "rules": [rule]},
        reference=rows(100),
        calibration=rows(300),
    )
    found = demur.evaluate(made, rows(400), bootstrap=0).calibration
    assert {n: u.ks_p > 0.01 for n, u in found.items()} == {"energy": True, "msp": True}
    assert uniformity(demur.Monitor.of(made).assess(logits=rows(400)["logits"]).p_values[:, 0], 300).ks_p < 1e-6


@pytest.mark.parametrize(("rows", "state"), [(1, "not checked"), (19, "not checked"), (20, "kept")])
def test_too_few_units_keep_no_promise(bundle, sample, rows, state):
    novel = demur.evaluate(bundle, {n: a[:rows] for n, a in sample(300, 23).items()}, bootstrap=0).promises[0]
    assert (novel.part, novel.units, novel.state) == (0, rows, state)
    few = "1 unit is too few" if rows == 1 else f"{rows} units are too few"
    assert novel.note == ("" if state == "kept" else f"{few} to tell, at least 20 are needed")


def test_few_units_may_still_contradict_a_promise(bundle, sample):
    far = {n: a[:5] for n, a in sample(300, 23, shift=3.0).items()}
    assert demur.evaluate(bundle, far, bootstrap=0).promises[0].state == "contradicted"
