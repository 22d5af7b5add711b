"""Heads made at random, and model files damaged at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.adapters.models.instrument import instrument
from demur.monitor.errors import DemurError
from tests.models.graphs import BIAS, FLOATS, HIDDEN, WEIGHT, C, X, hidden, model
from tests.models.test_instrument import EXPORTS, run, shown

# Each step behind the layer: operator, whether the constant is the first input, and what it does in NumPy.
STEPS = {
    "add": ("Add", False, lambda z, c: z + c),
    "add_left": ("Add", True, lambda z, c: c + z),
    "sub": ("Sub", False, lambda z, c: z - c),
    "sub_left": ("Sub", True, lambda z, c: c - z),
    "mul": ("Mul", False, lambda z, c: z * c),
    "div": ("Div", False, lambda z, c: z / c),
    "identity": ("Identity", None, lambda z, _: z),
    "cast": ("Cast", None, lambda z, _: z),
}
values = st.floats(0.25, 4, width=32)
constants = st.one_of(
    values.map(lambda v: np.float32(v)), st.lists(values, min_size=C, max_size=C).map(lambda v: np.float32(v))
)
layers = st.sampled_from(["matmul", "gemm", "gemm_turned"])
ends = st.sampled_from(["", "Softmax", "LogSoftmax"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layers, st.lists(st.tuples(st.sampled_from(sorted(STEPS)), constants), max_size=5), ends)
def test_whatever_scales_and_shifts_stand_behind_the_layer_are_folded_into_the_head(layer, steps, end):
    weights = {**FLOATS, "turned": WEIGHT.T.copy()}
    node = {
        "matmul": ("MatMul", "h weight", "t0", {}),
        "gemm": ("Gemm", "h weight bias", "t0", {}),
        "gemm_turned": ("Gemm", "h turned bias", "t0", {"transB": 1}),
    }[layer]
    logits = hidden() @ WEIGHT + (0 if layer == "matmul" else BIAS)
    nodes = [*HIDDEN, node]
    for i, (name, constant) in enumerate(steps):
        op, left, does = STEPS[name]
        weights[f"c{i}"] = constant
        logits = does(logits, constant.astype(np.float64))
        reads = f"t{i}" if left is None else f"c{i} t{i}" if left else f"t{i} c{i}"
        nodes.append((op, reads, f"t{i + 1}", {"to": 1} if op == "Cast" else {}))
    last = f"t{len(steps)}"
    nodes.append((end, last, "y", {"axis": 1}) if end else ("Identity", last, "y", {}))
    proto = model(nodes, weights)
    made = instrument(proto)
    assert made.moved == 0
    assert run(made.model, {"x": X})["y"].tobytes() == run(proto, {"x": X})["y"].tobytes()
    scale = max(1, np.abs(logits).max())
    np.testing.assert_allclose(shown(made, {"x": X})["logits"] / scale, logits / scale, atol=1e-5)
    found = hidden() @ made.head_weight.T.astype(np.float64) + made.head_bias
    np.testing.assert_allclose(found / scale, logits / scale, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp_logits", "conv_head", "skl_logistic", "cnn_softmax"])
def test_damaged_files_are_refused_or_read_and_nothing_else(name):
    whole = (EXPORTS / f"{name}.onnx").read_bytes()
    rng = np.random.default_rng(3)
    for turn in range(60):
        raw = bytearray(whole[: rng.integers(len(whole))] if turn % 3 == 0 else whole)
        for _ in range(turn % 4 if raw else 0):
            raw[rng.integers(len(raw))] = rng.integers(256)
        try:
            instrument(bytes(raw))
        except DemurError as error:
            assert str(error)
