"""Bounds of mean losses, and promises of mean losses held against a test set."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom

import demur
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.mean_loss import checked_mean, divergence, lower_bound, mean_estimate, one_draw_bound
from tests.evaluate.conftest import graded_rows
from tests.evaluate.test_units import images, tokens
from tests.simulators import within

RARE = 0.02  # of the losses are above 0, and uniform


def rare(rng, n):
    return np.where(rng.random(n) < RARE, rng.random(n), 0.0)


def wealth(losses, mean, delta):
    """The largest log-wealth of bets against "the mean loss is at least `mean`", in loops."""
    n, log, best, total, spread, variance = len(losses), 0.0, -math.inf, 0.5, 0.25, 0.25
    for j, loss in enumerate(losses, 1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (n * variance)))
        log += math.log1p(-bet * (loss - mean)) if bet * (loss - mean) < 1 else -math.inf
        best, total = max(best, log), total + loss
        spread += (loss - total / (j + 1)) ** 2
        variance = spread / (j + 1)
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_lower_bound_is_where_bets_against_a_smaller_mean_begin_to_win(seed):
    losses = np.random.default_rng(seed).beta(0.4, 2, 300)
    found = lower_bound(losses, 0.01, seed)
    gains = 1 - losses[np.random.default_rng(seed).permutation(300)]
    assert 0 < found < losses.mean()
    assert wealth(gains, 1 - (found - 1e-9), 0.01) > math.log(100) > wealth(gains, 1 - (found + 1e-9), 0.01)


def test_each_end_of_the_interval_has_half_of_what_the_confidence_leaves():
    losses = np.random.default_rng(4).beta(0.4, 2, 300)
    found, drawn = mean_estimate(losses, 0.9, 1), losses[np.random.default_rng(1).permutation(300)]
    assert found.value == pytest.approx(math.fsum(losses) / 300)
    assert found.low == lower_bound(losses, 0.05, 1)
    assert wealth(drawn, found.high - 1e-9, 0.05) < math.log(20) < wealth(drawn, found.high + 1e-9, 0.05)


def test_the_interval_covers_where_percentiles_of_resamples_do_not():
    rng, misses = np.random.default_rng(5), []
    for _ in range(400):
        losses = rare(rng, 150)
        found = mean_estimate(losses, 0.95, 0)
        drawn = rng.choice(losses, (200, 150)).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        misses.append((not found.low <= RARE / 2 <= found.high, not low <= RARE / 2 <= high))
    ours, percentiles = np.transpose(misses)
    assert within(ours, 0.05)
    assert not within(percentiles, 0.05)


def test_what_is_promised_of_the_truth_is_contradicted_in_at_most_1_percent_of_test_sets_and_less_than_the_truth_is():
    rng = np.random.default_rng(6)
    every = np.ones(300, bool)
    least = np.array([checked_mean(rare(rng, 300), every, None, 0.95, 0).least for _ in range(400)])
    assert within(least > RARE / 2, 0.01)
    large = np.array([checked_mean(rng.beta(1, 9, 300), every, None, 0.95, 0).least for _ in range(100)])
    assert np.mean(large > 0.07) > 0.95  # the mean is 0.1


def test_rows_in_groups_weigh_as_their_group_allows_and_as_many_rows_prove_no_more():
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    losses, accept = rng.random(len(cluster)), rng.random(len(cluster)) < 0.6
    found = checked_mean(losses, accept, cluster, 0.95, 0)
    means = []
    for group in range(40):
        inside = [
            (loss if taken else 0.0) for loss, taken, g in zip(losses, accept, cluster, strict=True) if g == group
        ]
        means.append(sum(inside) / len(inside))
    assert found.share.value == pytest.approx(sum(means) / 40)
    assert (found.part, found.whole) == (int((accept & (losses > 0)).sum()), len(cluster))
    copies = checked_mean(np.repeat(losses, 50), np.repeat(accept, 50), np.repeat(cluster, 50), 0.95, 0)
    assert copies.least == pytest.approx(found.least, abs=1e-9)
    assert (copies.share.low, copies.share.high) == pytest.approx((found.share.low, found.share.high), abs=1e-9)


def test_no_units_have_no_mean():
    found = checked_mean(np.zeros(0), np.zeros(0, bool), None, 0.95, 0)
    assert (found.part, found.whole, found.least) == (0, 0, 0.0)
    assert math.isnan(found.share.value)
    assert math.isnan(mean_estimate(np.zeros(0), 0.95, 0).value)


def test_one_calibration_keeps_to_its_bound_as_often_as_it_says_whatever_the_losses():
    for n, level in ((30, 0.1), (200, 0.05), (2000, 0.03)):
        bound = one_draw_bound(n, level, 0.95)
        most = math.floor(Fraction(str(level)) * (n + 1) - 1)
        assert level < binom_bound(n, most) <= bound < 2.5 * level
        assert n * divergence(((n + 1) * level - 1) / n, bound) == pytest.approx(math.log(20))
    assert one_draw_bound(8, 0.1, 0.95) is None
    assert one_draw_bound(0, 0.1, 0.95) is None
    assert (divergence(0.0, 0.5), divergence(0.5, 1.0)) == (pytest.approx(math.log(2)), math.inf)


def binom_bound(n, most):
    """The rate at which at most so many errors have a probability of 5 %."""
    rates = np.linspace(0, 1, 20_001)
    return rates[binom.cdf(most, n, rates) >= 0.05].max()


def policy(promise, **more):
    rules = [{"careful": {"when": "msp", "promise": promise} | more}]
    return {"monitor": "graded", "signals": {"logits": 4, "features": 8}, "scores": ["msp"], "rules": rules}


BETTING = {"wrong_and_accepted_at_most": 0.08, "confidence": 0.9, "by": "betting"}


@pytest.fixture(scope="module")
def careful(sample):
    return demur.fit(policy(BETTING), reference=sample(300, 1), calibration=graded_rows(sample, 900, 2))


def test_a_promise_of_a_mean_loss_is_checked_on_the_losses(careful, sample):
    table = graded_rows(sample, 3000, 3)
    table["logits"][:20] = np.inf
    (found,) = demur.evaluate(careful, table, bootstrap=0).promises
    verdicts = demur.Monitor.of(careful).assess(logits=table["logits"], features=table["features"])
    lost = [loss if taken else 0.0 for loss, taken in zip(table["loss"][20:], verdicts.accept[20:], strict=True)]
    assert found.realised.value == pytest.approx(math.fsum(lost) / 2980)
    assert (found.units, found.part) == (2980, sum(x > 0 for x in lost))
    assert (found.promised, found.bound, found.state, found.graded) == (0.08, 0.08, "kept", True)
    assert found.about == "loss of what the policy accepts, mean over all inputs"
    assert found.realised.low < found.realised.value < found.realised.high
    worse = table | {"loss": np.minimum(1, table["loss"] + 0.5)}
    (broken,) = demur.evaluate(careful, worse, bootstrap=0).promises
    assert broken.state == "contradicted"
    assert broken.realised.low > 0.08


def test_promises_of_errors_are_not_checked_on_losses_nor_those_of_losses_on_errors(careful, bundle, sample, tables):
    (found,) = demur.evaluate(careful, tables["test"], bootstrap=0).promises
    assert (found.state, found.units) == ("not checked", 0)
    assert "give the test set such losses" in found.note
    table = graded_rows(sample, 200, 4)
    novel, ambiguous = demur.evaluate(bundle, table, bootstrap=0).promises
    del table["loss"]
    assert novel == demur.evaluate(bundle, table, bootstrap=0).promises[0]
    assert novel.state != ambiguous.state == "not checked"
    assert ambiguous.note == "promised of right and wrong answers; the test set has graded losses"


def test_an_average_of_losses_is_held_against_a_bound_for_one_bundle():
    """Of calibrations about half exceed the level, hardly any the bound, and none of these is contradicted by chance."""
    rng = np.random.default_rng(8)

    def rows(count):
        logits = rng.normal(size=(count, 4)).astype(np.float32)
        losses = np.where(rng.random(count) < 0.3, rng.random(count), 0.0)
        return {"logits": logits, "features": np.zeros((count, 8), np.float32) + logits[:, :1], "loss": losses}

    document = policy({"wrong_and_accepted_at_most": 0.07})
    bundle, fresh, found = demur.fit(document, reference=rows(200), calibration=rows(100)), rows(4000), []
    for _ in range(60):
        later = demur.calibrate(bundle, calibration=rows(100))
        (one,) = demur.evaluate(later, fresh, bootstrap=0).promises
        assert one.bound == pytest.approx(one_draw_bound(100, 0.07, 0.95))
        found.append((one.realised.value > 0.07, one.realised.value > one.bound, one.state == "contradicted"))
    over, beyond, contradicted = np.mean(found, axis=0)
    assert over > 0.2
    assert beyond < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)
    assert contradicted <= beyond


def test_the_loss_of_a_group_is_the_largest_of_its_rows(sample):
    def grouped(groups, seed):
        found = images(sample, groups, seed)
        del found["label"]
        return found | {"loss": np.random.default_rng(seed).beta(0.3, 9, 4 * groups)}

    document = policy({"wrong_and_accepted_at_most": 0.04}, unit="group")
    document["signals"] = {"logits": 4}
    bundle, table = demur.fit(document, reference=sample(300, 1), calibration=grouped(300, 2)), grouped(80, 3)
    found = demur.evaluate(bundle, table, bootstrap=0)
    worst = {}
    verdicts = demur.Monitor.of(bundle).assess(logits=table["logits"], group_id=table["group_id"])
    for group, loss in zip(table["group_id"].tolist(), table["loss"], strict=True):
        worst[group] = max(worst.get(group, 0.0), loss)
    accepted = dict(zip(sorted(worst), verdicts.groups.accept, strict=True))
    lost = math.fsum(loss * accepted[group] for group, loss in worst.items()) / 80
    assert not all(accepted.values())
    (kept,) = found.promises
    assert (kept.realised.value, kept.units) == (pytest.approx(lost), 80)
    assert found.graded.sets[0].mean_loss.value == pytest.approx(math.fsum(worst.values()) / 80)
    by_row = demur.evaluate(bundle, table, unit="row", bootstrap=100)
    assert by_row.promises[0].note == "promised for each group; evaluate with unit group"
    assert by_row.graded.sets[0].mean_loss == Estimate(
        pytest.approx(math.fsum(table["loss"]) / 320)
    )  # rows are not alone
    augrc = by_row.graded.ranking("loss", "msp").metrics["augrc"]
    assert augrc.low < augrc.value < augrc.high


def test_the_loss_of_a_stream_is_the_largest_of_its_steps():
    document = {
        "monitor": "tokens",
        "signals": {"token_logprob": 1},
        "scores": ["mean_nll"],
        "rules": [{"unfamiliar": {"when": "mean_nll", "unit": "stream", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    bundle, table = demur.fit(document, reference=tokens(50, 1), calibration=tokens(400, 2)), tokens(60, 3)
    losses = np.random.default_rng(9).random(len(table["group_id"]))
    found = demur.evaluate(bundle, table | {"loss": losses}, bootstrap=0).graded.sets[0]
    worst = [max(losses[table["group_id"] == stream]) for stream in range(60)]
    assert (found.units, found.mean_loss.value) == (60, pytest.approx(np.mean(worst)))
