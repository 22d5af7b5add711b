"""Overload, concurrency, health, drain, configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demur.monitor.errors import AuditUnavailable, ConfigurationError, Draining, Overloaded
from demur.monitor.service.admission import Admission
from demur.proto.v1 import monitor_pb2 as pb
from tests.service.bundles import BAD, GOOD, row_bundle, stream_bundle
from tests.service.conftest import accepted, refused, rows
from tests.service.test_reload import eventually
from tests.service.test_stream import step

NAMES = ("", "liveness", "readiness", "demur.v1.MonitorService")


def health(address: str) -> dict[str, str]:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found = {n: stub.Check(health_pb2.HealthCheckRequest(service=n), timeout=5).status for n in NAMES}
    return {n: health_pb2.HealthCheckResponse.ServingStatus.Name(s) for n, s in found.items()}


@pytest.fixture
def held(monkeypatch):
    """Make a server's scoring wait for a gate."""
    gate = threading.Event()

    def hold(server) -> threading.Event:
        session = server.registry.get("toy").engine.loaded.session
        run = session.run_columns

        def slow(feed):
            gate.wait(10)
            return run(feed)

        monkeypatch.setattr(session, "run_columns", slow)
        return gate

    yield hold
    gate.set()


def test_overload_is_refused_with_a_pause_and_what_was_taken_is_answered(start, connect, held, heard):
    server = start(limits={"threads": 1, "queue": 2})
    gate, stub = held(server), connect(server.addresses[0])
    taken = [stub.Assess.future(rows([GOOD]), timeout=20) for _ in range(3)]
    eventually(lambda: server._admission.inside == 3)
    error = refused(lambda: stub.Assess(rows([GOOD]), timeout=5))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "20"
    assert heard.kinds == ["overloaded"]
    gate.set()
    assert [accepted(f.result()) for f in taken] == [[True]] * 3
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]


def test_waiting_counts_against_deadline_and_budget(start, connect, held, heard):
    server = start(limits={"threads": 1, "queue": 4}, monitor={"budget_ms": 100})
    gate, stub = held(server), connect(server.addresses[0])
    first = stub.Assess.future(rows([GOOD]), timeout=20)
    eventually(lambda: server._admission.inside == 1)
    late = stub.Assess(rows([GOOD]), timeout=20)
    assert "not in time" in late.cause
    assert refused(lambda: stub.Assess(rows([GOOD]), timeout=0.05)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: "deadline" in heard.kinds)
    gate.set()
    assert "not in time" in first.result().cause


def test_admission_by_itself():
    admission = Admission(running=1, queue=1, streams=1)
    with admission.request(None), admission.request(time.perf_counter() + 0.01):  # the second goes on without a place
        assert admission.inside == 2
        with pytest.raises(Overloaded, match="2 requests"), admission.request(None):
            pass
        assert admission.inside == 2
    with admission.stream(), pytest.raises(Overloaded, match="AssessStream"), admission.stream():
        pass
    with admission.frame():
        assert admission.inside == 1
    admission.drain()
    for place in (admission.request(None), admission.stream(), admission.frame()):
        with pytest.raises(Draining), place:
            pass
    assert admission.inside == 0


def test_many_threads_get_their_own_answers(start, connect):
    server = start(limits={"threads": 2, "queue": 64})
    stub, odd = connect(server.addresses[0]), Counter()

    def ask(number: int) -> None:
        random = np.random.default_rng(number)
        for turn in range(40):
            good = random.random(7) < 0.5
            answer = stub.Assess(rows([GOOD if g else BAD for g in good], request_id=f"{number}-{turn}"), timeout=30)
            if accepted(answer) != good.tolist() or answer.request_id != f"{number}-{turn}":
                odd[number] += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not odd


def test_health_says_what_is_true(start, tmp_path):
    broken = tmp_path / "broken.demur"
    broken.write_bytes(b"")
    server = start({"toy": row_bundle(), "broken": broken}, health_listen="127.0.0.1:0")
    expected = {
        "": "NOT_SERVING",
        "liveness": "SERVING",
        "readiness": "NOT_SERVING",
        "demur.v1.MonitorService": "SERVING",
    }
    assert health(server.addresses[0]) == health(server.health_address) == expected
    row_bundle().save(broken)
    eventually(lambda: health(server.health_address) == dict.fromkeys(NAMES, "SERVING"))
    broken.write_bytes(b"")
    eventually(lambda: server.registry.get("broken").error)
    assert health(server.health_address) == dict.fromkeys(NAMES, "SERVING")


def test_drain_answers_what_it_took_and_takes_no_more(start, connect, held, heard):
    server = start(health_listen="127.0.0.1:0")
    gate, stub = held(server), connect(server.addresses[0])
    taken = stub.Assess.future(rows([GOOD]), timeout=20)
    eventually(lambda: server._admission.inside == 1)
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(server.drain(10)))
    drain.start()
    eventually(lambda: health(server.health_address)["readiness"] == "NOT_SERVING")
    assert health(server.health_address) == {**dict.fromkeys(NAMES, "NOT_SERVING"), "liveness": "SERVING"}
    error = refused(lambda: stub.Assess(rows([GOOD]), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in error.details()
    assert heard.kinds == ["draining"]
    gate.set()
    drain.join()
    assert drained == [True]
    assert accepted(taken.result()) == [True]


def test_drain_gives_up_in_time_and_stop_ends_what_is_left(start, connect, held):
    server = start()
    held(server)
    call = connect(server.addresses[0]).Assess.future(rows([GOOD]), timeout=30)
    eventually(lambda: server._admission.inside == 1)
    began = time.monotonic()
    assert not server.drain(0.2)
    assert time.monotonic() - began < 2
    server.stop()
    assert refused(call.result).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_drain_lets_token_streams_end(start, connect):
    import queue

    server = start({"talk": stream_bundle()})
    frames: queue.SimpleQueue = queue.SimpleQueue()
    call = connect(server.addresses[0]).AssessStream(iter(frames.get, None), timeout=20)
    frames.put(step(-0.5, "s"))
    assert next(call).step == 1
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(server.drain(10)))
    drain.start()
    frames.put(step(-0.5, "new", 7))
    assert next(call).error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    frames.put(step(-0.5, "s", end=True))
    assert next(call).step == 2
    drain.join()
    assert drained == [True]
    frames.put(None)


def test_an_audit_that_blocks_is_a_status_and_one_that_works_is_a_number(start, connect, heard):
    class Recorder:
        full = False

        def record(self, loaded, observation, verdicts):
            if self.full:
                raise AuditUnavailable("the disk is full; free some space")
            return 17, True

    recorder = Recorder()
    server = start(options={"recorder_for": lambda _: recorder})
    stub = connect(server.addresses[0])
    answer = stub.Assess(rows([GOOD]), timeout=5)
    assert (answer.sequence, answer.audited) == (17, True)
    recorder.full = True
    error = refused(lambda: stub.Assess(rows([GOOD]), timeout=5))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the disk is full; free some space")
    assert heard.kinds == ["audit"]
    recorder.full = False
    assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]


def test_labels_reach_their_sink(start, connect):
    kept = []

    class Sink:
        def label(self, label):
            kept.append(label)
            return 99

    stub = connect(start(options={"label_sink": Sink()}).addresses[0])
    request = pb.LabelRequest(monitor="toy", sequence=4, row=2, label="7", correct=False, reviewer="ada", kind="review")
    assert stub.Label(request, timeout=5).sequence == 99
    assert (kept[0].monitor, kept[0].sequence, kept[0].row, kept[0].correct, kept[0].kind) == (
        "toy",
        4,
        2,
        False,
        "review",
    )
    stub.Label(pb.LabelRequest(sequence=4), timeout=5)
    assert (kept[1].correct, kept[1].kind, kept[1].monitor) == (None, "label", "toy")


def test_a_telemetry_that_raises_changes_nothing(start, connect, tmp_path):
    from demur.monitor.config.server import ServerConfig
    from demur.monitor.service.server import Server

    class Broken:
        def on_decision(self, event):
            raise RuntimeError

        on_refusal = on_bundle = on_decision

    row_bundle().save(tmp_path / "toy.demur")
    config = {"listen": ["127.0.0.1:0"], "monitors": [{"name": "toy", "bundle": str(tmp_path / "toy.demur")}]}
    with Server(ServerConfig.model_validate(config), observers=[Broken()]) as server:
        stub = connect(server.addresses[0])
        assert accepted(stub.Assess(rows([GOOD]), timeout=5)) == [True]
        assert refused(lambda: stub.Assess(rows([GOOD], monitor="x"), timeout=5)).code() is grpc.StatusCode.NOT_FOUND


def test_a_port_in_use_refuses_the_start(start):
    address = start().addresses[0]
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        start(listen=[address])


def test_monitors_describe_themselves(start, connect):
    bundle = row_bundle(3, model={"name": "m", "version": "7"})
    stub = connect(start({"toy": bundle}, monitor={"mode": "enforce", "on_failure": "pass"}).addresses[0])
    (info,) = stub.ListMonitors(pb.ListMonitorsRequest(), timeout=5).monitors
    assert (info.monitor, info.bundle, info.version, info.ready, info.kind) == ("toy", bundle.digest, 3, True, "rows")
    assert (info.mode, info.on_failure, info.model.version) == ("enforce", "pass", "7")
    assert [(s.name, s.width) for s in info.signals] == [("logits", 4)]
    assert [(r.name, list(r.thresholds), r.level) for r in info.rules] == [("weak", [-2.0], 0.05)]
    assert (
        refused(lambda: stub.GetMonitor(pb.GetMonitorRequest(monitor="t0y"), timeout=5)).code()
        is grpc.StatusCode.NOT_FOUND
    )


PROGRAM = """
import sys
from demur.monitor.config.server import ServerConfig
from demur.monitor.service.server import Server
server = Server(ServerConfig.model_validate({"listen": [sys.argv[1]], "monitors": [{"name": "toy", "bundle": sys.argv[2]}]}))
server.start()
server.handle_signals()
print(server.addresses[0], flush=True)
server.wait()
print("drained", server.drain(), flush=True)
server.stop()
"""


def test_sigterm_drains_and_leaves_no_socket(connect, tmp_path):
    path, sock = tmp_path / "toy.demur", tmp_path / "s.sock"
    row_bundle().save(path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"unix:{sock}", str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline().strip() == f"unix:{sock}"
        assert accepted(connect(f"unix:{sock}").Assess(rows([GOOD]), timeout=5)) == [True]
        os.kill(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert (out.strip(), process.returncode) == ("drained True", 0)
    assert not sock.exists()
