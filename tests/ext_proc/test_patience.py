"""Clients and servers that stand still: their exchanges end, and their places are free again."""

from __future__ import annotations

import queue
import time
from contextlib import contextmanager

import grpc
import pytest

from demur.proto.envoy import external_processor_pb2 as pb
from tests.ext_proc.conftest import GOOD, PATH, infer, scores
from tests.ext_proc.simulator import BUFFERED, PROCESS


def head(part: str, values: dict[str, str]) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    for name, value in values.items():
        getattr(message, part).headers.headers.add(key=name, raw_value=value.encode())
    if part == "request_headers":
        message.protocol_config.request_body_mode = message.protocol_config.response_body_mode = BUFFERED
    return message


def body(part: str, content: bytes) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    getattr(message, part).body, getattr(message, part).end_of_stream = content, True
    return message


ASKED = head("request_headers", {":method": "POST", ":path": PATH})
WHOLE = body("request_body", infer())
ANSWERED = head("response_headers", {":status": "200", "content-type": "application/json"})


@contextmanager
def stream(made):
    """A call, and what sends a message on it and waits for its answer."""
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(made.server.address) as channel:
        call = channel.stream_stream(PROCESS)(iter(outbox.get, None))

        def say(message: pb.ProcessingRequest) -> pb.ProcessingResponse:
            outbox.put(message.SerializeToString())
            return pb.ProcessingResponse.FromString(next(call))

        yield call, say
        outbox.put(None)


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ([], {"idle_seconds": 0.3}),
        ([ASKED], {"client_seconds": 0.3}),
        ([ASKED, WHOLE], {"idle_seconds": 0.3}),
        ([ASKED, WHOLE, ANSWERED], {"idle_seconds": 0.3}),
    ],
    ids=["nothing comes", "a request stays unfinished", "no answer begins", "an answer stops"],
)
def test_an_exchange_that_stands_still_ends_and_its_place_is_free(world, said, limits):
    made = world("enforce", streams=1, **limits)
    with stream(made) as (call, say):
        for message in said:
            say(message)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED  # a failure to Envoy: nothing passes unjudged
        assert 0.1 < time.monotonic() - began < 5
    until, result = time.monotonic() + 5, None
    while (result is None or result.failed) and time.monotonic() < until:
        result = made.envoy(scores(GOOD)).request(PATH, infer())
    assert (result.status, result.failed) == (200, "")
    assert "deadline" in [r.kind for r in made.refusals]
    assert made.server.service.memory.held == 0


def test_a_slow_server_has_the_longer_patience(world):
    made = world("enforce", client_seconds=0.2, idle_seconds=20)
    with stream(made) as (call, say):
        say(ASKED)
        say(WHOLE)
        time.sleep(0.6)
        say(ANSWERED)
        answer = say(body("response_body", scores(GOOD)))
        assert answer.HasField("response_body")
        assert call.is_active() or call.code() is grpc.StatusCode.OK
    assert [bool(d.verdicts.accept.all()) for d in made.decisions] == [True]


def test_each_part_of_a_request_begins_the_time_anew(world):
    made = world("enforce", client_seconds=0.5)
    chunks = [body("request_body", bytes([c])) for c in infer()[:4]]
    with stream(made) as (_, say):
        opening = pb.ProcessingRequest.FromString(ASKED.SerializeToString())
        opening.protocol_config.request_body_mode = 1  # STREAMED
        say(opening)
        for chunk in chunks:
            chunk.request_body.end_of_stream = False
            time.sleep(0.3)
            assert say(chunk).HasField("request_body")


def test_where_nothing_is_held_back_envoys_own_limits_are_left_to_it(world):
    """From outside its thread a call can only be ended with an error, and that would reach the client."""
    made = world("observe", client_seconds=0.1, idle_seconds=0.1)
    with stream(made) as (call, say):
        say(ASKED)
        time.sleep(0.5)
        say(WHOLE)
        time.sleep(0.5)
        say(ANSWERED)
        say(body("response_body", scores(GOOD)))
        assert call.is_active() or call.code() is grpc.StatusCode.OK
    assert len(made.decisions) == 1
