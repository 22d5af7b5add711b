"""Transforms against numbers from papers and hand calculations."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from demur.detectors.build import build_transform
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.score import Reference
from demur.detectors.transforms import TRANSFORMS
from demur.detectors.transforms.clip import VRA, VRAOpenOODClip, VRAPlus
from demur.detectors.transforms.prune import ASHB, ASHP, ASHS, LTS, Scale
from demur.detectors.transforms.quantile import order_statistics
from tests.contract.entries import C, D, near, reference


def array(*values):
    return np.array(values, np.float32)


def reshaped(transform, features, logits=((0.0,),)):
    signals = {"features": np.atleast_2d(array(*features)), "logits": np.atleast_2d(np.asarray(logits, np.float32))}
    with np.errstate(all="ignore"):
        return transform(NumpyOps(), signals)


VALUES = [0, 0.2, 0.5, 0.9, 1.4, 2.5]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (VRA(array(0.5), array(1.0)), [0, 0, 0.5, 0.9, 1, 1]),
        (VRAPlus(array(0.6), array(1.2), 0.3), [0, 0, 0, 1.2, 1.2, 1.2]),
        (VRAOpenOODClip(array(0.5), array(1.0)), [0.5, 0.5, 0.5, 0.9, 1, 1]),
        (ASHP(2), [0, 0, 0, 0, 1.4, 2.5]),
        (ASHB(2), [0, 0, 0, 0, 2.75, 2.75]),
        (ASHB(6), [0, 1.1, 1.1, 1.1, 1.1, 1.1]),
        (ASHS(2), [0, 0, 0, 0, 1.4 * np.exp(5.5 / 3.9), 2.5 * np.exp(5.5 / 3.9)]),
        (Scale(2), np.array(VALUES) * np.exp(5.5 / 3.9)),
    ],
)
def test_transform_golden(transform, expected):
    np.testing.assert_allclose(reshaped(transform, VALUES)["features"][0], expected, rtol=1e-6)


def test_logits_are_scaled_by_the_squared_ratio():
    np.testing.assert_allclose(
        reshaped(LTS(1), [1, 3, 0, -7], [[2.0, -1.0]])["logits"][0], np.array([2, -1]) * (4 / 3) ** 2, rtol=1e-6
    )


@pytest.mark.parametrize("transform", [ASHP(2), ASHB(2), ASHS(2), Scale(2)])
def test_features_of_nothing_stay_nothing(transform):
    np.testing.assert_array_equal(reshaped(transform, np.zeros(5))["features"], np.zeros((1, 5)))
    np.testing.assert_array_equal(reshaped(LTS(2), np.zeros(5), [[3.0, 1.0]])["logits"], [[3, 1]])


def test_equal_activations_are_kept_together():
    np.testing.assert_array_equal(reshaped(ASHP(2), [1, 2, 2, 2])["features"], [[0, 2, 2, 2]])
    np.testing.assert_allclose(reshaped(ASHB(2), [1, 2, 2, 2])["features"], [[0, 7 / 3, 7 / 3, 7 / 3]], rtol=1e-6)


@pytest.mark.parametrize("percentile", [15, 50, 85, 90])
def test_how_many_are_kept(percentile):
    expected = D - int(np.round(D * percentile / 100.0))
    assert build_transform({"scale": {"percentile": percentile}}, reference()).kept == expected


def test_masked_head_keeps_the_largest_contributions():
    base = reference()
    masked = build_transform({"dice": {"percentile": 75}}, base)
    contributions = base.head_weight.astype(np.float64) * base.signals["features"].mean(axis=0, dtype=np.float64)
    kept = np.sort(contributions.ravel())[-(C * D // 4) :]
    np.testing.assert_array_equal(masked.weight != 0, contributions >= kept[0])
    np.testing.assert_array_equal(masked.weight[masked.weight != 0], base.head_weight[masked.weight != 0])


def test_head_at_a_temperature_leaves_the_bias():
    signals = near(5)
    found = build_transform({"t2fnorm": {"temperature": 4.0}}, reference())(NumpyOps(), signals)["logits"]
    expected = signals["features"] @ reference().head_weight.T / 4 + reference().head_bias
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_standardised_features_have_mean_0_and_spread_1():
    features = np.random.default_rng(0).normal(1e4, 3, (5000, 4)).astype(np.float32)
    features[:, 2] = 7
    fitted = build_transform("standardise", Reference({"features": features}))
    found = fitted(NumpyOps(), {"features": features})["features"]
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(found.std(axis=0), [1, 1, 0, 1], rtol=1e-3)


@pytest.mark.parametrize("quantile", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_quantiles_of_columns_are_exact(quantile):
    rows = np.random.default_rng(2).normal(size=(5001, 7)).astype(np.float32)
    rows[:, 3] = np.round(rows[:, 3])
    rows[::3, 4] = -0.0
    expected = np.sort(rows, axis=0)[max(1, int(np.ceil(quantile * 5001))) - 1]
    np.testing.assert_array_equal(order_statistics(Reference({"features": rows}), "features", quantile), expected)


def test_every_published_transform_says_where_it_comes_from():
    for name, kind in TRANSFORMS.items():
        doc = inspect.getdoc(kind) or ""
        assert "Shapes:" in doc, name
        assert name in ("linear_head", "select") or "Source:" in doc, name
