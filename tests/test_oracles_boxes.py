"""Boxes of correct rows, and depths in them, against the definition: k-means is random, so its boxes are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from demur.detectors.build import build_score
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.judged import ROUNDING
from tests.oracles import prototype
from tests.oracles.sample import Float
from tests.oracles.worlds import World, world


def boxes_of(score: Any, logits: Float) -> tuple[Float, Float]:
    """Corners (N, boxes, D) of the boxes of each row's predicted class: k-means is random, so its result is read."""
    predicted = logits.argmax(axis=1)
    low, high = (corner.astype(np.float64)[predicted] for corner in (score.low, score.high))
    return low.reshape(len(logits), score.boxes, -1), high.reshape(len(logits), score.boxes, -1)


def box(w: World, score: Any) -> Float:
    return prototype.box_depth(w.test64[0], *boxes_of(score, w.test64[1]))


def of_box(w: World, score: Any) -> Float:
    """Centres and offsets round at the size of the features, not of the boxes."""
    corners = boxes_of(score, w.test64[1])
    off = 2 * ROUNDING
    return prototype.box_depth(w.test64[0], *corners, off) - prototype.box_depth(w.test64[0], *corners, -off)


@pytest.mark.parametrize("hyper", [{}, {"boxes": 3, "margin": 0.25}], ids=str)
@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "offset", "tiny_scale", "rectified"])
def test_box_is_the_depth_in_its_own_boxes(name: str, hyper: dict[str, Any]):
    w = world(name, 0)
    score = build_score("box", hyper, reference(w))
    want = box(w, score)
    for got in on_both({"box": score}, signals(w)):
        assert_close(got["box"], want, RTOL * want + of_box(w, score))


@pytest.mark.parametrize("name", ["tall", "offset", "many_unbalanced", "rectified"])
def test_boxes_are_the_ranges_of_correct_rows_of_their_class(name: str):
    """Every correct row of a class lies in one of its boxes; every face of every box is touched by such a row within."""
    w = world(name, 1)
    score: Any = build_score("box", {"boxes": 4}, reference(w))
    for label in range(len(w.head_weight)):
        mine = w.features[(w.labels == label) & w.correct]
        low, high = score.low[label].reshape(4, -1), score.high[label].reshape(4, -1)
        inside = (mine[:, None] >= low).all(axis=2) & (mine[:, None] <= high).all(axis=2)
        assert inside.any(axis=1).all()
        distinct = min(4, len(np.unique(mine, axis=0)))
        assert len(np.unique(low, axis=0)) == distinct
        for place in range(4):
            held = mine[inside[:, place]]
            np.testing.assert_array_equal(held.min(axis=0), low[place])
            np.testing.assert_array_equal(held.max(axis=0), high[place])


def test_box_margin_makes_half_widths_larger():
    w = world("tall", 0)
    tight, wide = (build_score("box", {"margin": m}, reference(w)) for m in (0.0, 0.5))
    np.testing.assert_allclose(wide.high - wide.low, 1.5 * (tight.high - tight.low), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(wide.high + wide.low, tight.high + tight.low, rtol=1e-5, atol=1e-6)
