"""How much work the server takes at once: a few requests scored, a few waiting, the rest refused at the door."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from demur.monitor.errors import Draining, Overloaded


class Admission:
    """Counts what is inside. Thread-safe.

    `running` requests are scored at once; `queue` more may wait; `streams` AssessStream calls may be open, because each
    keeps a thread of the server.
    """

    def __init__(self, running: int, queue: int, streams: int) -> None:
        self._running, self._limit, self._streams_limit = running, running + queue, streams
        self._slots = threading.Semaphore(running)
        self._change = threading.Lock()
        self._inside = self._streams = 0
        self._draining = False

    @property
    def inside(self) -> int:
        """Requests being scored or waiting."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Requests waiting for a place to be scored."""
        return max(0, self._inside - self._running)

    @contextmanager
    def request(self, limit: float | None) -> Iterator[None]:
        """A place for one request; waits for it until `limit` (on `perf_counter`'s clock) at most.

        When the time is up it goes on without one: nothing is scored past a limit, and the engine says so in verdicts.
        Raises: Overloaded, Draining.
        """
        self._enter()
        held = False
        try:
            held = self._slots.acquire(timeout=None if limit is None else max(0.0, limit - perf_counter()))
            yield
        finally:
            if held:
                self._slots.release()
            self._leave()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """A place for one frame of a stream: it waits instead of being refused, and the caller feels it as back-pressure.

        Raises: Draining.
        """
        self._enter(bounded=False)
        try:
            with self._slots:
                yield
        finally:
            self._leave()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A place for one AssessStream call. Raises: Overloaded, Draining."""
        self.check_open()
        with self._change:
            if self._streams >= self._streams_limit:
                raise Overloaded(
                    f"{self._streams_limit} AssessStream calls are open, which is the limit; send many token streams over one call"
                )
            self._streams += 1
        try:
            yield
        finally:
            with self._change:
                self._streams -= 1

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    def _enter(self, *, bounded: bool = True) -> None:
        self.check_open()
        with self._change:
            if bounded and self._inside >= self._limit:
                raise Overloaded(
                    f"{self._inside} requests are running or waiting, which is the limit; try again shortly, or raise limits.threads or limits.queue"
                )
            self._inside += 1

    def _leave(self) -> None:
        with self._change:
            self._inside -= 1

    def check_open(self) -> None:
        """Raises: Draining."""
        if self._draining:
            raise Draining("this server is shutting down and takes no new work; send it to another one")
