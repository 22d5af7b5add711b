"""One served process, two monitors, one of token streams; its numbers and spans arrive at an OTLP collector."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import demur
from demur.detectors.reason import Reason
from demur.monitor.audit.verify import verify_log
from tests.telemetry.receiver import Receiver, numbers

GOLDEN = Path(__file__).parent / "golden"


def step(token_logprob):
    top = np.array([[-0.7, -1.7, -2.7, -3.7, -4.7]], np.float32)
    return {
        "token_logprob": np.array([[token_logprob]], np.float32),
        "topk_logprobs": top,
        "topk_mask": np.ones((1, 5), np.float32),
    }


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_rows_and_streams_side_by_side_counted_traced_and_recorded(tmp_path, receiver):
    for name in ("sliced.demur", "stream.demur"):  # a server leaves a note beside what it serves
        shutil.copy(GOLDEN / name, tmp_path)
    document = {
        "listen": ["127.0.0.1:0"],
        "monitors": [
            {"name": "rows", "bundle": str(tmp_path / "sliced.demur")},
            {"name": "tokens", "bundle": str(tmp_path / "stream.demur")},
        ],
        "audit": {"directory": str(tmp_path / "audit"), "origin": "test"},
        "telemetry": {"otlp_endpoint": receiver.endpoint, "trace_ratio": 1.0, "metrics_interval_seconds": 0.2},
    }
    path = tmp_path / "demur.yaml"
    path.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path), "--announce"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            at = json.loads(process.stdout.readline())
            with demur.Client(at["listen"][0], timeout_seconds=10) as client:
                assert {m.name: m.kind for m in client.monitors()} == {"rows": "rows", "tokens": "stream"}
                assert len(client.assess(monitor="rows", logits=np.zeros((3, 4), np.float32))) == 3
                with client.stream("tokens") as calm, client.stream("tokens") as wild:
                    for _ in range(4):
                        gentle, harsh = calm.step(**step(-1.0)), wild.step(**step(-40.0))
                    assert not gentle.reason_bits[0] & (Reason.UNAVAILABLE | Reason.INVALID)
                    assert harsh.kinds(0) & Reason.NOVEL
                    assert harsh.scores[0, 0] == pytest.approx(40.0)
                    assert gentle.scores[0, 0] == pytest.approx(1.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    verdicts = receiver.metrics["demur.verdicts"]
    assert sum(numbers(verdicts).values()) == 3 + 2 * 4
    assert len([s for s in receiver.spans if s.name == "demur.assess"]) == 1 + 2 * 4
    report = verify_log(tmp_path / "audit")
    assert report.ok, report.problems
    assert report.blocks == 1 + 2 * 4
