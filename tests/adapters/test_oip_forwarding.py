"""The client hears what upstream said: bytes, statuses, metadata, deadlines, cancellation."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.config.server import LimitsConfig
from demur.proto.oip.inference_pb2 import ModelInferRequest
from tests.adapters.conftest import INFER, MODEL, SERVICE, Stage, answer, request

UNKNOWN_FIELD = b"\xfa\x3e\x05hello"  # field 1007, bytes


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_bytes_are_forwarded_unparsed_both_ways(stage, form):
    """Unknown fields, a repeated scalar and a non-canonical order survive only when nothing is re-serialized."""
    proxy = stage.proxy()
    asked = UNKNOWN_FIELD + request() + b"\x1a\x03r-2"
    said = stage.upstream.says(UNKNOWN_FIELD + answer(form=form).SerializeToString() + b"\x12\x012")
    assert stage.infer(proxy, asked) == said
    assert stage.upstream.seen[0][:2] == (INFER, asked)
    assert stage.verdicts.accept.tolist() == [True, False]
    assert stage.verdicts.reason_bits.tolist() == [0, int(Reason.NOVEL)]
    assert stage.decisions[0].protocol == "oip"
    assert stage.decisions[0].monitor == "toy"


@pytest.mark.parametrize(
    "method",
    """ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelConfig ModelStatistics RepositoryIndex
    RepositoryModelLoad RepositoryModelUnload SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister
    CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister TraceSetting LogSettings FutureThing""".split(),
)
def test_every_other_method_passes_as_bytes_and_is_not_judged(stage, method):
    proxy = stage.proxy(annotate=True)
    said = stage.upstream.says(b"\xff\x00 not a protobuf message")
    asked = b"\x00\xff neither"
    assert stage.channel(proxy.address).unary_unary(SERVICE + method)(asked, timeout=10) == said
    assert stage.upstream.seen[0][:2] == (SERVICE + method, asked)
    assert stage.decisions == []
    assert stage.refusals == []


def test_an_empty_message_passes(stage):
    proxy = stage.proxy()
    stage.upstream.says(b"")
    assert stage.channel(proxy.address).unary_unary(f"{SERVICE}ServerLive")(b"", timeout=10) == b""


def test_other_services_are_unimplemented_and_never_reach_upstream(stage):
    proxy = stage.proxy()
    assert stage.refused(proxy, b"", "/other.Service/Method").code() is grpc.StatusCode.UNIMPLEMENTED
    assert stage.upstream.seen == []


def test_upstream_errors_keep_status_details_and_metadata(stage):
    def script(_method, _message, context):
        context.send_initial_metadata((("x-initial", "i"),))
        context.set_trailing_metadata((("x-trailing", "t"), ("grpc-status-details-bin", b"\x08\x05\x00")))
        context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'digits' ünknown")

    stage.upstream.script = script
    error = stage.refused(stage.proxy(), request())
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "Request for unknown model: 'digits' ünknown"
    assert dict(error.initial_metadata())["x-initial"] == "i"
    trailing = dict(error.trailing_metadata())
    assert trailing["x-trailing"] == "t"
    assert trailing["grpc-status-details-bin"] == b"\x08\x05\x00"
    assert stage.decisions == []


@pytest.mark.parametrize("count", [0, 2, 100_000])
def test_an_upstream_that_does_not_answer_once_is_an_internal_error(count):
    class Streams(grpc.GenericRpcHandler):
        def service(self, _details):
            return grpc.unary_stream_rpc_method_handler(lambda _r, _c: iter([answer().SerializeToString()] * count))

    stage = Stage(Streams())
    try:
        error = stage.refused(stage.proxy(), request())
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "expected one answer from upstream" in error.details()
        assert stage.decisions == []
    finally:
        stage.close()


def test_metadata_goes_both_ways(stage):
    def script(_method, _message, context):
        context.send_initial_metadata((("x-initial", "i"), ("x-blob-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-trailing", "t"),))
        return answer().SerializeToString()

    stage.upstream.script = script
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = (("authorization", "Bearer client"), ("x-sent-bin", b"\x00\x01"), ("traceparent", trace))
    channel = stage.channel(stage.proxy().address)
    _, call = channel.unary_unary(INFER).with_call(request(), timeout=10, metadata=sent)
    heard = stage.upstream.seen[0][2]
    assert {key: heard[key] for key, _ in sent} == dict(sent)
    assert {"x-initial": "i", "x-blob-bin": b"\x00\xff"}.items() <= dict(call.initial_metadata()).items()
    assert dict(call.trailing_metadata())["x-trailing"] == "t"
    assert stage.decisions[0].traceparent == trace


def test_the_deadline_is_passed_on_and_none_becomes_demurs_own(stage):
    proxy = stage.proxy()
    stage.infer(proxy, request(), timeout=5)
    stage.infer(proxy, request(), timeout=None)
    limited, unlimited = (seen[3] for seen in stage.upstream.seen)
    assert 0 < limited <= 5.1
    assert 55 < unlimited <= 60.1


def test_an_upstream_slower_than_the_deadline_ends_in_deadline_exceeded(stage):
    release = threading.Event()
    stage.upstream.script = lambda *_: (release.wait(10) and b"") or b""
    began = time.monotonic()
    error = stage.refused(stage.proxy(), request(), timeout=0.3)
    release.set()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


def test_cancelling_the_call_cancels_it_upstream(stage):
    reached, gone = threading.Event(), threading.Event()

    def script(_method, _message, context):
        context.add_callback(gone.set)
        reached.set()
        gone.wait(10)
        return b""

    stage.upstream.script = script
    call = stage.channel(stage.proxy().address).unary_unary(INFER).future(request(), timeout=30)
    assert reached.wait(5)
    assert not gone.is_set()
    call.cancel()
    assert gone.wait(5)
    assert stage.decisions == []


def test_upstream_down_is_unavailable_and_it_may_come_back(stage):
    dead = stage.proxy(upstream="127.0.0.1:1")
    assert stage.refused(dead, request()).code() is grpc.StatusCode.UNAVAILABLE
    assert stage.decisions == []


def test_compressed_requests_and_answers_are_accepted(stage):
    def script(_method, _message, context):
        context.set_compression(grpc.Compression.Gzip)
        return answer([[5.0, 0, 0, 0]] * 500).SerializeToString()

    stage.upstream.script = script
    asked = request(rows=500)
    said = stage.infer(stage.proxy(), asked, compression=grpc.Compression.Gzip)
    assert said == answer([[5.0, 0, 0, 0]] * 500).SerializeToString()
    assert stage.upstream.seen[0][1] == asked


def test_messages_beyond_grpcs_default_limit_pass(stage):
    rows = np.zeros((300_000, 4), np.float32)
    rows[:, 0] = 5
    said = stage.upstream.says(answer(rows))
    assert len(said) > 4 << 20
    proxy = stage.proxy(limits=LimitsConfig(rows=1_000_000))
    asked = request(rows=500_000)
    assert stage.infer(proxy, asked) == said
    assert stage.verdicts.accept.sum() == len(rows)


def test_the_message_limit_holds_on_both_sides(stage):
    proxy = stage.proxy(limits=LimitsConfig(message_bytes=1 << 12))
    assert stage.refused(proxy, request(rows=1000)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stage.upstream.seen == []
    stage.upstream.says(answer([[5.0, 0, 0, 0]] * 1000))
    assert stage.refused(proxy, request()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(stage.upstream.seen) == 1


def test_concurrent_calls_get_their_own_answers_and_verdicts(stage):
    def script(_method, message, _context):
        number = int(ModelInferRequest.FromString(message).id)
        reply = answer([[float(number % 4 + 1), 0.0, 0.0, 0.0]])
        reply.id = str(number)
        return reply.SerializeToString()

    stage.upstream.script = script
    infer = stage.channel(stage.proxy().address).unary_unary(INFER)

    def one(number: int) -> bytes:
        return infer(ModelInferRequest(model_name="digits", id=str(number)).SerializeToString(), timeout=30)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(200)))
    expected = [script("", ModelInferRequest(id=str(n)).SerializeToString(), None) for n in range(200)]
    assert answers == expected
    assert len(stage.decisions) == 200
    assert sum(e.verdicts.accept.sum() for e in stage.decisions) == 150  # max logit 1 is refused, 2 to 4 are not


def test_a_crowd_beyond_the_limit_is_turned_away_and_the_rest_served(stage):
    release = threading.Event()
    stage.upstream.script = lambda *_: release.wait(10) and answer().SerializeToString()
    proxy = stage.proxy(limits=LimitsConfig(concurrent_rpcs=2))
    infer = stage.channel(proxy.address).unary_unary(INFER)
    held = [infer.future(request(), timeout=20) for _ in range(2)]
    while len(stage.upstream.seen) < 2:
        time.sleep(0.01)
    assert stage.refused(proxy, request()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    release.set()
    assert [call.result() for call in held] == [answer().SerializeToString()] * 2


def test_requests_that_upstream_did_not_answer_are_counted(stage):
    def script(_method, _message, context):
        context.abort(grpc.StatusCode.INTERNAL, "out of memory")

    stage.upstream.script = script
    proxy = stage.proxy()
    for model in (MODEL, "another"):
        assert stage.refused(proxy, request(model=model)).details() == "out of memory"
    assert [(e.monitor, e.kind) for e in stage.refusals] == [("", "upstream")]
