"""Feature maps of a detector: where the branches of each scale's prediction layers part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from demur.adapters.models.graph import Graph
from demur.adapters.models.instrument.layer import Head
from demur.adapters.models.instrument.probe import Probe

Side: TypeAlias = tuple[int, int]
NEAREST = 32  # tensors looked at: all of them at once may be more than memory has


def sides_of(probe: Probe, tensors: Sequence[str]) -> dict[str, Side]:
    """Height and width of those tensors that are pictures (B, D, H, W)."""
    return {t: (a[0].shape[2], a[0].shape[3]) for t, a in probe.values(tensors).items() if a and a[0].ndim == 4}


def predictors(graph: Graph, heads: Sequence[Head]) -> list[Head]:
    """The 1x1 convolutions among the heads that read no other one's answers: what decodes boxes is a convolution too."""
    made = {o for h in heads for o in h.node.output}
    return [h for h in heads if h.convolution and not made & {o for n in graph.ancestors(h.reads) for o in n.output}]


def is_detector(heads: Sequence[Head], sides: Mapping[str, Side]) -> bool:
    """Several 1x1 convolutions on pictures of different sizes, all behind the outputs."""
    return len({sides[h.reads] for h in heads if h.reads in sides}) > 1


def feature_maps(graph: Graph, probe: Probe, heads: Sequence[Head], sides: Mapping[str, Side]) -> dict[str, Side]:
    """One tensor a scale and its size, finest first: the last one that every prediction layer of that scale depends on.

    `sides`: height and width of what each prediction layer reads.
    """
    scales: dict[Side, list[str]] = {}
    for head in heads:
        if head.reads in sides:
            scales.setdefault(sides[head.reads], []).append(head.reads)
    found = {side: _meeting(graph, probe, scales[side], side) for side in sorted(scales, reverse=True)}
    return {tensor: side for side, tensor in found.items() if tensor}


def _meeting(graph: Graph, probe: Probe, branches: Sequence[str], side: Side) -> str:
    """The nearest tensor of this size that all branches depend on, themselves included; "" when there is none."""
    if len(set(branches)) == 1:
        return branches[0]
    common = set.intersection(*({o for n in graph.ancestors(b) for o in n.output} for b in branches))
    near = [o for n in graph.proto.node for o in n.output if o in common and not graph.is_constant(o)][-NEAREST:]
    sides = sides_of(probe, near)
    return next((t for t in reversed(near) if sides.get(t) == side), "")
