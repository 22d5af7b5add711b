"""A ModelInferRequest as the judge reads it: fields are found on the wire, tensors stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from demur.adapters.servers.oip import datatypes, wire
from demur.adapters.servers.oip.datatypes import SHARED_MEMORY
from demur.adapters.servers.oip.reading import KEPT, Asked, AskedOutput, Tensor, UnreadableOutputError
from demur.adapters.servers.oip.wire import BYTES, Field, MalformedError
from demur.proto.oip.inference_pb2 import ModelInferRequest

NAME, VERSION, ID, PARAMETERS = 1, 2, 3, 4
INPUTS, ASKED_OUTPUTS, RAW_INPUTS = 5, 6, 7
CONTENTS = 5  # of a tensor
ONLY_NAME = NAME << 3 | BYTES  # how an output without parameters begins, whose name is all there is
HEAD_BYTES = 1 << 16  # of a tensor without its contents; a dimension takes a byte on the wire and eight here
SHORT_BYTES = 256  # of a tensor that is parsed whole: whatever it has of contents, there is little of it

InputTensor = ModelInferRequest.InferInputTensor
RequestedOutput = ModelInferRequest.InferRequestedOutputTensor


def asked(raw: bytes) -> Asked | None:
    """What a ModelInferRequest asks, its tensors unparsed; None when the bytes are no such message."""
    try:
        fields = wire.scan(raw)
        inputs = [f for f in fields if _is(f, INPUTS)]
        light = len(inputs) <= KEPT and all(f.end - f.start <= SHORT_BYTES for f in inputs)
        return Asked(
            model=wire.last(raw, fields, NAME),
            version=wire.last(raw, fields, VERSION),
            id=wire.last(raw, fields, ID),
            outputs=tuple(_asked_output(raw[f.start : f.end]) for f in fields if _is(f, ASKED_OUTPUTS)),
            size=len(raw),
            shapes=partial(_shapes, list(_parts(raw, inputs))) if light else lambda: _shapes(_parts(raw, inputs)),
            inputs=partial(_inputs, raw),
            light=light,
        )
    except (MalformedError, DecodeError):
        return None


def in_sequence(raw: bytes) -> bool:
    """Whether a ModelInferRequest belongs to a sequence, whose state the model keeps: asking twice would advance it twice.

    `sequence_id` is a number or a string; 0 and "" mean none.
    """
    fields = wire.scan(raw)
    parameters = ModelInferRequest.FromString(
        b"".join(raw[f.at : f.end] for f in fields if _is(f, PARAMETERS))
    ).parameters
    if "sequence_id" not in parameters:
        return False
    said = parameters["sequence_id"]
    return bool(said.int64_param or said.uint64_param or said.string_param)


def _is(field: Field, number: int) -> bool:
    return field.number == number and field.kind == BYTES


def _asked_output(raw: bytes) -> AskedOutput:
    if len(raw) > 2 and raw[0] == ONLY_NAME and raw[1] == len(raw) - 2 < 128 and raw.isascii():
        return AskedOutput(raw[2:].decode())  # nearly always; a parser that has not run for a while takes 6 µs
    output = RequestedOutput.FromString(raw)
    if SHARED_MEMORY in output.parameters:
        return AskedOutput(output.name, "was asked for in shared memory, which demur does not read")
    if "classification" in output.parameters and output.parameters["classification"].int64_param:
        return AskedOutput(output.name, "was asked for as classification strings, which are no signal")
    return AskedOutput(output.name)


def _parts(raw: bytes, fields: Iterable[Field]) -> Iterator[bytes]:
    return (raw[f.start : f.end] for f in fields)


def _shapes(inputs: Iterable[bytes]) -> list[Sequence[int]]:
    """Of the inputs, their contents left out."""
    found: list[Sequence[int]] = []
    for raw in inputs:
        try:
            found.append(_bare(raw).shape)
        except (MalformedError, DecodeError):
            found.append(())
    return found


def _bare(raw: bytes) -> InputTensor:
    if len(raw) <= SHORT_BYTES:
        return InputTensor.FromString(raw)
    fields = wire.scan(raw)
    bare = wire.spliced(raw, fields, {i: b"" for i, f in enumerate(fields) if f.number == CONTENTS})
    if len(bare) > HEAD_BYTES:
        raise MalformedError("no shape is so long")
    return InputTensor.FromString(bare)


def _inputs(raw: bytes) -> Mapping[str, Tensor]:
    request = ModelInferRequest.FromString(raw)
    found: dict[str, Tensor] = {}
    entries = iter(request.raw_input_contents)
    for tensor in request.inputs:
        away, shape = SHARED_MEMORY in tensor.parameters, tuple(tensor.shape)
        flat: Callable[[], NDArray[Any]] = partial(datatypes.from_contents, tensor)
        if away:
            flat = partial(_elsewhere, tensor.name)
        elif request.raw_input_contents:
            flat = partial(datatypes.from_raw, tensor.name, tensor.datatype, shape, next(entries, b""))
        found[tensor.name] = Tensor(tensor.name, tensor.datatype, shape, flat)
    return found


def _elsewhere(name: str) -> NDArray[Any]:
    raise UnreadableOutputError(f"input {name} is in shared memory, which demur does not read")
