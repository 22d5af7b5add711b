"""The protocol's protobuf messages as the judge reads them: fields are found on the wire, tensors stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from demur.adapters.servers.oip import datatypes, wire
from demur.adapters.servers.oip.datatypes import SHARED_MEMORY
from demur.adapters.servers.oip.reading import Asked, AskedOutput, Tensor, UnreadableOutputError
from demur.adapters.servers.oip.wire import BYTES, Field, MalformedError
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

NAME, VERSION, ID, PARAMETERS = 1, 2, 3, 4  # of both messages
INPUTS, ASKED_OUTPUTS, RAW_INPUTS = 5, 6, 7  # of ModelInferRequest
OUTPUTS, RAW_OUTPUTS = 5, 6  # of ModelInferResponse
CONTENTS = 5  # of a tensor

OutputTensor = ModelInferResponse.InferOutputTensor
InputTensor = ModelInferRequest.InferInputTensor
RequestedOutput = ModelInferRequest.InferRequestedOutputTensor


def asked(raw: bytes) -> Asked | None:
    """What a ModelInferRequest asks, its tensors unparsed; None when the bytes are no such message."""
    try:
        fields = wire.scan(raw)
        return Asked(
            model=wire.last(raw, fields, NAME),
            version=wire.last(raw, fields, VERSION),
            id=wire.last(raw, fields, ID),
            outputs=tuple(_asked_output(raw[f.start : f.end]) for f in fields if _is(f, ASKED_OUTPUTS)),
            size=len(raw),
            shapes=partial(_shapes, raw, fields),
            inputs=partial(_inputs, raw),
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


def answered(raw: bytes) -> InferAnswer | None:
    """A ModelInferResponse, its raw tensors where they are; None when the bytes are no such message."""
    try:
        return InferAnswer(raw)
    except (MalformedError, DecodeError):
        return None


class InferAnswer:
    """A serialized ModelInferResponse. Raises: MalformedError, DecodeError when it is none.

    `fields` as they stand on the wire, `outputs` parsed, `entries` for each output the place of its raw entry among `fields`,
    -1 for one without; None when they do not belong together.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.fields = wire.scan(raw)
        self.output_places = [i for i, f in enumerate(self.fields) if f.number == OUTPUTS and f.kind == BYTES]
        self.entry_places = [i for i, f in enumerate(self.fields) if f.number == RAW_OUTPUTS and f.kind == BYTES]
        self.outputs = [OutputTensor.FromString(self._bytes(i)) for i in self.output_places]
        self.names: Sequence[str] = [output.name for output in self.outputs]
        self.entries = self._entries()
        # both raw and typed contents, which exclude each other
        self.mixed = bool(self.entry_places) and any(
            o.HasField("contents") and o.contents.ByteSize() for o in self.outputs
        )

    @property
    def size(self) -> int:
        """Of the message, in bytes."""
        return len(self.raw)

    @property
    def version(self) -> str:
        """Of the model that answered."""
        return wire.last(self.raw, self.fields, VERSION)

    def shapes(self) -> Iterable[Sequence[int]]:
        """What its outputs claim to be."""
        return (output.shape for output in self.outputs)

    def tensor(self, name: str) -> Tensor:
        """Raises: UnreadableOutputError when the output is absent, ambiguous, in shared memory or without its bytes."""
        place = self._place(name)
        output = self.outputs[place]
        if SHARED_MEMORY in output.parameters:
            raise UnreadableOutputError(f"output {name} was written to shared memory, which demur does not read")
        shape = tuple(output.shape)
        if self.entry_places:
            raw = memoryview(self.raw)[self._entry(place)]
            return Tensor(name, output.datatype, shape, partial(datatypes.from_raw, name, output.datatype, shape, raw))
        return Tensor(name, output.datatype, shape, partial(_from_contents, output))

    def _entries(self) -> list[int] | None:
        """Servers either skip tensors in shared memory or leave their entries empty."""
        if not self.entry_places:
            return [-1] * len(self.outputs)
        if len(self.entry_places) == len(self.outputs):
            return list(self.entry_places)
        elsewhere = [SHARED_MEMORY in output.parameters for output in self.outputs]
        if len(self.entry_places) != elsewhere.count(False):
            return None
        left = iter(self.entry_places)
        return [-1 if away else next(left) for away in elsewhere]

    def _place(self, name: str) -> int:
        places = [i for i, known in enumerate(self.names) if known == name]
        if not places:
            raise UnreadableOutputError(f"upstream's answer has no output {name}; check the mapping of this model")
        if len(places) > 1:
            raise UnreadableOutputError(f"upstream's answer has {len(places)} outputs named {name}")
        return places[0]

    def _entry(self, place: int) -> slice:
        if self.mixed:
            raise UnreadableOutputError("upstream's answer has both raw and typed contents, which exclude each other")
        if self.entries is None:
            raise UnreadableOutputError(
                f"upstream's answer has {len(self.entry_places)} raw entries for {len(self.outputs)} outputs"
            )
        field = self.fields[self.entries[place]]
        return slice(field.start, field.end)

    def _bytes(self, place: int) -> bytes:
        field = self.fields[place]
        return self.raw[field.start : field.end]


def _is(field: Field, number: int) -> bool:
    return field.number == number and field.kind == BYTES


def _asked_output(raw: bytes) -> AskedOutput:
    output = RequestedOutput.FromString(raw)
    if SHARED_MEMORY in output.parameters:
        return AskedOutput(output.name, "was asked for in shared memory, which demur does not read")
    if "classification" in output.parameters and output.parameters["classification"].int64_param:
        return AskedOutput(output.name, "was asked for as classification strings, which are no signal")
    return AskedOutput(output.name)


def _shapes(raw: bytes, fields: Iterable[Field]) -> list[Sequence[int]]:
    """Of the inputs, their contents left out."""
    found: list[Sequence[int]] = []
    for field in fields:
        if _is(field, INPUTS):
            try:
                found.append(_bare(raw[field.start : field.end]).shape)
            except (MalformedError, DecodeError):
                found.append(())
    return found


def _bare(raw: bytes) -> InputTensor:
    fields = wire.scan(raw)
    bare = {i: b"" for i, f in enumerate(fields) if f.number == CONTENTS}
    return InputTensor.FromString(wire.spliced(raw, fields, bare))


def _inputs(raw: bytes) -> Mapping[str, Tensor]:
    request = ModelInferRequest.FromString(raw)
    found: dict[str, Tensor] = {}
    entries = iter(request.raw_input_contents)
    for tensor in request.inputs:
        away, shape = SHARED_MEMORY in tensor.parameters, tuple(tensor.shape)
        flat: Callable[[], NDArray[Any]] = partial(_from_contents, tensor)
        if away:
            flat = partial(_elsewhere, tensor.name)
        elif request.raw_input_contents:
            flat = partial(datatypes.from_raw, tensor.name, tensor.datatype, shape, next(entries, b""))
        found[tensor.name] = Tensor(tensor.name, tensor.datatype, shape, flat)
    return found


def _elsewhere(name: str) -> NDArray[Any]:
    raise UnreadableOutputError(f"input {name} is in shared memory, which demur does not read")


def _from_contents(tensor: OutputTensor | InputTensor) -> NDArray[Any]:
    """Typed contents; FP16 and BF16 have none."""
    name, shape = tensor.name, tuple(tensor.shape)
    field = datatypes.TYPED_FIELDS.get(tensor.datatype)
    if field is None:
        raise UnreadableOutputError(f"output {name}: {tensor.datatype} exists as raw contents only, got none")
    values, count = getattr(tensor.contents, field), datatypes.elements(shape)
    if len(values) != count:
        raise UnreadableOutputError(
            f"output {name}: expected {count} elements in {field} for shape {shape}, got {len(values)}"
        )
    if tensor.datatype == "BYTES":
        found = np.empty(count, object)
        found[:] = list(values)
        return found
    try:
        return np.asarray(values, datatypes.DTYPES[tensor.datatype])
    except (OverflowError, ValueError) as error:
        raise UnreadableOutputError(f"output {name}: a value does not fit {tensor.datatype}") from error
