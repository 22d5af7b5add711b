"""Changes to serialized messages that leave every other byte where it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.servers.oip import annotation, datatypes, messages, wire
from demur.adapters.servers.oip.answer import OUTPUTS, RAW_OUTPUTS, InferAnswer, OutputTensor, ShownAnswer, answered
from demur.adapters.servers.oip.messages import InputTensor
from demur.monitor.verdicts import Verdicts
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

PREFIX = "demur."
Arrays = Mapping[str, NDArray[Any]]


def asking_for(request: bytes, outputs: tuple[str, ...]) -> bytes:
    """The request with these outputs asked for behind its own: a serialized message followed by another is their merge."""
    return request + _asking(outputs)


@lru_cache(64)
def _asking(outputs: tuple[str, ...]) -> bytes:
    return b"".join(wire.delimited(messages.ASKED_OUTPUTS, wire.delimited(1, name.encode())) for name in outputs)


def addressed(request: bytes, model: str, version: str) -> bytes:
    """The request to another model; of a field given twice the last one counts."""
    name, number = wire.delimited(messages.NAME, model.encode()), wire.delimited(messages.VERSION, version.encode())
    return b"".join((request, name, number))


def with_inputs(request: bytes, inputs: Mapping[str, NDArray[Any]], outputs: Iterable[str]) -> bytes:
    """The request with these arrays in place of its input tensors of the same names, asking for `outputs` (none: all)."""
    message = ModelInferRequest.FromString(request)
    raw = list(message.raw_input_contents)
    away = [datatypes.SHARED_MEMORY in tensor.parameters for tensor in message.inputs]
    skipped = len(raw) != len(message.inputs)  # no entries for tensors in shared memory
    for place, tensor in enumerate(message.inputs):
        if tensor.name not in inputs or away[place]:
            continue
        array = inputs[tensor.name]
        tensor.shape[:] = array.shape
        if raw:
            raw[away[:place].count(False) if skipped else place] = datatypes.to_raw(array, tensor.datatype)
        else:
            _fill(tensor, array)
    message.raw_input_contents[:] = raw
    del message.outputs[:]
    for name in outputs:
        message.outputs.add(name=name)
    return bytes(message.SerializeToString())


def without(answer: ShownAnswer, raw: bytes, names: Collection[str]) -> bytes | None:
    """The answer without outputs of these names and their raw entries; None when it cannot be told which those are.

    One that was parsed becomes a message that equals it, and its `message` is used up; of others every byte that stays is the
    same.
    """
    places = [i for i, name in enumerate(answer.names) if name in names]
    if not places:
        return raw
    if answer.entries is None or answer.mixed:
        return None
    if isinstance(answer, InferAnswer):
        gone = [answer.output_places[i] for i in places] + [e for i in places if (e := answer.entry(i)) >= 0]
        return wire.spliced(raw, answer.fields, dict.fromkeys(gone, b""))
    message, answer.message = answer.message or ModelInferResponse.FromString(raw), None
    for place in reversed(places):
        del message.outputs[place]
    for entry in sorted((e for i in places if (e := answer.entries[i]) >= 0), reverse=True):
        del message.raw_output_contents[entry]
    return bytes(message.SerializeToString())


def put(answer: InferAnswer, arrays: Mapping[str, NDArray[Any]]) -> bytes | None:
    """The answer with these arrays in place of its own, raw where they were raw; None when one has no place."""
    changes: dict[int, bytes] = {}
    if answer.entries is None or answer.mixed:
        return None
    for name, array in arrays.items():
        place = answer.names.index(name)
        output, entry = answer.outputs[place], answer.entry(place)
        if entry >= 0:
            changes[entry] = wire.delimited(RAW_OUTPUTS, datatypes.to_raw(array, output.datatype))
        else:
            changes[answer.output_places[place]] = wire.delimited(OUTPUTS, _typed(output, array))
    return wire.spliced(answer.raw, answer.fields, changes)


def annotated(raw: bytes, verdicts: Verdicts, largest_bytes: int, *, tensors: Arrays | None, **more: str) -> bytes:
    """The answer with `demur.*` parameters; with `tensors` not None also as output tensors, these (by their short names) among
    them. Every other byte stays where it is.

    Parameters are appended: map entries may stand anywhere. Beyond `largest_bytes` what there is for each row is left out
    and `demur.cause` says so; beyond it even so, the answer goes out as it came. `more` parameters by their short names.
    """
    said = {PREFIX + key: value for key, value in more.items()}
    if tensors is not None and (whole := _with_tensors(raw, verdicts, tensors)) is not None:
        whole += _parameters(annotation.parameters(verdicts, per_row=False) | said)
        if len(whole) <= largest_bytes:
            return whole
    for values in (annotation.parameters(verdicts), annotation.shortened(verdicts)):
        whole = raw + _parameters(values | said)
        if len(whole) <= largest_bytes:
            return whole
    return raw


def _parameters(values: Mapping[str, str]) -> bytes:
    extra = ModelInferResponse()
    for key, value in values.items():
        extra.parameters[key].string_param = value
    return bytes(extra.SerializeToString(deterministic=True))


def _with_tensors(raw: bytes, verdicts: Verdicts, tensors: Arrays) -> bytes | None:
    """None when the message is in no form that they could be added to."""
    answer = answered(raw)
    forged = [] if answer is None else [n for n in answer.names if n.startswith(PREFIX)]
    if forged and answer is not None:
        bare = without(answer, raw, forged)
        answer = None if bare is None else answered(bare)
    if answer is None or answer.entries is None or answer.mixed:
        return None
    typed = not answer.entry_places and any(o.HasField("contents") for o in answer.outputs)
    extra = ModelInferResponse()
    for name, datatype, values in (*annotation.columns(verdicts), *((n, "FP32", a) for n, a in tensors.items())):
        output = extra.outputs.add(name=PREFIX + name, datatype=datatype, shape=values.shape)
        if typed:
            _fill(output, values)
        else:
            extra.raw_output_contents.append(datatypes.to_raw(values, datatype))
    return answer.raw + bytes(extra.SerializeToString())


def _typed(output: OutputTensor, array: NDArray[Any]) -> bytes:
    changed = OutputTensor()
    changed.CopyFrom(output)
    _fill(changed, array)
    return bytes(changed.SerializeToString())


def _fill(output: OutputTensor | InputTensor, array: NDArray[Any]) -> None:
    field = datatypes.TYPED_FIELDS[output.datatype]
    output.contents.ClearField(field)
    getattr(output.contents, field).extend(np.ravel(array).tolist())
