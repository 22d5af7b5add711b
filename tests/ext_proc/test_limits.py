"""In time, in bounded memory, and what happens when it is not."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demur.adapters.servers.ext_proc.body import Body, Memory
from demur.monitor.config.server import LimitsConfig
from tests.ext_proc.conftest import BAD, CHAT, GOOD, PATH, ask, choice, completion, infer, scores

JSON = {"content-type": "application/json"}


@pytest.fixture
def slow():
    """Makes a graph that hangs until the test is over."""
    go = threading.Event()

    def made(engine):
        run = engine.loaded.session.run_columns

        def hanging(feed):
            go.wait(20)
            return run(feed)

        engine.loaded.session.run_columns = hanging

    yield made
    go.set()


@pytest.fixture
def own_bundle(world):
    """A monitor whose graph may be spoilt: the others share one."""
    from tests.service.bundles import row_bundle

    return lambda *args, **more: world(*args, rows=row_bundle(2), **more)


@pytest.mark.parametrize(
    ("mode", "choice_", "status"), [("enforce", "block", 503), ("enforce", "pass", 200), ("observe", "block", 200)]
)
def test_a_graph_that_hangs_is_answered_within_the_budget(own_bundle, slow, mode, choice_, status):
    made = own_bundle(mode, choice_, budget_ms=150)
    slow(made.engine)
    envoy = made.envoy(scores(BAD), message_timeout=5)
    began = time.monotonic()
    result = envoy.request(PATH, infer())
    assert (result.status, result.failed) == (status, "")
    assert time.monotonic() - began < 2
    assert [r.kind for r in made.refusals] == ["deadline"]
    if status == 503:
        assert (result.headers["demur-reasons"], result.headers["demur-cause"][:11]) == ("UNAVAILABLE", "not in time")


def test_within_envoys_own_timeout_of_200_ms(own_bundle, slow):
    """The budget of 150 ms ends before it; on a busy machine one of several tries must do."""
    made = own_bundle("enforce", budget_ms=150)
    envoy = made.envoy(scores(GOOD), message_timeout=0.2)
    envoy.request(PATH, infer())
    slow(made.engine)
    assert any(envoy.request(PATH, infer()).failed == "" for _ in range(10))


def test_a_judge_that_is_late_is_recorded_as_late(own_bundle):
    """What is answered UNAVAILABLE is not recorded as accepted when the graph returns at last."""
    made = own_bundle("enforce", budget_ms=60)
    run = made.engine.loaded.session.run_columns
    made.engine.loaded.session.run_columns = lambda feed: (time.sleep(0.3), run(feed))[1]
    assert made.envoy(scores(GOOD)).request(PATH, infer()).status == 503
    until = time.monotonic() + 5
    while not made.decisions and time.monotonic() < until:
        time.sleep(0.01)
    assert "not in time" in made.decisions[0].verdicts.cause
    assert not made.decisions[0].verdicts.accept.any()


def test_a_long_completion_is_judged_as_far_as_the_budget_goes(world):
    made = world("enforce", budget_ms=50)
    result = made.envoy(completion(choice(*[-0.1] * 20_000))).request(CHAT, ask(logprobs=True))
    assert (result.status, result.failed) == (503, "")


def test_more_than_the_scoring_threads_and_their_queue_can_take(own_bundle, slow):
    made = own_bundle("enforce", budget_ms=400, limits=LimitsConfig(threads=1, queue=1))
    slow(made.engine)
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda _: made.envoy(scores(GOOD)).request(PATH, infer()), range(5)))
    assert [r.status for r in results] == [503] * 5
    assert all(r.failed == "" and r.spurious == 0 for r in results)
    kinds = [r.kind for r in made.refusals]
    assert kinds.count("overloaded") >= 3
    assert set(kinds) == {"overloaded", "deadline"}


def test_all_bodies_together(world):
    made = world("observe", body_bytes=1 << 20, buffer_bytes=1 << 12)
    body = scores(GOOD) + b" " * 5000
    result = made.envoy(body).request(PATH, infer())
    assert (result.status, result.body) == (200, body)
    assert "exceed buffer_bytes" in made.decisions[0].verdicts.cause
    assert made.server.service.memory.held == 0


def test_memory_is_moved_and_given_back():
    memory = Memory(100)
    first, second = Body("", 80, memory), Body("", 80, memory)
    first.feed(bytes(60))
    second.feed(bytes(60))
    assert (first.cause, "buffer_bytes" in second.cause, memory.held) == ("", True, 60)
    first.feed(bytes(30))
    assert ("body_bytes" in first.cause, memory.held, bytes(first.data)) == (True, 0, b"")
    first.feed(bytes(10))
    assert first.raw_size == 100


def test_a_bomb_is_given_up_before_it_unfolds():
    import tracemalloc
    import zlib

    bomb = zlib.compress(bytes(256 << 20), 9)
    body = Body("deflate", 1 << 16, Memory(1 << 20))
    tracemalloc.start()
    body.feed(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "larger than body_bytes" in body.cause
    assert peak < 2 << 20


def test_many_empty_members_are_given_up_at_once():
    """Each would cost a copy of all that stands behind it."""
    import gzip

    body = Body("gzip", 1 << 20, Memory(1 << 30))
    began = time.monotonic()
    body.feed(gzip.compress(b"") * 200_000)
    assert "too many members" in body.cause
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("mode", "status"), [("enforce", 500), ("observe", 200)])
def test_more_exchanges_than_streams(world, mode, status):
    """An error where answers must be held back; where none must, Envoy goes on without us."""
    made = world(mode, streams=2)
    hold = threading.Event()

    def waits():
        hold.wait(10)
        yield from ()

    with grpc.insecure_channel(made.server.address) as channel:
        stub = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
        held = [stub(waits()) for _ in range(2)]
        time.sleep(0.3)
        result = made.envoy(scores(GOOD)).request(PATH, infer())
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
        hold.set()
        for call in held:
            call.cancel()
    assert (result.status, "_8:" in result.failed) == (status, mode == "enforce"), "8 is RESOURCE_EXHAUSTED"
    assert [r.kind for r in made.refusals] == ["overloaded"]
    until = time.monotonic() + 5
    while not made.decisions and time.monotonic() < until:
        made.envoy(scores(GOOD), failure_mode_allow=True).request(PATH, infer())
    assert made.decisions[0].verdicts.accept.tolist() == [True], "places are free again"
