"""A tensor that becomes an output, and the nodes that make it a row when it is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from demur.adapters.models.graph import Graph, attribute, opset
from demur.adapters.models.instrument.layer import Head
from demur.monitor.errors import ConfigurationError

Pool: TypeAlias = Literal["mean", "max", "cls", "last"]
Kind: TypeAlias = Literal["logits", "probabilities", "features"]


@dataclass(frozen=True, eq=False)
class Tap:
    """A tensor to be shown under a signal's name. `nodes` and `weights` are added to the graph and end in `tensor`."""

    signal: str
    tensor: str
    why: str
    kind: Kind | None = None
    nodes: tuple[onnx.NodeProto, ...] = ()
    weights: tuple[onnx.TensorProto, ...] = ()
    mapped: bool = True  # whether the signal map lists it: attention and feature maps are no rows


@dataclass
class Chain:
    """Nodes behind a tensor, recorded one by one. Names begin with `demur/`, so that a viewer shows whose they are."""

    graph: Graph
    signal: str
    tensor: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, op: str, *more: str, **attributes: int | list[int]) -> None:
        """One node that reads the chain's end first."""
        made = self._name(op)
        node = onnx.helper.make_node(op, [self.tensor, *more], [made], name=made)
        node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)
        self.tensor = made

    def clone(self, node: onnx.NodeProto) -> None:
        """A node of the model, reading the chain's end instead."""
        made = self._name(node.op_type)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.input[0] = made, self.tensor
        del copy.output[:]
        copy.output.append(made)
        self.nodes.append(copy)
        self.tensor = made

    def weight(self, values: NDArray[np.generic]) -> str:
        """A constant for the next node."""
        name = self.graph.free(f"demur/{self.signal}/constant_{len(self.weights)}")
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def tap(self, why: str, kind: Kind | None = None) -> Tap:
        """The chain's end as an output."""
        return Tap(self.signal, self.tensor, why, kind, tuple(self.nodes), tuple(self.weights))

    def _name(self, op: str) -> str:
        return self.graph.free(f"demur/{self.signal}/{op}_{len(self.nodes)}")


def features_of(graph: Graph, head: Head, ranks: dict[str, int]) -> Chain:
    """What the head reads, after what the model does to the head's answers: pooling, picking a token, flattening."""
    chain = Chain(graph, "features", head.reads)
    for node in head.steps:
        if node.op_type == "Reshape":
            _reshape(chain, node, head, ranks)
        elif node.op_type == "Flatten":
            chain.add("Flatten", axis=attribute(node, "axis", 1))
        else:
            chain.clone(node)
    if not head.steps and ranks.get(head.logits) == 2 and ranks.get(head.reads, 2) > 2:
        chain.add("Flatten", axis=1)
    return chain


def _reshape(chain: Chain, node: onnx.NodeProto, head: Head, ranks: dict[str, int]) -> None:
    """The same reshape for D features instead of C classes, where its target says how many classes there are."""
    shape = chain.graph.constant(node.input[1]) if chain.graph.is_constant(node.input[1]) else None
    if shape is not None and head.weight is not None and shape[-1] == len(head.weight) != head.weight.shape[1]:
        wider = np.array([*shape[:-1], head.weight.shape[1]], np.int64)
        chain.add("Reshape", chain.weight(wider))
    elif ranks.get(head.logits) == 2:
        chain.add("Flatten", axis=1)
    elif head.convolution and ranks.get(node.output[0]) == 3 and ranks.get(head.reads, 0) > 3:
        chain.add("Reshape", chain.weight(np.array([0, 0, -1], np.int64)))  # channels stay, places are strung together
    else:
        chain.clone(node)


def pool(chain: Chain, rank: int, how: Pool, *, channels_first: bool = False) -> None:
    """Make rows of (N, D, ...) pictures (rank 4 or more, or channels first) or of (N, T, D) tokens.

    Raises: ConfigurationError for a picking of tokens where there are none.
    """
    if rank <= 2:
        return
    picture = rank > 3 or channels_first
    if how in ("cls", "last"):
        if picture:
            raise ConfigurationError(
                f"--pool {how} picks a token, but {chain.tensor!r} has rank {rank}, a picture; take --pool mean or max"
            )
        chain.add("Gather", chain.weight(np.array(0 if how == "cls" else -1, np.int64)), axis=1)
    elif picture:
        chain.add("GlobalAveragePool" if how == "mean" else "GlobalMaxPool")
        chain.add("Flatten", axis=1)
    else:
        _reduce(chain, "ReduceMean" if how == "mean" else "ReduceMax")


def _reduce(chain: Chain, op: str) -> None:
    """Over the tokens; the axis became an input in opset 18."""
    if opset(chain.graph.file.model) >= 18:
        chain.add(op, chain.weight(np.array([1], np.int64)), keepdims=0)
    else:
        chain.add(op, axes=[1], keepdims=0)


def linear_scores(graph: Graph, head: Head) -> Tap:
    """Logits of a layer that keeps them to itself, computed beside it from its coefficients."""
    chain = Chain(graph, "logits", head.reads)
    chain.add("Cast", to=onnx.TensorProto.FLOAT)
    assert head.weight is not None and head.bias is not None  # noqa: S101, PT018 - a LinearClassifier has both
    chain.add("Gemm", chain.weight(head.weight), chain.weight(head.bias), transB=1)
    return chain.tap(f"computed from the coefficients of {head.node.op_type}, which returns no logits", "logits")


def two_sided(graph: Graph, head: Head, said: str) -> tuple[Tap, Head]:
    """One logit s through a sigmoid, as the two that scores compare: softmax of (-s/2, s/2) is the model's answer."""
    chain = Chain(graph, "logits", head.logits)
    chain.add("Cast", to=onnx.TensorProto.FLOAT)
    chain.add("MatMul", chain.weight(np.array([[-0.5, 0.5]], np.float32)))
    tap = chain.tap(f"-s/2 and s/2 of the one logit s that {said} gives, before Sigmoid", "logits")
    assert head.weight is not None and head.bias is not None  # noqa: S101, PT018 - its one row says it is one logit
    halves = np.array([[-0.5], [0.5]], np.float32)
    return tap, replace(head, weight=halves @ head.weight, bias=halves[:, 0] * head.bias)


def layers(graph: Graph, before: str, wanted: Sequence[str]) -> list[list[str]]:
    """Earlier layers: a tensor by name, or as many as a number says, evenly spaced over the activations before `before`,
    each with its neighbours to fall back on.

    Raises: ConfigurationError for a tensor that is not there, or fewer layers than wanted.
    """
    if len(wanted) == 1 and wanted[0].isdigit():
        found = [n.output[0] for n in graph.ancestors(before) if _is_activation(graph, n) and n.output[0] != before]
        count = int(wanted[0])
        if not 1 <= count <= len(found):
            raise ConfigurationError(
                f"--layers {count}: the graph has {len(found)} activations before {before!r}; take fewer, or name tensors"
            )
        places = np.linspace(0, len(found) - 1, count).round().astype(int)
        return [sorted(found, key=lambda t, p=p: abs(found.index(t) - p))[:TRIED] for p in places]  # type: ignore[misc]
    missing = [n for n in wanted if not graph.has(n)]
    if missing:
        raise ConfigurationError(f"--layers: no tensor is named {missing[0]!r}; `--list` shows the graph's tensors")
    return [[n] for n in wanted]


TRIED = 4  # neighbours of a layer whose own tensor cannot be shown without moving bits
ACTIVATIONS = frozenset(
    """Relu LeakyRelu PRelu Elu Selu Celu Gelu Softplus Softsign HardSwish Mish Swish ThresholdedRelu Tanh MaxPool LayerNormalization
    BatchNormalization SkipLayerNormalization""".split()
)


def _is_activation(graph: Graph, node: onnx.NodeProto) -> bool:
    """Activations, normalisations, residual sums, and the product that ends a SiLU."""
    if node.op_type in ACTIVATIONS:
        return True
    two = node.op_type in ("Add", "Mul") and not any(graph.is_constant(i) for i in node.input)
    if not two or node.op_type == "Add":
        return two
    makers = [graph.producers.get(i) for i in node.input]
    return any(m is not None and m.op_type == "Sigmoid" and m.input[0] in node.input for m in makers)


def attention(graph: Graph) -> list[str]:
    """Tensors of attention probabilities: a softmax whose answer is multiplied with values made from the input."""
    found = []
    for node in graph.proto.node:
        readers = [r for o in node.output for r in graph.consumers[o]] if node.op_type == "Softmax" else []
        if any(
            r.op_type == "MatMul" and r.input[0] == node.output[0] and not graph.is_constant(r.input[1])
            for r in readers
        ):
            found.append(node.output[0])
    return found
