"""A model's file: read without its external weights, written with them beside it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray

from demur.monitor.bundle.archive import install
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | ModelFile"
LARGEST_BYTES = (2 << 30) - 1  # of a protobuf message; larger models keep their weights in other files


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A parsed model, the folder of its external data (None when it was given as bytes), what to call it, and the
    SHA-256 of the file's bytes ("" for a parsed model); weights in other files are not in it.
    """

    model: onnx.ModelProto
    folder: Path | None
    name: str
    digest: str = ""

    @staticmethod
    def read(source: ModelSource) -> ModelFile:
        """From a path, the file's bytes, or a parsed model; functions of the model's own are inlined.

        Raises: ConfigurationError for anything that is not an ONNX model.
        """
        if isinstance(source, ModelFile):
            return source
        if isinstance(source, onnx.ModelProto):
            return ModelFile(_flat(source), None, source.graph.name or "model")
        if isinstance(source, bytes):
            return ModelFile(_flat(_parsed(source, "the model's bytes")), None, "model", _sha256(source))
        path = Path(source)
        raw = _bytes(path)
        return ModelFile(_flat(_parsed(raw, str(path))), path.parent.resolve(), path.name, _sha256(raw))

    def with_model(self, model: onnx.ModelProto) -> ModelFile:
        """Another graph over the same external weights."""
        return ModelFile(model, self.folder, self.name, self.digest)

    def session(self, threads: int = 1) -> Session:
        """The model in ONNX Runtime, never cut into parts. Raises: BundleError when the runtime refuses it."""
        return Session(encoded(self.model), threads=threads, whole=True, weights=self.folder if self.external else None)

    @property
    def external(self) -> tuple[str, ...]:
        """Names of the files that hold weights, relative to the model's folder."""
        return tuple(sorted({entry.value for entry in _locations(self.model)}))

    def array(self, tensor: onnx.TensorProto) -> NDArray[np.generic]:
        """A weight's values. Raises: ConfigurationError when they lie in a file that is not there."""
        try:
            return onnx.numpy_helper.to_array(tensor, str(self.folder or ""))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ConfigurationError(
                f"{self.name}: weight {tensor.name!r} cannot be read ({error}); keep the external data beside the model"
            ) from error

    def write(self, path: str | Path) -> None:
        """The model at `path`; its external data files are copied when that is another folder.

        Raises: ConfigurationError when a data file is missing or another of that name is there; BundleError when the
        folder cannot be written.
        """
        place = Path(path)
        raw = encoded(self.model)
        if self.external and self.folder != place.parent.resolve():
            self._copy_weights(place.parent)
        install(place, raw)

    def _copy_weights(self, folder: Path) -> None:
        for name in self.external:
            start, end = (self.folder or Path()) / name, folder / name
            if Path(name).is_absolute() or ".." in Path(name).parts or self.folder is None or not start.is_file():
                raise ConfigurationError(
                    f"{self.name}: expected its weights in {name!r} beside the model; give the model's path, with that file"
                )
            if end.exists() and end.stat().st_size != start.stat().st_size:
                raise ConfigurationError(
                    f"{end}: another file has the name of {self.name}'s weights; choose another folder"
                )
            if not end.exists():
                end.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(start, end)


def encoded(model: onnx.ModelProto) -> bytes:
    """The bytes of a model file. Raises: ConfigurationError beyond 2 GB, which protobuf cannot write."""
    if model.ByteSize() > LARGEST_BYTES:
        raise ConfigurationError(
            f"the model has {model.ByteSize():,} bytes, protobuf's limit is {LARGEST_BYTES:,}; "
            "save it with external data (onnx.save(..., save_as_external_data=True)) first"
        )
    return model.SerializeToString(deterministic=True)


def npz(**arrays: NDArray[np.generic]) -> bytes:
    """Arrays as the bytes of an npz file."""
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigurationError(
                f"{path}: larger than protobuf's {LARGEST_BYTES:,} bytes, so not one ONNX file; give the .onnx file, not its data"
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}); give the path of an ONNX model"
        ) from error


def _parsed(raw: bytes, where: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:  # protobuf's own classes differ by its implementation
        raise ConfigurationError(f"{where}: not an ONNX model ({error}); export the model to .onnx first") from error
    if not model.graph.node or not model.opset_import:
        raise ConfigurationError(f"{where}: holds no ONNX graph; export the model to .onnx first")
    return model


def _flat(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise ConfigurationError(
            f"the model's own functions cannot be inlined ({error}); export it without functions"
        ) from error


def _locations(model: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry for entry in tensor.external_data if entry.key == "location")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)
