"""What logit scores and transforms refuse, by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.build import build_score, build_transform
from demur.detectors.score import Reference
from tests.contract.entries import C, D, near, reference


def of_logits(rows, **rest):
    logits = np.atleast_2d(np.asarray(rows, np.float32))
    return Reference({"logits": logits, "features": np.ones((len(logits), 2), np.float32)}, **rest)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("msp", {"temperature": 0.0}, "temperature must be"),
        ("msp", {"temperature": "best"}, "temperature must be"),
        ("margin", {"by": "rank"}, "by must be one of logits, probabilities"),
        ("gen", {"gamma": 0.0}, "gamma must be"),
        ("gen", {"gamma": 1.5}, "gamma must be"),
        ("gen", {"top": 0}, "top must be"),
        ("doctor", {"by": "gamma"}, "by must be one of alpha, beta"),
        ("odin", {"temperature": -1.0}, "temperature must be"),
        ("weighted_energy", {"weights": [1, 2]}, "7 positive numbers"),
        ("weighted_energy", {"weights": [1, 2, 3, 4, 5, 6, 0]}, "7 positive numbers"),
        ("weighted_energy", {"weights": [1, 2, 3, 4, 5, 6, float("nan")]}, "7 positive numbers"),
        ("weighted_energy", {"weights": "posterior"}, "7 positive numbers"),
        ("open_max", {"tail": 1}, "tail must be"),
        ("open_max", {"alpha": 0}, "alpha must be"),
        ("sirc", {"of": "energy"}, "of must be one of msp, entropy, doctor"),
        ("sirc", {"by": "l2"}, "by must be one of residual, l1"),
        ("sirc", {"dim": D}, "dim must be below"),
    ],
)
def test_bad_hyper_parameter_is_refused(name, hyper, message):
    with pytest.raises(ValueError, match=f"{message}"):
        build_score(name, hyper, reference())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"vra": {"q_low": 0.9, "q_high": 0.6}}, "q_low must be below q_high"),
        ({"vra": {"per": "class"}}, "per must be one of all, dimension"),
        ({"vra_plus": {"gamma": 0}}, "gamma must be"),
        ({"vra_openood_clip": {"q_high": 1.2}}, "q_high must be"),
        ({"dice": {"percentile": 100}}, "percentile must be"),
        ({"ash_p": {"percentile": 100}}, "keeps none of 16 features"),
        ({"ash_b": {"percentile": 0}}, "percentile must be"),
        ({"scale": {"percentile": 99}}, "keeps none of 16 features"),
        ({"lts": {"percentile": 101}}, "percentile must be"),
        ({"t2fnorm": {"temperature": 0}}, "temperature must be"),
    ],
)
def test_bad_transform_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        build_transform(entry, reference())


@pytest.mark.parametrize("name", ["ash_p", "ash_b", "ash_s", "scale"])
def test_signed_features_are_refused_where_a_sum_may_vanish(name):
    signed = dataclasses.replace(reference(), signals={"features": near(420)["features"] - 1})
    with pytest.raises(ValueError, match=r"rectified features, got \d+\.\d% negative"):
        build_transform({name: {"percentile": 50}}, signed)
    assert build_transform({"lts": {"percentile": 50}}, signed).kept == D // 2


@pytest.mark.parametrize(
    ("name", "hyper", "change", "message"),
    [
        ("msp", {"temperature": "fit"}, {"labels": None}, "expected labels"),
        ("msp", {"temperature": "fit"}, {"labels": np.full(420, C)}, rf"expected labels in 0..{C - 1}"),
        ("weighted_energy", {}, {"labels": np.zeros(420, int)}, r"classes \[1, 2, 3, 4, 5, 6\] have no label"),
        ("open_max", {}, {"labels": np.zeros(420, int)}, "fewer than 2 correctly answered"),
        ("open_max", {}, {"labels": None}, "expected labels"),
        ("sirc", {}, {"head_weight": None}, "last layer"),
    ],
)
def test_unfit_reference_is_refused(name, hyper, change, message):
    with pytest.raises(ValueError, match=message):
        build_score(name, hyper, dataclasses.replace(reference(), **change))


@pytest.mark.parametrize("name", ["margin", "gen", "doctor", "odin", "kl_matching", "weighted_energy", "open_max"])
def test_one_class_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected logits of at least 2 classes, got 1"):
        build_score(name, {}, of_logits(np.zeros((4, 1)), labels=np.zeros(4, int)))


def test_constant_feature_confidence_is_refused():
    with pytest.raises(ValueError, match="the same for every reference row"):
        build_score("sirc", {"by": "l1"}, of_logits(np.eye(3)))


def test_class_at_one_distance_from_its_mean_is_refused():
    with pytest.raises(ValueError, match="class 0 all lie at the same distance"):
        build_score("open_max", {}, of_logits([[1, 0], [1, 0], [0, 1], [0, 2]], labels=np.array([0, 0, 1, 1])))
