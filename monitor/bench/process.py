"""Timing of calls, and CPU seconds of another process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

CPUCLOCK_SCHED = 2  # of the clock ids that the kernel makes of process ids (linux/posix-timers.h)


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
    """User and system CPU seconds that a process has used, its ended threads included (Linux), to the nanosecond."""
    return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
