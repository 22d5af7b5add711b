"""Scores of tables, regressions, windows and maps against their float64 oracles, in NumPy and as compiled graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from demur.detectors.scores.reconstruction import Reconstruction
from demur.detectors.scores.self_similarity import spectral_residual
from tests.backends import RTOL, assert_close, on_both
from tests.judged import ROUNDING
from tests.oracles import distance, modalities, tabular

Signals = dict[str, np.ndarray]


def table(rows: int, seed: int, lost: float = 0.3) -> np.ndarray:
    """Columns of every scale, one of few values, one hardly ever missing; cells lost at random."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(rows, 6)) * [1e-3, 1, 1, 1e4, 1, 1] + [0, 0, 1e3, 0, 0, 5]
    cells[:, 4] = rng.integers(3, size=rows)
    shares = lost * np.array([1, 0.5, 2, 1, 1, 0.02])
    return np.where(rng.random((rows, 6)) < shares, np.nan, cells).astype(np.float32)


def reference_of(given: Signals, **known: np.ndarray) -> Reference:
    return Reference(given, absent=frozenset({"table"} & set(given)), **known)


@pytest.mark.parametrize("rows", [60, 61, 5000])
def test_impute_is_the_median_of_what_is_there(rows: int):
    known, asked = table(rows, 0), table(200, 1)
    want, _ = modalities.imputed(known.astype(np.float64), asked.astype(np.float64))
    for column in range(6):  # each value alone, through a score that gives it back
        score = build_score(
            {
                "shaped": {
                    "transforms": [{"impute": {"signal": "table", "name": "filled"}}],
                    "score": {"given": {"signal": "filled"}},
                }
            },
            None,
            reference_of({"table": known[:, [column]]}),
        )
        for got in on_both({"s": score}, {"table": asked[:, [column]]}):
            np.testing.assert_array_equal(got["s"], want[:, column].astype(np.float32))


def test_missing_marks_the_cells_that_are_not_there():
    asked = table(200, 1)
    _, want = modalities.imputed(asked.astype(np.float64), asked.astype(np.float64))
    asked[0, 0], want[0, 0] = np.float32(3e38), 0.0
    for place in range(6):
        entry = {
            "transforms": [{"missing": {"signal": "table", "name": "t"}}],
            "score": {"given": {"signal": "t_missing"}},
        }
        score = build_score("shaped", entry, reference_of({"table": asked[:, [place]]}))
        for got in on_both({"s": score}, {"table": asked[:, [place]]}):
            np.testing.assert_array_equal(got["s"], want[:, place])


@pytest.mark.parametrize("rows", [3, 60, 5000])
def test_missingness_equals_oracle(rows: int):
    known, asked = table(rows, 2), table(300, 3, lost=0.5)
    want = modalities.missingness(known.astype(np.float64), asked.astype(np.float64))
    score = build_score("missingness", {"on": "table"}, reference_of({"table": known}))
    mask = {"features_missing": np.isnan(known).astype(np.float32)}
    given = build_score("missingness", None, Reference(mask))
    for got in on_both({"s": score}, {"table": asked}):
        assert_close(got["s"], want, RTOL * want)
    for got in on_both({"s": given}, {"features_missing": np.isnan(asked).astype(np.float32)}):
        assert_close(got["s"], want, RTOL * want)


@pytest.mark.parametrize("kind", ["ecod", "copod", "hbos", "knn"])
def test_scores_of_tables_are_those_of_the_filled_rows(kind: str):
    known, asked = table(300, 4), table(100, 5)
    filled, _ = modalities.imputed(known.astype(np.float64), known.astype(np.float64))
    rows, _ = modalities.imputed(known.astype(np.float64), asked.astype(np.float64))
    # float32 medians of float32 cells are cells: filled rows are exact
    want = {
        "knn": lambda: distance.knn_cosine(filled, rows, 50),
        "hbos": lambda: tabular.hbos(filled, rows),
        "ecod": lambda: tabular.ecod(filled, rows),
        "copod": lambda: tabular.copod(filled, rows),
    }[kind]()
    score = build_score(kind, {"on": "table"}, reference_of({"table": known}))
    for got in on_both({"s": score}, {"table": asked}):
        assert_close(got["s"], want, RTOL * np.abs(want) + (1e-6 if kind == "knn" else 1e-5))


def regression(rows: int, seed: int) -> tuple[Signals, np.ndarray]:
    rng = np.random.default_rng(seed)
    estimate, spread = 50 * rng.normal(size=rows), 10.0 ** rng.uniform(-2, 1, rows)
    target = estimate + spread * rng.standard_t(3, rows)
    low, high = estimate - spread * rng.uniform(0.2, 2, rows), estimate + spread * rng.uniform(-0.1, 2, rows)
    epistemic = spread * rng.uniform(0.0, 0.5, rows)
    columns = {
        "estimate": estimate,
        "spread": spread,
        "low": low,
        "high": high,
        "truth": target,
        "epistemic": epistemic,
    }
    return {name: column[:, None].astype(np.float32) for name, column in columns.items()}, target


def column(given: Signals, name: str) -> np.ndarray:
    return given[name][:, 0].astype(np.float64)


@pytest.mark.parametrize(("rows", "coverage"), [(9, "0.9"), (40, "0.8"), (1000, "0.95"), (9000, "0.71")])
def test_interval_width_equals_oracle(rows: int, coverage: str):
    known, target = regression(rows, 0)
    asked, _ = regression(200, 1)
    held = Reference(known, target=target)
    split = build_score("interval_width", {"coverage": float(coverage)}, held)
    cqr = build_score("interval_width", {"by": "quantiles", "coverage": float(coverage)}, held)
    want = {
        "split": modalities.split_widths(
            (target, column(known, "estimate"), column(known, "spread")), column(asked, "spread"), coverage
        ),
        "cqr": modalities.cqr_widths(
            (target, column(known, "low"), column(known, "high")), column(asked, "low"), column(asked, "high"), coverage
        ),
    }
    size = np.abs(asked["low"][:, 0]) + np.abs(asked["high"][:, 0])
    for got in on_both({"split": split, "cqr": cqr}, asked):
        assert_close(got["split"], want["split"], RTOL * want["split"])
        assert_close(got["cqr"], want["cqr"], RTOL * want["cqr"] + 2 * ROUNDING * size)
    for score, width in ((split, want["split"]), (cqr, want["cqr"])):
        low, high = score.interval(asked)
        np.testing.assert_allclose(high - low, width, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("uncertainty", [("spread",), ("spread", "epistemic")])
def test_veracity_equals_oracle(uncertainty: tuple[str, ...]):
    (known, _), (asked, _) = regression(501, 2), regression(300, 3)
    asked["spread"][:3], asked["epistemic"][:3] = [[0.0], [-1.0], [1e-30]], 0.0

    def of(given: Signals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return column(given, "truth"), column(given, "estimate"), sum(column(given, name) for name in uncertainty)

    want = modalities.veracity(of(known), of(asked))
    score = build_score("veracity", {"uncertainty": list(uncertainty)}, Reference(known))
    for got in on_both({"s": score}, asked):
        assert_close(got["s"], want, 2 * RTOL * want)


def test_veracity_is_the_offline_score():
    """1 - exp(-served) is the risk that `curate` gives, from the same residuals and uncertainties."""
    from demur.monitor.curate.veracity import veracity

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=120)
    found = veracity(x, y, folds=2, resamples=2)
    columns = {"truth": y, "estimate": y - found.residual, "a": found.epistemic, "b": found.aleatoric}
    given = {name: values[:, None].astype(np.float32) for name, values in columns.items()}
    score = build_score("veracity", {"uncertainty": ["a", "b"]}, Reference(given))
    for got in on_both({"s": score}, given):
        np.testing.assert_allclose(1 - np.exp(-got["s"].astype(np.float64)), found.risk, rtol=2e-3, atol=2e-5)


def windows(patches: int, width: int, seed: int) -> np.ndarray:
    """Patches that turn slowly, that repeat, that have nothing in common; one of zeros; every size."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(8, 1, width))
    slow = np.cumsum(np.concatenate([base, 0.2 * rng.normal(size=(8, patches - 1, width))], axis=1), axis=1)
    rows = np.concatenate([slow, np.tile(base, (1, patches, 1)), rng.normal(size=(8, patches, width))])
    rows[2, -1], rows[20, 0] = 0.0, 0.0
    return (rows * 10.0 ** rng.integers(-6, 7, size=(24, 1, 1))).astype(np.float32)


@pytest.mark.parametrize(("patches", "width"), [(2, 3), (5, 8), (12, 40), (7, 2)])
@pytest.mark.parametrize("by", ["mean", "top"])
@pytest.mark.parametrize("of", ["newest", "any"])
def test_self_similarity_equals_oracle(patches: int, width: int, by: str, of: str):
    rows = windows(patches, width, patches)
    given = {"window_embeddings": rows.reshape(len(rows), -1)}
    k = min(3, patches - 1)
    want = modalities.self_similarity(rows.astype(np.float64), by, of, k)
    score = build_score("self_similarity", {"patches": patches, "by": by, "of": of, "k": k}, Reference(given))
    for got in on_both({"s": score}, given):
        assert_close(got["s"], np.maximum(want, 0), RTOL * np.abs(want) + 4 * ROUNDING * np.sqrt(width))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_spectral_residual_equals_oracle(k: int):
    rows = windows(6, 9, 1)[16:]  # those without equal eigenvalues
    want = np.array([modalities.spectral_residual(row.astype(np.float64), k) for row in rows])
    np.testing.assert_allclose(spectral_residual(rows.reshape(len(rows), -1), 6, k), want, atol=1e-10)
    assert np.abs(spectral_residual(rows.reshape(len(rows), -1), 6, 6)).max() < 1e-12
    broken = np.full((1, 54), np.nan)
    assert np.isnan(spectral_residual(broken, 6)).all()


def rebuilder(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """tanh(x W1) W2 + b: an auto-encoder of `windows` (N, T * C)."""
    width = len(bias)
    nodes = [
        helper.make_node("MatMul", ["windows", "down"], ["inner"]),
        helper.make_node("Tanh", ["inner"], ["code"]),
        helper.make_node("MatMul", ["code", "up"], ["out"]),
        helper.make_node("Add", ["out", "bias"], ["rebuilt"]),
    ]
    shape = ["N", width]
    graph = helper.make_graph(
        nodes,
        "ae",
        [helper.make_tensor_value_info("windows", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("rebuilt", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(v.astype(np.float32), k)
            for k, v in {"down": weight, "up": weight.T, "bias": bias}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("by", ["mean", "max"])
@pytest.mark.parametrize("channels", [1, 3])
def test_reconstruction_equals_oracle(by: str, channels: int, tmp_path):
    rng = np.random.default_rng(0)
    weight, bias = 0.3 * rng.normal(size=(12, 4)).astype(np.float32), rng.normal(size=12).astype(np.float32)
    scales = np.tile([1.0, 5.0, 0.1], 4)
    known, asked = (scales * rng.normal(size=(count, 12)) for count in (400, 90))
    known, asked = known.astype(np.float32), (asked * np.linspace(0.1, 30, 90)[:, None]).astype(np.float32)

    def off(rows: np.ndarray) -> np.ndarray:
        exact = rows.astype(np.float64)
        return (exact - (np.tanh(exact @ weight.astype(np.float64)) @ weight.T.astype(np.float64) + bias)).reshape(
            len(rows), -1, channels
        )

    want = modalities.reconstruction(off(known), off(asked), channels, by)
    (tmp_path / "ae.onnx").write_bytes(rebuilder(weight, bias))
    hyper = {"path": str(tmp_path / "ae.onnx"), "channels": channels, "by": by}
    score = build_score("reconstruction", hyper, Reference({"windows": known}))
    for got in on_both({"s": score}, {"windows": asked}):
        assert_close(got["s"], want, 5 * RTOL * want)


def test_a_channel_that_is_rebuilt_exactly_counts_in_its_own_units():
    given = {"windows": np.tile(np.float32([[3, 0]]), (20, 2))}
    model = rebuilder(np.zeros((4, 2)), np.array([3.0, 0, 3, 0]))
    score = Reconstruction.of(model, Reference(given), channels=2)
    asked = {"windows": np.float32([[3, 0, 3, 0], [5, 0, 3, 0]])}
    for got in on_both({"s": score}, asked):
        np.testing.assert_array_equal(got["s"], [0.0, 1.0])


def maps(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ordinary = rng.gamma(2.0, 0.05, size=(30, 500))
    moving = ordinary[:15].copy()
    moving[:, :60] += rng.uniform(0.2, 3, size=(15, 1))
    two = rng.integers(2, size=(15, 500)).astype(np.float64)
    rows = np.concatenate([ordinary, moving, two])
    return (rows * 10.0 ** rng.integers(-5, 6, size=(60, 1))).astype(np.float32)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.5])
def test_photometric_equals_oracle(k: float):
    rows = maps(0)
    exact = rows.astype(np.float64)
    want = modalities.photometric(exact, k)
    limit = exact.mean(axis=1) + k * exact.std(axis=1)
    close = np.abs(exact - limit[:, None]) <= 1e-5 * np.ptp(exact, axis=1, keepdims=True)  # may fall on either side
    score = build_score("photometric", {"k": k}, Reference({"photometric_error": rows}))
    for got in on_both({"s": score}, {"photometric_error": rows}):
        assert_close(got["s"], want, RTOL * want + close.mean(axis=1))
        assert (got["s"] <= 1 / (1 + k**2) + 1e-6).all()
    assert (want[30:45] > 0).all()


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 1e-30, 1e30, 3e38])
def test_a_constant_map_has_no_outlier(level: float):
    rows = np.full((2, 4096), level, np.float32)
    score = build_score("photometric", {"k": 0.01}, Reference({"photometric_error": rows}))
    for got in on_both({"s": score}, {"photometric_error": rows}):
        np.testing.assert_array_equal(got["s"], 0.0)
