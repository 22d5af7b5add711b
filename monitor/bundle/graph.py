"""A bundle is data, not code: what its graph may contain, checked before the runtime sees it."""

from __future__ import annotations

import onnx

from demur.monitor.errors import BundleError

OPSET, IR_VERSION = 18, 9
OPERATORS = frozenset(
    """Abs Acos Add And ArgMax ArgMin AveragePool BatchNormalization BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Clip Concat Constant ConstantOfShape Conv Cos CumSum Div Dropout
    Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    HardSigmoid Identity IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mod Mul Neg
    Not Or Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ReduceL1 ReduceL2 Relu
    Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile
    TopK Transpose Unsqueeze Where Xor Elu Selu Gelu HardSwish InstanceNormalization ReduceLogSumExp ReduceLogSum""".split()
)


def check(raw: bytes) -> onnx.ModelProto:
    """The parsed graph, when it is allowed in a bundle.

    Raises: BundleError for operators, domains or opsets off the list, external data, functions, subgraphs, or an invalid graph.
    """
    try:
        model = onnx.load_from_string(raw)
    except Exception as error:
        raise BundleError(f"monitor.onnx is not an ONNX model: {error}; build the bundle again") from error
    _check_allowed(model)  # before the checker, which follows references to files
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise BundleError(f"monitor.onnx is not a valid ONNX graph: {error}; build the bundle again") from error
    return model


def _check_allowed(model: onnx.ModelProto) -> None:
    versions = {o.domain: o.version for o in model.opset_import}
    if versions != {"": OPSET} or model.ir_version != IR_VERSION:
        raise BundleError(
            f"expected opset {OPSET} of the default domain and IR version {IR_VERSION}, got {versions} and {model.ir_version}"
        )
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise BundleError("monitor.onnx has functions, training graphs or sparse weights, which bundles may not")
    if any(map(_external, model.graph.initializer)):
        raise BundleError("monitor.onnx keeps weights in other files; a bundle must be self-contained")
    for node in model.graph.node:
        _check_node(node)


def _external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)


def _check_node(node: onnx.NodeProto) -> None:
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        raise BundleError(
            f"node {node.name}: operator {node.domain or 'ai.onnx'}::{node.op_type} is not on the allow-list of bundles"
        )
    for attribute in node.attribute:
        nested = attribute.HasField("g") or attribute.graphs
        sparse = attribute.HasField("sparse_tensor") or attribute.sparse_tensors
        if nested or sparse or any(map(_external, (attribute.t, *attribute.tensors))):
            raise BundleError(
                f"node {node.name}: attribute {attribute.name} holds a subgraph, a sparse tensor or external data, "
                "which bundles may not"
            )
