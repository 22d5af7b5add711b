"""The proxy beside a plain gRPC pass-through in Python: p50 and CPU of a call with images in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np

from demur.monitor.bench.material import logits
from demur.monitor.bench.process import resident_bytes
from demur.monitor.bench.relay import METHOD, OPTIONS
from demur.monitor.bench.sidecar import Peer, started
from demur.monitor.bundle import Bundle

MODEL = "resnet"
CLASSES, FEATURES, ROWS_A_CLASS = (100, 1000), 512, 16
SCORES = ("msp", "energy", "vim", "mahalanobis")
IMAGE = (3, 224, 224)
CALLS = {1: 300, 32: 20}
SETTLE_SECONDS = 0.3  # an answer in observe mode goes out first, and is judged a tenth of a second later
# What the chart sets and `demur doctor` advises: messages beyond 128 kB do not go back to the kernel each time.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


def bundle(classes: int, features: int = FEATURES) -> Bundle:
    """Four scores on logits and features, fitted on synthetic ones."""
    from demur.monitor.fit.pipeline import fit

    policy = {
        "monitor": "bench-proxy",
        "signals": {"logits": classes, "features": features},
        "scores": list(SCORES),
        "rules": [{"novel": {"when": "vim", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    head = np.random.default_rng(0).normal(0, 1, (classes, features)).astype(np.float32)
    given = {"head_weight": head, "head_bias": np.zeros(classes, np.float32)}
    return fit(
        policy,
        reference={**_table(max(classes * ROWS_A_CLASS, 4096), head, 1), **given},
        calibration=_table(1024, head, 2),
    )


def _table(rows: int, head: Any, seed: int) -> dict[str, Any]:
    values, label = logits(rows, len(head), seed)
    noise = np.random.default_rng(seed).normal(0, 1, (rows, head.shape[1]))
    return {"logits": values, "features": (head[label] + noise).astype(np.float32), "label": label}


def request(rows: int, outputs: tuple[str, ...] = ()) -> bytes:
    """A ModelInferRequest with `rows` images (3, 224, 224) FP32."""
    from demur.proto.oip.inference_pb2 import ModelInferRequest

    message = ModelInferRequest(model_name=MODEL, id="1")
    message.inputs.add(name="image", datatype="FP32", shape=(rows, *IMAGE))
    message.raw_input_contents.append(np.zeros((rows, *IMAGE), np.float32).tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    return bytes(message.SerializeToString())


def answer(rows: int, table: dict[str, Any]) -> bytes:
    """A ModelInferResponse with logits and features of calibration-like rows."""
    from demur.proto.oip.inference_pb2 import ModelInferResponse

    message = ModelInferResponse(model_name=MODEL, model_version="1", id="1")
    for name in ("logits", "features"):
        values = table[name][:rows]
        message.outputs.add(name=name, datatype="FP32", shape=values.shape)
        message.raw_output_contents.append(values.tobytes())
    return bytes(message.SerializeToString())


def compare(
    judged: Bundle, rows: int, *, calls: int, rounds: int = 15, outputs: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The proxy's p50 and CPU beside the pass-through's, and beside one that only adds an output to each request: medians over
    rounds taken in turns.
    """
    body = request(rows, outputs)
    with peers(judged, rows) as (plain, adding, proxy):
        for peer in (plain, adding, proxy):
            peer.timed(body, max(calls // 2, 5))
        turns = [(plain.timed(body, calls), adding.timed(body, calls), proxy.timed(body, calls)) for _ in range(rounds)]
        memory = resident_bytes(proxy.process.pid)
    pairs = [(p, j) for p, _, j in turns]
    return {
        "classes": next(s.width for s in judged.manifest.signals if s.name == "logits"),
        "rows": rows,
        "request_megabytes": round(len(body) / 1e6, 1),
        "outputs_named": list(outputs),
        "p50_more_milliseconds": round(median(j[0] - p[0] for p, j in pairs) / 1e3, 3),
        "cpu_ratio": round(median(j[1] / max(p[1], 1e-9) for p, j in pairs), 2),
        "adding_p50_more_milliseconds": round(median(a[0] - p[0] for p, a, _ in turns) / 1e3, 3),
        "adding_cpu_ratio": round(median(a[1] / max(p[1], 1e-9) for p, a, _ in turns), 2),
        "plain_milliseconds": _milliseconds([p for p, _ in pairs]),
        "proxy_milliseconds": _milliseconds([j for _, j in pairs]),
        "resident_megabytes": round(memory / 1e6),
    }


@contextmanager
def peers(judged: Bundle, rows: int) -> Iterator[tuple[Peer, Peer, Peer]]:
    """A plain pass-through, one that adds bytes to each request, and the proxy, in front of one server that answers at once."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        widths = {s.name: s.width for s in judged.manifest.signals}
        table = _table(rows, np.zeros((widths["logits"], widths["features"]), np.float32), 3)
        target = stack.enter_context(answering(answer(rows, table), folder))
        relays = [stack.enter_context(started(_relay(kind, target), **MALLOC)) for kind in ("relay", "adding")]
        judging = stack.enter_context(proxying(judged, folder, target))
        first, second, third = (
            Peer(process, stack.enter_context(_channel(line.strip())).unary_unary(METHOD), SETTLE_SECONDS)
            for process, line in (*relays, judging)
        )
        yield first, second, third


@contextmanager
def answering(content: bytes, folder: Path) -> Iterator[str]:
    """The address of a server that gives this answer to every request."""
    (folder / "answer.bin").write_bytes(content)
    with started(_relay("answers", str(folder / "answer.bin"))) as (_, line):
        yield line.strip()


@contextmanager
def proxying(judged: Bundle, folder: Path, target: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`demur serve` with a proxy in front of `target`: its process and the proxy's address."""
    configuration = _configuration(judged, folder, target)
    command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--announce", "--config", str(configuration)]
    with started(command, **MALLOC) as (process, line):
        yield process, json.loads(line)["proxy"]


def _configuration(judged: Bundle, folder: Path, upstream: str) -> Path:
    judged.save(folder / "bench.demur")
    name = judged.manifest.monitor
    document = {
        "listen": ["127.0.0.1:0"],
        "monitors": [{"name": name, "bundle": str(folder / "bench.demur")}],
        "metrics_listen": "127.0.0.1:0",
        "proxy": {"listen": "127.0.0.1:0", "upstream": upstream, "models": {MODEL: {"monitor": name}}},
    }
    path = folder / "demur.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, OPTIONS)


def _relay(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "demur.monitor.bench.relay", *arguments]


def _milliseconds(times: list[tuple[float, float]]) -> dict[str, float]:
    return {"p50": round(median(t[0] for t in times) / 1e3, 2), "cpu": round(median(t[1] for t in times) / 1e3, 2)}
