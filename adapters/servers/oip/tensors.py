"""Output tensors of a ModelInferResponse as the (N, width) arrays that signals are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.proto.oip.inference_pb2 import ModelInferResponse

Output = ModelInferResponse.InferOutputTensor
SHARED_MEMORY = "shared_memory_region"
RAW_DTYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
TYPED_FIELDS: dict[str, tuple[str, type[Any]]] = {
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
}


class UnreadableOutputError(Exception):
    """An output that cannot serve as a signal; the message becomes the verdict's cause."""


def read(answer: ModelInferResponse, name: str, width: int, largest_bytes: int) -> NDArray[Any]:
    """The output `name` as (N, width), N >= 1, float16, float32 or float64; BF16 is widened to float32.

    Raises: UnreadableOutputError when it is absent, ambiguous, not of floats, in shared memory, or not of its stated size.
    """
    place = _place(answer, name)
    output = answer.outputs[place]
    if SHARED_MEMORY in output.parameters:
        raise UnreadableOutputError(f"output {name} was written to shared memory, which demur does not read")
    if output.datatype not in RAW_DTYPES:
        raise UnreadableOutputError(f"output {name}: expected {', '.join(RAW_DTYPES)}, got {output.datatype!r}")
    rows = rows_of(name, output.shape, width)
    if rows * width * 4 > largest_bytes:
        raise UnreadableOutputError(f"output {name}: {rows} rows of {width} exceed tensor_bytes = {largest_bytes}")
    if answer.raw_output_contents:
        flat = _from_raw(output, answer.raw_output_contents[_raw_place(answer, place)], rows * width)
    else:
        flat = _from_contents(output, rows * width)
    return flat.reshape(rows, width)


def rows_of(name: str, shape: Any, width: int) -> int:
    """N, when `shape` can be read as (N, width) in one way only: (N, width) with any number of ones after N.

    Raises: UnreadableOutputError.
    """
    dims = tuple(shape)
    inner = [d for d in dims[1:] if d != 1]
    wanted = [] if width == 1 else [width]
    if not dims or inner != wanted:
        raise UnreadableOutputError(f"output {name}: expected shape (N, {width}), got {dims}")
    if dims[0] < 1:
        raise UnreadableOutputError(f"output {name}: expected at least one row, got shape {dims}")
    return int(dims[0])


def _place(answer: ModelInferResponse, name: str) -> int:
    places = [i for i, output in enumerate(answer.outputs) if output.name == name]
    if not places:
        raise UnreadableOutputError(f"upstream's answer has no output {name}; check the mapping of this model")
    if len(places) > 1:
        raise UnreadableOutputError(f"upstream's answer has {len(places)} outputs named {name}")
    return places[0]


def _raw_place(answer: ModelInferResponse, place: int) -> int:
    """Where the raw bytes of output `place` stand: servers either skip tensors in shared memory or leave theirs empty."""
    outputs, entries = answer.outputs, len(answer.raw_output_contents)
    if any(output.HasField("contents") and output.contents.ByteSize() for output in outputs):
        raise UnreadableOutputError("upstream's answer has both raw and typed contents, which exclude each other")
    if entries == len(outputs):
        return place
    if entries == sum(SHARED_MEMORY not in output.parameters for output in outputs):
        return sum(SHARED_MEMORY not in output.parameters for output in outputs[:place])
    raise UnreadableOutputError(f"upstream's answer has {entries} raw entries for {len(outputs)} outputs")


def _from_raw(output: Output, raw: bytes, count: int) -> NDArray[Any]:
    dtype = RAW_DTYPES[output.datatype]
    if len(raw) != count * dtype.itemsize:
        raise UnreadableOutputError(
            f"output {output.name}: expected {count * dtype.itemsize} bytes for {output.datatype} "
            f"{tuple(output.shape)}, got {len(raw)}"
        )
    values: NDArray[Any] = np.frombuffer(raw, dtype)
    return (values.astype(np.uint32) << 16).view(np.float32) if output.datatype == "BF16" else values


def _from_contents(output: Output, count: int) -> NDArray[Any]:
    if output.datatype not in TYPED_FIELDS:
        raise UnreadableOutputError(f"output {output.name}: {output.datatype} exists as raw contents only, got none")
    field, dtype = TYPED_FIELDS[output.datatype]
    values = getattr(output.contents, field)
    if len(values) != count:
        raise UnreadableOutputError(
            f"output {output.name}: expected {count} elements in {field} for shape {tuple(output.shape)}, got {len(values)}"
        )
    return np.asarray(values, dtype)


def claimed_rows(shapes: Any, largest: int) -> int:
    """The batch size that the first usable shape claims, for verdicts about answers that cannot be read; else 1."""
    return next((int(shape[0]) for shape in shapes if len(shape) and 1 <= shape[0] <= largest), 1)
