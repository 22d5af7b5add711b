"""Curves and grids: thinned and merged without telling anything else."""

from __future__ import annotations

import numpy as np
import pytest

from demur.monitor.evaluate import bootstrap, roc
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.curve import Curve
from demur.monitor.evaluate.figures import histograms
from demur.monitor.evaluate.grid import Grid
from demur.monitor.evaluate.judged import Judged
from demur.monitor.evaluate.pool import Part, Pool
from demur.monitor.evaluate.questions import questions


def judged(scores, wrong=None, p=None):
    scores = np.asarray(scores, np.float32)[:, None]
    n = len(scores)
    zeros = np.zeros(n, np.int64)
    chances = np.full((n, 1), 0.5, np.float32) if p is None else np.asarray(p, np.float32)[:, None]
    return Judged(scores, chances, np.ones(n, bool), zeros, zeros, wrong, None, None, n, weighted=False)


def pool_of(units, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(units) < 0.2
    tables = {
        Part("id", "id"): judged(rng.normal(size=units) + wrong, wrong),
        Part("new", "novel"): judged(rng.normal(size=units) + 1),
    }
    return Pool(("s",), "row", tables)


@pytest.mark.parametrize("most", [2, 3, 50, 400])
def test_a_thinned_curve_keeps_exact_vertices_and_both_ends(most):
    rng = np.random.default_rng(0)
    counts = Counts.of(rng.normal(size=4000) + np.repeat([0, 1], 2000), np.repeat([0, 1], 2000))
    curve = roc.roc_curve(counts)
    thin = curve.thinned(most, 0.0)
    assert len(thin) == most
    vertices = {tuple(v) for v in np.stack([curve.x, curve.y, curve.threshold], axis=1).tolist()}
    assert {tuple(v) for v in np.stack([thin.x, thin.y, thin.threshold], axis=1).tolist()} <= vertices
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (0.0, 0.0, 1.0, 1.0)


def test_a_thinned_curve_stays_within_its_tolerance():
    x = np.linspace(0, 1, 5000)
    curve = Curve(x, np.sqrt(x), x)
    thin = curve.thinned(400, 1e-3)
    assert len(thin) < 60
    assert np.abs(np.interp(x, thin.x, thin.y) - curve.y).max() < 0.02
    middle = x > 0.05
    assert np.abs(np.interp(x, thin.x, thin.y) - curve.y)[middle].max() < 3e-3


def test_tiny_curves_are_left_alone():
    one = Curve(np.zeros(1), np.zeros(1), np.zeros(1))
    assert len(one.thinned()) == 1
    same = Curve(np.zeros(9), np.zeros(9), np.zeros(9))
    assert len(same.thinned()) == 2


@pytest.mark.parametrize("clusters", [None, 40])
def test_a_grid_counts_every_unit_once_and_resamples_as_often_as_drawn(clusters):
    pool = pool_of(200)
    asked = {q.truth: q for q in questions(pool)}
    cluster = None if clusters is None else np.arange(400) // (400 // clusters)
    resampler = Resampler(pool.table, cluster, 100, seed=3)
    (weights,), (tally,) = resampler.weights(100), Grid.of(pool, 0).resampled(resampler, 100)
    wrong = np.append(pool.id.wrong, np.ones(200, bool))
    for truth, chosen in (("ood", np.repeat([False, True], 200)), ("oms", wrong)):
        counts = tally.ask(asked[truth])
        np.testing.assert_allclose(counts.bad.sum(axis=0), weights[chosen].sum(axis=0))
        np.testing.assert_allclose(counts.good.sum(axis=0), weights[~chosen].sum(axis=0))
        repeat = weights[:, 2].astype(int)
        alone = Counts.of(np.repeat(pool.scores(0), repeat), np.repeat(chosen, repeat))
        assert roc.auroc(counts)[2] == pytest.approx(float(roc.auroc(alone)))


def test_drawing_counts_is_as_good_as_drawing_units(monkeypatch):
    pool = pool_of(3000)
    asked, grid = questions(pool), Grid.of(pool, 0, 60)
    spans = {}
    for way, crowd in (("counts", 0), ("units", 10**9)):
        monkeypatch.setattr(bootstrap, "CROWD", crowd)
        tallies = list(grid.resampled(Resampler(pool.table, None, 600, seed=1), 256))
        sizes = np.concatenate([t.counts.sum(axis=(0, 1)) for t in tallies])
        assert (sizes == 6000).all()
        for table in (0, 1):
            atoms = [i for i, a in enumerate(pool.atoms) if a.part == pool.parts[table]]
            assert all((t.counts[atoms].sum(axis=(0, 1)) == 3000).all() for t in tallies)
        for question in asked:
            area = np.concatenate([roc.auroc(t.ask(question)) for t in tallies])
            spans[way, question.truth] = area.mean(), area.std()
    for question in asked:
        (mean, spread), (other, wide) = spans["counts", question.truth], spans["units", question.truth]
        assert abs(mean - other) < 4 * spread / np.sqrt(300)
        assert 0.85 < spread / wide < 1.18


def test_merged_bins_hold_about_as_many_units_each_and_move_the_area_little():
    pool = pool_of(20_000)
    asked = questions(pool)
    exact, merged = Grid.of(pool, 0), Grid.of(pool, 0, 500)
    assert len(merged.scores) == 500
    sizes = merged.tally().counts.sum(axis=0)
    assert sizes.sum() == 40_000
    assert (np.abs(sizes - 80) <= 3).all()
    assert (np.diff(merged.scores) > 0).all()
    for question in asked:
        areas = [roc.auroc(grid.tally().ask(question)) for grid in (exact, merged)]
        assert areas[0] == pytest.approx(areas[1], abs=1e-4)


def test_ties_are_never_split_by_merging():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 40, 3000) + 0.0
    tables = {Part("id", "id"): judged(values, values > 30), Part("new", "novel"): judged(values + 0.5)}
    merged = Grid.of(Pool(("s",), "row", tables), 0, 10)
    assert merged.tally().counts.sum() == 6000
    assert set(merged.scores) <= set(values) | set(values + 0.5)


def test_histograms_count_every_unit_of_every_set():
    chances = np.array([0.01, 0.05, 0.050001, 1.0])
    tables = {Part("id", "id"): judged([1, 2, 3, 4], np.zeros(4, bool), chances), Part("n", "novel"): judged([9.0])}
    score, p_value = histograms(Pool(("s",), "row", tables), 0)
    assert score.counts.sum(axis=1).tolist() == [4, 1]
    assert p_value.counts[0][[0, 1, 19]].tolist() == [2, 1, 1]


def test_a_constant_score_has_a_histogram_too():
    tables = {Part("id", "id"): judged([2.0] * 5, np.zeros(5, bool))}
    score, _ = histograms(Pool(("s",), "row", tables), 0)
    assert score.counts.sum() == 5
    assert np.isfinite(score.edges).all()
