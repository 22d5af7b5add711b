"""A sidecar beside a bare echo of the same payload, measured in turns: p50 of serial calls and server CPU a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import grpc

from demur.monitor.bench.echo import METHOD, OPTIONS
from demur.monitor.bench.material import Material
from demur.monitor.bench.process import cpu_seconds, resident_bytes

THREADS = 2
ASSESS = "/demur.v1.MonitorService/Assess"


@dataclass
class Peer:
    """A server process and a call to it."""

    process: subprocess.Popen[str]
    call: Callable[[bytes], bytes]
    settle_seconds: float = 0.0  # after the calls, for work that the server does when they have been answered

    def timed(self, payload: bytes, calls: int) -> tuple[float, float]:
        """Median µs and server CPU µs of a call."""
        before, times = cpu_seconds(self.process.pid), []
        for _ in range(calls):
            began = perf_counter()
            self.call(payload)
            times.append(perf_counter() - began)
        sleep(self.settle_seconds)
        return median(times) * 1e6, (cpu_seconds(self.process.pid) - before) / calls * 1e6


@contextmanager
def echo() -> Iterator[Peer]:
    """A bare gRPC server with as many threads."""
    command = [sys.executable, "-m", "demur.monitor.bench.echo", str(THREADS)]
    with started(command) as (process, line):
        with grpc.insecure_channel(f"127.0.0.1:{int(line)}", options=OPTIONS) as channel:
            yield Peer(process, channel.unary_unary(METHOD))


@contextmanager
def sidecar(material: Material, *, metrics: bool, audit: bool) -> Iterator[Peer]:
    """`demur serve` on this bundle, traces unsampled."""
    with TemporaryDirectory() as folder:
        config = _configuration(material, Path(folder), metrics=metrics, audit=audit)
        with (
            started(
                [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(config), "--announce"]
            ) as (process, line),
            grpc.insecure_channel(json.loads(line)["listen"][0], options=OPTIONS) as channel,
        ):
            yield Peer(process, channel.unary_unary(ASSESS))


def payload(material: Material, rows: int) -> bytes:
    """A serialised AssessRequest of this many rows."""
    from demur.proto.v1 import monitor_pb2 as pb

    batch = material.batch(rows)
    tensor = pb.Tensor(name="logits", datatype="FP32", shape=batch.shape, raw=batch.tobytes())
    return bytes(pb.AssessRequest(monitor=material.bundle.manifest.monitor, signals=[tensor]).SerializeToString())


def compare(
    material: Material, rows: int, *, metrics: bool, audit: bool, calls: int, rounds: int = 5
) -> dict[str, Any]:
    """The sidecar's p50 and CPU over the echo's: medians of the ratios of rounds taken in turns."""
    body = payload(material, rows)
    with echo() as bare, sidecar(material, metrics=metrics, audit=audit) as judged:
        for peer in (bare, judged):
            peer.timed(body, calls // 2)
        pairs = [(bare.timed(body, calls), judged.timed(body, calls)) for _ in range(rounds)]
        memory = resident_bytes(judged.process.pid)
    return {
        "classes": material.classes,
        "rows": rows,
        "metrics": metrics,
        "audit": audit,
        "p50_ratio": round(median(j[0] / b[0] for b, j in pairs), 2),
        "cpu_ratio": round(median(j[1] / max(b[1], 1e-9) for b, j in pairs), 2),
        "echo_microseconds": {
            "p50": round(median(b[0] for b, _ in pairs), 1),
            "cpu": round(median(b[1] for b, _ in pairs), 1),
        },
        "sidecar_microseconds": {
            "p50": round(median(j[0] for _, j in pairs), 1),
            "cpu": round(median(j[1] for _, j in pairs), 1),
        },
        "resident_megabytes": round(memory / 1e6),
    }


def _configuration(material: Material, folder: Path, *, metrics: bool, audit: bool) -> Path:
    material.bundle.save(folder / "bench.demur")
    document: dict[str, Any] = {
        "listen": ["127.0.0.1:0"],
        "monitors": [{"name": material.bundle.manifest.monitor, "bundle": str(folder / "bench.demur")}],
        "limits": {"threads": THREADS},
    }
    if metrics:
        document["metrics_listen"] = "127.0.0.1:0"
    if audit:
        document["audit"] = {"directory": str(folder / "audit")}
    path = folder / "demur.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with these environment variables added, and the first line it wrote."""
    process = subprocess.Popen(  # noqa: S603  our own interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert process.stdout is not None and process.stdin is not None  # noqa: S101, PT018
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command[1:4])} did not start; run it by hand to see why")
        yield process, line
    finally:
        process.terminate()
        process.communicate(timeout=30)
