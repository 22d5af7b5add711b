"""Timing of calls, and CPU seconds of another process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

TICKS = os.sysconf("SC_CLK_TCK")


def microseconds(call: Callable[[], object], repeats: int, rounds: int = 5) -> dict[str, float]:
    """p50 and p99 wall time and mean CPU time of a call in this thread, in µs: the quietest of `rounds` rounds."""
    for _ in range(min(repeats, 200)):
        call()
    best: dict[str, float] = {}
    for _ in range(rounds):
        cpu, times = thread_time(), np.empty(repeats)
        for i in range(repeats):
            began = perf_counter()
            call()
            times[i] = perf_counter() - began
        found = {
            "p50": float(np.median(times)) * 1e6,
            "p99": float(np.percentile(times, 99)) * 1e6,
            "cpu": (thread_time() - cpu) / repeats * 1e6,
        }
        best = found if not best or found["p50"] < best["p50"] else best
    return best


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds that a process has used (Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
