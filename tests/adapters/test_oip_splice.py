"""Changes to serialized answers beside the same changes made to parsed messages, which are the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.adapters.servers.oip import datatypes, splice
from demur.adapters.servers.oip.answer import answered, shown
from demur.adapters.servers.oip.reading import UnreadableOutputError
from demur.proto.oip.inference_pb2 import ModelInferResponse
from tests.adapters.fake_server import SHARED, UNKNOWN
from tests.adapters.test_oip_wire import looked_at

NAMES = ("a", "b", "c", "demur.accept")


@st.composite
def answers(draw) -> ModelInferResponse:
    """Raw or typed answers, with repeated names and tensors in shared memory, whose entries are skipped or empty."""
    message = ModelInferResponse(model_name=draw(st.text(max_size=3)), id=draw(st.text(max_size=3)))
    message.parameters["k"].double_param = 0.5
    raw, skip = draw(st.booleans()), draw(st.booleans())
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=5)):
        output = message.outputs.add(name=name, datatype="INT64", shape=[2])
        values = draw(st.lists(st.integers(-(1 << 62), 1 << 62), min_size=2, max_size=2))
        if draw(st.integers(0, 4)) == 0:
            output.parameters[SHARED].string_param = "r"
            if raw and not skip:
                message.raw_output_contents.append(b"")
        elif raw:
            message.raw_output_contents.append(np.array(values, "<i8").tobytes())
        else:
            output.contents.int64_contents.extend(values)
    return message


def serialized(message: ModelInferResponse) -> bytes:
    return UNKNOWN + message.SerializeToString() + UNKNOWN


def owners(message: ModelInferResponse) -> list[int]:
    """For each raw entry the output that it belongs to."""
    away = [SHARED in o.parameters for o in message.outputs]
    every = len(message.raw_output_contents) == len(message.outputs)
    return [i for i in range(len(away)) if every or not away[i]]


@settings(max_examples=400, deadline=None)
@given(answers(), st.sets(st.sampled_from(NAMES)), st.sampled_from([answered, shown]))
def test_outputs_are_taken_out_with_their_entries(message, names, read):
    raw = serialized(message)
    found = splice.without(read(raw), raw, names)
    expected = ModelInferResponse.FromString(serialized(message))
    belong = owners(message)
    for place in reversed(range(len(message.outputs))):
        if message.outputs[place].name in names:
            del expected.outputs[place]
            if message.raw_output_contents and place in belong:
                del expected.raw_output_contents[belong.index(place)]
    assert ModelInferResponse.FromString(found) == expected


@settings(max_examples=200, deadline=None)
@given(answers(), st.sets(st.sampled_from(NAMES)))
def test_an_answer_still_shows_what_was_taken_out_of_it(message, names):
    raw = serialized(message)
    seen = shown(raw)
    once, again = splice.without(seen, raw, names), splice.without(seen, raw, names)
    assert ModelInferResponse.FromString(once) == ModelInferResponse.FromString(again)
    assert looked_at(seen) == looked_at(answered(raw))


@settings(max_examples=300, deadline=None)
@given(answers(), st.sampled_from(NAMES), st.lists(st.integers(-5, 5), min_size=2, max_size=2))
def test_an_array_is_put_where_the_old_one_was(message, name, values):
    answer = answered(serialized(message))
    places = [i for i, o in enumerate(message.outputs) if o.name == name]
    if len(places) != 1 or SHARED in message.outputs[places[0]].parameters:
        with pytest.raises(UnreadableOutputError):
            answer.tensor(name)
        return
    found = splice.put(answer, {name: np.array(values)})
    expected = ModelInferResponse.FromString(serialized(message))
    if message.raw_output_contents:
        expected.raw_output_contents[owners(message).index(places[0])] = np.array(values, "<i8").tobytes()
    else:
        expected.outputs[places[0]].contents.int64_contents[:] = values
    assert ModelInferResponse.FromString(found) == expected
    assert answered(found).tensor(name).array(1 << 10).tolist() == values


RAW = st.sampled_from([d for d in datatypes.DTYPES if d not in ("BOOL", "BF16")])


@settings(max_examples=200, deadline=None)
@given(RAW, st.lists(st.integers(0, 100), max_size=6))
def test_raw_contents_go_out_as_they_came(datatype, values):
    raw = np.array(values, datatypes.DTYPES[datatype]).tobytes()
    array = datatypes.from_raw("x", datatype, (len(values),), raw)
    assert array.tolist() == values
    assert datatypes.to_raw(array, datatype) == raw


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_strings_go_out_as_they_came(values):
    raw = b"".join(len(v).to_bytes(4, "little") + v for v in values)
    array = datatypes.from_raw("x", "BYTES", (len(values),), raw)
    assert array.tolist() == values
    assert datatypes.to_raw(array, "BYTES") == raw


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("BYTES", (1,), b""), ("BYTES", (1,), b"\5\0\0\0abc"), ("BYTES", (1,), b"\xff\xff\xff\xffabc"), ("BYTES", (2,), b"\1\0\0\0a"),
        ("BYTES", (1,), b"\1\0\0\0a\0"), ("FP32", (2,), b"\0" * 7), ("FP32", (-1,), b""), ("FP32", (1 << 62, 4), b""), ("FP8", (1,), b"\0"),
    ],
)  # fmt: skip
def test_raw_contents_of_another_size_are_refused(datatype, shape, raw):
    with pytest.raises(UnreadableOutputError, match="output x"):
        datatypes.from_raw("x", datatype, shape, raw)


def test_bf16_is_widened_and_cut():
    values = np.array([1.5, -2.0, 3.140625], np.float32)
    raw = datatypes.to_raw(values, "BF16")
    assert len(raw) == 6
    assert datatypes.from_raw("x", "BF16", (3,), raw).tolist() == values.tolist()
