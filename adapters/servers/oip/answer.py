"""A ModelInferResponse as the judge reads it, and as it can be changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from demur.adapters.servers.oip import datatypes, wire
from demur.adapters.servers.oip.datatypes import SHARED_MEMORY
from demur.adapters.servers.oip.reading import Tensor, UnreadableOutputError, place_of
from demur.adapters.servers.oip.wire import BYTES, MalformedError
from demur.proto.oip.inference_pb2 import ModelInferResponse

VERSION, OUTPUTS, RAW_OUTPUTS = 2, 5, 6
PARSED_BYTES = 1 << 20  # a parser copies; beyond this that costs more than finding the fields from here

OutputTensor = ModelInferResponse.InferOutputTensor


def answered(raw: bytes) -> InferAnswer | None:
    """A ModelInferResponse, its raw tensors where they are; None when the bytes are no such message."""
    try:
        return InferAnswer(raw)
    except (MalformedError, DecodeError):
        return None


def shown(raw: bytes) -> ShownAnswer | None:
    """A ModelInferResponse that is only looked at; None when the bytes are no such message."""
    if len(raw) > PARSED_BYTES:
        return answered(raw)
    try:
        message = ModelInferResponse.FromString(raw)
    except DecodeError:
        return answered(raw)  # its fields may be whole where what stands beside the outputs is not
    raws = message.raw_output_contents
    if len(message.outputs) + len(raws) > wire.MOST_FIELDS:
        return None
    return ShownAnswer(len(raw), list(message.outputs), list(raws), message)


class ShownAnswer:
    """The outputs of an answer, parsed, and the raw contents of those that have some, in order.

    `entries` has for each output the place of its raw contents among all, -1 for one without; None when they do not belong
    together. `mixed`: it has both raw and typed contents, which exclude each other. `message` is what they were parsed from,
    where that is at hand.
    """

    def __init__(
        self,
        size: int,
        outputs: list[Any],
        raws: Sequence[bytes | memoryview],
        message: ModelInferResponse | None = None,
    ) -> None:
        self.size, self.outputs, self._raws, self.message = size, outputs, raws, message
        self.names: Sequence[str] = [output.name for output in outputs]
        self.entries = self._entries()
        self.mixed = bool(raws) and any(o.HasField("contents") and o.contents.ByteSize() for o in outputs)

    def _entries(self) -> list[int] | None:
        """Servers either skip tensors in shared memory or leave their entries empty."""
        if not self._raws:
            return [-1] * len(self.outputs)
        if len(self._raws) == len(self.outputs):
            return list(range(len(self._raws)))
        elsewhere = [SHARED_MEMORY in output.parameters for output in self.outputs]
        if len(self._raws) != elsewhere.count(False):
            return None
        left = iter(range(len(self._raws)))
        return [-1 if away else next(left) for away in elsewhere]

    def shapes(self) -> Iterable[Sequence[int]]:
        """What its outputs claim to be."""
        return (output.shape for output in self.outputs)

    def tensor(self, name: str) -> Tensor:
        """Raises: UnreadableOutputError when the output is absent, ambiguous, in shared memory or without its bytes."""
        place = place_of(name, self.names)
        output = self.outputs[place]
        if SHARED_MEMORY in output.parameters:
            raise UnreadableOutputError(f"output {name} was written to shared memory, which demur does not read")
        shape = tuple(output.shape)
        if self._raws:
            raw = self._raw(place)
            return Tensor(name, output.datatype, shape, partial(datatypes.from_raw, name, output.datatype, shape, raw))
        return Tensor(name, output.datatype, shape, partial(datatypes.from_contents, output))

    def _raw(self, place: int) -> bytes | memoryview:
        if self.mixed:
            raise UnreadableOutputError("upstream's answer has both raw and typed contents, which exclude each other")
        if self.entries is None:
            raise UnreadableOutputError(
                f"upstream's answer has {len(self._raws)} raw entries for {len(self.outputs)} outputs"
            )
        return self._raws[self.entries[place]]


class InferAnswer(ShownAnswer):
    """A serialized ModelInferResponse, of which parts can be changed. Raises: MalformedError, DecodeError when it is none.

    `fields` as they stand on the wire; `output_places` and `entry_places` say which of them are outputs and raw contents.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.fields = wire.scan(raw)
        self.output_places = [i for i, f in enumerate(self.fields) if f.number == OUTPUTS and f.kind == BYTES]
        self.entry_places = [i for i, f in enumerate(self.fields) if f.number == RAW_OUTPUTS and f.kind == BYTES]
        view = memoryview(raw)
        super().__init__(
            len(raw),
            [OutputTensor.FromString(self._bytes(i)) for i in self.output_places],
            [view[self.fields[i].start : self.fields[i].end] for i in self.entry_places],
        )

    @property
    def version(self) -> str:
        """Of the model that answered."""
        return wire.last(self.raw, self.fields, VERSION)

    def entry(self, place: int) -> int:
        """Where among `fields` the raw contents of this output stand, -1 for one without."""
        at = -1 if self.entries is None else self.entries[place]
        return at if at < 0 else self.entry_places[at]

    def _bytes(self, place: int) -> bytes:
        field = self.fields[place]
        return self.raw[field.start : field.end]
