"""Which linear layer is the head, and what has to be said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur.adapters.models.graph import Graph
from demur.adapters.models.instrument.candidates import SHOWN, undecided
from demur.adapters.models.instrument.head import Search, affine
from demur.adapters.models.instrument.layer import Head
from demur.adapters.models.instrument.probe import Probe
from demur.adapters.models.instrument.tap import Pool, Tap
from demur.monitor.errors import ConfigurationError

ENSEMBLES = frozenset(
    """TreeEnsembleClassifier TreeEnsembleRegressor TreeEnsemble SVMClassifier SVMRegressor""".split()
)


@dataclass(frozen=True)
class Wishes:
    """What a person asked for by name, instead of what is found."""

    features: str | None = None
    logits: str | None = None
    layers: Sequence[str] = ()
    attention: bool = False
    pool: Pool | None = None
    maps: Sequence[str] = ()


def decided(graph: Graph, probe: Probe, wishes: Wishes, found: Search) -> Head | None:
    """The one head; None when tensors were named, or votes are counted, and no head is behind the outputs.

    Raises: ConfigurationError when there are several, or none and nothing was named.
    """
    if wishes.logits:
        known = next((h for h in found.heads if h.logits == wishes.logits), None)
        return known or affine(graph, wishes.logits)
    heads = found.heads
    if len(heads) > 1:
        heads = tuple(h for h in heads if h.logits == "logits") or _last(graph, heads)
    if len(heads) > 1:
        told = "; ".join(f"{h.logits} ({why(h)})" for h in heads[:SHOWN])
        raise ConfigurationError(
            f"{graph.file.name}: {len(heads)} linear layers stand behind its outputs: {told}. "
            "Say which one makes the class logits: --logits TENSOR"
        )
    if not heads and not wishes.features and not is_ensemble(found):
        raise ConfigurationError(undecided(graph, probe, found))
    if not heads or not heads[0].divided:
        return heads[0] if heads else None
    if wishes.features:
        return None
    raise ConfigurationError(
        f"{graph.file.name}: what {why(heads[0])} gives, {heads[0].logits!r}, is divided (Split) before the outputs; say which "
        f"part is the class logits: --logits TENSOR, and --features {heads[0].reads}"
    )


def _last(graph: Graph, heads: Sequence[Head]) -> tuple[Head, ...]:
    """Heads that no other head builds on: an embedding that is an output too comes before the classifier's layer."""
    before = [{o for n in graph.ancestors(h.reads) for o in n.output} for h in heads]
    return tuple(h for h in heads if not any(h.logits in names for names in before))


def is_ensemble(found: Search) -> bool:
    """Whether outputs come from trees or kernel machines, which have no last linear layer."""
    return any(s.maker in ENSEMBLES for s in found.stops.values())


def votes(graph: Graph, found: Search) -> tuple[list[Tap], str]:
    """Trees and kernel machines have no last linear layer: their votes and what they read are all there is; and a note."""
    stop = next(s for s in found.stops.values() if s.maker in ENSEMBLES)
    assert stop.node is not None  # noqa: S101 - it has a maker
    tensor = next((n.input[0] for n in graph.proto.node if n.op_type == "ZipMap"), stop.node.output[-1])
    taps = [
        Tap("logits", tensor, f"what {stop.maker} votes", "probabilities"),
        Tap("features", stop.node.input[0], f"the rows {stop.maker} reads", "features"),
    ]
    note = (
        f"{stop.maker} has no linear head: no head weights. Declare its votes as "
        "`logits: {width: C, kind: probabilities}`; features are the rows it reads"
    )
    return taps, note


def remarks(head: Head, *, sided: bool) -> list[str]:
    """What a person should know about a head; `sided`: its one logit was made two."""
    said = []
    if head.problem:
        said.append(f"no head weights are written: {head.problem}; scores that need the head do not apply")
    if head.weight is not None and len(head.weight) == 1 and head.final != "Sigmoid":
        said.append("the layer gives one number: scores that compare classes do not apply, those of features do")
    if head.final == "Sigmoid" and not sided:
        said.append(
            "classes end in sigmoids, each on its own: scores that assume one class per input (msp, energy) read them "
            "as if they excluded each other"
        )
    return said


def why(head: Head) -> str:
    """The layer in words."""
    width = f" {head.weight.shape[1]} to {head.weight.shape[0]}" if head.weight is not None else ""
    kernel = "1x1 " if head.convolution else ""
    return f"the last linear layer ({kernel}{head.node.op_type}{width})"
