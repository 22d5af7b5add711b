"""The client: the same verdicts as in process when all is well, ABSTAIN(UNAVAILABLE) with a cause whenever it is not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest

from demur.detectors.reason import Reason
from demur.monitor.client.client import Client
from demur.monitor.client.failure import Unreachable
from demur.monitor.errors import BundleError, ConfigurationError, InvalidObservation, UnknownMonitor
from demur.monitor.monitor import Monitor
from demur.monitor.verdicts import Action
from demur.proto.v1 import monitor_pb2 as pb
from tests.service.bundles import BAD, GOOD, group_bundle, row_bundle, stream_bundle
from tests.service.test_reload import eventually

NOWHERE = "127.0.0.1:1"


def test_verdicts_are_those_of_the_process(start, client):
    bundle = row_bundle()
    server = start({"toy": bundle})
    logits = np.array([GOOD, BAD, [np.nan, 0, 0, 0]], np.float32)
    here = Monitor.of(bundle).assess(logits=logits)
    with client(server.addresses[0]) as asking:
        there = asking.assess(logits=logits)
        assert asking.failures == {}
    for name in ("accept", "reason_bits", "rule_hits", "pooled", "scores", "p_values", "actions"):
        assert getattr(here, name).tobytes() == getattr(there, name).tobytes(), name
    assert list(there.reasons) == list(here.reasons)
    assert 'rule "weak" refuses at p <= 0.05' in there.reasons[1][0]
    assert (there.policy.version, there.policy.bundle) == (1, bundle.digest)


def test_groups(start, client):
    bundle = group_bundle()
    asking = client(start({"toy": bundle}).addresses[0])
    arguments = {"logits": [GOOD, BAD, GOOD], "group_id": [70, -5, 70], "groups": [-5, 9, 70]}
    here, there = Monitor.of(bundle).assess(**arguments), asking.assess(**arguments)
    assert there.group_ids.tolist() == here.group_ids.tolist() == [-5, 9, 70]
    assert there.groups.accept.tolist() == [False, False, True]
    assert list(there.groups.reasons) == list(here.groups.reasons)


def test_a_unix_socket_and_many_threads(start, client, tmp_path):
    server = start(listen=[f"unix:{tmp_path}/s.sock"])
    asking, odd = client(server.addresses[0]), []

    def ask(number: int) -> None:
        for turn in range(30):
            good = (number + turn) % 2 == 0
            if asking.assess(logits=[GOOD if good else BAD]).accept.tolist() != [good]:
                odd.append((number, turn))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not odd
    assert asking.failures == {}


@pytest.mark.parametrize("on_failure", ["block", "pass"])
def test_nobody_there(client, on_failure):
    verdicts = client(NOWHERE, on_failure=on_failure, timeout_seconds=0.5).assess(logits=[GOOD, BAD])
    assert not verdicts.accept.any()
    assert verdicts.reason_bits.tolist() == [int(Reason.UNAVAILABLE)] * 2
    assert verdicts.actions.tolist() == [Action.BLOCK if on_failure == "block" else Action.NONE] * 2
    assert "UNAVAILABLE: unreachable:" in verdicts.reasons[0][0]
    assert len(verdicts) == 2


FAILURES = {
    "unknown monitor": ({"monitor": "tao", "logits": [GOOD]}, "unknown_monitor", "did you mean 'toy'"),
    "wrong width": ({"monitor": "toy", "logits": [[1.0]]}, "invalid", "expected (N, 4)"),
    "wrong name": ({"monitor": "toy", "logit": [GOOD]}, "invalid", "no such signal"),
    "broken monitor": ({"monitor": "broken", "logits": [GOOD]}, "bundle", "no usable bundle"),
    "no time": ({"monitor": "toy", "logits": [GOOD], "timeout_seconds": 0.0}, "deadline", "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_refusal_is_unavailable_and_counted(start, client, tmp_path, case):
    arguments, code, words = FAILURES[case]
    (tmp_path / "broken.demur").write_bytes(b"")
    asking = client(start({"toy": row_bundle(), "broken": tmp_path / "broken.demur"}).addresses[0])
    verdicts = asking.assess(**arguments)
    assert verdicts.reason_bits.tolist() == [int(Reason.UNAVAILABLE)]
    assert words in verdicts.cause
    assert asking.failures == {code: 1}
    assert asking.assess(monitor="toy", logits=[GOOD]).accept.all()


def test_overload_is_repeated_within_the_deadline_and_then_given_up(start, client, monkeypatch):
    from demur.monitor.errors import Overloaded

    server = start()
    engine, turns = server.registry.get("toy").engine, []
    assess = engine.assess

    def busy(*args, **options):
        turns.append(1)
        if len(turns) < 3:
            raise Overloaded("busy")
        return assess(*args, **options)

    monkeypatch.setattr(engine, "assess", busy)
    assert client(server.addresses[0]).assess(logits=[GOOD]).accept.all()
    assert len(turns) == 3
    turns.clear()
    impatient = client(server.addresses[0], retries=0)
    assert not impatient.assess(logits=[GOOD]).accept.any()
    assert (len(turns), impatient.failures) == (1, {"overloaded": 1})


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unreachable"),
        (grpc.StatusCode.INTERNAL, "internal"),
        (grpc.StatusCode.UNKNOWN, "refused"),
        (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        (grpc.StatusCode.CANCELLED, "cancelled"),
        (grpc.StatusCode.DATA_LOSS, "refused"),
    ],
)
def test_what_may_have_been_judged_is_not_repeated(impostor, client, status, code):
    asked = []

    def refuse(_raw, context):
        asked.append(1)
        context.abort(status, "Socket closed")

    asking = client(impostor(refuse))
    assert not asking.assess(logits=[GOOD]).accept.any()
    assert (len(asked), asking.failures) == (1, {code: 1})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xff",
        pb.AssessResponse(rows=pb.Verdicts(count=1, accept=b"\x01", reasons=[1])).SerializeToString(),
        pb.AssessResponse(rows=pb.Verdicts(count=2, accept=b"\x01\x01", reasons=[0, 0])).SerializeToString(),
        pb.AssessResponse(rows=pb.Verdicts(count=1, accept=b"\x01", reasons=[0], columns=["a"])).SerializeToString(),
        pb.AssessResponse(rows=pb.Verdicts(count=1, accept=b"\x01")).SerializeToString(),
    ],
)
def test_a_bad_answer_accepts_nothing(impostor, client, answer):
    asking = client(impostor(lambda _raw, _context: answer))
    verdicts = asking.assess(logits=[GOOD])
    assert verdicts.reason_bits.tolist() == [int(Reason.UNAVAILABLE)]
    assert sum(asking.failures.values()) == 1


def test_a_server_that_never_answers_costs_the_timeout_and_no_more(impostor, client):
    gate = threading.Event()
    asking = client(impostor(lambda _raw, _context: gate.wait(20) and b""), timeout_seconds=0.2)
    began = time.monotonic()
    assert not asking.assess(logits=[GOOD]).accept.any()
    assert time.monotonic() - began < 2
    assert asking.failures == {"deadline": 1}
    gate.set()


def test_a_server_that_comes_back_is_used_again(start, client):
    server = start()
    address = server.addresses[0]
    asking = client(address, timeout_seconds=1)
    assert asking.assess(logits=[GOOD]).accept.all()
    server.stop()
    lost = asking.assess(logits=[GOOD])
    assert lost.reason_bits.tolist() == [int(Reason.UNAVAILABLE)]
    assert lost.policy.bundle == server.registry.get("toy").engine.loaded.bundle.digest
    start(listen=[address])
    eventually(lambda: asking.assess(logits=[GOOD]).accept.all(), 10)


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_an_outage_blocks_only_where_the_monitor_enforces(start, client, mode):
    server = start(monitor={"mode": mode})
    asking = client(server.addresses[0])
    asking.assess(logits=[GOOD])
    server.stop()
    verdicts = asking.assess(logits=[GOOD], timeout_seconds=0.3)
    assert not verdicts.accept.any()
    assert verdicts.actions.tolist() == [Action.BLOCK if mode == "enforce" else Action.NONE]


@pytest.mark.parametrize(
    "arguments",
    [
        {"logits": GOOD},
        {"logits": np.array([["a"] * 4])},
        {"logits": np.ones((1, 4), np.int64)},
        {"logits": [GOOD], "features": np.ones((2, 3), np.float32)},
        {"logits": np.ones((0, 4), np.float32)},
        {},
        {"logits": [GOOD], "group_id": [1, 2]},
        {"logits": [GOOD], "ids": ["a", "b"]},
        {"logits": np.ma.masked_greater([GOOD], -np.inf)},
        {"logits": [GOOD], "model": {"colour": "red"}},
    ],
)
def test_local_misuse_is_an_error_of_the_caller(client, arguments):
    asking = client(NOWHERE)
    with pytest.raises(InvalidObservation):
        asking.assess(**arguments)
    assert asking.failures == {}


def test_configuration_that_cannot_work():
    for options in ({"client_cert": "a"}, {"client_cert": "a", "client_key": "b"}, {"tls_ca": "/nonexistent/ca.pem"}):
        with pytest.raises(ConfigurationError):
            Client(NOWHERE, **options)
    with pytest.raises(ValueError, match="block or pass"):
        Client(NOWHERE, on_failure="open")


def test_a_closed_client_abstains(start):
    asking = Client(start().addresses[0])
    asking.close()
    assert not asking.assess(logits=[GOOD]).accept.any()


def test_monitors_and_labels(start, client):
    class Sink:
        def label(self, label):
            return label.sequence + 1

    asking = client(start(options={"label_sink": Sink()}).addresses[0])
    (found,) = asking.monitors()
    assert (found.name, found.ready, found.signals, found.policy.rules[0].name) == ("toy", True, {"logits": 4}, "weak")
    assert asking.label(sequence=4, row=1, label="7", correct=False) == 5
    with pytest.raises(InvalidObservation):
        asking.label(sequence=0)
    with pytest.raises(UnknownMonitor):
        asking.label(sequence=1, monitor="tao")
    with pytest.raises(BundleError):
        client(start().addresses[0]).label(sequence=1)
    with pytest.raises(Unreachable):
        client(NOWHERE, timeout_seconds=0.3).monitors()


def test_a_token_stream(start, client):
    server = start({"talk": stream_bundle()})
    asking = client(server.addresses[0])
    with asking.stream() as calm, asking.stream("talk") as wild:
        for step in range(4):
            assert calm.step(token_logprob=[[-0.5]]).accept.all()
            assert wild.step(token_logprob=[[-9.0 if step else -0.5]]).accept.all() == (step == 0)
        assert (calm.steps, server.registry.get("talk").live_streams) == (4, 2)
        with pytest.raises(InvalidObservation):
            calm.step(token_logprob=[-0.5])
    eventually(lambda: server.registry.get("talk").live_streams == 0)
    assert "closed" in calm.step(token_logprob=[[-0.5]]).cause
    assert asking.failures == {"stream_lost": 1}


def test_a_step_that_is_lost_leaves_a_hole_to_the_end(start, client):
    server = start({"talk": stream_bundle()})
    asking = client(server.addresses[0])
    with asking.stream() as stream:
        assert stream.step(token_logprob=[[-0.5]]).accept.all()
        server.stop()
        for _ in range(2):
            verdicts = stream.step(token_logprob=[[-0.5]])
            assert verdicts.reason_bits.tolist() == [int(Reason.UNAVAILABLE)]
    start({"talk": stream_bundle()}, listen=server.addresses)

    def again() -> bool:
        with asking.stream() as fresh:
            return bool(fresh.step(token_logprob=[[-0.5]]).accept.all())

    eventually(again, 10)


def test_demur_and_monitor_import_no_transport():
    loaded = "import sys, demur; demur.Monitor; print(*[m for m in sys.modules if m.split('.')[0] == 'grpc' or m.startswith('demur.proto')])"
    assert (
        subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True).stdout.strip() == ""
    )
