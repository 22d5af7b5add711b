"""In observe mode an answer goes out before it is judged, and nothing else changes: no verdict is lost, late, or another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

import numpy as np
import pytest

from demur.adapters.servers.oip import messages
from demur.adapters.servers.oip.answer import answered
from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.unary import Sent
from demur.monitor.config.server import MonitorAuditConfig
from demur.monitor.engine import Conduct, Engine
from demur.monitor.errors import AuditUnavailable
from demur.monitor.event import DecisionEvent
from demur.monitor.loaded import Loaded
from demur.monitor.observation import observe
from demur.monitor.recorder import AuditRecorder
from demur.proto.oip.inference_pb2 import ModelInferRequest
from tests.adapters.conftest import INFER, MODEL, Stage, answer, request
from tests.service.bundles import BAD, GOOD, WIDTH, group_bundle, row_bundle

WAIT = 10


class Gate:
    """A listener that lets nobody pass until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.heard: list[DecisionEvent] = []

    def __call__(self, event: DecisionEvent) -> None:
        assert self.open.wait(WAIT)
        self.heard.append(event)


class Recorder:
    """Records, and gates the answer or does not."""

    def __init__(self, *, gates: bool, fails: Callable[[str], bool] = lambda _: False) -> None:
        self.gates, self._fails = gates, fails
        self.recorded: list[str] = []

    def record(self, _loaded, observation, _verdicts):
        if self._fails(observation.request):
            raise RuntimeError("no room")
        self.recorded.append(observation.request)
        return len(self.recorded), True


def calls(stage: Stage, proxy, messages, timeout=WAIT):
    call = stage.channel(proxy.address).unary_unary(INFER)
    return [call(message, timeout=timeout) for message in messages]


def numbered(count: int) -> list[bytes]:
    return [request().replace(b"r-1", b"%03d" % i) for i in range(count)]


def test_the_answer_does_not_wait_for_its_verdict(stage):
    gate, said = Gate(), stage.upstream.says(answer())
    proxy = stage.proxy(listeners=[gate])
    assert calls(stage, proxy, [request()]) == [said]
    assert not gate.heard
    gate.open.set()
    proxy.settle()
    assert [e.verdicts.accept.tolist() for e in gate.heard] == [[True, False]]


@pytest.mark.parametrize(
    "awaited",
    [
        {"conduct": Conduct("enforce")},
        {"conduct": Conduct(budget_seconds=5.0)},
        {"annotate": True},
        {"recorder": Recorder(gates=True)},
    ],
)
def test_an_answer_waits_when_anybody_waits_for_the_verdict(stage, awaited):
    gate = Gate()
    stage.upstream.says(answer([GOOD]))
    proxy = stage.proxy(listeners=[gate], **awaited)
    threading.Timer(0.3, gate.open.set).start()
    began = perf_counter()
    calls(stage, proxy, [request(rows=1)])
    assert perf_counter() - began > 0.25
    assert len(gate.heard) == 1


@pytest.mark.parametrize(
    ("fields", "gates"),
    [({}, False), ({"on_failure": "spill"}, False), ({"ack": "after_sync"}, True), ({"on_failure": "block"}, True)],
)
def test_the_operators_audit_choices_say_whether_a_record_gates_the_answer(fields, gates):
    assert AuditRecorder(None, MonitorAuditConfig(**fields)).gates is gates


def test_scored_together_is_scored_alone_bit_for_bit():
    engine = Engine(Loaded.open(row_bundle()))
    loaded, draw = engine.loaded, np.random.default_rng(0)
    batches = [draw.normal(2, 2, (rows, WIDTH)).astype(np.float32) for rows in (1, 3, 2, 700, 1, 5)]
    batches[2][1, 2] = np.nan
    seen = [observe(loaded.widths, {"logits": b}) for b in batches]
    scored = engine.score_together(loaded, seen)
    assert None not in scored
    assert [s.seconds / scored[0].seconds for s in scored] == pytest.approx(
        [1, 3, 2, 700, 1, 5]
    )  # the run is paid for once
    for observation, found in zip(seen, scored, strict=True):
        one = engine.assess(observation, loaded=loaded, scored=found)
        other = engine.assess(observation, loaded=loaded)
        for name in ("accept", "reason_bits", "rule_hits", "scores", "p_values"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_what_cannot_be_scored_stands_apart_and_groups_are_scored_alone():
    engine = Engine(Loaded.open(row_bundle(model={"version": "7"})))
    loaded = engine.loaded
    good = {"logits": np.array([GOOD], np.float32)}
    seen = [
        observe(loaded.widths, good),
        observe(loaded.widths, good, model={"version": "8"}),
        observe(loaded.widths, good),
    ]
    assert [s is None for s in engine.score_together(loaded, seen)] == [False, True, False]
    grouped = Engine(Loaded.open(group_bundle()))
    crowd = [observe(grouped.loaded.widths, good, group_id=[1]) for _ in range(3)]
    assert grouped.score_together(grouped.loaded, crowd) == [None, None, None]


def test_many_answers_take_few_runs_and_each_has_its_own_verdict_and_record(stage, monkeypatch):
    runs, real = [], Loaded.open(row_bundle()).session.__class__.run_columns
    monkeypatch.setattr(
        "demur.monitor.session.Session.run_columns", lambda self, feed: runs.append(feed) or real(self, feed)
    )
    recorder = Recorder(gates=False)
    proxy = stage.proxy(recorder=recorder)
    runs.clear()
    rows = [[GOOD], [BAD, GOOD], [BAD]]
    for i, message in enumerate(numbered(30)):
        stage.upstream.says(answer(rows[i % 3]))
        calls(stage, proxy, [message])
    assert [e.verdicts.accept.tolist() for e in stage.decisions] == [[True], [False, True], [False]] * 10
    assert sorted(recorder.recorded) == sorted(f"{i:03d}" for i in range(30))
    assert len(runs) < 25


def test_an_answer_is_judged_with_the_bundle_it_went_out_under(stage):
    stage.upstream.says(answer([BAD]))
    proxy = stage.proxy()
    engine = proxy.models[MODEL].engine
    calls(stage, proxy, [request(rows=1)])
    engine.activate(Loaded.open(row_bundle(version=2, limit=0.5)))
    calls(stage, proxy, [request(rows=1)])
    found = sorted((e.verdicts.policy.version, e.verdicts.accept.tolist()) for e in stage.decisions)
    assert found == [(1, [False]), (2, [True])]


def test_one_answer_that_cannot_be_read_takes_no_other_with_it(stage):
    proxy = stage.proxy()
    for said in (answer([GOOD]).SerializeToString(), b"\xff\xff", answer([BAD]).SerializeToString()):
        stage.upstream.says(said)
        calls(stage, proxy, [request(rows=1)])
    first, second, third = (e.verdicts for e in stage.decisions)
    assert (first.accept.tolist(), third.accept.tolist()) == ([True], [False])
    assert "not a readable ModelInferResponse" in second.reasons[0][0]


def test_a_record_that_cannot_be_written_takes_no_other_with_it(stage):
    recorder = Recorder(gates=False, fails=lambda name: name == "001")
    proxy = stage.proxy(recorder=recorder)
    calls(stage, proxy, numbered(3))
    proxy.settle()
    assert recorder.recorded == ["000", "002"]
    assert [(e.monitor, e.kind) for e in stage.refusals] == [("toy", "internal")]


def test_when_the_joint_run_fails_each_is_tried_alone(stage, monkeypatch):
    def failing(_loaded, observations):
        raise MemoryError(f"{len(observations)} at once")

    monkeypatch.setattr("demur.monitor.engine.run_together", failing)
    calls(stage, stage.proxy(), numbered(4))
    assert [e.verdicts.accept.tolist() for e in stage.decisions] == [[True, False]] * 4


def test_stopping_judges_what_has_gone_out(stage):
    recorder = Recorder(gates=False)
    proxy = stage.proxy(recorder=recorder)
    calls(stage, proxy, numbered(20))
    proxy.stop()
    assert len(recorder.recorded) == 20


def test_a_full_backlog_makes_the_caller_judge_and_loses_nothing(stage, monkeypatch):
    monkeypatch.setattr("demur.adapters.servers.oip.backlog.Backlog.put", lambda *_: False)
    recorder = Recorder(gates=False)
    calls(stage, stage.proxy(recorder=recorder), numbered(5))
    assert len(recorder.recorded) == 5


def test_a_backlog_is_bounded_and_says_so():
    batches: list[list[int]] = []
    first, go = threading.Event(), threading.Event()

    def judge(items):
        first.set()
        assert go.wait(WAIT)
        batches.append(items)

    backlog = Backlog(judge, linger_seconds=0.0, largest_bytes=100)
    assert backlog.put(0, 60)
    assert first.wait(WAIT)  # it is being judged, and counts still
    assert backlog.put(1, 40)
    assert not backlog.put(2, 1)
    go.set()
    backlog.settle()
    assert backlog.put(3, 100)
    backlog.close()
    assert not backlog.put(4, 1)
    assert [i for batch in batches for i in batch] == [0, 1, 3]


def test_what_takes_long_to_judge_waits_in_small_numbers():
    slow = threading.Event()
    backlog = Backlog(lambda items: slow.wait(0.3 * len(items)), linger_seconds=0.0)
    assert backlog.put(0, 1)
    backlog.settle()
    assert [backlog.put(i, 1) for i in range(1, 9)].count(
        False
    ) >= 2  # of 0.3 s each, a second's work and what is under way
    slow.set()
    backlog.settle()
    assert all(backlog.put(i, 1) for i in range(8))
    backlog.close()


def test_answers_are_judged_by_portions_and_none_is_left_out(stage, monkeypatch):
    monkeypatch.setattr("demur.adapters.servers.oip.judge.TOGETHER_BYTES", 200)
    recorder = Recorder(gates=False)
    proxy = stage.proxy(recorder=recorder)
    calls(stage, proxy, numbered(10))
    proxy.settle()
    assert sorted(recorder.recorded) == [f"{i:03d}" for i in range(10)]


def test_what_is_kept_of_a_request_is_counted_and_its_shapes_are_not_kept_whole():
    many = ModelInferRequest(model_name=MODEL, id="i" * 50_000)
    many.inputs.add(name="image", datatype="FP32", shape=[3, *[1] * 20_000])
    many.inputs.add(name="huge", datatype="FP32", shape=[1] * 1_000_000)
    for i in range(1000):
        many.outputs.add(name=f"o{i}")
    light = messages.asked(many.SerializeToString()).without_message()
    assert [tuple(shape) for shape in light.shapes()] == [(3, *[1] * 15), ()]
    assert light.kept_bytes > 50_000 + 1000 * 100
    loaded = Loaded.open(row_bundle())
    fields = answered(b"\x2a\x00" * 1000)
    assert Sent(light, fields, Plan(), loaded, "").size_bytes > light.kept_bytes + 1000 * 100


def test_the_backlog_outlives_a_batch_that_fails():
    seen: list[list[int]] = []

    def judge(items):
        seen.append(items)
        if items == [0]:
            raise AuditUnavailable("disk full")

    backlog = Backlog(judge, linger_seconds=0.0)
    for i in range(2):
        backlog.put(i, 1)
        backlog.settle()
    backlog.close()
    assert seen == [[0], [1]]


def test_many_threads_put_and_nothing_is_lost():
    taken: list[int] = []
    backlog = Backlog(taken.extend, linger_seconds=0.001, largest_bytes=50)
    refused: list[int] = []

    def put(start: int) -> None:
        refused.extend(i for i in range(start, start + 500) if not backlog.put(i, 1))

    threads = [threading.Thread(target=put, args=(1000 * t,)) for t in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backlog.close()
    assert sorted(taken + refused) == sorted(i for t in range(6) for i in range(1000 * t, 1000 * t + 500))
    assert taken
    assert refused
