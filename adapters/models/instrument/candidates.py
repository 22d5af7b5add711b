"""Tensors that could be meant, for a person who has to name one."""

from __future__ import annotations

from demur.adapters.models.graph import Graph
from demur.adapters.models.graph_file import ModelFile, ModelSource
from demur.adapters.models.instrument.head import Search
from demur.adapters.models.instrument.probe import Probe, Shapes

SHOWN = 12  # candidates in an error


def candidates(model: ModelSource, *, shapes: Shapes | None = None) -> list[tuple[str, str, str, str]]:
    """Every tensor that could be a signal, in the graph's order: name, operator, shape, dtype."""
    graph = Graph(ModelFile.read(model))
    return _table(graph, Probe.of(graph, shapes), [n.output[0] for n in graph.proto.node if n.output and n.output[0]])


def undecided(graph: Graph, probe: Probe, found: Search) -> str:
    """Why no head was found, and what may be named instead."""
    ends = "; ".join(f"{o} comes from {s.maker}" for o, s in found.stops.items())
    inner = [n.op_type for n in graph.proto.node if any(a.type == a.GRAPH for a in n.attribute)]
    hidden = f" Layers inside {', '.join(sorted(set(inner)))} are not looked into." if inner else ""
    return (
        f"{graph.file.name}: no linear layer stands right behind its outputs ({ends}).{hidden} "
        f"Name the tensors: --features TENSOR, and --logits TENSOR where there are class logits{listed(graph, probe)}"
    )


def listed(graph: Graph, probe: Probe) -> str:
    """The last tensors that could be meant."""
    inner = [n.output[0] for n in graph.proto.node if n.output and n.output[0]]
    rows = [r for r in _table(graph, probe, inner[-4 * SHOWN :]) if "float" in r[3]][-SHOWN:]
    lines = "".join(f"\n  {name}  {shape} {dtype}  {op}" for name, op, shape, dtype in rows)
    return f". The last candidates (all of them: --list):{lines}" if lines else ""


def _table(graph: Graph, probe: Probe, tensors: list[str]) -> list[tuple[str, str, str, str]]:
    shown = [t for t in tensors if not _plumbing(graph, t)]
    found = probe.values(shown)
    return [
        (t, graph.producers[t].op_type, "x".join(map(str, probe.dimensions(a))), str(a[0].dtype))
        for t, a in found.items()
        if a and a[0].ndim
    ]


def _plumbing(graph: Graph, tensor: str) -> bool:
    node = graph.producers[tensor]
    return node.op_type in ("Constant", "Shape", "ConstantOfShape", "Range") or graph.is_constant(tensor)
