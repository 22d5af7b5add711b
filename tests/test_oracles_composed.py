"""Scores whose fit is random, foreign or made of parts, against oracles; and libraries as second witnesses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from demur.detectors.build import build_score
from demur.detectors.compile import compile_monitor, serialize
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.policy import Column
from demur.detectors.storage import parameters
from demur.monitor.session import Session
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.oracles import density, distance, fusion, health, logit
from tests.oracles.table import FUSION, WEIGHTS
from tests.oracles.worlds import world

SEEDS = (0, 1, 2)
INNER = {"energy": lambda z: logit.energy(z, 2.0), "max_logit": logit.max_logit}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", ["tall", "wide", "many_unbalanced", "many_batches"])
def test_shaped_score_is_the_inner_score_of_the_clipped_features(name: str, inner: str, seed: int):
    w = world(name, seed)
    entry = {"energy": {"temperature": 2.0}} if inner == "energy" else inner
    hyper = {"transforms": [{"react": {"quantile": 0.8}}, "linear_head"], "score": entry}
    clipped = np.minimum(w.test64[0], distance.react_clip(w.sample, 0.8))
    logits = clipped @ w.sample.head_weight.T + w.sample.head_bias
    want = INNER[inner](logits)
    for got in on_both({"s": build_score("shaped", hyper, reference(w))}, signals(w)):
        assert_close(got["s"], want, RTOL * np.abs(want) + 1e-6 * np.abs(logits).max(axis=1))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["tall", "two_classes", "wide", "offset", "rank_deficient", "many_batches"])
def test_gmm_is_the_density_of_its_own_mixture(name: str, seed: int):
    w = world(name, seed)
    score = build_score("gmm", {"components": 3, "ridge": 1e-2}, reference(w))
    stored = {key: value.astype(np.float64) for key, value in parameters(score).items()}
    weights, means, covariances = density.mixture_of(**stored)
    assert weights.sum() == pytest.approx(1.0, abs=1e-4)
    assert (weights > 0).all()
    want = density.gmm(w.test64[0], weights, means, covariances)
    for got in on_both({"gmm": score}, signals(w)):
        assert_close(got["gmm"], want, RTOL * np.abs(want) + 2e-5)


@pytest.mark.parametrize("covariance", ["full", "tied"])
@pytest.mark.parametrize("name", ["tall", "two_classes", "offset", "tiny_scale", "rank_deficient"])
def test_gmm_equals_scikit_learn(name: str, covariance: str):
    """The same EM: features in units of their mean variance, so that `ridge` is relative to it, as documented."""
    w = world(name, 0)
    rows = w.sample.features
    centre, scale = rows.mean(axis=0), np.sqrt(rows.var(axis=0).mean())
    peer = GaussianMixture(3, covariance_type=covariance, reg_covar=1e-4, max_iter=300, random_state=0)
    peer.fit((rows - centre) / scale)
    want = rows.shape[1] * np.log(scale) - peer.score_samples((w.test64[0] - centre) / scale)
    for got in on_both(
        {"gmm": build_score("gmm", {"components": 3, "covariance": covariance}, reference(w))}, signals(w)
    ):
        assert_close(got["gmm"], want, RTOL * np.abs(want) + 2e-5)


def autoencoder(path: Path, down: np.ndarray, up: np.ndarray) -> None:
    """features (N, D) -> sum of squares of x - relu(x down) up, (N,)."""
    nodes = [
        helper.make_node("MatMul", ["features", "down"], ["code"]),
        helper.make_node("Relu", ["code"], ["kept"]),
        helper.make_node("MatMul", ["kept", "up"], ["back"]),
        helper.make_node("Sub", ["features", "back"], ["rest"]),
        helper.make_node("ReduceSumSquare", ["rest", "axes"], ["risk"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "autoencoder",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(down)])],
        [helper.make_tensor_value_info("risk", TensorProto.FLOAT, ["rows"])],
        [
            numpy_helper.from_array(down, "down"),
            numpy_helper.from_array(up, "up"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize("seed", SEEDS)
def test_onnx_score_is_the_network_itself(seed: int, tmp_path: Path):
    w, rng = world("tall", seed), np.random.default_rng(seed)
    width = w.features.shape[1]
    down, up = (rng.normal(size=s).astype(np.float32) for s in ((width, 4), (4, width)))
    autoencoder(tmp_path / "net.onnx", down, up)
    score = build_score("onnx_score", {"path": str(tmp_path / "net.onnx")}, reference(w))
    x = w.test64[0]
    want = np.sum((x - np.maximum(x @ down.astype(np.float64), 0) @ up.astype(np.float64)) ** 2, axis=1)
    for got in on_both({"net": score}, signals(w)):
        assert_close(got["net"], want, RTOL * want)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by", FUSION)
def test_p_values_and_their_fusion_in_the_graph(by: str, seed: int):
    """Scores are rounded so that many tie with the calibration table; p-values are counted pair by pair."""
    w, rng = world("tall", seed), np.random.default_rng(seed)
    given = {name: np.round(array) for name, array in signals(w).items()}
    members = {name: build_score(name, None, reference(w)) for name in ("max_logit", "energy", "knn")}
    held = evaluate(members, given)
    tables = {n: np.sort(np.concatenate([rng.choice(v, 60), rng.choice(v, 37) + 0.5])) for n, v in held.items()}
    columns = [Column(n, n, calibration=(t.astype(np.float32),)) for n, t in tables.items()]
    weights = {"weights": list(WEIGHTS)} if by == "weighted_min_p" else {}
    fused = build_score("fused", {"of": list(members), "by": by, **weights}, reference(w))
    widths = {n: a.shape[1] for n, a in given.items()}
    sided = build_score("two_sided", {"of": ["knn"]}, reference(w))
    level = float(rng.integers(1, 98)) / 98  # a p-value that the tables of 97 can give: at the level is flagged
    flagged = build_score("flagged", {"of": ["energy", "knn"], "level": level}, reference(w))
    composed = [*columns, Column("both", "both"), Column("sided", "sided"), Column("flagged", "flagged")]
    model = compile_monitor({**members, "both": fused, "sided": sided, "flagged": flagged}, composed, [], widths)
    session = Session(serialize(model))
    got = session.run({n: given[n] for n in session.inputs})
    ours = got["scores"][:, :3].T  # ties are decided by the graph's own float32 scores
    want = np.array([fusion.conformal_p(c.calibration[0], s) for c, s in zip(columns, ours, strict=True)]).T
    np.testing.assert_allclose(got["p_values"][:, :3], want, rtol=2e-7)
    fused_want = FUSION[by](want)
    terms = np.abs(fusion.cauchy(want.reshape(-1, 1))).reshape(want.shape)
    size = terms.mean(axis=1) if by == "cauchy" else np.abs(fused_want)  # Cauchy's terms cancel
    assert_close(got["scores"][:, 3], fused_want, RTOL * size + 1e-6)
    assert_close(got["scores"][:, 4], fusion.two_sided(want[:, 2]), np.full(len(want), 3e-7))
    assert got["scores"][:, 5].tolist() == fusion.flagged(want[:, 1:], level).tolist()


@pytest.mark.parametrize("n", [5, 1000, 10**6])
def test_cauchy_is_finite_and_falls_with_p_from_one_over_n_plus_one_to_one(n: int):
    """Every p-value a table of n can give; float32 tan(pi p) has the wrong sign at p = 1 and is -1.6e16 beside it."""
    p = (np.arange(1, n + 2) / np.float32(n + 1)).astype(np.float32)
    fused = build_score("fused", {"of": ["a", "b"], "by": "cauchy"}, reference(world("tall", 0)))
    got = fused(NumpyOps(), {"p:a": p, "p:b": p})
    want = fusion.cauchy(np.stack([p, p], axis=1).astype(np.float64))
    assert np.isfinite(got).all()
    assert (np.diff(got) <= 1e-6).all()
    assert_close(got, want, RTOL * np.abs(want) + 1e-6)


def test_ledoit_wolf_intensity_is_scikit_learns():
    for name in ("tall", "wide", "many_unbalanced", "rank_deficient"):
        sample = world(name, 0).sample
        means = distance.class_means(sample)
        centred = sample.features[sample.correct] - [means[int(c)] for c in sample.labels[sample.correct]]
        peer = LedoitWolf(assume_centered=True).fit(centred)
        assert distance.ledoit_wolf_intensity(centred) == pytest.approx(peer.shrinkage_, rel=1e-9)
        np.testing.assert_allclose(distance.covariance(centred, "ledoit_wolf"), peer.covariance_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["tall", "wide", "many_batches"])
def test_knn_equals_scikit_learns_neighbours(name: str):
    w = world(name, 0)
    peer = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(w.sample.features)
    want = peer.kneighbors(w.test64[0])[0][:, -1]
    for got in on_both({"knn": build_score("knn", {"k": 7}, reference(w))}, signals(w)):
        assert_close(got["knn"], want, RTOL * want + 1e-7)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["many_batches", "offset"])
def test_knn_bank_is_a_sample_of_distinct_reference_rows(name: str, seed: int):
    w = world(name, seed)
    score = build_score("knn", {"k": 5, "bank": 200, "seed": seed}, reference(w))
    stored = parameters(score)
    bank = stored["bank"].astype(np.float64) + stored["centre"]
    rows, gaps = distance.nearest_rows(bank, distance.unit(w.sample.features))
    assert len(bank) == 200
    assert len(set(rows.tolist())) == 200
    assert gaps.max() < 2e-7
    want = distance.knn_cosine(w.sample.features[rows], w.test64[0], 5)
    for got in on_both({"knn": score}, signals(w)):
        assert_close(got["knn"], want, RTOL * want + 2.5e-7 * np.sqrt(want) + 1e-13)


def test_knn_of_a_zero_vector_is_one():
    w = world("tall", 0)
    w = replace(w, features=np.vstack([w.features, np.zeros((4, 12), np.float32)]), labels=np.append(w.labels, [0] * 4))
    w = replace(w, correct=np.append(w.correct, [True] * 4), test_features=np.zeros((3, 12), np.float32))
    assert distance.knn_cosine(w.sample.features, w.test64[0], 3).tolist() == [1.0] * 3
    for got in on_both({"knn": build_score("knn", {"k": 3}, reference(w))}, signals(w)):
        assert got["knn"].tolist() == [1.0] * 3


@pytest.mark.parametrize(("rank", "width"), [(3, 8), (5, 40), (20, 200)])
def test_vim_needs_more_rank_than_kept_dimensions(rank: int, width: int):
    """Rank-deficient float32 features: their rounding noise is no residual space."""
    w, rng = world("tall", 0), np.random.default_rng(rank)
    features = (rng.normal(size=(300, rank)) @ rng.normal(size=(rank, width))).astype(np.float32)
    head = rng.normal(size=(5, width)).astype(np.float32)
    w = replace(w, features=features, test_features=features[:9], head_weight=head)
    with pytest.raises(ValueError, match="rank"):
        build_score("vim", {"dim": rank + 1}, reference(w))  # the origin adds one direction to the features' rank
    want = distance.vim(w.sample, *w.test64, dim=rank - 1)
    for got in on_both({"vim": build_score("vim", {"dim": rank - 1}, reference(w))}, signals(w)):
        assert_close(got["vim"], want, RTOL * np.abs(want) + 1e-5 * np.abs(want).max())


def test_golden_numbers_of_the_sources():
    assert health.activation_kurtosis(np.array([[1.0, -1, 2, -2, 10]]))[0] == pytest.approx(0.9640494, abs=5e-8)
    assert logit.msp(np.array([[2.0, 1, -1]]))[0] == pytest.approx(1 - 0.70538, abs=5e-6)
    w = world("tall", 0)
    row: dict[str, Any] = {"features": np.array([[1, -1, 2, -2, 10]], np.float32)}
    narrow = replace(w, features=w.features[:, :5], head_weight=w.head_weight[:, :5], test_features=row["features"])
    for got in on_both({"k": build_score("activation_kurtosis", None, reference(narrow))}, row):
        assert got["k"][0] == pytest.approx(0.9640494, rel=RTOL)


@pytest.mark.parametrize("classes", [2, 50, 1000])
def test_documented_ranges_hold_where_float32_saturates(classes: int):
    """Rows whose softmax rounds to one or to uniform: no score leaves its range by more than a last digit."""
    w, rng, scales = world("two_classes", 0), np.random.default_rng(0), (0, 1e-7, 1, 30, 1e4)
    logits = np.concatenate([scale * rng.normal(size=(100, classes)) for scale in scales]).astype(np.float32)
    given = {"features": np.ones((len(logits), 10), np.float32), "logits": logits}
    for got in on_both({n: build_score(n, None, reference(w)) for n in ("msp", "entropy")}, given):
        assert (got["msp"] >= 0).all()
        assert (got["msp"] <= (1 - 1 / classes) * (1 + 1e-6)).all()
        assert (got["entropy"] >= 0).all()
        assert (got["entropy"] <= np.log(classes) * (1 + 1e-6)).all()
