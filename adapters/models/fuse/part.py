"""The monitor's graph as part of another: its names prefixed, borders put before its signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from demur.adapters.models.fuse.wiring import Wire
from demur.adapters.models.graph import Graph, renamed
from demur.adapters.models.graph_file import ModelFile
from demur.monitor.errors import ConfigurationError
from demur.monitor.loaded import PLUMBING

SHOWN = ("accept", "reasons", "p_values", "scores")
GROUPED = ("group_accept", "group_reasons", "group_p", "group_scores")


@dataclass(frozen=True, eq=False)
class Part:
    """Nodes and weights to be added to a model, the inputs they bring (groups), and the outputs to show."""

    nodes: tuple[onnx.NodeProto, ...]
    weights: tuple[onnx.TensorProto, ...]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]


def part(
    target: Graph, monitor: onnx.ModelProto, wires: Sequence[Wire], prefix: str, batch: onnx.TensorShapeProto.Dimension
) -> Part:
    """The monitor behind these wires. Every name begins with `prefix`, so nothing in the model is called the same.

    Raises: ConfigurationError when the model already has names of this prefix.
    """
    taken = sorted(n for n in target.names if n.startswith((f"{prefix}.", f"{prefix}/monitor/")))
    if taken:
        raise ConfigurationError(
            f"{target.file.name}: already has {taken[0]!r}; a second monitor needs another --prefix"
        )
    names = _names(monitor, prefix)
    own = onnx.ModelProto()
    own.CopyFrom(monitor)
    renamed(own, names)
    for node in own.graph.node:
        node.name = f"{prefix}/monitor/{node.name}"
    fronts = [_front(w, names[w.signal], prefix) for w in wires]
    shown = [names[n] for n in (*SHOWN, *GROUPED) if n in names]
    outputs = {o.name: o for o in own.graph.output}
    return Part(
        (*(n for nodes, _ in fronts for n in nodes), *own.graph.node),
        (*(t for _, weights in fronts for t in weights), *own.graph.initializer),
        tuple(i for i in own.graph.input if i.name in {names[p] for p in PLUMBING & set(names)}),
        tuple(_batched(outputs[n], batch) for n in shown),
    )


def standalone(
    monitor: onnx.ModelProto, wires: Sequence[Wire], kinds: Sequence[onnx.ValueInfoProto], prefix: str
) -> onnx.ModelProto:
    """The monitor as a model of its own that takes the model's outputs as they are: dtype, axes of size 1 and names."""
    empty = Graph(ModelFile(onnx.ModelProto(graph=onnx.GraphProto(name="none")), None, "monitor"))
    batch = kinds[0].type.tensor_type.shape.dim[0]
    made = part(empty, monitor, wires, prefix, batch)
    shell = onnx.helper.make_graph(made.nodes, prefix, [*kinds, *made.inputs], made.outputs, initializer=made.weights)
    return onnx.helper.make_model(
        shell, opset_imports=monitor.opset_import, ir_version=monitor.ir_version, producer_name="demur"
    )


def _names(monitor: onnx.ModelProto, prefix: str) -> dict[str, str]:
    """Every tensor's new name: outputs and group inputs are shown, the rest lies under `prefix/monitor/`."""
    shown = {o.name for o in monitor.graph.output} | (PLUMBING & {i.name for i in monitor.graph.input})
    inner = {n for node in monitor.graph.node for n in (*node.input, *node.output) if n}
    inner |= {t.name for t in monitor.graph.initializer}
    inner |= {v.name for v in (*monitor.graph.input, *monitor.graph.value_info)}
    return {n: f"{prefix}.{n}" if n in shown else f"{prefix}/monitor/{n}" for n in inner | shown}


def _front(wire: Wire, signal: str, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From an output of the model to a signal: float32 (N, width), whatever shape inference knows of the output.

    The Reshape is a border that no fusion of ONNX Runtime reaches over, and behind it the width is static, as it is in
    the monitor alone. Without it a product could become a Gemm in one graph and stay MatMul and Add in the other; and
    of a half model, computed in float32, the casts to half and back would be dropped as one: scores moved by 1e-3.
    """
    stem = f"{prefix}/monitor/{wire.signal}"
    shape = onnx.numpy_helper.from_array(np.array([-1, wire.width], np.int64), f"{stem}/shape")
    rows = signal if wire.plain else f"{stem}/rows"
    nodes = [onnx.helper.make_node("Reshape", [wire.tensor, shape.name], [rows], name=f"{stem}/Reshape")]
    if not wire.plain:
        nodes.append(onnx.helper.make_node("Cast", [rows], [signal], name=f"{stem}/Cast", to=onnx.TensorProto.FLOAT))
    return nodes, [shape]


def _batched(value: onnx.ValueInfoProto, batch: onnx.TensorShapeProto.Dimension) -> onnx.ValueInfoProto:
    """An output of the monitor with the model's own batch axis."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    for dim in copy.type.tensor_type.shape.dim:
        if dim.dim_param == "N":
            dim.CopyFrom(batch)
    return copy
