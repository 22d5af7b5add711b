"""Bank scores against brute force in float64 and numbers published with their definitions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from demur.detectors.build import build_score
from demur.detectors.compile import compile_scores
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.detectors.storage import parameters
from tests.contract.entries import D, M, near, outliers, permuted, reference, session

ROWS = {s: np.concatenate([near(20)[s], permuted(20)[s]]) for s in ("features", "logits", "projection")}


def value(score, **signals):
    """The score in NumPy, checked against its graph in ONNX Runtime."""
    arrays = {s: np.atleast_2d(np.asarray(x, np.float32)) for s, x in signals.items()}
    model = compile_scores({"s": score}, {s: x.shape[1] for s, x in arrays.items()})
    found = session(model).run(["scores"], {i.name: arrays[i.name] for i in model.graph.input})[0][:, 0]
    ours = evaluate({"s": score}, arrays)["s"]
    np.testing.assert_allclose(found, ours, rtol=2e-5, atol=2e-5)
    return ours


def of(features, **rest):
    return Reference({"features": np.asarray(features, np.float32), **rest})


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def gaps(asked, rows):
    """Euclidean distances (N, M), row by row, from differences."""
    return np.array([[np.linalg.norm(np.float64(a) - np.float64(b)) for b in rows] for a in asked])


BANK = reference().signals["features"]


@pytest.mark.parametrize("k", [1, 7, M])
@pytest.mark.parametrize("aggregate", ["kth", "mean"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_those_of_brute_force(metric, aggregate, k):
    asked = ROWS["features"]
    apart = gaps(asked, BANK) if metric == "euclidean" else gaps(unit(asked), unit(BANK)) ** 2 / 2
    nearest = np.sort(apart, axis=1)[:, :k]
    want = nearest[:, -1] if aggregate == "kth" else nearest.mean(axis=1)
    score = build_score("knn", {"k": k, "metric": metric, "aggregate": aggregate}, reference())
    np.testing.assert_allclose(value(score, features=asked), want, rtol=2e-5)


def test_euclidean_distance_keeps_its_digits_under_a_common_offset():
    """Features are exact in float32; |x|^2 - 2 x.b + |b|^2 without centring would be noise."""
    rng = np.random.default_rng(0)
    rows, asked = (np.float32(4096) + rng.integers(-400, 400, (n, 8)).astype(np.float32) / 256 for n in (100, 10))
    want = np.sort(gaps(asked, rows), axis=1)[:, 2]
    np.testing.assert_allclose(
        value(build_score("knn", {"k": 3, "metric": "euclidean"}, of(rows)), features=asked), want, rtol=1e-5
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2**-11), ("int8", 0.5 / 127)])
def test_narrow_bank_is_off_by_at_most_its_rounding(dtype, bound, metric):
    """A stored coordinate is off by half a step of its largest value, so a distance by that times sqrt(D) at most."""
    exact, narrow = (
        build_score("knn", {"k": 3, "metric": metric, "dtype": t}, reference()) for t in ("float32", dtype)
    )
    assert narrow.bank.dtype == np.dtype(dtype)
    assert narrow.bank.nbytes == exact.bank.nbytes // (2 if dtype == "float16" else 4)
    coordinate = np.abs(exact.bank).max() * bound * np.sqrt(D)
    want, found = (value(s, features=ROWS["features"]) for s in (exact, narrow))
    if metric == "cosine":  # half the square of a distance
        want, found = np.sqrt(2 * want), np.sqrt(2 * found)
    assert 0 < np.abs(found - want).max() <= coordinate * 1.01


def test_narrow_bank_is_stored_narrow_in_the_graph():
    score = build_score("knn", {"k": 3, "dtype": "int8"}, reference())
    model = compile_scores({"s": score}, {"features": D})
    held = {w.name: len(w.raw_data) for w in model.graph.initializer}
    assert held["s.bank"] == M * D


def test_constant_column_survives_int8():
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    rows[:, 1] = 5
    score = build_score("knn", {"k": 1, "metric": "euclidean", "dtype": "int8"}, of(rows))
    asked = rows[:1] + np.float32([0, 2, 0])
    assert value(score, features=asked)[0] == pytest.approx(2, abs=0.03)


def test_features_beyond_float16_are_refused():
    with pytest.raises(ValueError, match="exceeds the range of float16, 65504; use dtype: int8"):
        build_score("knn", {"k": 1, "metric": "euclidean", "dtype": "float16"}, of([[1e5, 0], [-1e5, 0]]))


@pytest.mark.parametrize("select", ["random", "k_centre", "class_balanced", "distilled"])
def test_bank_holds_chosen_reference_rows(select):
    score = build_score("knn", {"k": 1, "bank": 35, "select": select, "seed": 3}, reference())
    held = score.bank + score.centre
    assert len(held) == 35
    nearest = gaps(held, unit(BANK)).min(axis=1)
    assert nearest.max() < 1e-6
    again = build_score("knn", {"k": 1, "bank": 35, "select": select, "seed": 3}, reference())
    np.testing.assert_array_equal(again.bank, score.bank)


def test_spread_bank_covers_more_than_a_random_one():
    def radius(select):
        score = build_score("knn", {"k": 1, "bank": 105, "select": select, "metric": "euclidean"}, reference())
        return value(score, features=BANK).max()

    assert radius("k_centre") < radius("random")


def test_cider_is_twice_the_cosine_distance_of_the_projection():
    score = build_score("cider", {"k": 4}, reference())
    alias = build_score("knn", {"k": 4, "on": "projection"}, reference())
    asked = ROWS["projection"]
    want = np.sort(gaps(unit(asked), unit(reference().signals["projection"])) ** 2, axis=1)[:, 3]
    np.testing.assert_allclose(value(score, projection=asked), want, rtol=2e-5)
    np.testing.assert_allclose(value(alias, projection=asked), want / 2, rtol=2e-5)
    assert value(score, projection=np.zeros(8))[0] == 2


def test_nnguide_by_brute_force():
    signals = reference().signals
    energy = logsumexp(signals["logits"].astype(np.float64), axis=1)
    alike = unit(ROWS["features"]) @ (energy[:, None] * unit(signals["features"])).T
    want = -logsumexp(ROWS["logits"].astype(np.float64), axis=1) * np.sort(alike, axis=1)[:, -10:].mean(axis=1)
    score = build_score("nnguide", {}, reference())
    np.testing.assert_allclose(value(score, features=ROWS["features"], logits=ROWS["logits"]), want, rtol=2e-5)


def test_relation_golden():
    """f = [1, 0], [.6, .8], [0, 1]; p = [.9, .1], [.5, .5], [.1, .9]: K = [.82, .3, 0], [.3, .5, .4], [0, .4, .82]."""
    posteriors = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    rows = {"features": [[1, 0], [0.6, 0.8], [0, 1]], "logits": np.log(posteriors)}
    held = Reference({s: np.asarray(x, np.float32) for s, x in rows.items()})
    kernel = np.array([[0.82, 0.3, 0], [0.3, 0.5, 0.4], [0, 0.4, 0.82]])
    for power in (1, 4, 2.5):
        score = build_score("relation", {"power": power}, held)
        np.testing.assert_allclose(value(score, **rows), -(kernel**power).mean(axis=1), rtol=1e-5)


def test_weak_relations_are_no_edges():
    """cos = 1, p.p_i = .0298 and .0312: only the second is above .03."""
    p = np.array([[0.98, 0.02]])
    for other, edge in ((0.0102, False), (0.0117, True)):
        q = np.array([[other, 1 - other]])
        held = Reference({"features": np.ones((1, 2), np.float32), "logits": np.log(q).astype(np.float32)})
        strength = (p @ q.T).item()
        found = value(build_score("relation", {}, held), features=[[3, 3]], logits=np.log(p))[0]
        assert found == pytest.approx(-strength if edge else 0, abs=1e-6)


def test_relation_by_brute_force():
    signals = reference().signals
    kernel = np.maximum(unit(ROWS["features"]) @ unit(signals["features"]).T, 0)
    kernel = kernel * (
        softmax(ROWS["logits"].astype(float), axis=1) @ softmax(signals["logits"].astype(float), axis=1).T
    )
    want = -np.where(kernel > 0.03, kernel, 0).mean(axis=1)
    score = build_score("relation", {}, reference())
    np.testing.assert_allclose(
        value(score, features=ROWS["features"], logits=ROWS["logits"]), want, rtol=2e-5, atol=1e-6
    )


def test_contrast_by_brute_force():
    foreign = outliers(300)["features"]
    known, strange = (np.sort(gaps(unit(ROWS["features"]), unit(x)) ** 2 / 2, axis=1)[:, 4] for x in (BANK, foreign))
    score = build_score("contrastive_banks", {"k": 5}, reference())
    np.testing.assert_allclose(value(score, features=ROWS["features"]), known - strange, rtol=1e-4, atol=1e-5)
    assert value(score, features=np.zeros(D))[0] == 0


def ball_size(row, units, covered, grid):
    """CFOOD by counting, one neighbourhood size after another."""
    count = len(units)
    apart = gaps(units, units) ** 2
    balls = np.array([np.sort(np.delete(apart[i], i)) for i in range(count)])
    here = gaps(row[None], units)[0] ** 2
    needed = max(1, int(np.ceil(covered * count)))
    for m in sorted({int(np.rint(v)) for v in np.geomspace(1, count - 1, grid)}):
        if (here <= balls[:, m - 1]).sum() >= needed:
            return m / (count - 1)
    return np.sort(here / balls[:, -1])[needed - 1]


@pytest.mark.parametrize(("covered", "grid", "bank"), [(0.01, 230, 420), (0.2, 9, 60), (1.0, 4, 50)])
def test_cfood_by_counting(covered, grid, bank):
    score = build_score("cfood", {"covered": covered, "grid": grid, "bank": bank}, reference())
    rows = np.concatenate([near(15)["features"], permuted(10)["features"], -near(5)["features"]])
    held = score.bank.astype(np.float64) + score.centre
    want = [ball_size(row, held, covered, grid) for row in unit(rows)]
    np.testing.assert_allclose(value(score, features=rows), want, rtol=1e-4)
    assert max(want) > 1 >= min(want)


REFUSED = {
    "few rows": ("knn", {"k": 500}, {}, "expected at least 500 non-zero rows in the bank"),
    "few euclidean": ("knn", {"k": 500, "metric": "euclidean"}, {}, "expected at least 500 rows in the bank"),
    "metric": ("knn", {"metric": "l1"}, {}, "metric must be one of cosine, euclidean"),
    "aggregate": ("knn", {"aggregate": "median"}, {}, "aggregate must be one of kth, mean"),
    "select": ("knn", {"select": "best"}, {}, "select must be one of random, k_centre, class_balanced, distilled"),
    "dtype": ("knn", {"k": 1, "dtype": "int4"}, {}, "dtype must be one of float32, float16, int8"),
    "labels": ("knn", {"k": 1, "bank": 5, "select": "class_balanced"}, {"labels": None}, "needs labels"),
    "outliers": ("contrastive_banks", {}, {"sides": {}}, "contrastive_banks: expected outliers, got none"),
    "power": ("relation", {"power": 0}, {}, r"power must be a number in \(0, 100\]"),
    "covered": ("cfood", {"covered": 0}, {}, r"covered must be a number in \(0, 1\]"),
    "grid": ("cfood", {"grid": 1}, {}, "grid must be a whole number of at least 2"),
    "one way": ("cfood", {}, {"signals": {"features": np.ones((420, 2), np.float32)}}, "point the same way"),
}


@pytest.mark.parametrize(("name", "hyper", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_fitted_is_refused(name, hyper, change, message):
    with pytest.raises(ValueError, match=message):
        build_score(name, hyper, dataclasses.replace(reference(), **change))


@pytest.mark.parametrize("name", ["knn", "nnguide", "relation", "cider", "cfood", "contrastive_banks"])
def test_bank_rows_that_are_not_finite_are_refused(name):
    broken = {s: x.copy() for s, x in reference().signals.items()}
    for held in broken.values():
        held[7, -1] = np.nan
    with pytest.raises(ValueError, match=f"{name}: reference: expected finite rows of .*, got NaN or infinity in 1 of"):
        build_score(name, {}, dataclasses.replace(reference(), signals=broken))


def test_rows_without_direction_are_nobodys_neighbours():
    rows = np.zeros((6, 2), np.float32)
    rows[2:] = [[1, 0], [0, 1], [1, 1], [2, 1]]
    assert len(parameters(build_score("knn", {"k": 1}, of(rows)))["bank"]) == 4
