"""What must not change a feature score, or must change it by a known rule: order, names, axes and units of the data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from tests.contract.entries import C, D, near, permuted, reference

FIXED = {"shrinkage": 0.1}
ALL = {
    "mahalanobis": {},
    "mahalanobis:class": {"covariance": "class"},
    "relative_mahalanobis": {},
    "class_gmm": {},
    "robust_mahalanobis": {},
    "robust_pca": {"dim": 6},
    "residual": {"dim": 6},
    "core": {},
    "fdbd": {},
    "nci": {},
    "nci:pointing": {"alpha": 0},
    "grad_norm": {},
    "she": {},
    "she:cosine": {"metric": "cosine"},
    "she:euclidean": {"metric": "euclidean"},
    "pnml": {},
    "nac": {"edges": 20, "sharpness": 1.0},
    "box": {"boxes": 1},
    "drpo": {"directions": 32},
    "mean_shifted": {},
}
SAME = {  # under turning the axes
    *(
        "mahalanobis",
        "mahalanobis:class",
        "relative_mahalanobis",
        "class_gmm",
        "robust_pca",
        "residual",
        "core",
        "fdbd",
    ),
    *("nci:pointing", "she", "she:cosine", "she:euclidean", "pnml", "mean_shifted"),
}
POWER = {  # of the unit of length, when the head is that of the scaled features
    **dict.fromkeys(("residual", "robust_pca", "she:euclidean", "grad_norm"), 1),
    "she": 2,
    "nci:pointing": -1,
}
TOLERANCE = {"nac": 5e-3}  # a state on an edge moves one neuron's coverage


def scored(name, hyper, ref, rows):
    return evaluate({"s": build_score(name.partition(":")[0], hyper, ref)}, rows)["s"].astype(float)


def asked():
    ordinary, strange = near(40, seed=17), permuted(40)
    return {s: np.concatenate([ordinary[s], strange[s]]) for s in ("features", "logits")}


def moved(signals, matrix, shift=0.0):
    """The features in other coordinates; the logits are the model's and stay."""
    return {**signals, "features": (signals["features"].astype(float) @ matrix + shift).astype(np.float32)}


def assert_close(got, want, name="", scale=None):
    level = np.abs(want).mean() if scale is None else scale
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=TOLERANCE.get(name, 2e-4) * max(level, 1e-3))


@pytest.mark.parametrize("name", ALL)
def test_order_of_the_reference_does_not_matter(name):
    base, rows = reference(), asked()
    order = np.random.default_rng(0).permutation(base.rows)
    signals = {s: x[order] for s, x in base.signals.items()}
    shuffled = dataclasses.replace(base, signals=signals, labels=base.labels[order], correct=base.correct[order])
    assert_close(scored(name, ALL[name], shuffled, rows), scored(name, ALL[name], base, rows), name)


@pytest.mark.parametrize("name", ALL)
def test_names_of_the_classes_do_not_matter(name):
    base, rows = reference(), asked()
    order = np.random.default_rng(1).permutation(C)
    renamed = dataclasses.replace(
        base,
        signals={**base.signals, "logits": base.signals["logits"][:, order]},
        labels=np.argsort(order)[base.labels],
        head_weight=base.head_weight[order],
        head_bias=base.head_bias[order],
    )
    other = {**rows, "logits": rows["logits"][:, order]}
    assert_close(scored(name, ALL[name], renamed, other), scored(name, ALL[name], base, rows), name)


@pytest.mark.parametrize("name", sorted(SAME))
def test_turned_axes_do_not_matter(name):
    base, rows = reference(), asked()
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))[0]
    weight = (base.head_weight @ turn).astype(np.float32)
    turned = dataclasses.replace(base, signals=moved(base.signals, turn), head_weight=weight)
    assert_close(scored(name, ALL[name], turned, moved(rows, turn)), scored(name, ALL[name], base, rows), name)


def test_a_score_along_the_axes_does_see_them_turned():
    base, rows = reference(), asked()
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))[0]
    turned = dataclasses.replace(base, signals=moved(base.signals, turn))
    change = scored("box", ALL["box"], turned, moved(rows, turn)) / scored("box", ALL["box"], base, rows)
    assert np.std(change) > 0.05


@pytest.mark.parametrize("unit", [1e-4, 1e4])
@pytest.mark.parametrize("name", sorted(set(ALL) - {"nci", "pnml", "class_gmm"}))
def test_units_of_the_features_do_not_matter(name, unit):
    """The head divides by the unit, so the logits stay. Norms grow with it; nothing else does."""
    base, rows = reference(), asked()
    weight = (base.head_weight / unit).astype(np.float32)
    scaled = dataclasses.replace(base, signals=moved(base.signals, unit * np.eye(D)), head_weight=weight)
    got = scored(name, ALL[name], scaled, moved(rows, unit * np.eye(D))) / unit ** POWER.get(name, 0)
    assert_close(got, scored(name, ALL[name], base, rows), name)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_log_densities_move_by_the_log_of_the_unit(unit):
    base, rows = reference(), asked()
    scaled = dataclasses.replace(base, signals=moved(base.signals, unit * np.eye(D)))
    got = scored("class_gmm", {}, scaled, moved(rows, unit * np.eye(D))) - D * np.log(unit)
    assert_close(got, scored("class_gmm", {}, base, rows))


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_regret_reads_directions_only(unit):
    base, rows = reference(), asked()
    scaled = dataclasses.replace(base, signals=moved(base.signals, unit * np.eye(D)))
    assert_close(scored("pnml", {}, scaled, moved(rows, unit * np.eye(D))), scored("pnml", {}, base, rows))


@pytest.mark.parametrize("name", ["mahalanobis", "mahalanobis:class", "relative_mahalanobis"])
def test_any_invertible_map_leaves_unshrunk_distances_alone(name):
    base, rows = reference(), asked()
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(D, D)) + 3 * np.eye(D)
    shift = rng.normal(size=D) * 20
    hyper = {**ALL[name], "shrinkage": 0.0}
    mapped = dataclasses.replace(base, signals=moved(base.signals, matrix, shift))
    assert_close(scored(name, hyper, mapped, moved(rows, matrix, shift)), scored(name, hyper, base, rows))


SHIFTED = ("mahalanobis", "class_gmm", "robust_pca", "core", "fdbd", "nci:pointing", "box", "drpo", "she:euclidean")


@pytest.mark.parametrize("name", SHIFTED)
def test_a_common_offset_does_not_matter(name):
    """A thousand times the spread: what float32 leaves of the features, their rounding, is all that may show."""
    base, rows = reference(), asked()
    offset = np.float32(1024)
    signals, other = moved(base.signals, np.eye(D), offset), moved(rows, np.eye(D), offset)
    before, back = moved(signals, np.eye(D), -offset), moved(other, np.eye(D), -offset)  # exact: what is left of them
    want = scored(name, ALL[name], dataclasses.replace(base, signals=before), back)
    got = scored(name, ALL[name], dataclasses.replace(base, signals=signals), other)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=5e-4 * np.abs(want).mean())


TWICE = {
    **dict.fromkeys(("mahalanobis", "relative_mahalanobis", "class_gmm"), FIXED),
    "mahalanobis:class": {"covariance": "class", "shrinkage": 0.1},
    **{
        n: ALL[n]
        for n in ("robust_pca", "residual", "core", "fdbd", "nci", "grad_norm", "she", "she:cosine", "drpo", "box")
    },
}


def twice(ref: Reference) -> Reference:
    signals = {s: np.concatenate([x, x]) for s, x in ref.signals.items()}
    rows = {name: np.tile(getattr(ref, name), 2) for name in ("labels", "correct", "target")}
    return dataclasses.replace(ref, signals=signals, **rows)


@pytest.mark.parametrize("name", TWICE)
def test_a_reference_given_twice_is_the_same_reference(name):
    base, rows = reference(), asked()
    assert_close(scored(name, TWICE[name], twice(base), rows), scored(name, TWICE[name], base, rows))


def test_counts_of_a_reference_given_twice_are_twice_the_counts():
    base, rows = reference(), asked()
    for name, one, two in (
        ("nac", {"saturation": 30, "edges": 20}, {"saturation": 60, "edges": 20}),
        ("mean_shifted", {"k": 2}, {"k": 4}),
    ):
        factor = 2 if name == "mean_shifted" else 1
        assert_close(scored(name, two, twice(base), rows), factor * scored(name, one, base, rows), name)
