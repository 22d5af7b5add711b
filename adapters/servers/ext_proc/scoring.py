"""Judging in time: a few threads, a bounded queue, and an answer when the time is up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from time import perf_counter
from typing import TypeVar

from demur.monitor.errors import Overloaded

LOG = logging.getLogger("demur.ext_proc")
T = TypeVar("T")


class NotInTimeError(Exception):
    """The work goes on, its result comes too late."""


class Scoring:
    """`threads` at work, `queue` more waiting."""

    def __init__(self, threads: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "demur-ext-proc-score")
        self._places = threading.BoundedSemaphore(threads + queue)
        self._limit = threads + queue

    def run(self, work: Callable[[], T], deadline: float | None) -> T:
        """What `work` returns. `deadline` on `time.perf_counter`'s clock; None waits, for a place too.

        Raises: NotInTimeError, Overloaded when no place is free, and what `work` raises.
        """
        if not self._places.acquire(blocking=deadline is None):
            raise Overloaded(f"{self._limit} answers are being judged or wait, which is the limit; raise limits.queue")
        try:
            future: Future[T] = self._pool.submit(work)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        try:
            return future.result(None if deadline is None else max(0.0, deadline - perf_counter()))
        except Late as error:
            if future.done():
                return future.result()  # just in time, or the work itself timed out on something
            raise NotInTimeError("not in time: judging took longer than budget_ms") from error

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
