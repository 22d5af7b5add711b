"""Every operation of the vocabulary: the graph in ONNX Runtime gives what NumPy gives, with the shapes that are promised."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from demur.detectors.compile import FLOAT, model_of
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.onnx_ops import WIDE, OnnxOps
from demur.detectors.tape import Sym
from tests.contract.entries import session

RNG = np.random.default_rng(0)
N, K, P = 5, 12, 4
TABLES = {
    "rows": RNG.normal(size=(K, 3)),
    "line": RNG.normal(size=K),
    "bank": RNG.normal(size=(K, K)),
    "points": np.sort(RNG.normal(size=9)),
    "grid": np.sort(RNG.normal(size=(K, 9)), axis=1),
    "square": RNG.normal(size=(K, 7)),
}
TABLES = {name: array.astype(np.float32) for name, array in TABLES.items()}
TABLES["halves"] = TABLES["bank"].astype(np.float16)
TABLES["few"] = TABLES["bank"][:5].copy()
TABLES["bytes"] = np.rint(TABLES["bank"] * 30).astype(np.int8)
TABLES["next"] = np.arange(3, K + 3, dtype=np.int32) % (K - 1)


def nearest(xp, x, t):
    away = xp.take(t["bank"], xp.bottom(x, 4)[1]) - xp.one_part(x)
    return xp.sum(away * away)


def walk(xp, x, t):
    places = xp.take(t["next"], xp.bottom(x, 4)[1])
    return xp.take(t["line"], places + xp.flags(xp.greater(xp.pick(x, places), 0.0)))


CASES = {
    "top": lambda xp, x, t: xp.top(x, 3),
    "bottom": lambda xp, x, t: xp.bottom(x, 4)[0],
    "take_rows": lambda xp, x, t: xp.take(t["rows"], xp.argmax(x)),
    "take_row_each": lambda xp, x, t: xp.sum(xp.take(t["rows"], xp.bottom(x, 4)[1])),
    "take_values": lambda xp, x, t: xp.take(t["line"], xp.bottom(x, 4)[1]),
    "take_value": lambda xp, x, t: xp.take(t["line"], xp.argmax(x)),
    "take_each": lambda xp, x, t: xp.take_each(t["bank"], xp.index(xp.rank(x, t["points"]))),
    "pick": lambda xp, x, t: xp.pick(x, xp.bottom(x, 4)[1]),
    "pick_one": lambda xp, x, t: xp.pick(x, xp.argmax(x)),
    "rank": lambda xp, x, t: xp.rank(x, t["points"]),
    "rank_equal": lambda xp, x, t: xp.rank(x, t["grid"], equal=True),
    "index": lambda xp, x, t: xp.take(t["line"], xp.index(xp.rank(x, t["points"]))),
    "index_row": lambda xp, x, t: xp.take(t["line"], xp.index(xp.floor(xp.abs(xp.max(x))))),
    "fold_max": lambda xp, x, t: xp.max(xp.fold(x, P)),
    "fold_min_keep": lambda xp, x, t: xp.max(xp.fold(x, P) - xp.min(xp.fold(x, P), keepdims=True)),
    "fold_logsumexp": lambda xp, x, t: xp.logsumexp(xp.fold(x, P)),
    "fold_norm": lambda xp, x, t: xp.norm(xp.fold(x, P)),
    "fold_unit": lambda xp, x, t: xp.max(xp.unit(xp.fold(x, P))),
    "fold_zero": lambda xp, x, t: xp.zero(xp.fold(x, P)),
    "fold_mean_across": lambda xp, x, t: xp.mean(xp.swap(xp.exp(xp.log_softmax(xp.fold(x, P))))),
    "fold_product": lambda xp, x, t: xp.max(xp.fold(x, P) @ xp.swap(xp.fold(x, P))),
    "zero_of_one": lambda xp, x, t: xp.zero(xp.top(x, 1)),
    "sum_parts": lambda xp, x, t: xp.sum_parts(x, P),
    "distances": nearest,
    "wide_table": lambda xp, x, t: xp.linear(x, xp.wide(t["halves"]), t["line"]),
    "wide_rows": lambda xp, x, t: xp.sum(xp.wide(xp.take(t["bytes"], xp.bottom(x, 4)[1]))),
    "pick_more": lambda xp, x, t: xp.sum(xp.pick(x, xp.take(t["next"], xp.index(xp.concat([x, x]) * 0.0 + 3.0)))),
    "flags": walk,
    "one_against_all": lambda xp, x, t: xp.max(xp.abs(xp.one_part(x) - t["few"])),
    "matmul": lambda xp, x, t: x @ t["square"],
    "sqrt": lambda xp, x, t: xp.sqrt(xp.abs(x)),
    "tanh": lambda xp, x, t: xp.tanh(x),
    "tan": lambda xp, x, t: xp.tan(0.3 * x),
    "concat": lambda xp, x, t: xp.concat([xp.sum(x), x, xp.top(x, 2)]),
    "sum_both_ways": lambda xp, x, t: xp.concat([xp.sum(x), x - xp.sum(x, keepdims=True)]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_equals_numpy(case):
    x = RNG.normal(size=(N, K)).astype(np.float32)
    want = CASES[case](NumpyOps(), x, TABLES)
    xp, value = OnnxOps(), ir.val("x", FLOAT, ["N", K])
    got = CASES[case](xp, Sym(value, xp, K), {name: xp.constant(name, array) for name, array in TABLES.items()})
    assert (got.width, got.parts) == (want.shape[1] if want.ndim > 1 else 0, 0)
    kind = {"y": (FLOAT, ["N", max(got.width, 1)])}
    run = session(model_of(xp, {"x": value}, {"y": got}, kind))
    for rows in (1, N):
        found = run.run(["y"], {"x": x[:rows]})[0]
        np.testing.assert_allclose(found, want.reshape(N, -1)[:rows], rtol=1e-5, atol=1e-6)


def test_equal_entries_keep_their_order():
    x = np.array([[1, 0, 0, 1]], np.float32)
    np.testing.assert_array_equal(NumpyOps().bottom(x, 3)[1], [[1, 2, 0]])
    assert NumpyOps().argmax(x) == 0


@pytest.mark.parametrize("width", [1, 7, WIDE - 1, WIDE, 1000])
@pytest.mark.parametrize("parts", [0, 2])
def test_zero_is_nan_of_every_number_that_is_not_finite_and_of_no_other(width, parts):
    largest = np.finfo(np.float32).max
    rows = np.tile(np.array([largest, -largest, 1e-40, 0.0], np.float32), (9, max(parts, 1) * width))[
        :, : parts * width or width
    ]
    for row, (value, place) in enumerate((v, p) for v in (np.nan, np.inf, -np.inf) for p in (0, width // 2, -1)):
        rows[row, place] = value
    x = np.concatenate([rows, rows[:1]])
    x[-1, 0] = -largest

    def zero(ops, x):
        return ops.concat([ops.zero(ops.fold(x, parts) if parts else x)])

    xp, value = OnnxOps(), ir.val("x", FLOAT, ["N", x.shape[1]])
    got = zero(xp, Sym(value, xp, x.shape[1]))
    model = model_of(xp, {"x": value}, {"y": got}, {"y": (FLOAT, ["N", max(parts, 1)])})
    with np.errstate(all="ignore"):
        found = [
            session(model).run(["y"], {"x": x})[0],
            ReferenceEvaluator(model).run(["y"], {"x": x})[0],
            zero(NumpyOps(), x),
        ]
    for result in found:
        assert np.isnan(result[:9]).any(axis=1).all()
        np.testing.assert_array_equal(result[9], 0)


def test_a_negated_term_is_subtracted():
    xp, value = OnnxOps(), ir.val("x", FLOAT, ["N", K])
    x = Sym(value, xp, K)
    total = -xp.max(x) + xp.zero(x)
    model = model_of(xp, {"x": value}, {"y": total}, {"y": (FLOAT, ["N", 1])})
    assert [node.op_type for node in model.graph.node] == ["ReduceMax", "MatMul", "Sub"]
    rows = RNG.normal(size=(N, K)).astype(np.float32)
    np.testing.assert_array_equal(session(model).run(["y"], {"x": rows})[0][:, 0], -rows.max(axis=1))
