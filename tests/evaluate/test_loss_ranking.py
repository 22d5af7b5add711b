"""AURC, E-AURC, AUGRC and curves of graded losses, against loops from the definitions; ties, merged values, what has no loss."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.evaluate import loss_ranking
from demur.monitor.evaluate import risk_coverage as selective
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.graded import graded_of
from demur.monitor.evaluate.judged import Judged
from demur.monitor.evaluate.loss_ranking import loss_questions, losses_of, rank_losses
from demur.monitor.evaluate.pool import Part, Pool
from tests.evaluate import oracles


def judged(scores, loss=None, wrong=None, accept=None, broken=()):
    n = len(scores)
    bits = np.zeros(n, np.int64)
    bits[list(broken)] = int(Reason.INVALID)
    columns = np.asarray(scores, np.float32)[:, None]
    taken = np.ones(n, bool) if accept is None else np.asarray(accept)
    return Judged(columns, np.full((n, 1), 0.5, np.float32), taken & (bits == 0), bits, 0 * bits, wrong, None, None, n,
                  weighted=False, loss=loss)  # fmt: skip


def pool_of(**tables):
    return Pool(("s",), "row", {Part(name, kind): one for name, (kind, one) in tables.items()})


def ranked(pool, resampler=None):
    found = rank_losses(pool, [(0, "s")], loss_questions(pool), resampler, lambda _: lambda _: None)
    return {(r.truth, r.against): (r, counts) for r, counts in found}


@pytest.mark.parametrize("seed", range(6))
def test_areas_are_those_of_every_order_and_every_threshold_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, loss = rng.integers(0, 5, 9), np.where(rng.random(9) < 0.3, rng.integers(0, 2, 9), rng.random(9))
    ((found, counts),) = ranked(pool_of(id=("id", judged(scores, loss)))).values()
    metrics = {name: estimate.value for name, estimate in found.metrics.items()}
    area = oracles.aurc(scores, loss)
    assert metrics["aurc"] == pytest.approx(area, abs=1e-12)
    assert metrics["e_aurc"] == pytest.approx(area - oracles.best_area(loss), abs=1e-12)
    assert metrics["augrc"] == pytest.approx(oracles.loss_augrc(scores, loss), abs=1e-12)
    assert (found.units, found.mean_loss) == (9, pytest.approx(math.fsum(loss) / 9))
    curve = selective.risk_coverage_curve(counts)
    for x, y, t in zip(curve.x, curve.y, curve.threshold, strict=True):
        taken = [value for s, value in zip(scores, loss, strict=True) if s <= t]
        assert (x, y) == (len(taken) / 9, pytest.approx(sum(taken) / len(taken)))


def test_losses_of_0_and_1_have_the_areas_of_errors_exactly():
    rng = np.random.default_rng(1)
    scores, wrong = np.round(rng.normal(size=500), 1), rng.random(500) < 0.3
    ((found, _),) = ranked(pool_of(id=("id", judged(scores, wrong.astype(float))))).values()
    errors = Counts.of(scores.astype(np.float32), wrong)
    for name in ("aurc", "e_aurc", "augrc"):
        assert found.metrics[name].value == pytest.approx(getattr(selective, name)(errors), abs=1e-12)


def test_the_best_order_is_by_loss_and_nothing_is_lost_there():
    loss = np.random.default_rng(2).beta(0.5, 3, 3000)
    best, worst = (ranked(pool_of(id=("id", judged(s, loss))))["loss", "id"][0].metrics for s in (loss, -loss))
    sums = np.cumsum(np.sort(loss))
    assert best["aurc"].value == pytest.approx(math.fsum(sums / np.arange(1, 3001)) / 3000, abs=1e-9)
    assert best["augrc"].value == pytest.approx(math.fsum(sums - np.sort(loss) / 2) / 3000**2, abs=1e-9)
    assert best["e_aurc"].value == pytest.approx(0, abs=2e-3)
    assert worst["e_aurc"].value > 0.2
    assert best["augrc"].value < loss.mean() / 2 < worst["augrc"].value


def test_novel_inputs_lose_1_wrong_answers_too_and_unknown_or_broken_units_are_in_no_figure():
    rng = np.random.default_rng(3)
    loss, wrong = rng.random(6), np.array([True, False, False])
    pool = pool_of(
        id=("id", judged(rng.random(6), loss, broken=[2])),
        new=("novel", judged(rng.random(4))),
        old=("shifted", judged(rng.random(3), wrong=wrong)),
        dark=("shifted", judged(rng.random(5))),
    )
    np.testing.assert_array_equal(losses_of(pool), [*np.delete(loss, 2), 1, 1, 1, 1, 1, 0, 0, *[np.nan] * 5])
    found = ranked(pool)
    assert {key: r.units for key, (r, _) in found.items()} == {
        ("loss", "id"): 5, ("loss_oms", "new"): 9, ("loss_oms", "old"): 8, ("loss_oms", "all"): 12,
    }  # fmt: skip
    scores = np.concatenate([one.scores[~one.broken, 0] for one in pool.tables.values()])[:12]
    everything = losses_of(pool)[:12]
    metrics = found["loss_oms", "all"][0].metrics
    assert metrics["augrc"].value == pytest.approx(oracles.loss_augrc(scores, everything))
    assert metrics["e_aurc"].value == pytest.approx(metrics["aurc"].value - oracles.best_area(everything))


def test_intervals_are_those_of_resampled_units_also_where_values_are_merged():
    rng = np.random.default_rng(4)
    loss = rng.beta(1, 4, 5000)
    pool = pool_of(id=("id", judged(loss + 0.3 * rng.normal(size=5000), loss)))
    found = ranked(pool, Resampler(pool.table, draws=200))["loss", "id"][0].metrics
    scores, redrawn = pool.scores(0), []
    for _ in range(200):
        at = rng.integers(0, 5000, 5000)
        once, index = np.unique(scores[at], return_inverse=True)
        lost = np.bincount(index, weights=loss[at])
        counts = Counts(once, np.bincount(index) - lost, lost)
        area = selective.aurc(counts)
        redrawn.append((area, area - oracles.best_area(loss[at]), selective.augrc(counts)))
    for name, values in zip(("aurc", "e_aurc", "augrc"), np.transpose(redrawn), strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        assert low < found[name].value < high
        assert [found[name].low, found[name].high] == pytest.approx([low, high], abs=0.25 * (high - low))


def test_merging_values_moves_no_interval(monkeypatch):
    rng = np.random.default_rng(5)
    loss = rng.beta(1, 4, 1000)
    pool = pool_of(id=("id", judged(loss, loss)))
    exact, merged = [], []
    for found, most in ((exact, 2048), (merged, 4)):
        monkeypatch.setattr(loss_ranking, "MOST_BINS", most)
        metrics = ranked(pool, Resampler(pool.table, draws=200))["loss", "id"][0].metrics
        found += [metrics[name] for name in ("aurc", "augrc")]
    for fine, coarse in zip(exact, merged, strict=True):
        assert coarse.value == fine.value
        assert (coarse.low, coarse.high) == pytest.approx((fine.low, fine.high), abs=0.15 * (fine.high - fine.low))


def test_a_policy_that_accepts_nothing_loses_nothing():
    pool = pool_of(id=("id", judged(np.arange(4.0), np.array([0.1, 0.5, 0.2, 1.0]), accept=np.zeros(4, bool))))
    settings = SimpleNamespace(confidence=0.95, seed=0)
    found, drawn = graded_of(pool, [(0, "s")], None, settings, lambda _: lambda _: None)
    assert found.sets[0].residual_hazard.value == 0
    assert found.sets[0].safety_gain.value == pytest.approx(0.45)
    assert math.isnan(drawn.operating[0].risk)
    assert drawn.operating[0].coverage == 0
