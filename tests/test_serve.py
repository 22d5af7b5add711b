"""`demur serve` as a process: everything put together, killed, starved of disk, and asked to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import demur
from demur.detectors.reason import Reason
from demur.monitor.audit.verify import verify_log
from demur.proto.oip import inference_pb2 as oip


@pytest.fixture
def home(tmp_path, bundle):
    bundle.save(tmp_path / "toy.demur")
    return tmp_path


def configuration(home: Path, **sections) -> Path:
    monitor = {"name": "toy", "bundle": str(home / "toy.demur"), **sections.pop("monitor", {})}
    document = {
        "listen": ["127.0.0.1:0"],
        "monitors": [monitor],
        "audit": {"directory": str(home / "audit"), "origin": "test"},
        **sections,
    }
    path = home / "demur.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def serving(path: Path, *, file_bytes: int | None = None):
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path), "--announce"]
    if file_bytes is not None:  # a disk that is full: no file may grow beyond this
        limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes},) * 2); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", limit, *command]
    # No preexec_fn: it would fork this process and gRPC's threads with it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def rows(signals, start, count=1):
    return {n: a[start : start + count] for n, a in signals.items()}


def test_verdicts_are_answered_recorded_counted_and_proved(home, signals):
    path = configuration(home, monitor={"audit": {"ack": "after_sync"}}, metrics_listen="127.0.0.1:0")
    with serving(path) as (process, at), demur.Client(at["listen"][0]) as client:
        local = demur.Monitor.load(home / "toy.demur").assess(**signals)
        verdicts = client.assess(**signals, request_id="r-1", model={"version": "7"})
        assert verdicts.audited
        for name in ("accept", "reason_bits", "rule_hits", "scores", "p_values"):
            np.testing.assert_array_equal(getattr(verdicts, name), getattr(local, name))
        labelled = client.label(sequence=verdicts.sequence, row=3, label="2", correct=False)
        assert labelled > verdicts.sequence
        page = urllib.request.urlopen(f"http://127.0.0.1:{at['metrics']}/metrics").read().decode()
        counted = [
            s for f in text_string_to_metric_families(page) for s in f.samples if s.name == "demur_verdicts_total"
        ]
        assert sum(s.value for s in counted) == len(verdicts)
        assert sum(s.value for s in counted if s.labels["decision"] == "accept") == verdicts.accept.sum()
        gauges = {s.name: s.value for f in text_string_to_metric_families(page) for s in f.samples if not s.labels}
        assert gauges["demur_queue_depth"] == 0
        assert gauges["demur_audit_queued"] == 0
        assert 0 <= gauges["demur_audit_lag"] <= labelled + 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    report = verify_log(home / "audit")
    assert report.ok, report.problems
    assert report.covered == report.size >= 4
    assert report.blocks == 1


def test_killed_at_any_moment_no_acknowledged_verdict_is_lost(home, signals):
    path = configuration(home, monitor={"audit": {"ack": "after_sync", "on_failure": "block"}})
    acknowledged = {}
    for attempt in range(3):
        with serving(path) as (process, at), demur.Client(at["listen"][0], retries=0) as client:
            for i in range(5 + 7 * attempt):
                verdicts = client.assess(monitor="toy", request_id=f"{attempt}-{i}", **rows(signals, i))
                acknowledged[verdicts.sequence] = f"{attempt}-{i}"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            after = client.assess(monitor="toy", **rows(signals, 0))
            assert after.kinds(0) == Reason.UNAVAILABLE
            assert client.failures
    with serving(path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    report = verify_log(home / "audit")
    assert report.ok, report.problems
    out = subprocess.run(
        [
            sys.executable,
            "-m",
            "demur.monitor.cli.main",
            "audit",
            "ls",
            str(home / "audit"),
            "--json",
            "--limit",
            "1000",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {int(r["sequence"]): r["request"] for r in map(json.loads, out.splitlines())}
    assert {s: found[s] for s in acknowledged} == acknowledged


@pytest.mark.parametrize("choice", ["block", "serve_and_count"])
def test_a_full_disk_does_what_the_operator_chose_and_the_server_lives(home, signals, choice):
    path = configuration(
        home, monitor={"audit": {"ack": "after_sync", "on_failure": choice}}, metrics_listen="127.0.0.1:0"
    )
    with (
        serving(path, file_bytes=24_000) as (process, at),
        demur.Client(at["listen"][0], timeout_seconds=10, retries=0) as client,
    ):
        first = client.assess(**rows(signals, 0))
        assert first.audited
        for i in range(120):
            verdicts = client.assess(**rows(signals, i % 64))
            if not verdicts.audited:
                break
        assert not verdicts.audited
        if choice == "block":
            assert verdicts.kinds(0) == Reason.UNAVAILABLE
            assert "audit" in verdicts.cause
        else:
            assert verdicts.kinds(0) & Reason.UNAVAILABLE == 0
            page = urllib.request.urlopen(f"http://127.0.0.1:{at['metrics']}/metrics").read().decode()
            drops = [
                s.value
                for f in text_string_to_metric_families(page)
                for s in f.samples
                if s.name.startswith("demur_audit_drops")
            ]
            assert drops
            assert drops[0] >= 1
        assert client.monitors()[0].ready
        assert process.poll() is None


def test_an_audit_folder_that_cannot_be_written_is_refused_at_start(home):
    path = configuration(home, audit={"directory": "/proc/demur-audit", "origin": "test"})
    done = subprocess.run(
        [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "/proc/demur-audit" in done.stderr
    assert "Traceback" not in done.stderr


class Upstream(grpc.GenericRpcHandler):
    """Answers every ModelInfer with the toy signals."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.answer)


def answer(signals) -> bytes:
    message = oip.ModelInferResponse(model_name="toy-model", model_version="7", id="a")
    for name, array in signals.items():
        message.outputs.add(name=name, datatype="FP32", shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return message.SerializeToString()


@pytest.mark.parametrize("annotate", [False, True])
def test_the_proxy_of_a_served_process_judges_and_forwards(home, signals, annotate):
    part = rows(signals, 0, 5)
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Upstream(answer(part)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    proxy = {
        "listen": "127.0.0.1:0",
        "upstream": f"127.0.0.1:{port}",
        "annotate": annotate,
        "models": {"toy-model": {"monitor": "toy", "signals": {"logits": "logits", "features": "features"}}},
    }
    try:
        with serving(configuration(home, proxy=proxy)) as (process, at), grpc.insecure_channel(at["proxy"]) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            got = call(oip.ModelInferRequest(model_name="toy-model").SerializeToString(), timeout=10)
            want = demur.Monitor.load(home / "toy.demur").assess(**part)
            if annotate:
                told = oip.ModelInferResponse.FromString(got)
                assert json.loads(told.parameters["demur.accept"].string_param) == [bool(a) for a in want.accept]
                assert all(k.startswith("demur.") for k in told.parameters)
            else:
                assert got == answer(part)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        server.stop(0)
    report = verify_log(home / "audit")
    assert report.ok
    assert report.blocks == 1


def test_wrong_configuration_is_refused_in_words(home):
    path = home / "bad.yaml"
    path.write_text("monitors: [{name: toy, bundle: x, modee: observe}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "modee" in done.stderr
    assert "Traceback" not in done.stderr
