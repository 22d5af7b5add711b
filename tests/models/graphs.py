"""Small ONNX graphs written by hand, with what they compute in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)
D, H, C = 6, 9, 4
FIRST, WEIGHT = (RNG.normal(size=s).astype(np.float32) for s in ((D, H), (H, C)))
BIAS = RNG.normal(size=C).astype(np.float32)
X = RNG.normal(size=(5, D)).astype(np.float32)


def model(
    nodes: list[Any],
    weights: dict[str, Any],
    *,
    inputs: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    opset: int = 17,
    ir: int = 8,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Nodes are tuples (operator, inputs, outputs, attributes)."""
    made = [helper.make_node(op, i.split(), o.split(), name=f"{op}{n}", **a) for n, (op, i, o, a) in enumerate(nodes)]
    graph = helper.make_graph(
        made,
        "by_hand",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in (inputs or {"x": ["N", D]}).items()],
        [helper.make_tensor_value_info(n, dtype, s) for n, s in (outputs or {"y": ["N", C]}).items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    domains = sorted({n.domain for n in made if n.domain})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


HIDDEN = [("MatMul", "x first", "h0", {}), ("Relu", "h0", "h", {})]
FLOATS = {"first": FIRST, "weight": WEIGHT, "bias": BIAS}


def hidden(x: Any = X) -> Any:
    """What HIDDEN makes of x, float64."""
    return np.maximum(x.astype(np.float64) @ FIRST, 0)


def mlp(*tail: Any, opset: int = 17, **settings: Any) -> onnx.ModelProto:
    """x, a hidden layer, MatMul and Add to `z`, and then `tail`, which ends in y."""
    nodes = [*HIDDEN, ("MatMul", "h weight", "z0", {}), ("Add", "z0 bias", "z" if tail else "y", {}), *tail]
    return model(nodes, FLOATS, opset=opset, **settings)
