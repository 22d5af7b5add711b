"""Message limits and compression: whose limit it was, what counts, and that nothing hangs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from demur.adapters.servers.oip.refusal import explained
from demur.monitor.config.server import LimitsConfig
from tests.adapters.conftest import INFER, Stage, answer, request
from tests.adapters.fake_server import FakeServer

LIMIT = 1 << 14
SMALL = LimitsConfig(message_bytes=LIMIT)


def test_an_answer_too_large_for_demur_says_that_it_was_demur(stage):
    stage.upstream.says(answer(np.ones((LIMIT // 8, 4), np.float32)))
    error = stage.refused(stage.proxy(limits=SMALL), request())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"limits.message_bytes = {LIMIT} in demur.yaml; raise it" in error.details()


def test_a_request_too_large_for_upstream_says_that_it_was_upstream():
    stage = Stage(FakeServer())
    limited = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 1000)])
    limited.add_generic_rpc_handlers((stage.upstream,))
    target = f"127.0.0.1:{limited.add_insecure_port('127.0.0.1:0')}"
    limited.start()
    try:
        error = stage.refused(stage.proxy(upstream=target), request(rows=500))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"upstream {target} takes no larger request; raise its own message limit" in error.details()
    finally:
        limited.stop(0).wait()
        stage.close()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (LIMIT // 12, f"limits.message_bytes = {LIMIT} in demur.yaml; raise it"),
        (LIMIT, "SERVER: Received message larger than max"),
    ],
)
def test_a_request_too_large_for_demur_never_reaches_upstream(stage, rows, said):
    error = stage.refused(stage.proxy(limits=SMALL), request(rows=rows))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said in error.details()
    assert stage.upstream.seen == []


@pytest.mark.parametrize("method", [INFER, "/inference.GRPCInferenceService/ModelMetadata"])
def test_what_counts_is_the_size_of_the_unpacked_request(stage, method):
    """A gzip bomb of zeros: 1 MB that travels as about 1 kB."""
    bomb = request(rows=100_000)
    call = stage.channel(stage.proxy(limits=SMALL).address).unary_unary(method)
    with pytest.raises(grpc.RpcError) as caught:
        call(bomb, timeout=10, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "upstream" not in caught.value.details()
    assert stage.upstream.seen == []


def test_what_counts_is_the_size_of_the_unpacked_answer(stage):
    def script(_method, _message, context):
        context.set_compression(grpc.Compression.Gzip)
        return answer(np.ones((LIMIT, 4), np.float32)).SerializeToString()

    stage.upstream.script = script
    error = stage.refused(stage.proxy(limits=SMALL), request())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limits.message_bytes" in error.details()


@pytest.mark.parametrize("client", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("server", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_each_side_compresses_as_it_likes(stage, client, server):
    content = answer([[5.0, 0, 0, 0]] * 500).SerializeToString()

    def script(_method, _message, context):
        context.set_compression(server)
        return content

    stage.upstream.script = script
    asked = request(rows=500)
    assert stage.infer(stage.proxy(), asked, compression=client) == content
    assert stage.upstream.seen[0][1] == asked
    assert stage.verdicts.accept.all()


def test_other_exhaustions_keep_their_words():
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert explained(code, "too many requests", "up:1", 9) == "too many requests"
    assert explained(grpc.StatusCode.INTERNAL, "Received message larger than max", "up:1", 9).endswith("max")
