"""Which output of the model is which signal of the monitor, and whether it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.graph import Graph
from demur.adapters.models.instrument.probe import Probe
from demur.monitor.bundle.manifest import Manifest, SignalEntry
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError

LOOKED_THROUGH = frozenset("Identity Cast Reshape Squeeze Unsqueeze Flatten Dropout".split())
KINDS = {"Softmax": "probabilities", "Sigmoid": "probabilities", "LogSoftmax": "log_probabilities"}
FLOATS = (np.float16, np.float32, np.float64)
SUM = 1e-3  # how far from 1 a row of probabilities may sum


@dataclass(frozen=True)
class Wire:
    """One signal, the model's output it comes from, its width, and whether that is float32 already."""

    signal: str
    tensor: str
    width: int
    plain: bool


def wires(
    graph: Graph,
    probe: Probe,
    manifest: Manifest,
    read: tuple[str, ...],
    given: Mapping[str, str],
    mapped: SignalMapConfig,
) -> tuple[Wire, ...]:
    """A wire for each signal the monitor reads: by `given`, the signal map, the bundle's own output names, or the same name.

    Raises: ConfigurationError naming the signal when there is no such output, or its shape, dtype or kind is another.
    """
    unknown = sorted(set(given) - {s.name for s in manifest.signals})
    if unknown:
        raise ConfigurationError(
            f"--signal {unknown[0]}: monitor {manifest.monitor} has no such signal; it has "
            f"{', '.join(s.name for s in manifest.signals)}"
        )
    entries = [s for s in manifest.signals if s.name in read]
    tensors = {e.name: _tensor(graph, e, given, mapped) for e in entries}
    values = probe.values(list(tensors.values()))
    rows = [_rows(graph, f) for f in probe.feeds]
    for entry in entries:
        _check_kind(graph, entry, tensors[entry.name], mapped, given, values[tensors[entry.name]])
    return tuple(_wire(e, tensors[e.name], values[tensors[e.name]], rows) for e in entries)


def _tensor(graph: Graph, entry: SignalEntry, given: Mapping[str, str], mapped: SignalMapConfig) -> str:
    name = given.get(entry.name) or mapped.signals.get(entry.name) or entry.output or entry.name
    if name in graph.outputs:
        return name
    inner = " (it is inside the graph)" if graph.has(name) else ""
    raise ConfigurationError(
        f"signal {entry.name}: the model has no output {name!r}{inner}; its outputs are {', '.join(graph.outputs)}. "
        f"Run `demur instrument` first, or name one with --signal {entry.name}=OUTPUT"
    )


def _rows(graph: Graph, feed: Mapping[str, NDArray[Any]]) -> int:
    return next((len(a) for n, a in feed.items() if n in graph.inputs and a.ndim), 1)


def _wire(entry: SignalEntry, tensor: str, arrays: list[NDArray[Any]], rows: list[int]) -> Wire:
    where = f"signal {entry.name}, output {tensor!r}"
    if not arrays or arrays[0].dtype not in FLOATS:
        came = arrays[0].dtype if arrays else "no tensor"
        raise ConfigurationError(f"{where}: expected a float tensor, got {came}; name another with --signal")
    for array, count in zip(arrays, rows, strict=True):
        if array.shape != (count, entry.width) and not _is_row(array.shape, count, entry.width):
            raise ConfigurationError(
                f"{where}: expected ({count}, {entry.width}) for {count} inputs, got {array.shape}; "
                "instrument the model with --pool, or fit the monitor on this output's width"
            )
    return Wire(entry.name, tensor, entry.width, arrays[0].dtype == np.float32)


def _is_row(shape: tuple[int, ...], count: int, width: int) -> bool:
    """(N, width, 1, 1), (N, 1, width), or (N,) for one number: axes of size 1 are nothing."""
    return shape[:1] == (count,) and [s for s in shape[1:] if s != 1] == [s for s in (width,) if s != 1]


def _check_kind(
    graph: Graph,
    entry: SignalEntry,
    tensor: str,
    mapped: SignalMapConfig,
    given: Mapping[str, str],
    arrays: list[NDArray[Any]],
) -> None:
    """A monitor fitted on logits must not get what a softmax made of them."""
    told = None if entry.name in given else mapped.kinds.get(entry.name)
    kind = _made_by(graph, tensor) or told or ("probabilities" if _are_probabilities(arrays) else None)
    if entry.kind in ("logits", "probabilities", "log_probabilities") and kind is not None and kind != entry.kind:
        raise ConfigurationError(
            f"signal {entry.name}: the monitor was fitted on {entry.kind}, output {tensor!r} holds {kind}; "
            "`demur instrument` shows the logits before a softmax, or fit the monitor on this output"
        )


def _made_by(graph: Graph, tensor: str) -> str | None:
    node = graph.producers.get(tensor)
    while node is not None and node.op_type in LOOKED_THROUGH:
        node = graph.producers.get(node.input[0])
    return None if node is None else KINDS.get(node.op_type)


def _are_probabilities(arrays: list[NDArray[Any]]) -> bool:
    rows = [a.reshape(len(a), -1).astype(np.float64) for a in arrays if a.ndim > 1]
    return bool(rows) and all(r.shape[1] > 1 and r.min() >= 0 and np.abs(r.sum(axis=1) - 1).max() < SUM for r in rows)
