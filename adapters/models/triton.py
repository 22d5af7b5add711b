"""A Triton model repository: the fused model, and an ensemble of model and monitor as two models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from demur.adapters.models.fuse.fused import Fused
from demur.adapters.models.fuse.part import standalone
from demur.adapters.models.graph import Graph
from demur.adapters.models.graph_file import ModelFile
from demur.monitor.bundle.archive import install
from demur.monitor.errors import ConfigurationError

NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
BATCHED = (
    "dynamic_batching { }\n"  # without it Triton runs each request alone; rows are independent, so it may join them
)
SCALAR = "\n  reshape { shape: [ ] }"
TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.STRING: "TYPE_STRING",
    **{getattr(onnx.TensorProto, f"{kind}{size}"): f"TYPE_{kind}{size}" for kind in ("INT", "UINT") for size in (8, 16, 32, 64)},
}  # fmt: skip


def write_repository(fused: Fused, folder: str | Path, name: str, *, max_batch_size: int = 0) -> tuple[str, ...]:
    """Write four models into a Triton model repository; gives their names.

    `NAME_guarded`: model and monitor fused in one graph. `NAME`, `NAME_monitor`: the two apart, and `NAME_ensemble`, which
    runs one after the other. All are version 1. `max_batch_size` 0 leaves batching to the client: the batch is an axis
    like others; more lets Triton join requests, for models whose every input and output begins with the batch.
    Raises: ConfigurationError for a name Triton would not take, outputs that are no tensors, an axis that cannot be the
    batch, or requests of a policy that judges groups to be joined; BundleError when the folder cannot be written.
    """
    places = model_paths(folder, name)
    _refuse_groups(fused, max_batch_size)
    model, guarded = fused.instrumented, fused.file
    outputs = {o.name: o for o in model.model.graph.output}
    read = [outputs[t] for t in dict.fromkeys(w.tensor for w in fused.wires)]
    monitor = ModelFile(standalone(fused.monitor, fused.wires, read, fused.prefix), None, f"{name}_monitor")
    names = (*(place.parts[-3] for place in places), f"{name}_ensemble")
    files = dict(zip(names, (guarded, model, monitor), strict=False))
    configs = {n: _config(n, f, max_batch_size, "onnxruntime_onnx") for n, f in files.items()}
    steps = _steps(names[1:3], (model, monitor))
    configs[names[3]] = _config(names[3], guarded, max_batch_size, "ensemble") + steps
    for place, file in zip(places, files.values(), strict=True):
        file.write(place)
    (Path(folder) / names[3] / "1").mkdir(
        parents=True, exist_ok=True
    )  # Triton wants a version's folder of ensembles too
    for each, config in configs.items():
        install(Path(folder) / each / "config.pbtxt", config.encode())
    return names


def model_paths(folder: str | Path, name: str) -> list[Path]:
    """Where `write_repository` puts the fused model, the model and its monitor. Raises: ConfigurationError as there."""
    if not NAME.match(name):
        raise ConfigurationError(f"--name {name!r}: expected letters, digits and _.- for the name of a model in Triton")
    return [Path(folder) / each / "1" / "model.onnx" for each in (f"{name}_guarded", name, f"{name}_monitor")]


def _refuse_groups(fused: Fused, max_batch_size: int) -> None:
    if max_batch_size and f"{fused.prefix}.group_id" in {i.name for i in fused.model.graph.input}:
        raise ConfigurationError(
            f"monitor {fused.bundle.manifest.monitor} judges groups, whose numbers begin anew in each request, so Triton must not "
            "join requests; take max_batch_size 0"
        )


def _config(name: str, file: ModelFile, max_batch_size: int, platform: str) -> str:
    graph = Graph(file)
    ensemble = platform == "ensemble"
    inputs = "".join(_tensor("input", v, max_batch_size, ensemble=ensemble) for v in graph.inputs.values())
    outputs = "".join(_tensor("output", v, max_batch_size, ensemble=ensemble) for v in file.model.graph.output)
    batched = BATCHED if max_batch_size > 1 and not ensemble else ""  # an ensemble's steps are batched, not itself
    head = f"name: {_text(name)}\nplatform: {_text(platform)}\nmax_batch_size: {max_batch_size}\n"
    return f"{head}{inputs}{outputs}{batched}"


def _tensor(what: str, value: onnx.ValueInfoProto, max_batch_size: int, *, ensemble: bool) -> str:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in TYPES or not kind.HasField("shape"):
        raise ConfigurationError(
            f"{what} {value.name!r}: expected a tensor of known type and rank, which Triton needs; "
            "export scikit-learn models with zipmap=False, others with shapes"
        )
    dims = [d.dim_value or -1 for d in kind.shape.dim]
    if max_batch_size:
        if not dims or dims[0] != -1:
            raise ConfigurationError(
                f"{what} {value.name!r}: its first axis is not a dynamic batch, so Triton cannot batch it; take max_batch_size 0"
            )
        dims = dims[1:]
    # Triton takes no tensor without axes; a model's is reshaped on the way, an ensemble passes on what that made.
    shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else f"dims: [ 1 ]{'' if ensemble else SCALAR}"
    return f"{what} {{\n  name: {_text(value.name)}\n  data_type: {TYPES[kind.elem_type]}\n  {shape}\n}}\n"


def _steps(names: Sequence[str], files: Iterable[ModelFile]) -> str:
    """One step a model; tensors keep their names between them, so every map is the identity."""
    steps = ""
    for name, file in zip(names, files, strict=True):
        maps = "".join(_mapped("input_map", n) for n in Graph(file).inputs)
        maps += "".join(_mapped("output_map", o.name) for o in file.model.graph.output)
        steps += f"  step {{\n    model_name: {_text(name)}\n    model_version: -1\n{maps}  }}\n"
    return f"ensemble_scheduling {{\n{steps}}}\n"


def _mapped(field: str, name: str) -> str:
    return f"    {field} {{ key: {_text(name)} value: {_text(name)} }}\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
