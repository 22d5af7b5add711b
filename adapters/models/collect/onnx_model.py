"""An ONNX file as a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from demur.adapters.models.collect.model import Access
from demur.adapters.models.collect.tensor_spec import TensorSpec, one_of, spec
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
        content, graph = _read(path)
        self.outputs: tuple[str, ...] = tuple(o.name for o in graph.graph.output)
        self.inputs: tuple[TensorSpec, ...] = _inputs(graph)
        self._digest = _digest(content, graph, path.parent)
        self._access = access
        if outputs is not None:
            _keep(graph, outputs, path)
        self._session = Session(
            content if outputs is None else graph.SerializeToString(),
            providers=access.providers,
            threads=access.threads,
            whole=True,
            weights=path.parent,
        )

    def identity(self) -> Mapping[str, str]:
        """Digest of the graph with its weights, runtime and providers: what decides the last bits of the outputs."""
        runtime = {name: environment()[name] for name in ("onnxruntime", "cpu")}
        return {
            "sha256": self._digest,
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


def _read(path: Path) -> tuple[bytes, onnx.ModelProto]:
    try:
        content = path.read_bytes()
        return content, onnx.load_model_from_string(content)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); give the path of an ONNX file") from error
    # protobuf and onnx raise what they like on bytes that are no model.
    except Exception as error:
        raise ConfigurationError(f"{path}: not a readable ONNX file ({type(error).__name__}: {error})") from error


def _digest(content: bytes, model: onnx.ModelProto, folder: Path) -> str:
    """SHA-256 (hex) of the file and of the files that hold its weights. Raises: ConfigurationError when one is missing."""
    running = hashlib.sha256(content)
    pairs = (pair for tensor in model.graph.initializer for pair in tensor.external_data if pair.key == "location")
    for name in sorted({pair.value for pair in pairs}):
        try:
            with (folder / name).open("rb") as stream:
                running.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise ConfigurationError(
                f"{folder / name}: the model's weights cannot be read ({error.strerror}); keep the file beside the model"
            ) from error
    return running.hexdigest()


def _inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in stored)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    datatype = DATATYPES.get(tensor.elem_type, f"ONNX type {tensor.elem_type}")
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, spec(value.name, datatype, ()).datatype)
    return spec(value.name, datatype, [d.dim_value for d in tensor.shape.dim])


def _keep(model: onnx.ModelProto, outputs: Sequence[str], path: Path) -> None:
    """Only these outputs, so that what nobody asked for is not computed."""
    known = {output.name: output for output in model.graph.output}
    if missing := [name for name in outputs if name not in known]:
        raise ConfigurationError(
            f"{path}: expected an output {missing[0]}, the model has {one_of(known)}; "
            "add it with `demur instrument`, or correct the map"
        )
    kept = [known[name] for name in dict.fromkeys(outputs)]
    nodes = _needed(model.graph, {output.name for output in kept})
    del model.graph.output[:], model.graph.node[:]
    model.graph.output.extend(kept)
    model.graph.node.extend(nodes)


def _needed(graph: onnx.GraphProto, names: set[str]) -> list[onnx.NodeProto]:
    """The nodes that these names come from, in order. The runtime would run the others too (1.31)."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if names.intersection(node.output):
            kept.append(node)
            names.update(_read_by(node))
    return kept[::-1]


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, its inner graphs included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for below in inner.node:
                yield from _read_by(below)
            yield from (output.name for output in inner.output)
