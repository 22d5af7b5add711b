"""Fingerprints of weights: what they hold, and that `compare` names what moved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kurtosis

from demur.detectors.fingerprint import Fingerprint, compare


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"head_weight": rng.normal(size=(6, 40)).astype(np.float32), "head_bias": np.zeros(6, np.float32)}


def of(**changed):
    return Fingerprint.of({**weights(), **changed})


def moved(**changed):
    return [(c.array, c.what) for c in compare(of(), of(**changed))]


def test_statistics_are_those_of_scipy():
    w = weights()["head_weight"]
    one = of().arrays["head_weight"]
    assert one.norm == pytest.approx(np.linalg.norm(w.astype(float)), rel=1e-12)
    assert (one.mean, one.std) == pytest.approx((w.mean(dtype=float), w.std(dtype=float)), rel=1e-9)
    assert one.kurtosis == pytest.approx(kurtosis(w.astype(float), axis=None), rel=1e-9)
    assert one.sparsity == (np.abs(w) < np.abs(w).max() / 100).mean() > 0
    assert (one.shape, one.dtype) == ((6, 40), "float32")
    zero = of().arrays["head_bias"]
    assert (zero.norm, zero.kurtosis, zero.sparsity) == (0, 0, 1)


def test_huge_and_tiny_weights_neither_overflow_nor_vanish():
    for scale in (1e200, 1e-200):
        one = Fingerprint.of({"w": scale * np.array([1.0, -2.0, 2.0])}).arrays["w"]
        assert one.norm == pytest.approx(3 * scale, rel=1e-12)
        assert one.kurtosis == pytest.approx(kurtosis([1, -2, 2]))


def test_the_same_weights_are_the_same_whatever_their_layout():
    w = weights()["head_weight"]
    assert moved() == []
    assert moved(head_weight=np.asfortranarray(w)) == []
    assert moved(head_weight=w.astype(">f4")) == []


def test_what_moved_is_named():
    w = weights()["head_weight"]
    assert ("head_weight", "norm") in moved(head_weight=w * np.float32(1.001))
    shifted = moved(head_weight=w + np.float32(0.01))
    assert ("head_weight", "mean") in shifted
    assert ("head_weight", "std") not in shifted
    pruned = np.where(np.abs(w) < 0.5, 0, w).astype(np.float32)
    assert ("head_weight", "sparsity") in moved(head_weight=pruned)
    outlier = w.copy()
    outlier[2, 3] = 60
    assert {"kurtosis", "sparsity", "norm"} <= {what for _, what in moved(head_weight=outlier)}
    assert moved(head_weight=w.astype(np.float64)) == [("head_weight", "dtype")]
    assert moved(head_weight=w.T.copy()) == [("head_weight", "shape")]


def test_a_change_that_no_statistic_sees_is_one_of_bytes():
    w = weights()["head_weight"]
    assert moved(head_weight=w[::-1].copy()) == [("head_weight", "bytes")]
    low_bit = w.copy()
    low_bit.view(np.uint32)[0, 0] ^= 1
    assert moved(head_weight=low_bit) == [("head_weight", "bytes")]
    bias = np.zeros(6, np.float32)
    bias[2] = -0.0
    assert moved(head_bias=bias) == [("head_bias", "bytes")]


def test_missing_and_new_arrays():
    lost = Fingerprint.of({"head_weight": weights()["head_weight"]})
    assert [str(c) for c in compare(of(), lost)] == ["head_bias: missing was float32 (6,), is absent"]
    assert [(c.array, c.what) for c in compare(lost, of())] == [("head_bias", "new")]


def test_json_keeps_every_digit():
    held = json.loads(json.dumps(of().document()))
    assert Fingerprint.read(held) == of()
    held["head_bias"].pop("norm")
    with pytest.raises(ValueError, match="fingerprint of 'head_bias'"):
        Fingerprint.read(held)
    with pytest.raises(ValueError, match="fingerprint of 'x'"):
        Fingerprint.read({"x": 3})


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan]), "head_weight: .* not finite"),
        (np.zeros((0, 3)), "expected an array of numbers"),
        (np.array(["a"]), "expected an array of numbers"),
        (np.array([None], object), "expected an array of numbers"),
    ],
)
def test_what_is_no_weight_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        of(head_weight=array)
