"""Differential fuzzing in observe mode: whatever a client sends, it hears what a direct call would have told it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.adapters.servers.oip.part import part
from demur.proto.oip.inference_pb2 import ModelInferRequest
from tests.adapters.conftest import INFER, SERVICE, Stage
from tests.adapters.fake_server import SHARED, UNKNOWN, FakeServer
from tests.adapters.test_oip_extras import same
from tests.adapters.test_oip_stream import same_part
from tests.adapters.test_oip_wire import mangled

NAMES = ("label", "name", "scores", "features", "absent")
HOW = ("", "", "shared", "classes", "binary")
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Pair:
    """Channels to one honest server and to a proxy in front of it."""

    def __init__(self, **server: bool) -> None:
        self.stage = Stage(FakeServer(**server))
        self.proxy = self.stage.proxy()
        self._calls = [self.stage.channel(a).unary_unary(INFER) for a in (self.proxy.address, self.stage.target)]
        self._streams = [
            self.stage.channel(a).stream_stream(f"{SERVICE}ModelStreamInfer")
            for a in (self.proxy.address, self.stage.target)
        ]

    def call(self, message: bytes) -> list[bytes | grpc.RpcError]:
        return [_outcome(lambda c=c: c(message, timeout=5)) for c in self._calls]

    def stream(self, messages: list[bytes]) -> list[list[bytes]]:
        return [list(s(iter(messages), timeout=10)) for s in self._streams]

    def forget(self) -> None:
        """What was learnt about upstream's rejections, for examples must not depend on one another."""
        for model in self.proxy.models.values():
            model.rejections.clear()
            model.unfiltered.clear()
        self.stage.upstream.seen.clear()
        self.stage.decisions.clear()


def _outcome(call):
    try:
        return call()
    except grpc.RpcError as error:
        return error


@pytest.fixture(scope="module", params=[(False, False), (True, True)], ids=["bare", "unknown fields, skipped entries"])
def pair(request) -> Iterator[Pair]:
    skip, unknown = request.param
    found = Pair(skip_shared=skip, unknown=unknown)
    yield found
    found.stage.close()


@st.composite
def messages(draw) -> bytes:
    """Any valid request of this server, and some that it refuses."""
    message = ModelInferRequest(model_name=draw(st.sampled_from(["digits", "digits", "digits", "other"])))
    message.model_version = draw(st.sampled_from(["", "", "1", "2"]))
    message.id = draw(st.sampled_from(["", "a", "b", "ü"]))
    rows = draw(st.integers(1, 4))
    values = [draw(st.sampled_from([1.0, -1.0]))] * (rows * 3)
    if draw(st.booleans()):
        tensor = message.inputs.add(name="image", datatype="FP32", shape=[rows, 3])
        tensor.contents.fp32_contents.extend(values)
        tensor.parameters["content_type"].string_param = "np"
    else:
        message.inputs.add(name="image", datatype="FP32", shape=[rows, 3])
        message.raw_input_contents.append(np.array(values, "<f4").tobytes())
    for name, how in draw(st.lists(st.tuples(st.sampled_from(NAMES[:-1]), st.sampled_from(HOW)), max_size=5)):
        asked = message.outputs.add(name=name)
        if how == "shared":
            asked.parameters[SHARED].string_param = "r"
        elif how == "classes":
            asked.parameters["classification"].int64_param = 1
        elif how == "binary":
            asked.parameters["binary_data"].bool_param = draw(st.booleans())
    if draw(st.integers(0, 9)) == 0:
        message.outputs.add(name=NAMES[-1])
    for key in draw(st.sets(st.sampled_from(["priority", "timeout", "sequence_id"]), max_size=2)):
        message.parameters[key].int64_param = 1
    raw = message.SerializeToString()
    return UNKNOWN * draw(st.integers(0, 1)) + raw + UNKNOWN * draw(st.integers(0, 1))


@FUZZ
@given(message=messages())
def test_a_valid_request_gets_a_direct_calls_answer(pair, message):
    pair.forget()
    through, direct = pair.call(message)
    asked = ModelInferRequest.FromString(message)
    if isinstance(direct, grpc.RpcError):
        assert isinstance(through, grpc.RpcError)
        assert (through.code(), through.details()) == (direct.code(), direct.details())
        return
    assert not isinstance(through, grpc.RpcError), through
    assert same(through, direct)
    names = {o.name for o in asked.outputs}
    if not names or "scores" in names:
        assert through == direct
    if asked.model_name == "digits":
        verdicts = pair.stage.verdicts
        odd = [
            o.parameters
            for o in asked.outputs
            if o.name == "scores" and not {SHARED, "classification"}.isdisjoint(o.parameters)
        ]
        assert len(verdicts) == asked.inputs[0].shape[0]
        if odd:
            assert not verdicts.accept.any()
        elif not any(o.name == "scores" for o in asked.outputs) or sum(o.name == "scores" for o in asked.outputs) == 1:
            bad = (asked.inputs[0].contents.fp32_contents or [np.frombuffer(asked.raw_input_contents[0], "<f4")[0]])[
                0
            ] < 0
            assert verdicts.accept.tolist() == [not bad] * len(verdicts)


@FUZZ
@given(sent=st.lists(messages(), max_size=4))
def test_a_stream_of_valid_requests_gets_a_direct_streams_answers(pair, sent):
    pair.forget()
    through, direct = pair.stream(sent)
    assert len(through) == len(direct)
    assert all(same_part(*both) for both in zip(through, direct, strict=True))
    judged = sum(part(p).answer is not None and part(p).head.model_name == "digits" for p in direct)
    assert len(pair.stage.decisions) == judged


@FUZZ
@given(message=st.one_of(st.binary(max_size=80), mangled()))
def test_bytes_that_are_no_request_end_as_upstream_ends_them(pair, message):
    pair.forget()
    through, direct = pair.call(message)
    if isinstance(direct, grpc.RpcError):
        assert isinstance(through, grpc.RpcError)
        assert through.code() is direct.code() or through.details().startswith("demur: ")
    else:
        assert not isinstance(through, grpc.RpcError), through
        assert same(through, direct)


@settings(max_examples=60, deadline=None)
@given(content=st.one_of(st.binary(max_size=80), mangled()))
def test_answers_that_are_none_are_forwarded_in_observe_mode(scripted_answers, content):
    stage, call = scripted_answers
    stage.upstream.says(content)
    assert call(ModelInferRequest(model_name="digits").SerializeToString(), timeout=5) == content
    assert not stage.decisions.pop().verdicts.accept.any()


@pytest.fixture(scope="module")
def scripted_answers():
    stage = Stage()
    yield stage, stage.channel(stage.proxy().address).unary_unary(INFER)
    stage.close()


def test_memory_and_answers_hold_over_thousands_of_requests():
    """The short form of `make soak-proxy`."""
    from demur.monitor.bench.soak import resident_after

    found = resident_after(requests=3000)
    assert found["answers"] == 3000, found
    assert found["grown_bytes"] < 12 << 20, found


def test_many_clients_at_once_hear_their_own_answers(pair):
    pair.forget()
    requests = [ModelInferRequest(model_name="digits", id=str(n)) for n in range(100)]
    for number, message in enumerate(requests):
        message.inputs.add(name="image", datatype="FP32", shape=[1 + number % 3, 3])
        if number % 2:
            message.outputs.add(name="label")
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda m: pair.call(m.SerializeToString()), requests))
    assert all(same(through, direct) for through, direct in found)
