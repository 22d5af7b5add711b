"""Neuron activation coverage against its float64 oracle: a step function, so between the steps float32 may land on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import on_both, reference, signals
from tests.judged import ROUNDING
from tests.oracles import headed
from tests.oracles.sample import Float
from tests.oracles.worlds import world

NAC = {"default": {}, "coarse": {"edges": 10, "saturation": 20, "sharpness": 1.0}}


@pytest.mark.parametrize("case", NAC)
@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "offset", "tiny_scale", "rectified"])
def test_nac_is_the_coverage_of_its_states(name: str, case: str):
    hyper: dict[str, Any] = {"edges": 50, "saturation": 50, "sharpness": 100.0} | NAC[case]
    w, edges = world(name, 0), headed.nac_edges(hyper["edges"])
    score: Any = build_score("nac", NAC[case], reference(w))
    weight, sharpness = w.sample.head_weight, hyper["sharpness"]
    known = headed.nac_states(weight, w.sample.features, w.sample.logits, sharpness)
    known_room = headed.nac_room(weight, w.sample.features, w.sample.logits, sharpness, ROUNDING)
    least, most = headed.nac_counts(edges, known, known_room)
    width = w.features.shape[1]
    held = score.table.astype(np.float64).reshape(width, -1) * width  # Phi of the bins within reach
    reach = held.shape[1]
    assert (most[:, reach:] == 0).all()
    assert (held >= np.minimum(least / hyper["saturation"], 1)[:, :reach] - 1e-6).all()
    assert (held <= np.minimum(most / hyper["saturation"], 1)[:, :reach] + 1e-6).all()
    asked = headed.nac_states(weight, *w.test64, sharpness)
    low, high = headed.nac_range(held, edges, asked, headed.nac_room(weight, *w.test64, sharpness, ROUNDING))
    assert np.median(high - low) <= 0.02  # not vacuous: for most rows every bin is certain, or nearly
    for got in on_both({"nac": score}, signals(w)):
        assert (got["nac"] >= low - 1e-6).all()
        assert (got["nac"] <= high + 1e-6).all()


def test_nac_layers_is_the_mean_of_its_layers():
    """With the closed-form gradient supplied as a signal, a layer's coverage is NAC's; two layers give the mean."""
    w = world("tall", 0)
    weight = w.sample.head_weight

    def given(features: Float, logits: Float) -> dict[str, Any]:
        gradient = (softmax(logits, axis=1) - 1 / logits.shape[1]) @ weight
        return {"a": features, "a_grad": gradient, "b": features[:, ::-1], "b_grad": np.sin(gradient)[:, ::-1]}

    known = {k: np.ascontiguousarray(v, np.float32) for k, v in given(w.sample.features, w.sample.logits).items()}
    asked = {k: np.ascontiguousarray(v, np.float32) for k, v in given(*w.test64).items()}
    hyper = {"layers": ["a", "b"], "saturation": [50, 20], "sharpness": [1.0, 10.0]}
    bounds = []
    for layer, saturation, sharpness in (("a", 50, 1.0), ("b", 20, 10.0)):

        def states(held: dict[str, Any], layer: str = layer, sharpness: float = sharpness) -> tuple[Float, Float]:
            product = sharpness * held[layer].astype(np.float64) * held[f"{layer}_grad"]
            a = 1 / (1 + np.exp(-product))
            return a, 4 * ROUNDING * (1 + np.abs(product)) * a

        edges = headed.nac_edges()
        least, most = headed.nac_counts(edges, *states(known))
        low, _ = headed.nac_range(np.minimum(most / saturation, 1), edges, *states(asked))
        _, high = headed.nac_range(np.minimum(least / saturation, 1), edges, *states(asked))
        bounds.append((low, high))
    low, high = np.mean(bounds, axis=0)
    assert np.median(high - low) <= 0.01
    for got in on_both({"n": build_score("nac_layers", hyper, Reference(known))}, asked):
        assert (got["n"] >= low - 1e-6).all()
        assert (got["n"] <= high + 1e-6).all()


def test_golden_numbers_of_nac():
    """Of the reference notes: the closed-form gradient, its states, and the official edges."""
    weight, features = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([[1.0, 2]])
    states = headed.nac_states(weight, features, features @ weight.T, 1.0)
    np.testing.assert_allclose(states, [[0.52213673, 0.61930645]], atol=1e-8)
    edges = headed.nac_edges(50)
    assert len(edges) == 50
    np.testing.assert_allclose(edges[[0, 1, 2, 24, -3, -2, -1]], [0, 0.1191, 0.1835, 0.5, 0.8809, 1.01, 1.2], atol=1e-4)
