"""All measurements of one run, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from demur.monitor.bench import inprocess, proxy, sidecar
from demur.monitor.bench.material import Material, material
from demur.monitor.bundle import Bundle
from demur.monitor.session import environment
from demur.monitor.telemetry import Telemetry, TelemetryConfig

ROWS, CLASSES = (1, 16, 256), (10, 1000)
COMBINATIONS = ((False, False), (True, False), (False, True), (True, True))
TARGETS = {
    "in process, N = 1, C = 1000": "p50 <= 35 µs",
    "in process, N = 256, C = 1000": "<= 2.5 µs a row",
    "sidecar, metrics on, audit off": "p50 and CPU <= 1.3 x a bare echo",
    "proxy, 3 x 224 x 224 inputs": "p50 <= 0.6 ms more and CPU <= 1.35 x a plain pass-through in Python",
    "audit": "<= 40 µs CPU a request more",
}

Note = Callable[[str], None]


def run(*, quick: bool, note: Note) -> dict[str, Any]:
    """Every ratio; `quick` takes fewer repeats and combinations, to see that the measurements run."""
    scale, calls = (0.1, 60) if quick else (1.0, 400)
    rows = (1,) if quick else ROWS
    bundles = []
    for classes in CLASSES:
        note(f"fitting a bundle of {classes} classes")
        bundles.append(material(classes))
    telemetry = Telemetry(TelemetryConfig())
    try:
        note("in process")
        inside = [inprocess.measure(m, n, telemetry, scale) for m in bundles for n in rows]
    finally:
        telemetry.close()
    outside = [
        _sidecar(m, n, metrics, audit, calls, note)
        for m in bundles
        for n in rows
        for metrics, audit in _combinations(n, quick=quick)
    ]
    between = [
        _proxy(m, n, outputs, calls=max(n_calls // (10 if quick else 1), 5), rounds=2 if quick else 15, note=note)
        for m in _judged(note, quick=quick)
        for n, n_calls in proxy.CALLS.items()
        for outputs in ((), ("logits",))
    ]
    return {
        "environment": {**environment(), "numpy": np.__version__},
        "targets": TARGETS,
        "in_process": inside,
        "sidecar": outside,
        "proxy": between,
    }


def _combinations(rows: int, *, quick: bool) -> tuple[tuple[bool, bool], ...]:
    """All four on/off combinations at N = 1; elsewhere the two ends."""
    return COMBINATIONS[-1:] if quick else COMBINATIONS if rows == 1 else ((True, False), (True, True))


def _judged(note: Note, *, quick: bool) -> list[Bundle]:
    classes = proxy.CLASSES[:1] if quick else proxy.CLASSES
    note(f"fitting proxied bundles of {', '.join(map(str, classes))} classes")
    return [proxy.bundle(c) for c in classes]


def _proxy(
    judged: Bundle, rows: int, outputs: tuple[str, ...], *, calls: int, rounds: int, note: Note
) -> dict[str, Any]:
    note(f"proxy: {judged.manifest.monitor}, N = {rows}, outputs named: {', '.join(outputs) or 'none'}")
    return proxy.compare(judged, rows, calls=calls, rounds=rounds, outputs=outputs)


def _sidecar(m: Material, rows: int, metrics: bool, audit: bool, calls: int, note: Note) -> dict[str, Any]:
    note(
        f"sidecar: C = {m.classes}, N = {rows}, metrics {'on' if metrics else 'off'}, audit {'on' if audit else 'off'}"
    )
    return sidecar.compare(m, rows, metrics=metrics, audit=audit, calls=calls)
