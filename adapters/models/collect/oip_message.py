"""Arrays to Open Inference Protocol messages and back, in both forms that servers understand: raw bytes and typed lists."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from demur.adapters.models.collect.tensor_spec import DTYPES, NAMES
from demur.monitor.errors import DemurError
from demur.proto.oip.inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse

LARGEST_BYTES = 1 << 31
FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


class BadAnswerError(DemurError):
    """An answer that does not hold what was asked for, or contradicts itself."""


def datatype(array: NDArray[Any]) -> str:
    """The protocol's name of the array's dtype."""
    return NAMES[array.dtype.newbyteorder("<")]


def raw(array: NDArray[Any]) -> bytes:
    """Little-endian bytes, row-major."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_raw(name: str, kind: str, shape: Sequence[int], content: bytes | memoryview) -> NDArray[Any]:
    """An output's bytes as an array; BF16 is widened to float32. Raises: BadAnswerError."""
    bf16 = kind == "BF16"
    if not bf16 and kind not in DTYPES:
        raise BadAnswerError(f"output {name}: expected numbers, got {kind!r}; leave it out of the map")
    dtype = np.dtype("<u2") if bf16 else DTYPES[kind]
    count = _count(name, shape)
    if len(content) != count * dtype.itemsize:
        raise BadAnswerError(
            f"output {name}: expected {count * dtype.itemsize} bytes for {kind} {tuple(shape)}, got {len(content)}"
        )
    values: NDArray[Any] = np.frombuffer(content, dtype)
    if bf16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(tuple(shape))


def from_list(name: str, kind: str, shape: Sequence[int], values: Any) -> NDArray[Any]:
    """An output's elements as an array; JSON's null is NaN. Raises: BadAnswerError."""
    dtype = np.dtype(np.float32) if kind in ("FP16", "BF16") else DTYPES.get(kind)
    if dtype is None:
        raise BadAnswerError(f"output {name}: expected numbers, got {kind!r}; leave it out of the map")
    try:
        given = np.asarray(values, np.float64 if dtype.kind == "f" else None).ravel()
        with np.errstate(over="ignore"):
            found = given.astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadAnswerError(f"output {name}: expected {kind} elements, got others ({error})") from error
    if dtype.kind != "f" and not np.array_equal(given, found):
        raise BadAnswerError(f"output {name}: some elements are no {kind}")
    if found.size != _count(name, shape):
        raise BadAnswerError(f"output {name}: expected {tuple(shape)}, got {found.size} elements")
    return found.reshape(tuple(shape))


def _count(name: str, shape: Sequence[int]) -> int:
    if any(not isinstance(d, int) or d < 0 for d in shape) or math.prod(shape) * 8 > LARGEST_BYTES:
        raise BadAnswerError(f"output {name}: shape {tuple(shape)} is not usable or too large")
    return math.prod(shape)


def request(
    model: str, version: str, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str], *, typed: bool
) -> ModelInferRequest:
    """The gRPC request of a batch; `typed` writes lists instead of raw bytes."""
    message = ModelInferRequest(model_name=model, model_version=version)
    for name, array in feed.items():
        tensor = message.inputs.add(name=name, datatype=datatype(array), shape=array.shape)
        if typed:
            tensor.contents.CopyFrom(_contents(name, array))
        else:
            message.raw_input_contents.append(raw(array))
    for name in outputs:
        message.outputs.add(name=name)
    return message


def _contents(name: str, array: NDArray[Any]) -> InferTensorContents:
    kind = datatype(array)
    if kind not in FIELDS:
        raise BadAnswerError(f"input {name}: {kind} exists as raw bytes only, which this server does not take")
    return InferTensorContents(**{FIELDS[kind]: array.ravel().tolist()})


def arrays(answer: ModelInferResponse, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named outputs of a gRPC answer, any dtype and shape. Raises: BadAnswerError."""
    places = {output.name: place for place, output in enumerate(answer.outputs)}
    found = {}
    for name in outputs:
        if name not in places:
            raise BadAnswerError(f"the answer has outputs {', '.join(places) or 'none'}, not {name}; correct the map")
        found[name] = _array(answer, places[name])
    return found


def _array(answer: ModelInferResponse, place: int) -> NDArray[Any]:
    output = answer.outputs[place]
    if answer.raw_output_contents:
        if len(answer.raw_output_contents) != len(answer.outputs):
            raise BadAnswerError(
                f"the answer has {len(answer.raw_output_contents)} raw entries for {len(answer.outputs)} outputs"
            )
        return from_raw(output.name, output.datatype, output.shape, answer.raw_output_contents[place])
    field = FIELDS.get(output.datatype)
    values = getattr(output.contents, field) if field else []
    return from_list(output.name, output.datatype, output.shape, values)


@functools.cache
def metadata_messages() -> tuple[Any, Any]:
    """ModelMetadataRequest and ModelMetadataResponse, in a pool of their own: see the note in the vendored proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="demur/vendored/oip/v2/metadata.proto", package="demur.vendored.oip.v2", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    text, number, inner = kinds.TYPE_STRING, kinds.TYPE_INT64, kinds.TYPE_MESSAGE
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    tensor = ".demur.vendored.oip.v2.TensorMetadata"
    shapes = {
        "ModelMetadataRequest": [("name", text, one), ("version", text, one)],
        "TensorMetadata": [("name", text, one), ("datatype", text, one), ("shape", number, many)],
        "ModelMetadataResponse": [
            ("name", text, one), ("versions", text, many), ("platform", text, one),
            ("inputs", inner, many), ("outputs", inner, many),
        ],
    }  # fmt: skip
    for message, fields in shapes.items():
        made = file.message_type.add(name=message)
        for place, (name, kind, label) in enumerate(fields, 1):
            made.field.add(name=name, number=place, type=kind, label=label, type_name=tensor if kind == inner else None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [
        pool.FindMessageTypeByName(f"{file.package}.{n}") for n in ("ModelMetadataRequest", "ModelMetadataResponse")
    ]
    return message_factory.GetMessageClass(found[0]), message_factory.GetMessageClass(found[1])
