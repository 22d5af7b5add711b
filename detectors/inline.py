"""Somebody's ONNX model, made fit to be a part of our graph: checked, converted to our opset, renamed."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

OPSET = 18
CONTROL_FLOW = {"If", "Loop", "Scan"}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 18, default domain.

    Raises: ValueError naming what stands in the way: another domain, control flow, randomness, external data,
    model-local functions, more than one output, an input that is not float32 (N, width), or no conversion to opset 18.
    """
    _refuse_foreign_parts(model)
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version != OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter raises RuntimeError, IndexError or C++ errors
            raise ValueError(f"onnx_score: no conversion from opset {version} to {OPSET}: {error}") from error
    return _valid(model)


def _valid(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx_score: not a valid ONNX model: {error}") from error
    return model


def _refuse_foreign_parts(model: onnx.ModelProto) -> None:
    domains = sorted({n.domain for n in model.graph.node} - {"", "ai.onnx"})
    operators = {n.op_type for n in model.graph.node}
    unfit = sorted(operators & (CONTROL_FLOW | RANDOM))
    external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if domains or model.functions:
        raise ValueError(f"onnx_score: only the default ONNX domain can be inlined, got {domains or 'model functions'}")
    if unfit:
        raise ValueError(f"onnx_score: operators {unfit} cannot be part of a monitor; export without them")
    if external:
        raise ValueError(f"onnx_score: weights {external} are in another file; save the model with its data inside")
    if len(model.graph.output) != 1:
        names = [o.name for o in model.graph.output]
        raise ValueError(f"onnx_score: expected one output (N,) or (N, 1), got {names}; keep the risk only")
    for value in model_inputs(model):
        kind = value.type.tensor_type
        if kind.elem_type != onnx.TensorProto.FLOAT or len(kind.shape.dim) != 2:
            raise ValueError(f"onnx_score: input {value.name!r} must be float32 (N, width)")


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that are not weights (old exporters list both)."""
    weights = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in weights]


def inline_nodes(
    model: bytes, inputs: dict[str, ir.Value], scope: str
) -> tuple[list[ir.Node], dict[str, ir.Value], ir.Value]:
    """The model's nodes reading `inputs`, its weights renamed to `scope.weight`, and its output."""
    graph = ir.from_proto(onnx.load_model_from_string(model)).graph
    values: dict[ir.Value | None, ir.Value | None] = {None: None}
    initializers: dict[str, ir.Value] = {}
    for value in graph.inputs:
        if value.name in inputs:
            values[value] = inputs[value.name]
    for name, value in graph.initializers.items():
        renamed = f"{scope}.{name}"
        tensor = value.const_value
        assert tensor is not None  # noqa: S101 - external data was refused by `prepare`
        initializers[renamed] = ir.Value(name=renamed, const_value=ir.tensor(tensor.numpy(), name=renamed))
        values[value] = initializers[renamed]
    nodes = [_copied(node, values, f"{scope}/{i}") for i, node in enumerate(graph)]
    output = values[graph.outputs[0]]
    assert output is not None  # noqa: S101 - the checker saw an output
    return nodes, initializers, output


def _copied(node: ir.Node, values: dict[ir.Value | None, ir.Value | None], name: str) -> ir.Node:
    inputs = [values[v] for v in node.inputs]
    outputs = [ir.Value(name=f"{name}:{i}") for i in range(len(node.outputs))]
    values.update(zip(node.outputs, outputs, strict=True))
    attributes = list(node.attributes.values())
    return ir.Node("", node.op_type, inputs, attributes, outputs=outputs, name=f"{name}_{node.op_type}")
