"""Scores of tables against scikit-learn, plain loops in float64, and a published example."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit, softmax
from scipy.stats import skew
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.contract.entries import D, reference
from tests.test_goldens_bank import of, value


def table(count, seed=0):
    """Correlated, skewed, discrete and heavy-tailed columns in different units, (count, 6)."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(count, 2)) @ np.array([[3.0, 1], [0, 0.5]])
    others = [
        rng.exponential(2, count),
        rng.integers(0, 4, count),
        -rng.lognormal(size=count),
        1e3 + rng.normal(size=count),
    ]
    return np.column_stack([normal, *others]).astype(np.float32)


def asked(seed=1):
    """Ordinary rows, rows spread five times wider, known rows and rows far outside."""
    ordinary, known = table(15, seed), table(300)
    middle = known.mean(axis=0)
    return np.concatenate(
        [ordinary, middle + 5 * (ordinary - middle), known[:5], middle + 1e4 * (ordinary[:5] - middle)]
    )


@pytest.mark.parametrize("k", [1, 20, 150])
def test_lof_is_that_of_scikit_learn(k):
    rows = np.random.default_rng(2).normal(size=(300, 5)).astype(np.float32)
    rows[:, 4] += 50
    new = np.random.default_rng(3).normal(size=(40, 5)).astype(np.float32) * 2 + np.float32([0, 0, 0, 0, 50])
    want = -LocalOutlierFactor(n_neighbors=k, novelty=True).fit(rows.astype(float)).score_samples(new.astype(float))
    np.testing.assert_allclose(value(build_score("lof", {"k": k}, of(rows)), features=new), want, rtol=1e-4)


def test_lof_of_copies_is_finite():
    rows = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    score = build_score("lof", {"k": 5}, of(rows))
    found = value(score, features=np.array([[1, 0, 0], [1, 0, 0.1]]))
    assert found[0] == pytest.approx(1)
    assert 1e6 < found[1] < np.inf


@pytest.mark.parametrize(("trees", "rows", "count"), [(100, 256, 3000), (20, 64, 300), (5, 5, 40), (3, 256, 30)])
def test_isolation_forest_is_that_of_scikit_learn(trees, rows, count):
    known, new = table(count), np.concatenate([asked(), table(200, 7)])
    theirs = IsolationForest(n_estimators=trees, max_samples=min(rows, count), random_state=4).fit(known)
    score = build_score("isolation_forest", {"trees": trees, "rows": rows, "seed": 4}, of(known))
    np.testing.assert_allclose(value(score, features=new), -theirs.score_samples(new), rtol=1e-6)


def test_isolation_forest_compares_as_float32_at_every_threshold():
    """Rows on and one step beside each tree's thresholds take the same side as in scikit-learn."""
    known = table(300)
    theirs = IsolationForest(n_estimators=10, random_state=0).fit(known)
    cuts = [(t.tree_.feature[i], t.tree_.threshold[i]) for t in theirs.estimators_ for i in range(t.tree_.node_count)]
    cuts = [(f, np.float32(v)) for f, v in cuts if f >= 0]
    rows = np.repeat(known.mean(axis=0, keepdims=True), 3 * len(cuts), axis=0)
    for i, (column, cut) in enumerate(cuts):
        for j, toward in enumerate((-np.inf, cut, np.inf)):
            rows[3 * i + j, column] = np.nextafter(cut, np.float32(toward))
    score = build_score("isolation_forest", {"trees": 10}, of(known))
    np.testing.assert_allclose(value(score, features=rows), -theirs.score_samples(rows), rtol=1e-6)


def tails(rows, new):
    left, right = np.empty(new.shape), np.empty(new.shape)
    for i, row in enumerate(new):
        for d, entry in enumerate(row):
            left[i, d] = (1 + sum(x <= entry for x in rows[:, d])) / (len(rows) + 1)
            right[i, d] = (1 + sum(x >= entry for x in rows[:, d])) / (len(rows) + 1)
    own = np.where(skew(rows.astype(float), axis=0) < 0, left, right) if len(rows) > 2 else right  # two are symmetric
    return -np.log(left), -np.log(right), -np.log(own)


@pytest.mark.parametrize("count", [1, 2, 30, 300])
def test_tails_are_counted(count):
    rows, new = table(count), asked()
    left, right, own = tails(rows, new)
    ecod = np.max([left.sum(axis=1), right.sum(axis=1), own.sum(axis=1)], axis=0)
    np.testing.assert_allclose(value(build_score("ecod", {}, of(rows)), features=new), ecod, rtol=1e-5, atol=1e-5)
    copod = np.maximum(own, (left + right) / 2).sum(axis=1)
    np.testing.assert_allclose(value(build_score("copod", {}, of(rows)), features=new), copod, rtol=1e-5, atol=1e-5)


def test_constant_and_symmetric_columns_take_their_right_side():
    rows = np.column_stack([np.full(300, 0.1), np.tile([0.25, 0.5, 0.75], 100), np.tile([0, 0, 0, -1], 75)])
    np.testing.assert_array_equal(build_score("ecod", {}, of(rows)).left, [0, 0, 1])


def test_tail_scores_do_not_depend_on_the_batch():
    score, new = build_score("ecod", {}, of(table(300))), asked()
    alone = [value(score, features=row)[0] for row in new]
    np.testing.assert_array_equal(value(score, features=new), np.array(alone, np.float32))


@pytest.mark.parametrize("bins", [1, 3, 10, 40])
def test_histograms_are_counted(bins):
    rows, new = table(300), asked()
    want = np.zeros(len(new))
    for d in range(rows.shape[1]):
        low, high = float(rows[:, d].min()), float(rows[:, d].max())
        edges = [np.float32(low + (high - low) / bins * j) for j in range(bins + 1)]
        half = (high - low) / bins / 2
        for i, entry in enumerate(new[:, d]):
            inside = low - half <= entry < high + half
            place = min(max(sum(e <= entry for e in edges) - 1, 0), bins - 1)
            count = sum(min(sum(e <= x for e in edges[:-1]) - 1, bins - 1) == place for x in rows[:, d])
            want[i] += -np.log2((bins * count / len(rows) if inside else 0) + 0.1)
    np.testing.assert_allclose(
        value(build_score("hbos", {"bins": bins}, of(rows)), features=new), want, rtol=1e-5, atol=1e-4
    )


def test_histogram_edges():
    """Values 0..4 and 10 in two bins [0, 5), [5, 10]: heights 5/3 and 1/3; half a bin further out still counts."""
    score = build_score("hbos", {"bins": 2}, of(np.array([[0, 1, 2, 3, 4, 10]]).T))
    found = value(score, features=np.array([[-2.6, -2.5, 0, 4.9, 5, 10, 12.4, 12.6]]).T)
    heights = np.array([0, 5 / 3, 5 / 3, 5 / 3, 1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(found, -np.log2(heights + 0.1), rtol=1e-5)


def test_histogram_of_a_constant_column():
    score = build_score("hbos", {}, of(np.full((9, 1), 3.0)))
    found = value(score, features=np.array([[3, np.nextafter(np.float32(3), np.float32(4)), 2]]).T)
    np.testing.assert_allclose(found, -np.log2([10.1, 0.1, 0.1]), rtol=1e-6)


def test_pca_is_the_distance_over_each_component():
    rows, new = table(300)[:, :5], asked()[:35, :5]
    centred = rows.astype(float) - rows.mean(axis=0, dtype=float)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    along = (new.astype(float) - rows.mean(axis=0, dtype=float)) @ vectors[:, ::-1]
    squares, values = along**2, values[::-1]
    for dim in (0, 2):
        want = (squares / values)[:, dim:].sum(axis=1)
        found = value(build_score("pca", {"dim": dim}, of(rows)), features=new)
        np.testing.assert_allclose(found, want, rtol=1e-3)
    for dim, hyper in ((2, {}), (1, {"dim": 1}), (4, {"dim": 4})):
        want = np.sqrt(squares[:, dim:].sum(axis=1))
        found = value(build_score("pca", {"by": "reconstruction", **hyper}, of(rows)), features=new)
        np.testing.assert_allclose(found, want, rtol=1e-3)


def test_magnitude_golden():
    """(0, 0), (1, 0), (0, 3) at t = 1: w = .6940366, .7050750, .9356007."""
    points = np.array([[0, 0], [1, 0], [0, 3]])
    for i, want in enumerate((0.6940366, 0.7050750, 0.9356007)):
        score = build_score("magnitude", {"scale": 1.0, "ridge": 0.0}, of(np.delete(points, i, axis=0)))
        assert value(score, features=points[i])[0] == pytest.approx(want, abs=2e-6)


def test_magnitude_solves_the_enlarged_system():
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    new = np.concatenate([rows[:4], np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32) * 2])
    score = build_score("magnitude", {"ridge": 0.05}, of(rows))
    pairs = np.linalg.norm(rows[:, None].astype(float) - rows, axis=2)
    assert score.scale == pytest.approx(1 / np.median(pairs[np.triu_indices(60, 1)]))
    want = []
    for row in new:
        points = np.vstack([rows, row]).astype(float)
        apart = np.linalg.norm(points[:, None] - points, axis=2)
        want.append(np.linalg.solve(np.exp(-score.scale * apart) + 0.05 * np.eye(61), np.ones(61))[-1])
    np.testing.assert_allclose(value(score, features=new), want, rtol=2e-4, atol=2e-5)


def in_context_network(context, weight):
    """Each row attends to a reference held as constants: the zero-shot form of a table transformer, features -> (N, 1)."""
    keys, values = context @ weight, np.linalg.norm(context, axis=1, keepdims=True)
    held = {"weight": weight, "keys": np.ascontiguousarray(keys.T), "values": values}
    nodes = [
        helper.make_node("MatMul", ["features", "weight"], ["query"]),
        helper.make_node("MatMul", ["query", "keys"], ["affinity"]),
        helper.make_node("Softmax", ["affinity"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "values"], ["expected"]),
        helper.make_node("Sigmoid", ["expected"], ["outlier"]),
    ]
    graph = helper.make_graph(
        nodes,
        "in_context",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(weight)])],
        [helper.make_tensor_value_info("outlier", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(x.astype(np.float32), name) for name, x in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_network_with_the_reference_as_context(tmp_path):
    """The form in which FoMo-0D is served: reference as weights, rows as queries."""
    rng = np.random.default_rng(0)
    context, weight, rows = rng.normal(size=(50, 4)), rng.normal(size=(4, 3)), rng.normal(size=(9, 4))
    path = tmp_path / "in_context.onnx"
    path.write_bytes(in_context_network(context, weight))
    score = build_score("onnx_score", {"path": str(path)}, of(context))
    found = value(score, features=rows)
    attention = softmax(rows @ weight @ (context @ weight).T, axis=1)
    np.testing.assert_allclose(found, expit(attention @ np.linalg.norm(context, axis=1)), rtol=1e-4)
    np.testing.assert_allclose([value(score, features=row)[0] for row in rows], found, rtol=1e-6)


REFUSED = {
    "lof": ("lof", {"k": 420}, {}, "expected at least 421 rows in the bank"),
    "trees": ("isolation_forest", {"trees": 0}, {}, "trees must be a whole number"),
    "rows": ("isolation_forest", {"rows": 1}, {}, "rows must be a whole number of at least 2"),
    "constant forest": ("isolation_forest", {}, {"signals": {"features": np.ones((9, 2), np.float32)}}, "constant"),
    "bins": ("hbos", {"bins": 0}, {}, "bins must be a whole number"),
    "pca dim": ("pca", {"dim": D}, {}, "dim must be below the rank of the reference features, 16; got 16"),
    "pca by": ("pca", {"by": "sum"}, {}, "by must be one of mahalanobis, reconstruction"),
    "constant pca": ("pca", {}, {"signals": {"features": np.ones((9, 2), np.float32)}}, "constant"),
    "ridge": ("magnitude", {"ridge": -1}, {}, "ridge must be a number"),
    "scale": ("magnitude", {"scale": 0}, {}, "scale must be a number"),
    "copies": (
        "magnitude",
        {"ridge": 0},
        {"signals": {"features": np.ones((9, 2), np.float32)}},
        "copies of each other",
    ),
}


@pytest.mark.parametrize(("name", "hyper", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_fitted_is_refused(name, hyper, change, message):
    base = Reference(reference().signals)
    with pytest.raises(ValueError, match=message):
        build_score(name, hyper, dataclasses.replace(base, **change))


@pytest.mark.parametrize("name", ["lof", "isolation_forest", "ecod", "copod", "hbos", "magnitude"])
def test_rows_that_are_not_finite_are_refused(name):
    rows = table(50)
    rows[7, 2] = np.inf
    with pytest.raises(ValueError, match=f"{name}: .*finite"):
        build_score(name, {}, of(rows))
