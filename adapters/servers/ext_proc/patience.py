"""Exchanges that stand still, ended so that their places are free."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

LOOKS = 10  # at all exchanges, in the shortest patience
SELDOM_SECONDS = 1.0


@dataclass(eq=False)
class Waiting:
    """One exchange; it is given up at `until`, on `time.monotonic`'s clock."""

    context: Any
    until: float
    given_up: bool = False

    def wait(self, seconds: float) -> None:
        """From now on, so long at most."""
        self.until = monotonic() + seconds


class Patience:
    """Cancels calls whose time is up: a handler that waits for a message of its call has no clock of its own.

    One thread looks at all of them; `shortest` is the shortest time that anyone waits.
    """

    def __init__(self, shortest: float) -> None:
        self._pause = min(SELDOM_SECONDS, shortest / LOOKS)
        self._waiting: set[Waiting] = set()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="demur-ext-proc-patience", daemon=True)
        self._thread.start()

    @contextmanager
    def over(self, context: Any, seconds: float) -> Iterator[Waiting]:
        """Watch over a call until the block ends."""
        found = Waiting(context, monotonic() + seconds)
        with self._lock:
            self._waiting.add(found)
        try:
            yield found
        finally:
            with self._lock:
                self._waiting.discard(found)

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._pause):
            now = monotonic()
            with self._lock:
                late = [w for w in self._waiting if w.until <= now and not w.given_up]
            for waiting in late:
                waiting.given_up = True
                waiting.context.cancel()
