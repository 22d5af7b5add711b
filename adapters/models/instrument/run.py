"""From a model to an instrumented one: find, tap, check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from demur.adapters.models.graph import Graph
from demur.adapters.models.graph_file import ModelFile, ModelSource
from demur.adapters.models.instrument import maps as detector
from demur.adapters.models.instrument.candidates import listed
from demur.adapters.models.instrument.check import checked, is_quiet, verified
from demur.adapters.models.instrument.choice import Wishes, decided, is_ensemble, remarks, votes, why
from demur.adapters.models.instrument.head import Search, search
from demur.adapters.models.instrument.instrumented import Found, Instrumented
from demur.adapters.models.instrument.layer import Head
from demur.adapters.models.instrument.probe import Probe, Shapes
from demur.adapters.models.instrument.tap import (
    Chain,
    Pool,
    Tap,
    attention,
    features_of,
    layers,
    linear_scores,
    pool,
    two_sided,
)
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError


def instrument(
    model: ModelSource,
    *,
    features: str | None = None,
    logits: str | None = None,
    layers: Sequence[str] = (),
    attention: bool = False,
    pool: Pool | None = None,
    maps: Sequence[str] = (),
    shapes: Shapes | None = None,
    tolerance: float = 0.0,
) -> Instrumented:
    """Find the classifier head of a model and make its features and logits outputs, checked through ONNX Runtime.

    model: a path, the file's bytes, or an onnx.ModelProto. `features`, `logits`: tensors by name instead of what is
    found. `layers`: names of further tensors, or one number: so many activations, evenly spaced. `attention`: attention
    probabilities too. `pool` makes rows of pictures and tokens; without it features are what the model feeds its head,
    layers are averaged. `maps`: a detector's feature maps, where they are not found; then no head is looked for. `shapes` of inputs whose dynamic axes cannot be guessed. `tolerance`: by how much the model's
    own outputs may move, 0 for not one bit.
    Raises: ConfigurationError when the head cannot be decided (with the candidates), or the outputs would change.
    """
    graph = Graph(ModelFile.read(model))
    probe = Probe.of(graph, shapes)
    wishes = Wishes(features, logits, layers, attention, pool, maps)
    for name in filter(None, (features, logits)):
        if not graph.has(name) or graph.is_constant(name):
            raise ConfigurationError(f"no tensor is named {name!r}{listed(graph, probe)}")
    return _Work(graph, probe, wishes, tolerance).result()


class _Work:
    """One model on its way; each step adds taps or notes."""

    def __init__(self, graph: Graph, probe: Probe, wishes: Wishes, tolerance: float) -> None:
        self.graph, self.probe, self.wishes, self.tolerance = graph, probe, wishes, tolerance
        self.taps: list[Tap] = []
        self.notes: list[str] = []
        self.maps: dict[str, int] = {}
        self.head: Head | None = None
        self.said = ""  # the layer in words
        self.known: dict[str, int] = {}  # ranks of tensors looked at

    def result(self) -> Instrumented:
        found = search(self.graph)
        scales = detector.predictors(self.graph, found.heads) if len(found.heads) > 1 else []
        sides = detector.sides_of(self.probe, [h.reads for h in scales])
        if self.wishes.maps:
            self._show(*detector.named(self.graph, self.probe, self.wishes.maps))
        elif not (self.wishes.features or self.wishes.logits) and detector.is_detector(scales, sides):
            self._show(*detector.shown(self.graph, self.probe, scales, sides))
        else:
            self.head = decided(self.graph, self.probe, self.wishes, found)
            self.said = why(self.head) if self.head else ""
            self._logits(found)
            self._features()
        self._further()
        return self._finished()

    def _show(self, taps: list[Tap], maps: dict[str, int], note: str) -> None:
        self.taps += taps
        self.maps = maps
        self.notes.append(note)

    def _logits(self, found: Search) -> None:
        head, name = self.head, self.wishes.logits
        sided = (
            head is not None and head.single and (not head.convolution or self._ranks(head.logits)[head.logits] == 2)
        )
        if head is not None and not head.logits:
            self.taps.append(linear_scores(self.graph, head))
        elif head is not None and sided:
            tap, self.head = two_sided(self.graph, head, self.said)
            self.taps.append(tap)
        elif head is not None:
            before = f", before {head.final}" if head.final else ""
            self._tap("logits", head.logits, f"what {self.said} gives{before}", "logits")
        elif name:
            self._tap("logits", name, "named by --logits", "logits")
        elif is_ensemble(found):
            taps, note = votes(self.graph, found)
            self.taps += taps
            self.notes.append(note)
        else:
            self._before_softmax(found)
        if head is not None:
            self.notes += remarks(head, sided=sided)

    def _before_softmax(self, found: Search) -> None:
        tensor = next(filter(None, (s.before_softmax for s in found.stops.values())), "")
        if tensor:
            self._tap("logits", tensor, "what the model's Softmax reads", "logits")

    def _features(self) -> None:
        head, name = self.head, self.wishes.features
        if name:
            self.taps.append(self._row("features", name, "named by --features", self.wishes.pool))
        elif head is None:
            return
        elif not head.reads:
            raise ConfigurationError(
                f"{self.graph.file.name}: {head.problem}, and its input is integers; name a float tensor: --features TENSOR"
                + listed(self.graph, self.probe)
            )
        else:
            self._fed(head)

    def _fed(self, head: Head) -> None:
        """What the model feeds its head, with the same pooling as its logits; rows when `pool` says how."""
        ranks = self._ranks(head.reads, head.logits)
        chain = features_of(self.graph, head, ranks)
        reads = f"what {self.said} reads"
        after = f", after {', '.join(n.op_type for n in head.steps)}" if head.steps else ""
        dense = ranks.get(head.logits, 2) > 2
        if dense and self.wishes.pool:
            self._pooled(head, chain, ranks)
            reads += f", {self.wishes.pool} over positions"
        elif dense:
            self.notes.append(
                "the head judges every position (token or pixel): features and logits are not one row an input; "
                "--pool mean, max, cls or last makes them so"
                + (
                    f"; of a detector, --maps {head.reads} shows the feature map instead"
                    if ranks[head.reads] == 4
                    else ""
                )
            )
        self.taps.append(chain.tap(reads + after, "features"))

    def _pooled(self, head: Head, chain: Chain, ranks: dict[str, int]) -> None:
        assert self.wishes.pool is not None  # noqa: S101 - the caller looked
        if head.convolution and any(n.op_type == "Transpose" for n in head.steps):
            raise ConfigurationError(
                f"{self.graph.file.name}: its pictures are (N, H, W, C) at the end, --pool averages over the last axes; name the "
                f"tensors before that: --logits {head.node.output[0]} --features {head.reads}"
            )
        pool(chain, ranks[head.reads], self.wishes.pool, channels_first=head.convolution)
        logits = Chain(self.graph, "logits", head.logits)
        pool(logits, ranks[head.logits], self.wishes.pool, channels_first=head.convolution)
        self.taps = [t for t in self.taps if t.signal != "logits"]
        self.taps.append(logits.tap(f"what {self.said} gives, {self.wishes.pool} over positions", "logits"))

    def _ranks(self, *tensors: str) -> dict[str, int]:
        new = [t for t in tensors if t and t not in self.known]
        if new:
            self.known |= {t: a[0].ndim for t, a in self.probe.values(new).items() if a}
        return {t: self.known[t] for t in tensors if t in self.known}

    def _tap(self, signal: str, tensor: str, reason: str, kind: Any = None, *, mapped: bool = True) -> None:
        self.taps.append(Tap(signal, tensor, reason, kind, mapped=mapped))

    def _row(self, signal: str, tensor: str, reason: str, how: Pool | None) -> Tap:
        """A tensor as rows: pooled when it has more than two axes."""
        rank = self._ranks(tensor).get(tensor, 0)
        chain = Chain(self.graph, signal, tensor)
        if rank > 2:
            how = how or "mean"
            pool(chain, rank, how)
            reason += f", {how} over {'pixels' if rank > 3 else 'positions'}"
        return chain.tap(reason, "features")

    def _further(self) -> None:
        if self.wishes.layers:
            end = next((t.tensor for t in self.taps if t.signal == "features"), self.graph.outputs[0])
            end = self.head.reads if self.head and self.head.reads and not self.wishes.features else end
            wanted = layers(self.graph, end, self.wishes.layers)
            self._ranks(*(t for near in wanted for t in near))  # all at once: each look is a session
            for i, near in enumerate(wanted, 1):
                self.taps.append(self._layer(f"layer_{i}", near))
        if self.wishes.attention:
            self._attention()

    def _layer(self, signal: str, near: list[str]) -> Tap:
        """The first of these tensors that can be shown without moving a bit; the first of all when none can."""
        taken = {t.why for t in self.taps}
        made = [self._row(signal, t, f"layer {t}", self.wishes.pool) for t in near]
        made = [t for t in made if t.why not in taken] or made
        return next((t for t in made if len(near) == 1 or is_quiet(self.graph, self.probe, t)), made[0])

    def _attention(self) -> None:
        found = attention(self.graph)
        if not found:
            raise ConfigurationError(
                f"{self.graph.file.name}: no softmax is multiplied with values, so attention probabilities are not a tensor; "
                "export with eager attention instead of a fused operator"
            )
        for i, tensor in enumerate(found, 1):
            self._tap(f"attention_{i}", tensor, "attention probabilities", mapped=False)

    def _finished(self) -> Instrumented:
        if not self.taps:
            raise ConfigurationError(f"{self.graph.file.name}: nothing to show{listed(self.graph, self.probe)}")
        model, outputs, moved = checked(self.graph, self.probe, self.taps, self.tolerance)
        file = self.graph.file.with_model(model)
        values = self._values(file, list(outputs.values()))
        signals_of = [values.get(outputs.get(n, "")) for n in ("features", "logits")]
        head, error, said = verified(self.head, *signals_of, led=not (self.wishes.features or self.wishes.pool))
        self.notes += said
        found = tuple(
            Found(
                t.signal, outputs[t.signal], t.tensor, tuple(self.probe.dimensions(v)), str(v[0].dtype), t.why, t.mapped
            )
            for t in self.taps
            for v in [values[outputs[t.signal]]]
        )
        mapped = [t for t in self.taps if t.mapped]
        signals = SignalMapConfig(
            signals={t.signal: outputs[t.signal] for t in mapped}, kinds={t.signal: t.kind for t in mapped if t.kind}
        )
        weight, bias = (None, None) if head is None else (head.weight, head.bias)
        tried, notes = len(self.probe.feeds), tuple(self.notes)
        return Instrumented(file, signals, found, weight, bias, error, moved, tried, self.maps, notes)

    def _values(self, file: ModelFile, outputs: list[str]) -> dict[str, list[NDArray[Any]]]:
        found = replace(self.probe, file=file).run(file.model)
        return {o: [f[o] for f in found] for o in outputs}
