"""The monitor's graph in another opset than the one it is compiled for."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.version_converter

from demur.adapters.models.graph import attribute, opset
from demur.adapters.models.instrument.probe import same_numbers
from demur.detectors.accelerator import for_accelerator
from demur.monitor.bundle import Bundle, graph, selftest
from demur.monitor.errors import ConfigurationError, SelfTestFailed
from demur.monitor.session import Session

OLDEST = 13  # before it, axes and sizes of most operators are attributes
# Their later versions took more types, or an attribute whose default is what the older version does.
SAME = frozenset(
    """Add Sub Mul Div Relu Reshape Identity Where GreaterOrEqual LessOrEqual LeakyRelu CumSum BatchNormalization Shape Size Cast
    Equal PRelu""".split()
)


def at_opset(bundle: Bundle, version: int) -> onnx.ModelProto:
    """The bundle's graph in this opset, every softmax exact on an accelerator too, its self-test passed to the last bit.

    Raises: ConfigurationError when the graph cannot be had in this opset; BundleError, SelfTestFailed.
    """
    model = graph.check(for_accelerator(bundle.graph))
    if version > graph.OPSET:
        model = raised(model, version, f"monitor {bundle.manifest.monitor}")
    elif version < graph.OPSET:
        model = _lowered(model, version, bundle.manifest.monitor)
    session, own = Session(model.SerializeToString()), Session(bundle.graph)
    selftest.run(bundle, session)
    vectors = bundle.arrays(selftest.INPUTS)
    expected = own.run(vectors)
    for name, value in session.run(vectors).items():
        if not same_numbers(value, expected[name]):
            raise SelfTestFailed(f"{name}: in opset {version} the monitor's graph gives other bits; do not fuse it")
    return model


def raised(model: onnx.ModelProto, version: int, what: str) -> onnx.ModelProto:
    """Raised to a later opset of the default domain. Raises: ConfigurationError when onnx's converter cannot."""
    try:
        return onnx.version_converter.convert_version(model, version)
    except Exception as error:  # RuntimeError, IndexError or C++ errors
        raise ConfigurationError(
            f"{what}: onnx cannot raise it from opset {opset(model)} to {version} ({error}); export the model at opset {version}"
        ) from error


def _lowered(model: onnx.ModelProto, version: int, monitor: str) -> onnx.ModelProto:
    """In an older opset, so that the model need not be touched. onnx's converter cannot: it has no way back for Split."""
    lower = onnx.ModelProto()
    lower.CopyFrom(model)
    weights = {t.name: t for t in lower.graph.initializer}
    for node in lower.graph.node:
        if version < OLDEST or not _fits(node, version, weights):
            raise ConfigurationError(
                f"monitor {monitor}: its operator {node.op_type} is not in opset {version}; export the model at opset {graph.OPSET}"
            )
    del lower.opset_import[:]
    lower.opset_import.append(onnx.helper.make_opsetid("", version))
    return lower


def _fits(node: onnx.NodeProto, version: int, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether the node means the same in the older opset, perhaps written otherwise (in place)."""
    try:
        before = onnx.defs.get_schema(node.op_type, version, "").since_version
    except onnx.defs.SchemaError:
        return False
    if before == onnx.defs.get_schema(node.op_type, graph.OPSET, "").since_version or node.op_type in SAME:
        return True
    rewrite = REWRITES.get(node.op_type)
    return rewrite is not None and rewrite(node, weights)


def _axes_as_attribute(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    if len(node.input) < 2:
        return not attribute(node, "noop_with_empty_axes", 0)
    tensor = weights.get(node.input[1])
    if tensor is None or attribute(node, "noop_with_empty_axes", 0):
        return False
    axes = onnx.numpy_helper.to_array(tensor).tolist()
    del node.input[1:]
    kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("axes", axes)])
    return True


def _equal_parts(node: onnx.NodeProto, _: dict[str, onnx.TensorProto]) -> bool:
    """Without sizes the older Split makes equal parts too, as many as it has outputs; self-tests see unequal ones."""
    kept = [a for a in node.attribute if a.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return True


REWRITES: dict[str, Callable[[onnx.NodeProto, dict[str, onnx.TensorProto]], bool]] = {
    "Split": _equal_parts,
    **{f"Reduce{name}": _axes_as_attribute for name in "Max Min Mean Prod L1 L2 SumSquare LogSum LogSumExp".split()},
}
