"""Fitting: what is learnt, from which rows, in bounded memory, and what is refused by name."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from demur.detectors.accumulate import ClassMoments, Moments, Spread, order_statistic
from demur.detectors.build import build_score, build_transform
from demur.detectors.evaluate import evaluate
from demur.detectors.sample import sample_rows
from demur.detectors.score import Reference
from demur.detectors.scores.health import ActivationKurtosis
from demur.detectors.scores.knn import KNN
from demur.detectors.scores.mahalanobis import Mahalanobis, RelativeMahalanobis
from demur.detectors.scores.vim import ViM
from demur.detectors.storage import parameters, restore
from demur.detectors.storage import settings as settings_of
from tests.contract.entries import D, entries, near, reference


def of_features(features, **rest):
    return Reference({"features": np.asarray(features, np.float32)}, **rest)


def value(score, **signals):
    arrays = {s: np.atleast_2d(np.asarray(x, np.float32)) for s, x in signals.items()}
    return evaluate({"s": score}, arrays)["s"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_moments_merge_exactly_whatever_the_split(seed, sizes):
    rng = np.random.default_rng(seed)
    rows = rng.normal(3, 2, (sum(sizes) + 1, 4))
    parts = [Moments.of(part) for part in np.split(rows, np.cumsum(sizes))]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    whole = Moments.of(rows)
    assert total.count == whole.count
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(total.scatter, whole.scatter, rtol=1e-10, atol=1e-10)


def test_class_moments_merge():
    rng = np.random.default_rng(0)
    rows, places = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
    merged = ClassMoments.of(rows[:20], places[:20], 4).merge(ClassMoments.of(rows[20:], places[20:], 4))
    for c in range(4):
        np.testing.assert_allclose(merged.means[c], rows[places == c].mean(axis=0), rtol=1e-12)
        assert merged.counts[c] == (places == c).sum()


@pytest.mark.parametrize(("count", "size"), [(30, 60), (200, 8), (1000, 3)])
def test_shrinkage_is_that_of_scikit_learn(count, size):
    rng = np.random.default_rng(size)
    residuals = rng.normal(size=(count, size)) * np.linspace(0.1, 3, size)
    expected, share = ledoit_wolf(residuals, assume_centered=True)
    spread = Spread.of(residuals[:7]).merge(Spread.of(residuals[7:]))
    assert spread.ledoit_wolf() == pytest.approx(share, rel=1e-9)
    np.testing.assert_allclose(spread.covariance("ledoit_wolf"), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=60),
    st.floats(0.001, 1.0),
)
def test_order_statistic_is_exact(values, quantile):
    column = np.array(values, np.float32)[:, None]
    rank = max(1, int(np.ceil(quantile * len(column))))
    assert order_statistic(of_features(column), "features", quantile) == np.sort(column[:, 0])[rank - 1]


def test_wrong_rows_do_not_shape_the_classes():
    base = reference()
    spoiled = {s: x.copy() for s, x in base.signals.items()}
    correct = np.ones(base.rows, bool)
    correct[::5] = False
    spoiled["features"][~correct] += 50
    kept = Reference(spoiled, base.labels, correct=correct)
    only = Reference({s: x[correct] for s, x in spoiled.items()}, base.labels[correct])
    rows = near(20)
    for kind in (Mahalanobis, RelativeMahalanobis):
        np.testing.assert_allclose(value(kind.fit(kept), **rows), value(kind.fit(only), **rows), rtol=1e-4, atol=1e-3)


def test_batches_do_not_change_the_fit(monkeypatch):
    base, rows = reference(), near(20)
    kinds = {"mahalanobis": {}, "vim": {"dim": 6}, "react_energy": {}, "knn": {"k": 3, "bank": 100}}
    whole = {k: value(build_score(k, h, base), **rows) for k, h in kinds.items()}
    monkeypatch.setattr(Reference.batches, "__kwdefaults__", {"size": 37})
    assert sum(1 for _ in base.batches("features")) == -(-base.rows // 37)
    for kind, hyper in kinds.items():
        np.testing.assert_allclose(value(build_score(kind, hyper, base), **rows), whole[kind], rtol=1e-4, atol=1e-4)


def test_memory_mapped_reference_fits_the_same(tmp_path):
    base = reference()
    np.save(tmp_path / "features.npy", base.signals["features"])
    rows = np.load(tmp_path / "features.npy", mmap_mode="r")
    mapped = Reference({"features": rows}, base.labels, correct=base.correct)
    for name, array in parameters(Mahalanobis.fit(mapped)).items():
        np.testing.assert_array_equal(array, parameters(entries()["mahalanobis"].score)[name])


def test_sample_is_seeded_bounded_and_in_order():
    features = np.arange(10_000, dtype=np.float32)[:, None]
    first, again, other = (sample_rows(of_features(features), "features", 300, seed)[:, 0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(set(first)) == 300
    assert (np.diff(first) > 0).all()
    assert set(first) != set(other)


def test_kurtosis_golden():
    assert value(ActivationKurtosis(5), features=[1, -1, 2, -2, 10])[0] == pytest.approx(0.9640494, abs=1e-5)
    assert np.isnan(value(ActivationKurtosis(4), features=[3, 3, 3, 3])[0])


def test_distance_keeps_its_digits_under_a_common_offset():
    """1 - u.b in float32 is noise here: all vectors point the same way to six digits."""
    rng = np.random.default_rng(0)
    features = (1000 + rng.normal(size=(200, 32))).astype(np.float32)
    asked = (1000 + rng.normal(size=(20, 32))).astype(np.float32)
    bank, here = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features.astype(float), asked.astype(float)))
    exact = np.sort(((here[:, None] - bank) ** 2).sum(axis=2) / 2, axis=1)[:, 2]
    np.testing.assert_allclose(value(KNN.fit(of_features(features), k=3), features=asked), exact, rtol=1e-2)
    naive = 1 - np.sort((here.astype(np.float32) @ bank.astype(np.float32).T), axis=1)[:, -3]
    assert np.max(np.abs(naive - exact) / exact) > 0.05


def test_zero_vector_is_at_cosine_distance_one():
    assert value(entries()["knn"].score, features=np.zeros(D))[0] == 1


def test_distances_are_never_negative_even_when_ill_conditioned():
    """Few rows, many features, a large offset: the textbook expansion gives negative squared distances here."""
    rng = np.random.default_rng(3)
    features = (1e3 + rng.normal(size=(60, 120)) * np.logspace(-3, 1, 120)).astype(np.float32)
    score = Mahalanobis.fit(of_features(features, labels=np.arange(60) % 3))
    assert (value(score, features=features) >= 0).all()


def test_vim_refuses_a_residual_without_variance():
    base = reference()
    flat = base.signals["features"].copy()
    flat[:, 9:] = flat[:, :7]
    head = {"head_weight": np.ones((3, D), np.float32), "head_bias": np.zeros(3, np.float32)}
    low_rank = Reference({"features": flat, "logits": base.signals["logits"] + 100}, **head)
    with pytest.raises(ValueError, match="below the rank of the reference features, 9; got 9"):
        ViM.fit(low_rank, dim=9)
    assert ViM.fit(low_rank, dim=8).residual.shape == (D, D - 8)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("nope", {}, "unknown score 'nope'; known: msp, max_logit"),
        ("knn", {"kk": 3}, r"unknown hyper-parameters \['kk'\]; accepted: k, bank, metric, aggregate"),
        ("knn", {"k": 0}, "k must be a whole number of at least 1, got 0"),
        ("knn", {"k": 2.5}, "whole number"),
        ("knn", {"k": True}, "whole number"),
        ("knn", {"k": 10_000}, "expected at least 10000 non-zero rows"),
        ("knn", {"metric": "l1"}, "must be one of cosine"),
        ("max_logit", {"temperature": 2}, "accepted: none"),
        ("energy", {"temperature": 0}, r"temperature must be a number in \(0, 1e\+06\], got 0"),
        ("energy", {"temperature": "warm"}, "temperature must be"),
        ("mahalanobis", {"shrinkage": "lw"}, "ledoit_wolf, oas or a number"),
        ("mahalanobis", {"shrinkage": 1.5}, "shrinkage must be a number"),
        ("react_energy", {"quantile": 0}, r"in \(0, 1\]"),
        ("vim", {"dim": 16}, "below the rank"),
        ("gmm", {"components": 5000}, "need at least 5000 rows"),
        ("fused", {"of": ["energy"]}, "at least 2 different"),
        ("fused", {"of": ["energy", "energy"]}, "at least 2 different"),
        ("fused", {"of": 3}, "at least 2 different"),
        ("fused", {"of": ["a", "b"], "by": "vote"}, "fisher, min_p"),
        ("fused", {}, r"\['of'\] must be given"),
        ("onnx_score", {"path": "/nowhere.onnx"}, "is not a file"),
        ("onnx_score", {"path": 3}, "is not a file"),
        ("shaped", {"transforms": ["nope"], "score": "energy"}, "unknown transform 'nope'; known: react"),
        ("shaped", {"transforms": [{"react": {"q": 1}}], "score": "energy"}, "accepted: quantile"),
        ("shaped", {"transforms": [{"react": 3}], "score": "energy"}, "as a mapping"),
        ("shaped", {"transforms": [{"react": {}, "linear_head": {}}], "score": "energy"}, "expected one name"),
    ],
)
def test_bad_configuration_is_refused_with_the_way_out(name, hyper, message):
    with pytest.raises(ValueError, match=message):
        build_score(name, hyper, reference())


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({"labels": None}, "mahalanobis", "expected labels"),
        ({"head_weight": None}, "vim", "last layer"),
        ({"head_weight": None}, "react_energy", "last layer"),
        ({"signals": {"logits": near(420)["logits"]}}, "knn", r"expected signals \['features'\]"),
        ({"labels": np.where(np.arange(420) == 3, 9, 0)}, "mahalanobis", r"classes \[9\] have fewer than 2"),
        ({"labels": np.zeros(420, int)}, "relative_mahalanobis", "at least 2 classes"),
        ({"signals": {"features": np.ones((420, 4), np.float32)}}, "gmm", "constant"),
        ({"signals": {"features": np.zeros((420, 4), np.float32)}}, "knn", "got 0"),
        ({"signals": {"features": np.ones((420, 1), np.float32)}}, "activation_kurtosis", "at least 2 features"),
    ],
)
def test_unfit_reference_is_refused_by_name(change, name, message):
    with pytest.raises(ValueError, match=message):
        build_score(name, {}, dataclasses.replace(reference(), **change))


def test_singular_covariance_is_refused_when_shrinkage_is_off():
    features = near(420)["features"].copy()
    features[:, 1] = 0
    with pytest.raises(ValueError, match="singular"):
        Mahalanobis.fit(dataclasses.replace(reference(), signals={"features": features}), shrinkage=0.0)


def test_reference_of_ragged_columns_is_refused():
    with pytest.raises(ValueError, match=r"'logits': expected shape \(5, width\), got \(4, 2\)"):
        Reference({"features": np.zeros((5, 3)), "logits": np.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"labels: expected shape \(5,\)"):
        Reference({"features": np.zeros((5, 3))}, labels=np.zeros(4))


def test_composition_equals_its_short_name():
    entry = {"shaped": {"transforms": [{"react": {"quantile": 0.9}}, "linear_head"], "score": "energy"}}
    long = build_score(entry, None, reference())
    np.testing.assert_array_equal(value(long, **near(20)), value(entries()["react_energy"].score, **near(20)))
    assert long.inputs == ("features",)
    assert set(parameters(long)) == {"transforms.0.clip", "transforms.1.weight", "transforms.1.bias"}


def test_inner_score_is_fitted_on_what_the_transforms_give():
    shaped = build_score("shaped", {"transforms": [{"react": {"quantile": 0.5}}], "score": "mahalanobis"}, reference())
    clip = build_transform({"react": {"quantile": 0.5}}, reference())
    clipped = np.minimum(reference().signals["features"], clip.clip)
    direct = Mahalanobis.fit(dataclasses.replace(reference(), signals={"features": clipped}))
    np.testing.assert_array_equal(shaped.score.whiten, direct.whiten)


def test_settings_are_json_and_a_missing_field_is_named():
    for entry in entries().values():
        assert json.loads(json.dumps(settings_of(entry.score))) == settings_of(entry.score)
    with pytest.raises(ValueError, match="field 'bank'"):
        restore("knn", {"k": 3}, {"centre": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="unknown score 'nope'"):
        restore("nope", {}, {})
