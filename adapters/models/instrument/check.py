"""What must hold before an instrumented model is given out: the same answers to the last bit, and a head that is the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from demur.adapters.models.graph import Graph, renamed
from demur.adapters.models.graph_file import ModelFile
from demur.adapters.models.instrument.layer import Head
from demur.adapters.models.instrument.probe import Probe, difference, same_bits
from demur.adapters.models.instrument.tap import Tap
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.origin import DIGEST

ORIGIN = "demur.instrumented_from"  # metadata: SHA-256 of the model's file as it was
ASTRAY = 0.5  # beyond this, features are not what the head reads, whatever rounding did
CLOSE, CLOSE_HALF = 1e-4, 1e-2  # of features @ weight.T + bias to the logits, relative to the largest


def instrumented_from(file: ModelFile) -> str:
    """SHA-256 (hex) of the model that this one was instrumented from, "" when it was not, or what it says is no digest."""
    return next((p.value for p in file.model.metadata_props if p.key == ORIGIN and DIGEST.fullmatch(p.value)), "")


def tapped(graph: Graph, taps: Sequence[Tap], *, copies: bool = False) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with these tensors as outputs, and each signal's output name.

    Inner tensors take their signal's name: no node is added for them. `copies` leaves them alone and shows a copy.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.file.model)
    outputs: dict[str, str] = {}
    names: dict[str, str] = {}
    for tap in taps:
        model.graph.node.extend(tap.nodes)
        model.graph.initializer.extend(tap.weights)
        wanted = tap.signal if tap.tensor == tap.signal else graph.free(tap.signal)
        if tap.tensor in graph.outputs or tap.tensor in names:
            outputs[tap.signal] = names.get(tap.tensor, tap.tensor)
            continue
        if not tap.nodes and (copies or tap.tensor in graph.inputs):
            model.graph.node.append(onnx.helper.make_node("Identity", [tap.tensor], [wanted], name=f"demur/{wanted}"))
        else:
            names[tap.tensor] = wanted
        outputs[tap.signal] = wanted
    renamed(model, names)
    shown = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(outputs.values()) if n not in shown)
    known = {p.key for p in model.metadata_props}
    if graph.file.digest and ORIGIN not in known:
        model.metadata_props.append(onnx.StringStringEntryProto(key=ORIGIN, value=graph.file.digest))
    return model, outputs


def checked(
    graph: Graph, probe: Probe, taps: Sequence[Tap], tolerance: float
) -> tuple[onnx.ModelProto, dict[str, str], float]:
    """The model with its taps, their outputs' names, and how far its own outputs moved: 0 means equal to the last bit.

    ONNX Runtime fuses nodes whose tensors nobody sees; a tensor that becomes an output may stop a fusion and move last
    bits. Then a copy is tried instead of the tensor itself.
    Raises: ConfigurationError when the outputs move by more than `tolerance`, naming the tap that does it, or when the
    model does not answer twice alike.
    """
    before, again = probe.twice()
    if _moved(graph, before, again) > 0:
        raise ConfigurationError(
            f"{graph.file.name}: answers the same input differently each time, so nothing can be checked; "
            "export it in evaluation mode, without random operators"
        )
    least = np.inf
    for copies in (False, True):
        model, outputs = tapped(graph, taps, copies=copies)
        moved = _moved(graph, before, _ran(probe, model))
        if moved <= tolerance:
            return typed(graph, probe, model), outputs, moved
        least = min(least, moved)
    raise ConfigurationError(
        f"{graph.file.name}: its own outputs move by {least:.2g} when {_blamed(graph, probe, taps, before)} becomes an output: "
        "ONNX Runtime then computes what it had fused in another order. Leave that tensor out, choose another one "
        f"(--features, --layers), or accept the difference with --tolerance {least * 1.01:.2g}"
    )


def _blamed(graph: Graph, probe: Probe, taps: Sequence[Tap], before: list[dict[str, Any]]) -> str:
    alone = [t for t in taps if _moved(graph, before, _ran(probe, tapped(graph, [t])[0])) > 0]
    return ", ".join(f"{t.signal} ({t.tensor})" for t in alone) or "all of " + ", ".join(t.signal for t in taps)


def is_quiet(graph: Graph, probe: Probe, tap: Tap) -> bool:
    """Whether the model's own outputs keep every bit when this tensor becomes an output."""
    return _moved(graph, probe.own, _ran(probe, tapped(graph, [tap])[0])) == 0


def _ran(probe: Probe, model: onnx.ModelProto) -> list[dict[str, Any]]:
    try:
        return probe.run(model)
    except Exception as error:  # ONNX Runtime has a class for each kind of failure
        raise ConfigurationError(
            f"{probe.file.name}: ONNX Runtime refuses the instrumented graph ({str(error).splitlines()[0]}); "
            "name the tensor with --features TENSOR; --list shows them"
        ) from error


def _moved(graph: Graph, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> float:
    """The largest difference of the model's own outputs; 0 only when every bit is equal."""
    pairs = [(a[o], b[o]) for a, b in zip(before, after, strict=True) for o in graph.outputs]
    return max((max(difference(a, b), np.finfo(float).tiny) for a, b in pairs if not same_bits(a, b)), default=0.0)


def typed(graph: Graph, probe: Probe, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model whose new outputs say their dtype and shape, as seen in the probe."""
    found = probe.run(model)
    for value in model.graph.output:
        if value.name not in graph.outputs:
            arrays = [f[value.name] for f in found]
            kind = onnx.helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, probe.dimensions(arrays, probe.batch)))
    return model


def verified(
    head: Head | None,
    features: Sequence[NDArray[Any]] | None,
    logits: Sequence[NDArray[Any]] | None,
    *,
    led: bool,
) -> tuple[Head | None, float, list[str]]:
    """The head, if it turns these features into these logits; its error; and what is to be said when it does not.

    `led`: features were led through the pooling and reshapes that the logits go through.
    Raises: ConfigurationError when features that were led so came out as something else.
    """
    if head is None or head.weight is None or not features or not logits:
        return None, np.inf, []
    error = head_error(head, features, logits)
    if error <= (CLOSE_HALF if logits[0].dtype == np.float16 else CLOSE):
        return head, error, []
    if led and head.steps and error > ASTRAY:
        raise ConfigurationError(
            f"features cannot be taken the way the logits go from {head.node.op_type} to the output "
            f"({', '.join(n.op_type for n in head.steps)}): they do not give the logits; name them with --features TENSOR"
        )
    off = "do not give the logits at all" if not np.isfinite(error) else f"miss the logits by {error:.2g}"
    return None, error, [f"no head weights are written: features @ weight.T + bias {off} (at most {CLOSE:g}, relative)"]


def head_error(head: Head, features: Sequence[NDArray[Any]], logits: Sequence[NDArray[Any]]) -> float:
    """How far features @ weight.T + bias is from the logits, relative to the largest logit (at least 1); float64 inside.

    Features and logits (N, D) and (N, C), or with further axes: tokens, or pixels of a convolution. Infinite when the
    shapes do not belong together or the logits are not finite.
    """
    if head.weight is None or not features:
        return np.inf
    axes = (1, -1) if head.convolution else (-1,)  # -1 too: a model may turn its pictures to (N, H, W, C) at the end
    return min(max(_apart(head, x, y, a) for x, y in zip(features, logits, strict=True)) for a in axes)


def _apart(head: Head, x: NDArray[Any], y: NDArray[Any], axis: int) -> float:
    if head.weight is None or head.bias is None or x.ndim != y.ndim or x.ndim < 2:
        return np.inf
    x, y = np.moveaxis(x, axis, -1).astype(np.float64), np.moveaxis(y, axis, -1).astype(np.float64)
    if x.shape[-1] != head.weight.shape[1] or y.shape != (*x.shape[:-1], len(head.weight)) or not y.size:
        return np.inf
    apart = np.abs(x @ head.weight.T.astype(np.float64) + head.bias - y).max() / max(1.0, np.abs(y).max())
    return float(np.nan_to_num(apart, nan=np.inf))
