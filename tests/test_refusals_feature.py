"""What the fits of feature and head scores refuse, by name and with the way out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.scores import class_fit, coverage
from tests.contract.entries import C, D, near, reference


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("mahalanobis", {"covariance": "full"}, "covariance must be one of tied, class"),
        ("mahalanobis", {"covariance": "class", "shrinkage": "auto"}, "ledoit_wolf, oas or a number"),
        ("class_gmm", {"shrinkage": -0.1}, "class_gmm: shrinkage must be a number"),
        ("gmm", {"covariance": "diag"}, "covariance must be one of full, tied"),
        ("robust_mahalanobis", {"bank": 0}, "bank must be a whole number"),
        ("robust_mahalanobis", {"bank": 3}, "at least 4 reference rows, got 3"),
        ("robust_pca", {"dim": D}, "robust_pca: dim must be below the rank of the reference features, 16; got 16"),
        ("robust_pca", {"dim": 0}, "dim must be a whole number of at least 1"),
        ("robust_pca", {"contamination": 0.6}, "contamination must be a number"),
        ("residual", {"dim": D}, "residual: dim must be below the rank"),
        ("residual", {"dim": 1.5}, "whole number"),
        ("drpo", {"directions": 0}, "directions must be a whole number"),
        ("drpo", {"by": "median"}, "by must be one of mean, max"),
        ("drpo", {"seed": -1}, "seed must be a whole number of at least 0"),
        ("mean_shifted", {"k": 0}, "k must be a whole number"),
        ("mean_shifted", {"k": 500}, "k = 500 neighbours need as many"),
        ("she", {"metric": "l1"}, "metric must be one of inner_product, cosine, euclidean"),
        ("nci", {"alpha": -1}, "alpha must be a number"),
        ("grad_norm", {"bias": 1}, "bias must be true or false, got 1"),
        ("nac", {"edges": 49}, "edges must be even"),
        ("nac", {"edges": 2}, "edges must be a whole number of at least 4"),
        ("nac", {"sharpness": 0}, "sharpness must be a number"),
        ("nac", {"saturation": 0}, "saturation must be a whole number"),
        ("nac_layers", {}, r"\['layers'\] must be given"),
        ("nac_layers", {"layers": []}, "list of different signal names"),
        ("nac_layers", {"layers": "features"}, "list of different signal names"),
        ("nac_layers", {"layers": ["features", "features"]}, "list of different signal names"),
        ("nac_layers", {"layers": ["logits"]}, r"expected signals \['logits', 'logits_grad'\]"),
        (
            "nac_layers",
            {"layers": ["features"], "sharpness": [1.0, 2.0]},
            "expected one sharpness, or 1, one a layer; got 2",
        ),
        ("nac_layers", {"layers": ["features"], "saturation": [0]}, "saturation must be a whole number"),
        ("box", {"boxes": 0}, "boxes must be a whole number"),
        ("box", {"margin": -0.5}, "margin must be a number"),
    ],
)
def test_bad_configuration_is_refused_with_the_way_out(name, hyper, message):
    with pytest.raises(ValueError, match=message):
        build_score(name, hyper, reference())


NARROW = {"head_weight": np.ones((C, D - 1), np.float32)}
SAME_CLASSES = {"head_weight": np.ones((C, D), np.float32)}
ALL_SEEN = {"head_weight": np.eye(D, dtype=np.float32), "head_bias": np.zeros(D, np.float32)}
CONSTANT = {"signals": {**near(420), "features": np.ones((420, D), np.float32)}}
ZERO = {"signals": {**near(420), "features": np.zeros((420, D), np.float32)}}
WRONG = {"correct": np.zeros(420, bool)}


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        *(({"head_weight": None}, n, "last layer") for n in ("fdbd", "nci", "core", "pnml", "nac", "residual")),
        *((NARROW, n, r"expected a head of shape \(7, 16\), got \(7, 15\)") for n in ("fdbd", "nci", "nac")),
        *(({"labels": None}, n, "expected labels") for n in ("she", "box", "core", "class_gmm")),
        *(
            ({"labels": np.arange(420) % 9}, n, r"labels in 0..6, as many classes as logits; got \[0, 1")
            for n in ("she", "box")
        ),
        (SAME_CLASSES, "fdbd", "got the same for 0 and 1"),
        (ALL_SEEN, "core", "sees all 16 features"),
        (WRONG, "core", "expected correctly answered reference rows, got none"),
        (WRONG, "box", "expected correctly answered reference rows, got none"),
        (WRONG, "she", r"classes \[0, 1, 2, 3, 4, 5, 6\] have no correctly answered"),
        (WRONG, "mahalanobis", "fewer than 2 correctly answered"),
        ({"labels": np.zeros(420, int), "correct": None}, "core", r"means of classes \[0\] have no part"),
        (
            {"head_weight": np.ones((1, D), np.float32), "head_bias": np.ones(1, np.float32)},
            "pnml",
            "at least 2 classes",
        ),
        (CONSTANT, "robust_mahalanobis", "one value in every feature"),
        (CONSTANT, "robust_pca", "are the same row"),
        (CONSTANT, "drpo", "are the same row"),
        (CONSTANT, "mean_shifted", "got 0"),
        (ZERO, "mean_shifted", "got 0"),
        (
            {"signals": {**near(420), "features_grad": np.ones((420, 3), np.float32)}},
            "layers",
            "one width, got 16 and 3",
        ),
    ],
)
def test_unfit_reference_is_refused_by_name(change, name, message):
    entry = ("nac_layers", {"layers": ["features"]}) if name == "layers" else (name, {})
    with pytest.raises(ValueError, match=message):
        build_score(*entry, dataclasses.replace(reference(), **change))


def test_a_zero_pattern_has_no_cosine():
    with pytest.raises(ValueError, match="mean feature of class 0 is zero"):
        build_score("she", {"metric": "cosine"}, dataclasses.replace(reference(), **ZERO))


def test_a_singular_class_is_named():
    base = reference()
    features = base.signals["features"].copy()
    features[base.labels == 4, 2] = 1
    flat = dataclasses.replace(base, signals={"features": features})
    with pytest.raises(ValueError, match="the covariance of class 4 is singular; use shrinkage: ledoit_wolf"):
        build_score("mahalanobis", {"covariance": "class", "shrinkage": 0.0}, flat)


def test_states_too_large_to_hold_are_refused(monkeypatch):
    monkeypatch.setattr(class_fit, "MOST_ENTRIES", 1000)
    with pytest.raises(ValueError, match="takes 1792 numbers, at most 1000 are held; use the tied one"):
        build_score("mahalanobis", {"covariance": "class"}, reference())
    monkeypatch.setattr(coverage, "MOST_CELLS", 700)
    with pytest.raises(ValueError, match="16 neurons with 48 bins are more than 700 cells; use fewer edges"):
        build_score("nac", {}, reference())
