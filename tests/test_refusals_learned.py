"""What learned heads, views and gauges refuse, and how they say it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.contract.entries import near, reference


def changed(**fields):
    return dataclasses.replace(reference(), **fields)


def broken(signals, rows):
    """The signals with NaN in their first rows."""
    marked = {name: array.copy() for name, array in signals.items()}
    for array in marked.values():
        array[:rows, -1] = np.nan
    return marked


@pytest.mark.parametrize(
    ("name", "hyper", "given", "message"),
    [
        ("outlier_head", {}, {"sides": {}}, "outlier_head: expected outliers, got none; give them with --outliers"),
        ("sal", {}, {"sides": {}}, "sal: expected wild, got none; give them with --wild"),
        ("outlier_head", {}, {"labels": None}, "expected labels in the reference"),
        ("sal", {}, {"labels": None}, "expected labels in the reference"),
        ("flow", {}, {"labels": None}, "expected labels in the reference"),
        ("outlier_head", {}, {"labels": np.zeros(420, int)}, "at least 2 classes, got 1"),
        ("sal", {}, {"labels": np.full(420, 99)}, r"labels in 0\.\.6"),
        (
            "sal",
            {},
            {"sides": {"wild": Reference(near(30, seed=2))}},
            "of 30 wild rows look foreign, expected at least 10",
        ),
        (
            "outlier_head",
            {},
            {"sides": {"outliers": Reference({"features": np.ones((9, 3))})}},
            "width 16 as in the reference, got 3",
        ),
        *(
            (name, hyper, {"sides": {side: Reference(broken(near(30, seed=2), rows))}}, f"{name}: {side}: {message}")
            for name, hyper, side in (
                ("outlier_head", {}, "outliers"),
                ("outlier_head", {"dos": True}, "outliers"),
                ("outlier_head", {"by": "mix_oe"}, "outliers"),
                ("outlier_head", {"by": "energy_margin"}, "outliers"),
                ("contrastive_banks", {}, "outliers"),
                ("sal", {}, "wild"),
            )
            for rows, message in (
                (30, "expected finite rows of 'features', got NaN or infinity in 30 of 30 .*; give others"),
                (4, "expected finite rows of 'features', got NaN or infinity in 4 of 30 .*; drop them first"),
            )
        ),
        *(
            (
                "scod",
                {"score": "energy", "wild_inlier_share": share},
                {"sides": {side: Reference(broken(near(30, seed=2), 21))}},
                f"scod: {side}: expected at least 10 rows with a finite score, got 9 of 30",
            )
            for side, share in (("outliers", 0), ("wild", 0.5))
        ),
        ("outlier_head", {}, {"signals": broken(near(420), 1)}, "reference: .* NaN or infinity in 1 of 420"),
        ("sal", {}, {"signals": broken(near(420), 1)}, "reference: .* NaN or infinity in 1 of 420"),
        ("outlier_head", {"by": "vote"}, {}, "oe, mix_oe, energy_margin"),
        ("outlier_head", {"dos": 1}, {}, "must be true or false"),
        ("outlier_head", {"hidden": -1}, {}, "hidden must be a whole number"),
        ("outlier_head", {"penalty": 0}, {}, "penalty must be a number"),
        ("flow", {"epochs": 0}, {}, "epochs must be a whole number"),
        ("flow", {}, {"signals": {"features": np.ones((420, 1))}}, "rows of 2 features"),
        ("auto_encoder", {"by": "mae"}, {}, "mse, apre"),
        ("auto_encoder", {"mean_shift": 1, "k": 500}, {}, "at least 500 rows in the bank, got 420"),
        ("cover", {}, {}, r"hyper-parameters \['views'\] must be given"),
        ("cover", {"views": 4}, {}, "4 views of at least 2 classes do not divide view_logits of width 21"),
        ("bald", {"views": 21}, {}, "do not divide"),
        ("bald", {"views": 1}, {}, "views must be a whole number of at least 2"),
        ("disagreement", {"views": 3, "by": "kl"}, {}, "total_variation, variance"),
        ("variation_ratio", {"views": 2}, {}, "do not divide"),
        ("predictive_entropy", {"views": 0}, {}, "at least 1"),
        ("rotation", {}, {"signals": {"rotation_logits": np.ones((420, 12))}}, "width 16, got 12"),
        ("massive_activation", {}, {"signals": {"features": np.zeros((420, 4))}}, "every reference activation is 0"),
        ("outlier_dimensions", {}, {"signals": {"features": np.ones((420, 4))}}, "constant"),
        ("saturation", {}, {"signals": {"features": np.zeros((420, 4))}}, "no range to saturate"),
        ("attention_sink", {}, {"signals": {"attention": -np.ones((420, 4))}}, "smallest -1"),
        ("llm_int8", {"bound": 0}, {}, "bound must be a number"),
        ("failure", {"of": []}, {}, "must be a list of different columns"),
        ("failure", {"of": "a"}, {}, "must be a list of different columns"),
        ("failure", {"of": ["a"]}, {"correct": None}, "expected labels in the calibration set"),
    ],
)
def test_refusals(name, hyper, given, message):
    with pytest.raises(ValueError, match=message):
        build_score(name, hyper, changed(**given))


def test_rectified_rows_have_no_median_to_compare_with():
    rows = np.maximum(np.random.default_rng(0).normal(size=(200, 8)) - 1, 0).astype(np.float32)
    with pytest.raises(ValueError, match="use against: reference"):
        build_score("massive_activation", {"against": "row"}, Reference({"features": rows}))
    assert build_score("massive_activation", {}, Reference({"features": rows}))
