"""Scores of several views of an input, and of the health of a network's numbers, against their float64 oracles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both
from tests.judged import EVERYWHERE, ROUNDING, Case, Seeded, judge, runs
from tests.oracles import health, shaping, views
from tests.oracles.sample import Float
from tests.oracles.worlds import World

SHAPES = [(2, 2), (5, 3), (3, 40)]  # views, classes
SCALES = (0.0, 1e-4, 0.3, 1.0, 8.0, 90.0, 1e3)


def given(count: int, classes: int, seed: int) -> np.ndarray:
    """Rows of (V, C) logits of every scale: views that agree, that differ a little, that differ; some with ties."""
    rng = np.random.default_rng(seed)
    rows = []
    for scale in SCALES:
        for apart in (0.0, 0.01, 1.0, 4.0):
            shared = scale * rng.normal(size=(6, 1, classes))
            rows.append(shared + scale * apart * rng.normal(size=(6, count, classes)))
    rows.append(rng.integers(3, size=(20, count, classes)).astype(np.float64))
    return np.concatenate(rows).astype(np.float32)


def spread(logits: Float) -> Float:
    return np.abs(logits).max(axis=(1, 2))


def of_probabilities(logits: Float, want: Float) -> Float:
    """Exponents are differences of logits; probabilities add up in float32."""
    return 4 * ROUNDING * (spread(logits) * np.abs(want) + 4 + np.log(logits.shape[2]))


def of_terms(logits: Float, _: Float) -> Float:
    """Crosses 0 between terms of the size of the logits."""
    return 2 * ROUNDING * (spread(logits) + np.log(logits.shape[2]))


VIEWS: dict[str, tuple[str, dict[str, Any], Callable[[Float], Float], Callable[[Float, Float], Float]]] = {
    "cover": ("cover", {}, views.cover, of_probabilities),
    "cover_warm": ("cover", {"temperature": 5.0}, lambda z: views.cover(z, "msp", 5.0), of_probabilities),
    "cover_energy": ("cover", {"by": "energy"}, lambda z: views.cover(z, "energy"), of_terms),
    "predictive_entropy": ("predictive_entropy", {}, views.predictive_entropy, of_probabilities),
    "bald": ("bald", {}, views.bald, of_probabilities),
    "variation_ratio": ("variation_ratio", {}, views.variation_ratio, of_probabilities),
    "disagreement": ("disagreement", {}, views.total_variation, of_probabilities),
    "disagreement_variance": ("disagreement", {"by": "variance"}, views.posterior_variance, of_probabilities),
}


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("count", "classes"), SHAPES)
def test_score_of_views_equals_oracle(case: str, count: int, classes: int, seed: int):
    kind, hyper, oracle, rounding = VIEWS[case]
    logits = given(count, classes, seed)
    flat = {"view_logits": logits.reshape(len(logits), -1)}
    score = build_score(kind, {"views": count, **hyper}, Reference(flat))
    want = oracle(logits.astype(np.float64))
    for got in on_both({case: score}, flat):
        assert_close(got[case], want, RTOL * np.abs(want) + rounding(logits.astype(np.float64), want))


def test_views_that_agree_disagree_by_nothing():
    logits = np.repeat(given(1, 4, 3), 3, axis=1)
    z = logits.astype(np.float64)
    flat = {"view_logits": logits.reshape(len(logits), -1)}
    kinds = {"bald": views.bald, "variation_ratio": views.variation_ratio, "disagreement": views.total_variation}
    scores = {kind: build_score(kind, {"views": 3}, Reference(flat)) for kind in kinds}
    for oracle in kinds.values():
        assert np.abs(oracle(z)).max() < 1e-9
    for got in on_both(scores, flat):
        for kind in kinds:
            assert np.abs(got[kind]).max() <= 5e-7


@pytest.mark.parametrize("seed", [0, 1])
def test_rotation_equals_oracle(seed: int):
    logits = given(4, 4, seed)
    flat = {"rotation_logits": logits.reshape(len(logits), 16)}
    want = views.rotation(logits.astype(np.float64))
    for got in on_both({"r": build_score("rotation", None, Reference(flat))}, flat):
        assert_close(got["r"], want, RTOL * want + 4 * of_terms(logits.astype(np.float64), want))


def test_entropy_of_two_certain_views_that_differ():
    """ln 2 in the mean and nothing within: all of it mutual information; half of the views outvoted."""
    logits = np.array([[[60.0, 0, 0], [0, 60, 0]]])
    assert views.predictive_entropy(logits)[0] == pytest.approx(np.log(2))
    assert views.bald(logits)[0] == pytest.approx(np.log(2))
    assert views.variation_ratio(logits)[0] == 0.5
    assert views.total_variation(logits)[0] == pytest.approx(1.0)
    assert views.posterior_variance(logits)[0] == pytest.approx(0.5)
    assert views.rotation(np.zeros((1, 4, 4)))[0] == pytest.approx(4 * np.log(4))


def of_centre(w: World, want: Float) -> Float:
    """Deviations round at the size of the mean, in units of the mean variance."""
    off = 2 * ROUNDING * np.abs(w.sample.features.mean(axis=0)).max() / np.sqrt(w.sample.features.var(axis=0).mean())
    return 2 * off * np.sqrt(want) + off**2


CASES = {
    "massive_activation": Case(
        "massive_activation",
        lambda w, _: health.largest_over_typical(w.test64[0], np.abs(w.sample.features).mean()),
    ),
    "massive_activation_row": Case(
        {"massive_activation": {"against": "row"}},
        lambda w, _: health.largest_over_median(w.test64[0]),
        worlds=tuple(name for name in EVERYWHERE if name != "rectified"),
    ),
    "outlier_dimensions": Case(
        "outlier_dimensions", lambda w, _: health.outlier_dimensions(w.sample.features, w.test64[0]), of_centre
    ),
    "outlier_dimensions_15": Case(
        {"outlier_dimensions": {"factor": 1.5}},
        lambda w, _: health.outlier_dimensions(w.sample.features, w.test64[0], 1.5),
        of_centre,
    ),
    "llm_int8": Case("llm_int8", lambda w, _: health.share_at_least(w.test64[0], 6.0)),
    "llm_int8_2": Case({"llm_int8": {"bound": 2.0}}, lambda w, _: health.share_at_least(w.test64[0], 2.0)),
    "saturation": Case(
        "saturation",
        lambda w, _: health.share_at_least(w.test64[0], shaping.order_statistic(np.abs(w.sample.features), 0.999)),
    ),
    "saturation_70": Case(
        {"saturation": {"quantile": 0.7}},
        lambda w, _: health.share_at_least(w.test64[0], shaping.order_statistic(np.abs(w.sample.features), 0.7)),
    ),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_health_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)


@pytest.mark.parametrize("keys", [2, 7, 300])
def test_attention_sink_is_the_largest_share(keys: int):
    rng = np.random.default_rng(keys)
    sums = np.concatenate([rng.dirichlet(np.full(keys, a), size=20) * keys for a in (0.05, 1.0, 50.0)])
    given = {"attention": (sums * rng.choice([1e-6, 1.0, 1e4], size=(60, 1))).astype(np.float32)}
    want = health.attention_sink(given["attention"].astype(np.float64))
    for got in on_both({"a": build_score("attention_sink", None, Reference(given))}, given):
        assert_close(got["a"], want, RTOL * want)
