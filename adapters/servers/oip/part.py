"""One message of a ModelStreamInfer answer, in either of the two layouts that servers speak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from demur.adapters.servers.oip import wire
from demur.adapters.servers.oip.answer import RAW_OUTPUTS, InferAnswer
from demur.adapters.servers.oip.wire import Field, MalformedError
from demur.proto.oip.inference_pb2 import ModelInferResponse

ERROR_MESSAGE, INFER_RESPONSE = 1, 2  # of Triton's ModelStreamInferResponse
FINAL = "triton_final_response"


@dataclass(frozen=True, slots=True)
class Part:
    """`answer` is None for a part that is an error alone, or cannot be read; `head` is the answer without its tensors."""

    raw: bytes
    fields: list[Field]
    wrapped: bool  # Triton's layout; else a ModelInferResponse itself, as MLServer sends it
    readable: bool
    error: str = ""
    answer: InferAnswer | None = None
    head: Any = None

    @property
    def id(self) -> str:
        """The request's, when the server tells it."""
        return "" if self.head is None else self.head.id

    @property
    def final(self) -> bool:
        """Whether no further part follows for this request, as far as the part says."""
        return self.head is None or FINAL not in self.head.parameters or self.head.parameters[FINAL].bool_param

    @property
    def cause(self) -> str:
        """Why this part cannot be judged whatever its request was, or ""."""
        if not self.final:
            return "a part of a decoupled answer that is not its last: no monitor is calibrated for parts"
        if self.answer is not None and not self.answer.outputs:
            return "the answer holds no outputs"
        return ""

    def holding(self, answer: bytes) -> bytes:
        """The part with another answer in it; everything else as it came."""
        if not self.wrapped:
            return answer
        places = [i for i, f in enumerate(self.fields) if f.number == INFER_RESPONSE and f.kind == wire.BYTES]
        changes = dict.fromkeys(places, b"") | {places[0]: wire.delimited(INFER_RESPONSE, answer)}
        return wire.spliced(self.raw, self.fields, changes)


def part(raw: bytes) -> Part:
    """What a message of the stream holds. Triton wraps answers in a message with two fields, an error and an answer; MLServer
    sends the answers themselves, which have more.
    """
    try:
        fields = wire.scan(raw)
        if any(f.number > INFER_RESPONSE and f.number <= RAW_OUTPUTS for f in fields):
            return Part(raw, fields, False, True, "", *_read(raw))
        inner = [raw[f.start : f.end] for f in fields if f.number == INFER_RESPONSE and f.kind == wire.BYTES]
        error = wire.last(raw, fields, ERROR_MESSAGE)
    except (MalformedError, DecodeError):
        return Part(raw, [], True, False)
    if error and not inner:
        return Part(raw, fields, True, True, error)
    try:
        answer, head = _read(b"".join(inner))  # a message field given twice is the merge of both
    except (MalformedError, DecodeError):
        return Part(raw, fields, True, False, error)
    return Part(raw, fields, True, True, error, None if error and not answer.outputs else answer, head)


def refusal(of: Part, text: str, parameters: dict[str, str]) -> bytes:
    """An error part in Triton's layout that names the same request and ends it as the withheld part did."""
    head = ModelInferResponse()
    if of.head is not None:
        head.model_name, head.model_version, head.id = of.head.model_name, of.head.model_version, of.head.id
        if FINAL in of.head.parameters:
            head.parameters[FINAL].bool_param = of.head.parameters[FINAL].bool_param
    for key, value in parameters.items():
        head.parameters[key].string_param = value
    return wire.delimited(ERROR_MESSAGE, text.encode()) + wire.delimited(INFER_RESPONSE, head.SerializeToString())


def _read(raw: bytes) -> tuple[InferAnswer, Any]:
    answer = InferAnswer(raw)
    tensors = dict.fromkeys((*answer.output_places, *answer.entry_places), b"")
    return answer, ModelInferResponse.FromString(wire.spliced(raw, answer.fields, tensors))
