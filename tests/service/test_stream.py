"""AssessStream: pipelined batches, token streams, and callers who leave."""

from __future__ import annotations

import queue
import threading
import time

import grpc
import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.proto.v1 import monitor_pb2 as pb
from tests.service.bundles import BAD, GOOD, row_bundle, stream_bundle
from tests.service.conftest import refused, rows, tensor
from tests.service.test_reload import eventually


def step(value: float, stream: str, sequence: int = 0, *, end: bool = False, monitor: str = "talk") -> pb.AssessFrame:
    request = pb.AssessRequest(monitor=monitor, signals=[tensor("token_logprob", np.array([[value]], np.float32))])
    return pb.AssessFrame(sequence=sequence, stream_id=stream, request=request, end=end)


def batch(values, sequence: int = 0) -> pb.AssessFrame:
    return pb.AssessFrame(sequence=sequence, request=rows(values))


@pytest.fixture
def server(start):
    return start({"toy": row_bundle(), "talk": stream_bundle()}, limits={"streams": 8, "concurrent_rpcs": 8})


def test_pipelined_batches_are_answered_in_order(server, connect):
    frames = [batch([GOOD] if n % 2 else [BAD], n) for n in range(1, 301)]
    answers = list(connect(server.addresses[0]).AssessStream(iter(frames), timeout=20))
    assert [a.sequence for a in answers] == list(range(1, 301))
    assert [a.response.rows.accept == b"\x01" for a in answers] == [bool(n % 2) for n in range(1, 301)]


def test_a_bad_frame_is_answered_and_the_call_goes_on(server, connect, heard):
    bad = [
        pb.AssessFrame(sequence=2, request=rows([GOOD], monitor="tao")),
        pb.AssessFrame(sequence=3, request=pb.AssessRequest(monitor="toy", signals=[pb.Tensor(name="logits", datatype="FP32", shape=[1, 4], raw=b"x")])),
        pb.AssessFrame(sequence=4, stream_id="s", request=rows([GOOD])),
        pb.AssessFrame(sequence=5, request=rows([GOOD], monitor="talk")),
        step(-1.0, "x" * 200, 6),
    ]  # fmt: skip
    answers = list(
        connect(server.addresses[0]).AssessStream(iter([batch([GOOD], 1), *bad, batch([GOOD], 7)]), timeout=10)
    )
    assert [a.sequence for a in answers] == list(range(1, 8))
    assert [a.error.code for a in answers] == [0, 5, 3, 3, 3, 3, 0]
    assert "did you mean 'toy'?" in answers[1].error.message
    assert "judges rows" in answers[3].error.message
    assert answers[6].response.rows.accept == b"\x01"
    assert sorted(heard.kinds) == ["invalid"] * 4 + ["unknown"]


def test_a_malformed_frame_is_answered_and_the_call_goes_on(server):
    with grpc.insecure_channel(server.addresses[0]) as channel:
        raw = channel.stream_stream("/demur.v1.MonitorService/AssessStream")
        sent = [b"\xff\xff\xff", batch([GOOD], 2).SerializeToString()]
        answers = [pb.AssessAnswer.FromString(a) for a in raw(iter(sent), timeout=5)]
    assert answers[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers[1].response.rows.accept == b"\x01"


def test_token_streams_keep_their_own_state_and_order(server, connect):
    values = {"calm": [-0.5] * 6, "wild": [-0.5, -0.5, -9.0, -0.1, -0.1, -0.1]}
    frames = [step(values[s][i], s, 10 * i + n, end=i == 5) for i in range(6) for n, s in enumerate(values)]
    answers = list(connect(server.addresses[0]).AssessStream(iter(frames), timeout=10))
    by_stream = {s: [a for a in answers if a.stream_id == s] for s in values}
    assert [a.step for a in by_stream["calm"]] == [1, 2, 3, 4, 5, 6]
    assert [a.response.rows.accept for a in by_stream["calm"]] == [b"\x01"] * 6
    # mean NLL of 0.5, 0.5, 9 is 3.33 > 2; the running maximum never forgets
    assert [a.response.rows.accept for a in by_stream["wild"]] == [b"\x01"] * 2 + [b"\x00"] * 4
    eventually(lambda: server.registry.get("talk").live_streams == 0)


def test_a_bad_step_makes_the_rest_of_its_stream_unavailable(server, connect):
    answers = list(
        connect(server.addresses[0]).AssessStream(
            iter([step(-0.5, "s", 1), step(np.nan, "s", 2), step(-0.5, "s", 3)]), timeout=5
        )
    )
    assert [a.response.rows.reasons[0] for a in answers] == [0, int(Reason.INVALID), int(Reason.UNAVAILABLE)]


def test_an_end_without_signals_waits_for_the_steps_before_it(server, connect):
    end = pb.AssessFrame(sequence=4, stream_id="s", end=True)
    frames = [step(-0.5, "s", 1), step(-0.5, "s", 2), step(-0.5, "s", 3), end]
    answers = list(connect(server.addresses[0]).AssessStream(iter(frames), timeout=5))
    assert [(a.sequence, a.step, a.HasField("error")) for a in answers] == [(n, min(n, 3), False) for n in (1, 2, 3, 4)]
    eventually(lambda: server.registry.get("talk").live_streams == 0)


def test_a_stream_belongs_to_one_monitor_and_to_one_call(server, connect):
    stub = connect(server.addresses[0])
    answers = list(stub.AssessStream(iter([step(-0.5, "s", 1), step(-0.5, "s", 2, monitor="toy")]), timeout=5))
    assert "belongs to monitor 'talk'" in answers[1].error.message
    again = list(stub.AssessStream(iter([step(-0.5, "s", 1)]), timeout=5))
    assert again[0].step == 1


def test_capacity_is_refused_by_frame(server, connect):
    frames = [step(-0.5, f"s{n}", n) for n in range(1, 11)]
    answers = list(connect(server.addresses[0]).AssessStream(iter(frames), timeout=5))
    assert [a.error.code for a in answers] == [0] * 8 + [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 2


@pytest.mark.parametrize("how", ["cancel", "disconnect", "half-close"])
def test_streams_of_a_caller_who_leaves_are_closed(server, how):
    channel = grpc.insecure_channel(server.addresses[0])
    frames: queue.SimpleQueue = queue.SimpleQueue()
    call = channel.stream_stream(
        "/demur.v1.MonitorService/AssessStream", pb.AssessFrame.SerializeToString, pb.AssessAnswer.FromString
    )(iter(frames.get, None))
    frames.put(step(-0.5, "s"))
    assert next(call).step == 1
    assert server.registry.get("talk").live_streams == 1
    if how == "cancel":
        call.cancel()
    elif how == "half-close":
        frames.put(None)
        assert list(call) == []
    else:
        channel.close()
    eventually(lambda: server.registry.get("talk").live_streams == 0)
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "demur-frames"])
    frames.put(None)
    channel.close()


def test_a_caller_who_does_not_read_stops_being_read(server, heard):
    sent = 0

    def frames():
        nonlocal sent
        for sent in range(1, 200_000):
            yield batch([GOOD] * 2000, sent)

    with grpc.insecure_channel(server.addresses[0]) as channel:
        call = channel.stream_stream(
            "/demur.v1.MonitorService/AssessStream", pb.AssessFrame.SerializeToString, pb.AssessAnswer.FromString
        )(frames())
        next(call)
        counts = []
        while len(counts) < 3 or counts[-1] != counts[-3]:
            time.sleep(0.2)
            counts.append(len(heard.decisions))
            assert len(counts) < 60
        assert counts[-1] < 2000
        call.cancel()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "demur-frames"])


def test_calls_beyond_the_limit_are_refused_and_unary_ones_still_answered(server, connect):
    stub = connect(server.addresses[0])
    hold = [queue.SimpleQueue() for _ in range(4)]
    calls = [stub.AssessStream(iter(h.get, None)) for h in hold]
    for h, call in zip(hold, calls, strict=True):
        h.put(batch([GOOD]))
        next(call)
    error = refused(lambda: next(stub.AssessStream(iter([batch([GOOD])]), timeout=5)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Assess(rows([GOOD]), timeout=5).rows.accept == b"\x01"
    for h in hold:
        h.put(None)
    for call in calls:
        assert list(call) == []
    eventually(lambda: server._admission._streams == 0)
    assert len(list(stub.AssessStream(iter([batch([GOOD])]), timeout=5))) == 1


def test_concurrent_calls_share_batches_without_mixing_states(server, connect):
    stub = connect(server.addresses[0])
    results: dict[int, list[bytes]] = {}

    def talk(number: int) -> None:
        value = -0.5 if number % 2 else -5.0
        answers = stub.AssessStream(iter([step(value, "same id", i) for i in range(50)]), timeout=30)
        results[number] = [a.response.rows.accept for a in answers]

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {n: [b"\x01" if n % 2 else b"\x00"] * 50 for n in range(4)}
