"""Views of one input and gauges of health, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from tests.contract.entries import reference


def value(score, **signals):
    arrays = {s: np.atleast_2d(np.asarray(x, np.float32)) for s, x in signals.items()}
    return evaluate({"s": score}, arrays)["s"]


def of_views(kind, views, **hyper):
    """The score of one row of views, (V, C)."""
    row = np.asarray(views, np.float32).reshape(1, -1)
    return value(build_score(kind, {"views": len(views), **hyper}, Reference({"view_logits": row})), view_logits=row)[0]


def test_views_by_hand():
    sure, other = [np.log(0.9), np.log(0.1)], [np.log(0.1), np.log(0.9)]
    assert of_views("cover", [sure, sure]) == pytest.approx(-0.9)
    assert of_views("cover", [[3.0, 1], [0, 0]], by="energy") == pytest.approx(
        -(np.log(np.exp(3) + np.e) + np.log(2)) / 2
    )
    assert of_views("predictive_entropy", [sure, other]) == pytest.approx(np.log(2))
    assert of_views("bald", [sure, other]) == pytest.approx(0.5 * np.log(4 * 0.09) + 0.8 * np.log(3), abs=1e-6)
    assert of_views("bald", [sure, sure]) == pytest.approx(0, abs=1e-7)
    assert of_views("variation_ratio", [sure, other, sure, sure]) == pytest.approx(0.25)
    assert of_views("variation_ratio", [[1.0, 1], [2, 0], [0, 1]]) == pytest.approx(1 / 3)
    assert of_views("disagreement", [sure, other]) == pytest.approx(0.8)
    assert of_views("disagreement", [sure, other, sure]) == pytest.approx(0.8 * 2 / 3)
    assert of_views("disagreement", [sure, other], by="variance") == pytest.approx(2 * 0.16)


def test_rotation_by_hand():
    told = 4 * np.eye(4)
    row = told.reshape(1, -1)
    score = build_score("rotation", {}, Reference({"rotation_logits": row}))
    assert value(score, rotation_logits=row)[0] == pytest.approx(4 * np.log(1 + 3 * np.exp(-4)), rel=1e-5)
    wrong = np.roll(told, 1, axis=1).reshape(1, -1)
    assert value(score, rotation_logits=wrong)[0] == pytest.approx(4 * (4 + np.log(1 + 3 * np.exp(-4))), rel=1e-5)


def test_gauges_by_hand():
    known = Reference({"features": np.array([[1.0, -1, 2, 0], [3, 1, -2, 2]]), "attention": np.ones((2, 4))})
    row = [1, -12, 2, 6]
    assert value(build_score("massive_activation", {}, known), features=row)[0] == pytest.approx(12 / 1.5)
    assert value(build_score("massive_activation", {"against": "row"}, known), features=row)[0] == pytest.approx(12 / 4)
    assert np.isnan(value(build_score("massive_activation", {"against": "row"}, known), features=[0, 0, 0, 5])[0])
    assert value(build_score("llm_int8", {}, known), features=row)[0] == 0.5
    assert value(build_score("saturation", {"quantile": 1.0}, known), features=[3, -3, 2.999, 0])[0] == 0.5
    assert value(build_score("saturation", {"quantile": 0.5}, known), features=[1, -1, 0.9, 0])[0] == 0.5
    assert value(build_score("attention_sink", {}, known), attention=[6, 1, 1, 0])[0] == pytest.approx(0.75)
    # variances 1, 1, 4, 1: mean 1.75; the third is an outlier dimension at factor 2
    wide = build_score("outlier_dimensions", {}, known)
    assert value(wide, features=[2, 0, 4, 1])[0] == pytest.approx(16 / 1.75)
    narrow = build_score("outlier_dimensions", {"factor": 2.0}, known)
    assert value(narrow, features=[2, 3, 400, 1])[0] == pytest.approx(9 / 1.75)


def test_gauges_read_another_signal_through_on():
    score = build_score("massive_activation", {"on": "activations"}, reference())
    assert score.inputs == ("activations",)
