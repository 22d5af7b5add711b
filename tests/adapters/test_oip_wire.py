"""The field scanner beside protobuf's own parser, which is the oracle."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.adapters.servers.oip import messages, wire
from demur.adapters.servers.oip.answer import answered, shown
from demur.adapters.servers.oip.reading import UnreadableOutputError
from demur.adapters.servers.oip.wire import MalformedError
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

TEXT = st.text(max_size=6)
SHAPE = st.lists(st.integers(-3, 1 << 40), max_size=3)


@st.composite
def requests(draw) -> bytes:
    message = ModelInferRequest(model_name=draw(TEXT), model_version=draw(TEXT), id=draw(TEXT))
    for name in draw(st.lists(TEXT, max_size=3)):
        message.inputs.add(name=name, datatype="FP32", shape=draw(SHAPE)).contents.fp32_contents.extend([1.0, 2.0])
    for name in draw(st.lists(TEXT, max_size=3)):
        output = message.outputs.add(name=name)
        if draw(st.booleans()):
            output.parameters["classification"].int64_param = draw(st.integers(0, 2))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=300), max_size=3)))
    message.parameters["k"].string_param = "v"
    return message.SerializeToString()


@st.composite
def mangled(draw) -> bytes:
    """Valid messages, mutated, cut, joined, with unknown fields and groups of every kind."""
    raw = bytearray(draw(requests()))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3)):
        if raw:
            raw[place % len(raw)] = value
    more = draw(st.lists(st.one_of(st.binary(max_size=8), st.sampled_from(UNKNOWN), requests()), max_size=3))
    whole = bytes(raw) + b"".join(more)
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


UNKNOWN = [
    b"\xfa\x3e\x05hello", b"\xf8\x3e\x96\x01", b"\xf9\x3e" + b"\0" * 8, b"\xfd\x3e" + b"\0" * 4, b"\xfb\x3e\x08\x01\xfc\x3e",
    b"\xfb\x3e\x0a\x01x\xfc\x3e", b"\xfb\x3e\x0b\x0c\xfc\x3e", b"\x08\x01", b"\x8a\x80\x80\x80\x00\x01z",
]  # fmt: skip


@st.composite
def answers(draw) -> bytes:
    """Answers in raw, typed and both forms, well made and not, mutated and with fields that nobody knows."""
    message = ModelInferResponse(model_name=draw(TEXT), id=draw(TEXT))
    for datatype in draw(st.lists(st.sampled_from(["FP32", "FP64", "BF16", "BYTES", "INT8", "?"]), max_size=3)):
        shape = draw(st.sampled_from([[2, 1], [2], [0, 3], [-1], [0, 1 << 62], []]))
        output = message.outputs.add(name=draw(st.sampled_from(["a", "b", "ü"])), datatype=datatype, shape=shape)
        if draw(st.integers(0, 4)) == 0:
            output.parameters["shared_memory_region"].string_param = "r"
        output.contents.fp32_contents.extend(draw(st.sampled_from([[], [], [1.5, 2.5]])))
    message.raw_output_contents.extend(draw(st.lists(st.sampled_from([b"", b"8bytes!!", bytes(16), b"?"]), max_size=3)))
    raw = bytearray(message.SerializeToString())
    for place, value in draw(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2)):
        if raw:
            raw[place % len(raw)] = value
    more = [
        *UNKNOWN,
        b"\x0a\x01\xff",
        b"\x2a\x03\x0a\x01\xff",
        b"\x22\x02\x0a\x05",
        b"\x28\x01",
        b"\x33\x01" + b"x" * 8 + b"\x34",
    ]
    return bytes(raw) + b"".join(draw(st.lists(st.sampled_from(more), max_size=2)))


def looked_at(answer) -> object:
    if answer is None:
        return None
    found: list[object] = [list(answer.names), answer.size, [list(s) for s in answer.shapes()]]
    for name in [*answer.names, "absent"]:
        try:
            tensor = answer.tensor(name)
            values = tensor.array(1 << 20)
            found.append((tensor.datatype, values.dtype, values.shape, values.tolist()))
        except UnreadableOutputError as error:
            found.append(str(error))
    return found


@settings(max_examples=600, deadline=None)
@given(answers())
def test_an_answer_that_is_only_looked_at_shows_what_one_that_can_be_changed_shows(raw):
    assert repr(looked_at(shown(raw))) == repr(looked_at(answered(raw)))  # NaN is itself


@settings(max_examples=600, deadline=None)
@given(mangled())
def test_it_reads_what_protobuf_reads(raw):
    try:
        expected = ModelInferRequest.FromString(raw)
    except DecodeError:
        expected = None
    try:
        fields = wire.scan(raw)
    except MalformedError:
        assert expected is None
        return
    assert b"".join(raw[f.at : f.end] for f in fields) == raw
    found = messages.asked(raw)
    if expected is None:
        return  # malformed inside something that is not looked at
    assert found is not None
    assert (found.model, found.version, found.id) == (expected.model_name, expected.model_version, expected.id)
    assert [o.name for o in found.outputs] == [o.name for o in expected.outputs]
    assert [tuple(s) for s in found.shapes()] == [tuple(i.shape) for i in expected.inputs]
    entries = [raw[f.start : f.end] for f in fields if f.number == 7 and f.kind == wire.BYTES]
    assert entries == list(expected.raw_input_contents)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_end_in_a_message_or_in_an_error(raw):
    try:
        assert b"".join(raw[f.at : f.end] for f in wire.scan(raw)) == raw
    except MalformedError:
        with pytest.raises(DecodeError):
            ModelInferResponse.FromString(raw)
    messages.asked(raw)
    answered(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00", b"\x02\x00", b"\x0a", b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\xff\xff\xff\xff\xff\x01", b"\x0b", b"\x0c",
        b"\x0b\x14", b"\x0e", b"\x0f", b"\x08" + b"\xff" * 10 + b"\x01", b"\x0d\x00", b"\x09\x00", b"\xff\xff\xff\xff\x7f\x00",
        b"\x0b" * 101 + b"\x0c" * 101,
    ],
)  # fmt: skip
def test_malformed_bytes_are_refused(raw):
    with pytest.raises(MalformedError):
        wire.scan(raw)


def test_groups_may_nest_as_deep_as_protobuf_allows():
    deep = b"\xfb\x3e" * 90 + b"\xfc\x3e" * 90
    assert len(wire.scan(deep)) == 1
    ModelInferRequest.FromString(deep)


def test_a_message_of_millions_of_empty_fields_costs_nothing_to_refuse():
    hostile = b"\x12\x00" * (8 << 20)
    tracemalloc.start()
    began = time.process_time()
    assert messages.asked(hostile) is None
    assert answered(hostile) is None
    taken, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 3
    assert peak < 64 << 20


def test_as_many_fields_as_there_may_be_are_read():
    assert len(wire.scan(b"\x12\x00" * wire.MOST_FIELDS)) == wire.MOST_FIELDS


@settings(max_examples=200, deadline=None)
@given(requests(), st.sets(st.integers(0, 30)))
def test_splicing_changes_nothing_else(raw, places):
    fields = wire.scan(raw)
    gone = {p for p in places if p < len(fields)}
    left = wire.spliced(raw, fields, dict.fromkeys(gone, b""))
    assert left == b"".join(raw[f.at : f.end] for i, f in enumerate(fields) if i not in gone)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 70000])
def test_a_delimited_field_is_protobufs(size):
    content = b"x" * size
    expected = ModelInferRequest(raw_input_contents=[content]).SerializeToString()
    assert wire.delimited(7, content) == expected
