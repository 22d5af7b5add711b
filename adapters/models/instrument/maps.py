"""Feature maps of a detector: where the branches of each scale's prediction layers part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from demur.adapters.models.graph import Graph
from demur.adapters.models.instrument.layer import Head
from demur.adapters.models.instrument.probe import Probe
from demur.adapters.models.instrument.tap import Tap
from demur.monitor.errors import ConfigurationError

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


def shown(
    graph: Graph, probe: Probe, scales: Sequence[Head], sides: Mapping[str, Side]
) -> tuple[list[Tap], dict[str, int], str]:
    """A tap for each feature map, finest first, their strides in pixels, and a note."""
    maps = feature_maps(graph, probe, scales, sides)
    said = f"{len(scales)} prediction layers on {len(maps)} scales: a detector"
    return _taps(probe, maps, "where the prediction layers of this scale part", said)


def named(graph: Graph, probe: Probe, tensors: Sequence[str]) -> tuple[list[Tap], dict[str, int], str]:
    """The same for tensors that a person named. Raises: ConfigurationError for one that is no picture (B, D, H, W)."""
    known = sides_of(probe, [t for t in tensors if graph.has(t) and not graph.is_constant(t)])
    if strays := [t for t in tensors if t not in known]:
        raise ConfigurationError(
            f"--maps {strays[0]}: expected a tensor (B, D, H, W) of the model, a detector's feature map; "
            "`demur instrument --list` shows them"
        )
    maps = dict(sorted(known.items(), key=lambda item: item[1], reverse=True))
    return _taps(probe, maps, "named by --maps", "feature maps of a detector")


def _taps(probe: Probe, maps: Mapping[str, Side], why: str, said: str) -> tuple[list[Tap], dict[str, int], str]:
    names = [f"feature_map_{i}" for i in range(1, 1 + len(maps))]
    height = max((f.shape[2] for f in probe.feeds[0].values() if f.ndim == 4), default=0)
    strides = {n: max(round(height / side[0]), 1) for n, side in zip(names, maps.values(), strict=True)}
    note = (
        f"{said}. Its boxes are decoded by `detection:` in the signal map, and box features read from its feature maps: "
        f"regions: {{maps: {strides}}}"
    )
    return [Tap(n, t, why, mapped=False) for n, t in zip(names, maps, strict=True)], strides, note


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
