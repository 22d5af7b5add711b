"""Transforms against their float64 oracles: the largest logit of what the head makes of them, and their energy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both
from tests.judged import ROUNDING, Case, Seeded, judge, runs
from tests.oracles import distance, logit, shaping
from tests.oracles.sample import Float
from tests.oracles.worlds import WORLDS, World

Shaped = Callable[[World], Float]  # test rows' logits after the transform
Entry = Mapping[str, Any] | str


def headed(w: World, features: Float) -> Float:
    return features @ w.sample.head_weight.T + w.sample.head_bias


def cuts(w: World, low: float, high: float) -> tuple[float, float]:
    return shaping.order_statistic(w.sample.features, low), shaping.order_statistic(w.sample.features, high)


def each(w: World, low: float, high: float) -> tuple[Float, Float]:
    columns = w.sample.features.T
    found = [[shaping.order_statistic(column, q) for column in columns] for q in (low, high)]
    return np.array(found[0]), np.array(found[1])


def of_head(shaped: Shaped) -> Callable[[World, Float], Float]:
    """The logits are made again in float32, and the score crosses 0 between terms of their terms' size."""

    def room(w: World, _: Float) -> Float:
        terms = np.abs(w.test64[0]).sum(axis=1) * np.abs(w.sample.head_weight).max()
        sizes = np.abs(shaped(w)).max(axis=1)
        return 2 * ROUNDING * (terms * np.maximum(sizes / np.abs(w.test64[1]).max(axis=1), 1) + sizes)

    return room


def cases(name: str, transforms: list[Entry], shaped: Shaped, **told: Any) -> dict[str, Case]:
    def shape(score: Entry) -> dict[str, Any]:
        return {"shaped": {"transforms": transforms, "score": score}}

    room = of_head(shaped)
    return {
        name: Case(shape("max_logit"), lambda w, _: logit.max_logit(shaped(w)), room, **told),
        f"{name}_energy": Case(shape("energy"), lambda w, _: logit.energy(shaped(w)), room, **told),
    }


SIGNED = {name: "negative" for name in WORLDS if name not in ("offset", "rectified")}
ON_RECTIFIED = {"worlds": (*SIGNED, "rectified"), "refused": SIGNED}
NARROW = dict.fromkeys(("two_classes", "many_batches", "tiny_scale"), "keeps none")  # 5 % of at most 10 features
CASES = {
    **cases("vra", ["vra", "linear_head"], lambda w: headed(w, shaping.vra(w.test64[0], *cuts(w, 0.6, 0.9)))),
    **cases(
        "vra_each",
        [{"vra": {"per": "dimension", "q_low": 0.3, "q_high": 0.8}}, "linear_head"],
        lambda w: headed(w, shaping.vra(w.test64[0], *each(w, 0.3, 0.8))),
    ),
    **cases(
        "vra_plus",
        ["vra_plus", "linear_head"],
        lambda w: headed(w, shaping.vra_plus(w.test64[0], *cuts(w, 0.6, 0.95), 0.3)),
    ),
    **cases(
        "vra_openood_clip",
        ["vra_openood_clip", "linear_head"],
        lambda w: headed(w, w.test64[0].clip(*cuts(w, 0.1, 0.9))),
    ),
    **cases("dice", ["dice"], lambda w: w.test64[0] @ shaping.dice_weight(w.sample, 90).T + w.sample.head_bias),
    **cases(
        "dice_half",
        [{"dice": {"percentile": 50}}],
        lambda w: w.test64[0] @ shaping.dice_weight(w.sample, 50).T + w.sample.head_bias,
    ),
    **{
        name: case
        for variant in "pbs"
        for name, case in cases(
            f"ash_{variant}",
            [{f"ash_{variant}": {"percentile": 65}}, "linear_head"],
            lambda w, variant=variant: headed(w, shaping.ash(w.test64[0], 65, variant)),
            **ON_RECTIFIED,
        ).items()
    },
    **cases("scale", ["scale", "linear_head"], lambda w: headed(w, shaping.scale(w.test64[0], 85)), **ON_RECTIFIED),
    **cases("lts", ["lts"], lambda w: shaping.lts(*w.test64), refused=NARROW),
    **cases("lts_60", [{"lts": {"percentile": 60}}], lambda w: shaping.lts(*w.test64, 60)),
    **cases(
        "t2fnorm",
        [{"t2fnorm": {"temperature": 0.25}}],
        lambda w: w.test64[0] @ w.sample.head_weight.T / 0.25 + w.sample.head_bias,
    ),
    **cases(
        "standardise", ["standardise", "linear_head"], lambda w: headed(w, shaping.standardise(w.sample, w.test64[0]))
    ),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_transform_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)


def test_select_reads_another_signal_in_the_place_of_features():
    rng = np.random.default_rng(0)
    layer, asked = rng.normal(size=(200, 5)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    held = Reference({"features": np.zeros((200, 3), np.float32), "layer3": layer})
    want = distance.knn_cosine(layer.astype(np.float64), asked.astype(np.float64), 5)
    select = {"transforms": [{"select": {"signal": "layer3"}}], "score": {"knn": {"k": 5}}}
    scores = {"short": build_score("knn", {"k": 5, "on": "layer3"}, held), "long": build_score("shaped", select, held)}
    for got in on_both(scores, {"layer3": asked}):
        assert_close(got["short"], want, RTOL * want + 1e-7)
        assert_close(got["long"], want, RTOL * want + 1e-7)


AWKWARD = np.array(
    [[0, 0, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2, 2, 2], [3, 1, 1, 1, 1, 0, 0, 0]], np.float32
)


@pytest.mark.parametrize("name", ["ash_p", "ash_b", "ash_s", "scale"])
def test_rows_of_zeros_and_ties_are_defined(name: str):
    """Nothing to keep, fewer than k to keep, and more than k that tie."""
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(100, 8)), 0).astype(np.float32)
    weight, bias = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    held = Reference({"features": rows}, head_weight=weight, head_bias=bias)
    entry = {"transforms": [{name: {"percentile": 75}}, "linear_head"], "score": "max_logit"}
    asked = AWKWARD.astype(np.float64)
    shaped = shaping.scale(asked, 75) if name == "scale" else shaping.ash(asked, 75, name[-1])
    want = -(shaped @ weight.T.astype(np.float64) + bias).max(axis=1)
    for got in on_both({"s": build_score("shaped", entry, held)}, {"features": AWKWARD}):
        assert_close(got["s"], want, RTOL * np.abs(want) + 1e-6 * np.abs(shaped).max(axis=1))


def test_golden_numbers_of_vra():
    """Of the reference notes: VRA, and VRA+ in the official order."""
    row = np.array([0, 0.2, 0.5, 0.9, 1.4, 2.5])
    np.testing.assert_allclose(shaping.vra(row, 0.5, 1.0), [0, 0, 0.5, 0.9, 1, 1])
    np.testing.assert_allclose(shaping.vra_plus(row, 0.6, 1.2, 0.3), [0, 0, 0, 1.2, 1.2, 1.2])
