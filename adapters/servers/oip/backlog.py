"""Answers that have gone out already and wait to be judged, many at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

LOG = logging.getLogger("demur.oip")
# Whoever begins to judge finds code and weights gone from the caches, which costs ten times one verdict (0.5 ms): after 10 ms
# of sleep 690 µs for one, 120 each for ten, 72 each for thirty; without the sleep 46 to 54 each.
LINGER_SECONDS = 0.1
LARGEST_BYTES = 32 << 20
LONGEST_SECONDS = 1.0  # about so much work may wait: it is done before a process ends, and no verdict is older
FIRST_ITEMS = 64  # may wait until it is known how long one takes
MOST_ITEMS = (
    512  # what comes meanwhile when calls come as fast as they can; more would wait long if judging became slow
)

T = TypeVar("T")


class Backlog(Generic[T]):
    """A bounded queue with one thread that takes all there is, `linger_seconds` after the first came, and gives it to `judge`.

    Nothing is dropped: who finds it full or closed does the work himself, which slows the calls down to the speed of judging.
    """

    def __init__(
        self,
        judge: Callable[[list[T]], None],
        *,
        linger_seconds: float = LINGER_SECONDS,
        largest_bytes: int = LARGEST_BYTES,
    ) -> None:
        self._judge, self._linger, self._largest = judge, linger_seconds, largest_bytes
        self._waiting: list[T] = []
        self._waiting_bytes = self._taken_bytes = 0
        self._most = FIRST_ITEMS
        self._busy = False
        self._change = threading.Condition()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="demur-backlog", daemon=True)
        self._thread.start()

    def put(self, item: T, size_bytes: int) -> bool:
        """Whether the item was taken; False when the caller is to judge it himself."""
        with self._change:
            if self._closed:
                return False
            held = self._waiting_bytes + self._taken_bytes
            if held + size_bytes > self._largest or len(self._waiting) >= self._most:
                self._hurry.set()
                return False
            self._waiting.append(item)
            self._waiting_bytes += size_bytes
            if len(self._waiting) == 1:
                self._change.notify_all()
        return True

    def settle(self) -> None:
        """Wait until everything that was put before is judged."""
        self._hurry.set()
        with self._change:
            self._change.wait_for(lambda: not (self._waiting or self._busy))

    def close(self) -> None:
        """Take nothing more; returns when everything is judged."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._hurry.set()
        self._thread.join()

    def _run(self) -> None:
        while items := self._taken():
            began = perf_counter()
            try:
                self._judge(items)
            except Exception:  # INVARIANT: the thread outlives whatever happens to one batch
                LOG.exception("judging %d answers that had gone out failed", len(items))
            each = (perf_counter() - began) / len(items)
            with self._change:
                self._most = max(1, int(min(MOST_ITEMS, LONGEST_SECONDS / max(each, 1e-9))))
                self._busy, self._taken_bytes = False, 0
                self._change.notify_all()

    def _taken(self) -> list[T]:
        """All that waits, as soon as there is some; nothing once closed and empty."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
        self._hurry.wait(self._linger)
        with self._change:
            if not self._closed:
                self._hurry.clear()
            items, self._waiting = self._waiting, []
            self._taken_bytes, self._waiting_bytes = self._waiting_bytes, 0
            self._busy = bool(items)
        return items
