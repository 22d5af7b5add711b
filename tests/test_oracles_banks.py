"""Scores against stored rows, against their float64 oracles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from demur.detectors.storage import parameters
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.judged import ROUNDING, Case, Seeded, judge, runs
from tests.oracles import bank, distance
from tests.oracles.sample import Float
from tests.oracles.worlds import World, world


def largest(w: World) -> Float:
    return np.abs(w.test64[1]).max(axis=1)


def of_directions(_: World, want: Float) -> Float:
    """Half the square of a difference of unit vectors, each rounded to float32."""
    return 2 * ROUNDING * np.sqrt(2 * want) + (4 * ROUNDING) ** 2


def of_centred(w: World, _: Float) -> Float:
    """Rows and asked rows are rounded after the centre is taken off, the centre itself before."""
    centre = w.sample.features.mean(axis=0)
    return 4 * ROUNDING * (np.linalg.norm(w.test64[0] - centre, axis=1) + np.linalg.norm(centre))


def of_guidance(w: World, _: Float) -> Float:
    """Energies and similarities cross 0: each rounds at the size of its terms."""
    size = np.log(w.test64[1].shape[1])
    known = np.abs(logsumexp(w.sample.logits, axis=1)).max() + size
    return 8 * ROUNDING * (largest(w) + size) * known


def of_relation(power: float) -> Callable[[World, Float], Float]:
    """Posteriors by their exponents; a relation within rounding of 0.03 may count or not."""

    def room(w: World, want: Float) -> Float:
        kernel = bank.relations(w.sample.features, w.sample.logits, *w.test64)
        off = 4 * ROUNDING * (1 + largest(w) + np.abs(w.sample.logits).max())
        doubtful = (np.abs(kernel - 0.03) <= 0.03 * off[:, None]).mean(axis=1) * 0.03**power
        return doubtful + power * off * np.abs(want) + 1e-7

    return room


def of_relation_terms(w: World) -> tuple[Float, Float, Float, Float]:
    return w.sample.features, w.sample.logits, *w.test64


def euclidean(aggregate: str) -> Callable[[World, Any], Float]:
    return lambda w, _: bank.nearest(bank.distances(w.sample.features, w.test64[0]), 7, aggregate)


CASES = {
    "knn_euclidean": Case({"knn": {"k": 7, "metric": "euclidean"}}, euclidean("kth"), of_centred),
    "knn_euclidean_mean": Case(
        {"knn": {"k": 7, "metric": "euclidean", "aggregate": "mean"}}, euclidean("mean"), of_centred
    ),
    "knn_mean": Case(
        {"knn": {"k": 7, "aggregate": "mean"}},
        lambda w, _: bank.nearest(bank.cosine_distances(w.sample.features, w.test64[0]), 7, "mean"),
        of_directions,
    ),
    "nnguide": Case("nnguide", lambda w, _: bank.nnguide(*of_relation_terms(w)), of_guidance),
    "relation": Case("relation", lambda w, _: bank.relation(bank.relations(*of_relation_terms(w))), of_relation(1.0)),
    "relation_sharp": Case(
        {"relation": {"power": 2.5}},
        lambda w, _: bank.relation(bank.relations(*of_relation_terms(w)), 2.5),
        of_relation(2.5),
    ),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_score_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)


SHAPES = ["tall", "wide", "many_unbalanced", "rank_deficient", "offset", "tiny_scale", "rectified"]


@pytest.mark.parametrize("name", SHAPES)
def test_cider_reads_the_projection(name: str):
    w = world(name, 0)
    known, given = w.features[:, :5].copy(), {"projection": w.test_features[:, :5].copy()}
    held = Reference({"features": w.features, "projection": known})
    want = bank.cider(known.astype(np.float64), given["projection"].astype(np.float64), 6)
    for got in on_both({"c": build_score("cider", {"k": 6}, held)}, given):
        assert_close(got["c"], want, RTOL * want + 2 * of_directions(w, want / 2))


@pytest.mark.parametrize("name", SHAPES)
def test_contrast_is_a_difference_of_two_neighbour_distances(name: str):
    w = world(name, 0)
    foreign = np.random.default_rng(1).permuted(w.features, axis=1)[:50]
    held = replace(reference(w), sides={"outliers": Reference({"features": foreign})})
    known, strange = (
        bank.nearest(bank.cosine_distances(rows.astype(np.float64), w.test64[0]), 4) for rows in (w.features, foreign)
    )
    room = RTOL * (known + strange) + of_directions(w, known) + of_directions(w, strange)
    assert_close(known - strange, bank.contrast(w.sample.features, foreign.astype(np.float64), w.test64[0], 4), room)
    for got in on_both({"c": build_score("contrastive_banks", {"k": 4}, held)}, signals(w)):
        assert_close(got["c"], known - strange, room)


@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "tiny_scale", "rectified"])
@pytest.mark.parametrize("hyper", [{}, {"covered": 0.2, "grid": 12}], ids=str)
def test_cfood_is_the_smallest_size_that_covers(name: str, hyper: dict[str, Any]):
    """A step function of distances: between the steps that float32 may land on, and exact beyond the largest balls."""
    w = world(name, 0)
    off = 4 * ROUNDING
    low, high = (bank.cfood(w.sample.features, w.test64[0], **hyper, off=sign * off) for sign in (-1, 1))
    exact = np.isclose(low, high, rtol=1e-4)
    assert exact.mean() >= 0.85  # ten of the rows are in the bank: at every ball's edge
    score = build_score("cfood", hyper, reference(w))
    for got in on_both({"c": score}, signals(w)):
        assert (got["c"] >= low * (1 - RTOL)).all()
        assert (got["c"] <= high * (1 + RTOL)).all()


def test_cfood_far_rows_keep_their_order():
    """Around one direction; rows at growing angles from it lie outside every ball."""
    rng = np.random.default_rng(0)
    rows = (np.array([1.0, 0, 0, 0]) + 0.05 * rng.normal(size=(200, 4))).astype(np.float32)
    angles = np.linspace(0.5, 3.0, 12)
    asked = np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], axis=1).astype(np.float32)
    want = bank.cfood(rows.astype(np.float64), asked.astype(np.float64))
    assert (np.diff(want) > 0).all()
    assert want.min() > 1
    for got in on_both({"c": build_score("cfood", None, Reference({"features": rows}))}, {"features": asked}):
        assert_close(got["c"], want, RTOL * want + 1e-5)


SELECT = ["random", "k_centre", "class_balanced", "distilled"]


@pytest.mark.parametrize("select", SELECT)
@pytest.mark.parametrize("name", ["many_batches", "many_unbalanced", "offset"])
def test_selected_bank_holds_reference_rows_and_scores_by_them(name: str, select: str):
    w = world(name, 0)
    hyper = {"k": 3, "bank": 100, "metric": "euclidean", "select": select, "seed": 5}
    score = build_score("knn", hyper, reference(w))
    stored = parameters(score)
    kept = stored["bank"].astype(np.float64) + stored["centre"]
    assert len(kept) == 100
    room = 4 * ROUNDING * (np.abs(w.features).max() + 1)
    rows, gaps = distance.nearest_rows(kept, w.sample.features)
    assert gaps.max() <= room
    assert len(set(rows.tolist())) == 100
    kept = w.sample.features[rows]
    if select == "class_balanced":  # the long tail has fewer rows in the sample that is chosen from than its share
        counts = np.bincount(w.labels[rows], minlength=len(w.head_weight))
        assert counts.max() - counts.min() <= (2 if name == "many_unbalanced" else 1)
    if select == "k_centre":
        spread = bank.distances(kept, w.sample.features).min(axis=1).max()
        chosen = np.random.default_rng(0).choice(len(w.features), 100, replace=False)
        assert spread < bank.distances(w.sample.features[chosen], w.sample.features).min(axis=1).max()
    want = bank.nearest(bank.distances(kept, w.test64[0]), 3)
    for got in on_both({"knn": score}, signals(w)):
        assert_close(got["knn"], want, RTOL * want + of_centred(w, want))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("name", ["tall", "offset", "rectified", "many_unbalanced"])
def test_narrow_banks_score_by_their_rounded_rows(name: str, dtype: str, metric: str):
    """The stored rows are the reference rows to the rounding of the type; distances are exact to the stored rows."""
    w = world(name, 0)
    score: Any = build_score("knn", {"k": 5, "dtype": dtype, "metric": metric}, reference(w))
    assert score.bank.dtype == np.dtype(dtype)
    centred = score.bank.astype(np.float64) * (1.0 if score.step is None else score.step.astype(np.float64))
    rows = distance.unit(w.sample.features) if metric == "cosine" else w.sample.features
    exact = rows - score.centre.astype(np.float64)
    step = np.abs(exact) * 2.0**-11 + 2.0**-25 if dtype == "float16" else np.abs(exact).max(axis=0) / 127 / 2
    assert (np.abs(centred - exact) <= 1.001 * step + 4 * ROUNDING * np.abs(rows).max()).all()
    asked = (distance.unit(w.test64[0]) if metric == "cosine" else w.test64[0]) - score.centre.astype(np.float64)
    gaps = bank.distances(centred, asked)
    want = bank.nearest(gaps**2 / 2 if metric == "cosine" else gaps, 5)
    off = of_centred(w, want) if metric == "euclidean" else 4 * of_directions(w, want)
    for got in on_both({"knn": score}, signals(w)):
        assert_close(got["knn"], want, RTOL * want + off)


def test_golden_relations_of_three_rows():
    """Of the reference notes: K = [[.82, .3, 0], [.3, .5, .4], [0, .4, .82]]."""
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1]])
    posteriors = np.log([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    kernel = bank.relations(rows, posteriors, rows, posteriors)
    np.testing.assert_allclose(kernel, [[0.82, 0.3, 0], [0.3, 0.5, 0.4], [0, 0.4, 0.82]], atol=1e-12)
    given = {"features": rows.astype(np.float32), "logits": posteriors.astype(np.float32)}
    for got in on_both({"r": build_score("relation", None, Reference(given))}, given):
        assert_close(got["r"], -kernel.mean(axis=1), np.full(3, 1e-6))
