import contextlib
import gc
import logging
import socket
import sys
import time
import tracemalloc

import numpy as np
import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint
from opentelemetry.sdk.trace import _Span as SdkSpan

from demur.monitor.event import BundleEvent, RefusalEvent
from demur.monitor.telemetry import Telemetry, TelemetryConfig, names
from demur.monitor.telemetry.families import Point

from .events import BUNDLE, MIXED, event, policy, repeated, single, verdicts
from .receiver import Receiver, numbers, plain

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@contextlib.contextmanager
def telemetry(receiver, **more):
    config = TelemetryConfig(
        otlp_endpoint=receiver.endpoint, **({"metrics_interval_seconds": 60, "trace_ratio": 0.0} | more)
    )
    telemetry = Telemetry(config)
    try:
        yield telemetry
    finally:
        telemetry.close()


def errors(telemetry: Telemetry) -> dict:
    found = next(f for f in telemetry.collect() if f.metric is names.TELEMETRY_ERRORS)
    return {p.labels[0]: p.value for p in found.points if p.value}


def test_metrics_arrive_with_exact_counts_and_sums(receiver):
    with telemetry(receiver, otlp_headers={"Authorization": "Bearer t"}, resource={"k8s.pod.name": "p1"}) as t:
        t.on_bundle(BundleEvent("digits", BUNDLE, 3, accepted=True))
        t.watch("demur.audit.lag", lambda: 0.25)
        t.watch("demur.audit.drops", lambda: 7)
        for _ in range(3):
            t.on_decision(event(repeated(MIXED, 30)))
        t.on_refusal(RefusalEvent("digits", "overloaded"))
    got = receiver.metrics
    assert numbers(got["demur.verdicts"]) == {
        ("digits", "row", "accept", "none"): 90,
        ("digits", "row", "abstain", "novel"): 180,
        ("digits", "row", "abstain", "invalid"): 90,
        ("digits", "row", "abstain", "unavailable"): 90,
    }
    assert got["demur.verdicts"].sum.is_monotonic
    assert got["demur.verdicts"].sum.aggregation_temporality == 2
    assert numbers(got["demur.refusals"]) == {("digits", "overloaded", "grpc"): 1}
    assert numbers(got["demur.audit.lag"]) == {(): 0.25}
    assert numbers(got["demur.audit.drops"]) == {(): 7}
    assert numbers(got["demur.bundle.info"]) == {("digits", BUNDLE[:12], "3"): 1}
    p = {plain(d.attributes)["column"]: d for d in got["demur.p_value"].histogram.data_points}
    assert p["energy"].count == sum(p["energy"].bucket_counts) == 270
    assert p["energy"].sum == pytest.approx(90 * 0.551, rel=1e-6)
    assert tuple(p["energy"].explicit_bounds) == names.P_BOUNDS
    assert p["energy"].bucket_counts[names.P_BOUNDS.index(0.05)] == 90
    scores = got["demur.score"].histogram.data_points[0]
    assert scores.count == 270
    assert not scores.HasField("sum")
    seconds = got["demur.assess.duration"].histogram.data_points[0]
    assert (seconds.count, seconds.sum) == (3, pytest.approx(0.012))
    assert 0 < seconds.start_time_unix_nano <= seconds.time_unix_nano
    assert receiver.resource.items() >= {"service.name": "demur", "k8s.pod.name": "p1"}.items()
    assert receiver.metadata[-1]["authorization"] == "Bearer t"


def test_metrics_are_sent_every_interval(receiver):
    with telemetry(receiver, metrics_interval_seconds=0.05) as t:
        t.on_decision(single())
        receiver.wait(lambda r: len(r.exports) >= 3)


def test_a_sampled_request_becomes_one_span_with_its_stages(receiver):
    with telemetry(receiver) as t:
        t.on_decision(event(traceparent=SAMPLED))
        t.on_decision(event(traceparent=UNSAMPLED))
        t.on_decision(event())
    assert sorted(s.name for s in receiver.spans) == sorted(
        ["demur.assess", *(f"demur.assess.{stage}" for stage in ("decode", "score", "audit", "other"))]
    )
    root = next(s for s in receiver.spans if s.name == "demur.assess")
    children = [s for s in receiver.spans if s is not root]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert {c.parent_span_id for c in children} == {root.span_id}
    assert {c.trace_id for c in children} == {root.trace_id}
    assert root.end_time_unix_nano - root.start_time_unix_nano == pytest.approx(4e6, abs=10)
    audit = next(c for c in children if c.name == "demur.assess.audit")
    assert audit.end_time_unix_nano - audit.start_time_unix_nano == pytest.approx(2e7, abs=10)
    assert audit.start_time_unix_nano - root.start_time_unix_nano == pytest.approx(310_000, abs=10)
    about = plain(root.attributes)
    assert (
        about.items()
        >= {"demur.monitor": "digits", "demur.rows": 5, "demur.abstained": 4, "demur.bundle": BUNDLE}.items()
    )
    assert about["demur.reasons"] == "NOVEL,AMBIGUOUS,INVALID,UNAVAILABLE"
    assert about["gen_ai.security.verdict.type"] == "deny"
    assert about["gen_ai.security.action.type"] == "block"
    known = {name.name for name in names.ATTRIBUTES}
    assert set(about) <= known


def test_observed_abstentions_are_denied_but_allowed(receiver):
    with telemetry(receiver, trace_ratio=1.0) as t:
        t.on_decision(event(verdicts([1], [1], [[3.0, 1.0]], [[0.01, 0.5]], actions=np.zeros(1, np.uint8))))
    (root,) = (s for s in receiver.spans if s.name == "demur.assess")
    about = plain(root.attributes)
    assert (about["gen_ai.security.verdict.type"], about["gen_ai.security.action.type"]) == ("deny", "allow")
    assert not root.parent_span_id


def test_stream_verdicts_become_evaluations(receiver):
    stream = policy("stream", monitor="llm")
    steps = verdicts(
        [0, 1, 64], [0, 1, 0], [[0.5, 1], [3, 1], [np.nan, 1]], [[0.5, 0.5], [0.01, 0.5], [np.nan, 0.5]], stream
    )
    with telemetry(receiver) as t:
        t.on_decision(event(steps, traceparent=SAMPLED))
        t.on_decision(event(steps, traceparent=UNSAMPLED))
        t.on_stream_end(event(verdicts([1], [1], [[3.0, 1.0]], [[0.01, 0.5]], stream)), "chatcmpl-1")
    assert {r.event_name for r in receiver.logs} == {"gen_ai.evaluation.result"}
    found = [plain(r.attributes) for r in receiver.logs]
    fused = [f for f in found if f["gen_ai.evaluation.name"] == "demur.verdict"]
    assert sorted(f["gen_ai.evaluation.score.label"] for f in fused) == [
        "abstain",
        "abstain",
        "accept",
        "not_assessable",
    ]
    assert [f["error.type"] for f in fused if "error.type" in f] == ["invalid"]
    assert len(found) == 4 + 7
    energy = [f["gen_ai.evaluation.score.value"] for f in found if f["gen_ai.evaluation.name"] == "energy"]
    assert sorted(energy) == [0.5, 3.0, 3.0]
    assert sum(f.get("gen_ai.response.id") == "chatcmpl-1" for f in found) == 3
    root = next(s for s in receiver.spans if s.name == "demur.assess")
    assert sum(r.span_id == root.span_id for r in receiver.logs) == 8
    assert {key for f in found for key in f} <= {name.name for name in names.ATTRIBUTES}


def test_a_step_of_many_streams_sends_few_evaluations(receiver):
    stream = policy("stream", monitor="llm")
    steps = repeated(verdicts([0, 1], [0, 1], [[0.5, 1], [3, 1]], [[0.5, 0.5], [0.01, 0.5]], stream), 100)
    with telemetry(receiver) as t:
        t.on_decision(event(steps, traceparent=SAMPLED))
    assert len(receiver.logs) == 16 * 3


def test_checkpoints_are_copied_to_logs(receiver):
    note = "example.org/log\n42\nq1e2==\n\n\u2014 example.org/log c2ln\n"
    with telemetry(receiver) as t:
        t.checkpoint_to_logs(note.encode())
        t.checkpoint_to_logs(b"\xff\xfe")
        assert errors(t) == {"events": 1}
    (record,) = receiver.logs
    assert (record.event_name, record.body.string_value) == ("demur.audit.checkpoint", note)
    assert plain(record.attributes) == {
        "demur.audit.origin": "example.org/log",
        "demur.audit.size": "42",
        "demur.audit.root": "q1e2==",
    }


def test_no_sdk_object_for_an_unsampled_request(receiver, monkeypatch):
    made = []

    def counted(kind):
        original = kind.__init__

        def begin(self, *args, **more):
            made.append(kind)
            original(self, *args, **more)

        monkeypatch.setattr(kind, "__init__", begin)

    for kind in (SdkSpan, LogRecord, NumberDataPoint, HistogramDataPoint):
        counted(kind)
    with telemetry(receiver) as t:
        t.on_decision(event(repeated(MIXED, 50), traceparent=UNSAMPLED))
        t.on_decision(single())
        assert made == []
        t.on_decision(event(traceparent=SAMPLED))
        t.checkpoint_to_logs("o\n1\nr\n")
        assert made.count(SdkSpan) == 5
        assert LogRecord in made
    assert {NumberDataPoint, HistogramDataPoint} <= set(made)


def test_a_receiver_that_is_down_costs_no_memory_and_no_verdict(receiver, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    receiver.close()
    monkeypatch.setattr("demur.monitor.telemetry.otlp._EXPORT_SECONDS", 0.2)
    monkeypatch.setattr("demur.monitor.telemetry.telemetry.CLOSE_SECONDS", 0.5)
    monkeypatch.setattr("demur.monitor.telemetry.tracing._QUEUE", 512)  # about 1.4 MB of spans; all 3,000 would be 8 MB
    with telemetry(receiver, metrics_interval_seconds=0.05) as t:
        sampled, plain_event = event(traceparent=SAMPLED), event(repeated(MIXED, 20))
        for _ in range(200):  # five spans each: more than the queue holds
            t.on_decision(sampled)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(600):
            t.on_decision(sampled)
            t.on_decision(plain_event)
            t.checkpoint_to_logs("o\n1\nr\n")
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 4 << 20
        deadline = time.monotonic() + 10
        while "metrics" not in errors(t) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert errors(t)["metrics"] >= 1
        assert "events" not in errors(t)
        verdicts_seen = next(f for f in t.collect() if f.metric is names.ROWS)
        assert verdicts_seen.points == (Point(("digits",), 800 * 5 + 600 * 100),)
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_counts_of_an_outage_arrive_after_it(caplog):
    caplog.set_level(logging.CRITICAL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = TelemetryConfig(f"http://127.0.0.1:{port}", metrics_interval_seconds=0.05)
    t = Telemetry(config)
    t.on_decision(single())
    time.sleep(0.1)
    late = Receiver(port)
    try:
        late.wait(lambda r: r.exports)
        assert numbers(late.metrics["demur.rows"]) == {("digits",): 1}
    finally:
        t.close()
        late.close()


def test_tls_unless_told_otherwise():
    from demur.monitor.telemetry.otlp import _target

    assert _target(TelemetryConfig(otlp_endpoint="collector:4317"))["insecure"] is None
    assert _target(TelemetryConfig(otlp_endpoint="collector:4317", otlp_insecure=True))["insecure"] is True
    assert "secret" not in repr(TelemetryConfig(otlp_headers={"authorization": "secret"}))
    assert "opentelemetry.exporter.otlp.proto.grpc" in sys.modules
