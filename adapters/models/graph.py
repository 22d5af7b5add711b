"""Look-ups over an ONNX graph: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray

from demur.adapters.models.graph_file import ModelFile
from demur.detectors.inline import RANDOM
from demur.monitor.errors import ConfigurationError

LARGEST_FOLD = 64  # nodes between weights and a constant made of them
LARGEST_CONSTANT = 1 << 29  # values


class Graph:
    """A model's main graph, read only."""

    def __init__(self, file: ModelFile) -> None:
        self.file, self.proto = file, file.model.graph
        self.weights = {t.name: t for t in self.proto.initializer}
        self.producers = {o: n for n in self.proto.node for o in n.output if o}
        self.inputs = {v.name: v for v in self.proto.input if v.name not in self.weights}
        self.outputs = tuple(o.name for o in self.proto.output)

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor to the nodes of the main graph that read it."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.proto.node:
            for name in node.input:
                found[name].append(node)
        return found

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name in use: of tensors and nodes, subgraphs included."""
        return frozenset(_names(self.proto))

    def has(self, tensor: str) -> bool:
        """Whether the main graph has a tensor of this name."""
        return tensor in self.producers or tensor in self.inputs or tensor in self.weights

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor depends on weights only."""
        return self._fold(tensor) is not None

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of a tensor that depends on weights only, or None.

        Transposes, casts, dequantisation and any other arithmetic on weights are done by ONNX Runtime.
        Raises: ConfigurationError when weights are missing or have more than 2^29 values.
        """
        nodes = self._fold(tensor)
        if nodes is None:
            return None
        weights = sorted({i for n in nodes for i in n.input if i in self.weights} | ({tensor} & set(self.weights)))
        if self.constant_values(tensor) > LARGEST_CONSTANT:
            raise ConfigurationError(f"{tensor}: weights of more than {LARGEST_CONSTANT:,} values are not taken apart")
        if not nodes:
            return self.file.array(self.weights[tensor])
        return self._evaluated(tensor, nodes, weights)

    def constant_values(self, tensor: str) -> int:
        """How many numbers the weights have that a constant is made of."""
        made = self._fold(tensor) or []
        weights = {i for n in made for i in n.input if i in self.weights} | ({tensor} & set(self.weights))
        return sum(math.prod(self.weights[w].dims) for w in weights)

    def _evaluated(self, tensor: str, nodes: list[onnx.NodeProto], weights: list[str]) -> NDArray[Any]:
        model = onnx.ModelProto()
        model.CopyFrom(_shell(self.file.model))
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(self.weights[w] for w in weights)
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        found: NDArray[Any] = self.file.with_model(model).session().run({})[tensor]
        return found

    def _fold(self, tensor: str) -> list[onnx.NodeProto] | None:
        """The nodes that make a constant, in order; [] for a weight; None when it depends on an input."""
        wanted, seen = [tensor], {tensor}
        nodes: set[int] = set()
        while wanted:
            name = wanted.pop()
            if not name or name in self.weights:
                continue
            node = self.producers.get(name)
            if node is None or _has_graphs(node) or node.op_type in RANDOM or len(nodes) >= LARGEST_FOLD:
                return None
            nodes.add(id(node))
            new = [i for i in node.input if i not in seen]
            seen.update(new)
            wanted.extend(new)
        return [n for n in self.proto.node if id(n) in nodes] if nodes else []

    def ancestors(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes a tensor depends on, in the graph's order."""
        wanted = [tensor]
        found: set[int] = set()
        while wanted:
            node = self.producers.get(wanted.pop())
            if node is not None and id(node) not in found:
                found.add(id(node))
                wanted.extend(i for i in _reads(node) if i)
        return [n for n in self.proto.node if id(n) in found]

    def free(self, wanted: str) -> str:
        """`wanted`, or the first of `wanted_1`, `wanted_2`, ... that nothing in the graph is called."""
        names = iter([wanted, *(f"{wanted}_{i}" for i in range(1, len(self.names) + 2))])
        return next(n for n in names if n not in self.names)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, or the default."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Call tensors otherwise, in place, wherever they are read: subgraphs included."""
    _rename(model.graph, names)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                if name in names:
                    values[i] = names[name]
        for inner in _graphs(node):
            _rename(inner, names)
    for value in _named(graph):
        value.name = names.get(value.name, value.name)


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for entry in node.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:
            yield entry.g
        yield from entry.graphs


def _has_graphs(node: onnx.NodeProto) -> bool:
    return next(_graphs(node), None) is not None


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, subgraphs included: they see the tensors around them."""
    yield from node.input
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (o.name for o in graph.output)


def _named(graph: onnx.GraphProto) -> Iterator[Any]:
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from values


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (v.name for v in _named(graph))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in _graphs(node):
            yield from _names(inner)


def _shell(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without a graph's contents: versions and domains only."""
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=onnx.GraphProto(name="part")
    )


def opset(model: onnx.ModelProto) -> int:
    """The version of the default domain; 0 when the model imports other domains only."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def domains(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """The other domains these nodes come from, sorted."""
    return sorted({n.domain for n in nodes} - {"", "ai.onnx"})
