"""Model and monitor in one graph, and the proof that neither changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from demur.adapters.models.fuse.contract import check_model, check_rows
from demur.adapters.models.fuse.opset import at_opset, raised
from demur.adapters.models.fuse.part import part
from demur.adapters.models.fuse.wiring import Wire, wires
from demur.adapters.models.graph import Graph, domains, opset
from demur.adapters.models.graph_file import ModelFile, ModelSource
from demur.adapters.models.instrument.probe import Probe, Shapes, difference, same_bits, same_numbers
from demur.monitor.bundle import Bundle
from demur.monitor.bundle.graph import OPSET
from demur.monitor.config.document import parse, read_yaml
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, SelfTestFailed
from demur.monitor.session import Session

OLDEST_IR = 4  # before it, weights must be listed as inputs too


@dataclass(frozen=True, eq=False)
class Fused:
    """One graph: the model's inputs and outputs as they were, and the monitor's outputs under `prefix.`.

    `monitor` is the monitor's graph in the fused opset; `levelled` says what was changed for it; `tried` on how many
    made-up batches the fused graph was compared, to the last bit, with model and monitor apart.
    """

    file: ModelFile
    bundle: Bundle
    wires: tuple[Wire, ...]
    monitor: onnx.ModelProto
    prefix: str
    levelled: str
    tried: int
    instrumented: ModelFile

    @property
    def model(self) -> onnx.ModelProto:
        """The fused graph."""
        return self.file.model

    def save(self, path: str | Path) -> None:
        """Write the fused model; its external weights are copied when the folder is another one.

        Raises: ConfigurationError, BundleError when it cannot be written.
        """
        self.file.write(path)


def fuse(
    model: ModelSource,
    bundle: str | Path | Bundle,
    *,
    signals: Mapping[str, str] | None = None,
    map: str | Path | SignalMapConfig | None = None,  # noqa: A002 - what the option is called
    prefix: str = "demur",
    shapes: Shapes | None = None,
) -> Fused:
    """Append a monitor to a model: outputs `demur.accept` (N,) bool, `demur.reasons` (N,) int64, `demur.p_values` and
    `demur.scores` (N, S) float32; of a policy that judges groups also `demur.group_*`, with inputs `demur.group_id`
    (N,) and `demur.group_count` (1,) int64.

    signals: signal to output, over `map` (default: `model.signals.yaml` beside the model), over the bundle's own output
    names, over outputs of the same name. Outputs may be float16 to float64, and have axes of size 1.
    Raises: ConfigurationError, BundleError, SelfTestFailed when something does not fit, or a bit would differ.
    """
    if not prefix:
        raise ConfigurationError(
            "prefix: expected at least one character, so that the monitor's names are no one else's"
        )
    file = ModelFile.read(model)
    held = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    mapped = _map(map, model, file)
    check_rows(mapped, held)
    check_model(file, held)
    probe = Probe.of(Graph(file), shapes)
    own, monitor, said = _levelled(file, probe, held)
    graph = Graph(file.with_model(own))
    read = tuple(i.name for i in monitor.graph.input)
    found = wires(graph, probe, held.manifest, read, signals or {}, mapped)
    joined = _joined(graph, monitor, found, prefix, held)
    fused = Fused(file.with_model(joined), held, found, monitor, prefix, said, len(probe.feeds), graph.file)
    _prove(fused, probe)
    return fused


def _levelled(file: ModelFile, probe: Probe, bundle: Bundle) -> tuple[onnx.ModelProto, onnx.ModelProto, str]:
    """Model and monitor in one opset: the model's own where the monitor can be had in it, else the monitor's.

    Raises: ConfigurationError when neither can be done without changing a bit.
    """
    if bundle.manifest.kind != "rows":
        raise ConfigurationError(
            f"monitor {bundle.manifest.monitor} judges streams: its state goes from call to call, which a fused graph has "
            "no place for; serve it beside the model (`demur serve`)"
        )
    version = opset(file.model) or OPSET
    try:
        monitor = at_opset(bundle, version)
    except ConfigurationError as error:
        if version > OPSET:
            raise
        return (
            _raised(file, probe, str(error)),
            at_opset(bundle, OPSET),
            f"the model was raised from opset {version} to {OPSET}",
        )
    way = (
        "" if version == OPSET else f"the monitor was put from opset {OPSET} to {version}, its self-test kept every bit"
    )
    return file.model, monitor, way


def _raised(file: ModelFile, probe: Probe, why: str) -> onnx.ModelProto:
    """The model in the monitor's opset. Raises: ConfigurationError when it cannot be raised without changing a bit."""
    before = opset(file.model)
    foreign = domains(file.model.graph.node)
    if foreign:
        raise ConfigurationError(
            f"{why}; and {file.name} cannot be raised from opset {before}, because of its operators of {', '.join(foreign)}"
        )
    model = raised(file.model, OPSET, file.name)
    for apart, together in zip(probe.run(file.model), probe.run(model), strict=True):
        for name, value in apart.items():
            if not same_bits(value, together[name]):
                raise ConfigurationError(
                    f"{why}; and {file.name}, raised from opset {before} to {OPSET}, moves output {name!r} by "
                    f"{difference(value, together[name]):.2g}"
                )
    return model


def _map(given: str | Path | SignalMapConfig | None, model: ModelSource, file: ModelFile) -> SignalMapConfig:
    if isinstance(given, SignalMapConfig):
        return given
    beside = None
    if isinstance(model, (str, Path)) and file.folder is not None:
        beside = file.folder / f"{file.name.removesuffix('.onnx').removesuffix('.instrumented')}.signals.yaml"
    place = Path(given) if given is not None else beside
    if place is None or (given is None and not place.is_file()):
        return SignalMapConfig()
    return parse(SignalMapConfig, read_yaml(place), str(place))


def _joined(
    graph: Graph, monitor: onnx.ModelProto, found: tuple[Wire, ...], prefix: str, bundle: Bundle
) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(graph.file.model)
    outputs = {o.name: o for o in model.graph.output}
    made = part(graph, monitor, found, prefix, _batch(outputs[found[0].tensor]))
    model.graph.node.extend(made.nodes)
    model.graph.initializer.extend(made.weights)
    model.graph.input.extend(made.inputs)
    model.graph.output.extend(made.outputs)
    if not opset(model):
        model.opset_import.extend(monitor.opset_import)
    needed = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(model.ir_version, OLDEST_IR, needed)
    manifest = bundle.manifest
    known = {
        "bundle": bundle.digest,
        "monitor": manifest.monitor,
        "version": str(manifest.version),
        "demur": manifest.demur,
    }
    model.metadata_props.extend(
        onnx.StringStringEntryProto(key=f"{prefix}.{name}", value=value) for name, value in known.items()
    )
    return model


def _batch(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension:
    dims = value.type.tensor_type.shape.dim
    return (
        dims[0] if dims and (dims[0].dim_param or dims[0].dim_value) else onnx.TensorShapeProto.Dimension(dim_param="N")
    )


def _prove(fused: Fused, probe: Probe) -> None:
    """The fused graph answers as model and monitor do apart, to the last bit: on made-up inputs, and with NaN in one."""
    session, alone, apart = fused.file.session(), Session(fused.bundle.graph), fused.instrumented.session()
    for feed in (*probe.feeds, _poisoned(probe.feeds[0])):
        own = apart.run(feed)
        signals = {w.signal: row(own[w.tensor], w) for w in fused.wires}
        groups = _groups(alone, len(next(iter(signals.values()))))
        found = session.run({**feed, **{f"{fused.prefix}.{n}": a for n, a in groups.items()}})
        expected = {f"{fused.prefix}.{n}": a for n, a in alone.run({**signals, **groups}).items()}
        for name, want in {**own, **{n: a for n, a in expected.items() if n in found}}.items():
            same = same_bits if name in own else same_numbers
            if not same(want, found[name]):
                raise SelfTestFailed(
                    f"{fused.file.name}: fused, {name} moves by {difference(want, found[name]):.2g}; do not use the fused graph "
                    "here, serve the monitor beside the model, and report the model's operators"
                )


def _poisoned(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inputs with NaN in the first number of each that can hold one."""
    copy = {n: a.copy() for n, a in feed.items()}
    for array in copy.values():
        if array.dtype.kind == "f" and array.size:
            array.reshape(-1)[0] = np.nan
    return copy


def _groups(session: Session, rows: int) -> dict[str, NDArray[Any]]:
    if "group_id" not in session.inputs:
        return {}
    return {"group_id": np.arange(rows, dtype=np.int64) // 2, "group_count": np.array([(rows + 1) // 2], np.int64)}


def row(array: NDArray[Any], wire: Wire) -> NDArray[np.float32]:
    """An output as the signal it is: float32 (N, width)."""
    return array.astype(np.float32).reshape(-1, wire.width)
