"""An ONNX file as a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from demur.adapters.models.collect.model import Access
from demur.adapters.models.collect.tensor_spec import TensorSpec, one_of, spec
from demur.adapters.models.graph import Graph
from demur.adapters.models.graph_file import ModelFile, encoded
from demur.adapters.models.instrument.check import instrumented_from
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session, environment

TYPES = onnx.TensorProto
DATATYPES: dict[int, str] = {
    TYPES.BOOL: "BOOL",
    TYPES.UINT8: "UINT8", TYPES.UINT16: "UINT16", TYPES.UINT32: "UINT32", TYPES.UINT64: "UINT64",
    TYPES.INT8: "INT8", TYPES.INT16: "INT16", TYPES.INT32: "INT32", TYPES.INT64: "INT64",
    TYPES.FLOAT16: "FP16", TYPES.FLOAT: "FP32", TYPES.DOUBLE: "FP64",
}  # fmt: skip


class OnnxModel:
    """An ONNX file run by ONNX Runtime. Weights in files beside it are read too."""

    def __init__(self, path: Path, access: Access, outputs: Sequence[str] | None = None) -> None:
        """`outputs`: compute only these. Raises: ConfigurationError, BundleError when the runtime refuses the graph."""
        file = ModelFile.read(path)
        graph = Graph(file)
        self.outputs: tuple[str, ...] = graph.outputs
        self.inputs: tuple[TensorSpec, ...] = tuple(_spec(value) for value in graph.inputs.values())
        self._digest, self._access = _digest(file, path), access
        self._origin = instrumented_from(file) or file.digest
        model = file.model if outputs is None else _only(graph, outputs, path)
        self._session = Session(
            encoded(model), providers=access.providers, threads=access.threads, whole=True, weights=file.folder
        )

    def identity(self) -> Mapping[str, str]:
        """Digest of the model with its weights, runtime and providers: what decides the last bits of the outputs."""
        runtime = {name: environment()[name] for name in ("onnxruntime", "cpu")}
        return {
            "sha256": self._digest,
            **({"origin": self._origin} if self._origin != self._digest else {}),
            "providers": ",".join(self._session.providers),
            "threads": str(self._access.threads),
            **runtime,
        }

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The named outputs. Raises: ConfigurationError with the runtime's words when it fails on these inputs."""
        try:
            found = self._session.run(feed)
        except Exception as error:
            shapes = one_of(f"{n} {a.shape} {a.dtype}" for n, a in feed.items())
            raise ConfigurationError(f"ONNX Runtime failed on inputs {shapes}: {error}") from error
        return {name: found[name] for name in outputs}

    def close(self) -> None:
        """Nothing is held open."""


def _digest(file: ModelFile, path: Path) -> str:
    """SHA-256 (hex) of the file and of the files that hold its weights. Raises: ConfigurationError when one is missing."""
    running = hashlib.sha256(path.read_bytes())
    for name in file.external:
        place = path.parent / name
        if ".." in Path(name).parts or Path(name).is_absolute() or (place.exists() and not place.is_file()):
            raise ConfigurationError(
                f"{path}: expected its weights in files beside it, it names {name!r}; export it again"
            )
        try:
            with place.open("rb") as stream:
                running.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise ConfigurationError(
                f"{place}: the model's weights cannot be read ({error.strerror}); keep the file beside the model"
            ) from error
    return running.hexdigest()


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    datatype = DATATYPES.get(tensor.elem_type, f"ONNX type {tensor.elem_type}")
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, spec(value.name, datatype, ()).datatype)
    return spec(value.name, datatype, [d.dim_value for d in tensor.shape.dim])


def _only(graph: Graph, outputs: Sequence[str], path: Path) -> onnx.ModelProto:
    """The model with these outputs and the nodes they come from; the runtime would run the others too (1.31)."""
    known = {output.name: output for output in graph.proto.output}
    if missing := [name for name in outputs if name not in known]:
        raise ConfigurationError(
            f"{path}: expected an output {missing[0]}, the model has {one_of(known)}; "
            "add it with `demur instrument`, or correct the map"
        )
    needed = {id(node) for name in outputs for node in graph.ancestors(name)}
    nodes = [node for node in graph.proto.node if id(node) in needed]
    kept = [known[name] for name in dict.fromkeys(outputs)]
    model = onnx.ModelProto()
    model.CopyFrom(graph.file.model)
    del model.graph.output[:], model.graph.node[:]
    model.graph.output.extend(kept)
    model.graph.node.extend(nodes)
    return model
