"""Scores of sigmoid heads against their float64 oracles; scores of box features that read logits beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.judged import EVERYWHERE, ROUNDING
from tests.oracles import sigmoid
from tests.oracles.worlds import world

NOTHING = Reference({"logits": np.zeros((1, 3), np.float32), "objectness": np.zeros((1, 1), np.float32)})


@pytest.mark.parametrize("name", EVERYWHERE)
def test_sigmoid_energy_is_its_formula(name):
    w = world(name, 0)
    want = sigmoid.joint_energy(w.test64[1])
    for got in on_both({"e": build_score("sigmoid_energy", None, reference(w))}, signals(w)):
        assert_close(got["e"], want, RTOL * np.abs(want))


@pytest.mark.parametrize("offset", [-60.0, -20.0, -16.5, -3.0, 0.0, 3.0, 30.0])
def test_sigmoid_energy_keeps_its_digits_where_every_class_is_unlikely(offset):
    """log(1 + e^-20) is 2e-9: computed as it stands, float32 gives 0."""
    rows = (np.random.default_rng(3).normal(size=(40, 7)) + offset).astype(np.float32)
    want = sigmoid.joint_energy(rows.astype(np.float64))
    for got in on_both({"e": build_score("sigmoid_energy", None, NOTHING)}, {"logits": rows}):
        assert_close(got["e"], want, 2e-6 * np.abs(want))


def test_sigmoid_energy_of_a_hand_made_row():
    """Two classes of logit 0 and one of log 3: -(2 log 2 + log 4) = -4 log 2."""
    rows = np.array([[0, 0, math.log(3)]], np.float32)
    for got in on_both({"e": build_score("sigmoid_energy", None, NOTHING)}, {"logits": rows}):
        assert got["e"][0] == pytest.approx(-4 * math.log(2), rel=1e-6)


def test_objectness_gap_is_its_formula():
    rng = np.random.default_rng(4)
    given = {
        "objectness": rng.uniform(size=(200, 1)).astype(np.float32),
        "logits": (5 * rng.normal(size=(200, 6))).astype(np.float32),
    }
    want = sigmoid.objectness_gap(given["objectness"].astype(np.float64), given["logits"].astype(np.float64))
    for got in on_both({"g": build_score("objectness_gap", None, Reference(given))}, given):
        assert_close(got["g"], want, np.full(200, 8 * ROUNDING))
    agreed = {"objectness": np.array([[0.5], [1.0]], np.float32), "logits": np.array([[0, -9], [-9, 0]], np.float32)}
    for got in on_both({"g": build_score("objectness_gap", None, NOTHING)}, agreed):
        assert got["g"].tolist() == [0.0, 0.5]


@pytest.mark.parametrize("kind", ["box", "nci", "fdbd"])
def test_a_score_of_box_features_reads_the_logits_beside_them(kind):
    """`on` renames one signal; what else the score reads is not renamed."""
    w = world("tall", 0)
    plain = reference(w)
    named = {"box_features": plain.signals["features"], "logits": plain.signals["logits"]}
    held = Reference(named, plain.labels, plain.head_weight, plain.head_bias, plain.correct)
    given = {"box_features": signals(w)["features"], "logits": signals(w)["logits"]}
    wanted = on_both({"s": build_score(kind, None, plain)}, signals(w))
    for got, want in zip(on_both({"s": build_score(kind, {"on": "box_features"}, held)}, given), wanted, strict=True):
        np.testing.assert_array_equal(got["s"], want["s"])
