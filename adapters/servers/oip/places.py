"""Who may wait for the server: one model that hangs must leave places for the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

KEPT = 4  # one place of so many is kept from a single kind of call


class CrowdedError(Exception):
    """One kind of call holds its whole share; the message says how many."""


class Places:
    """Of `total` calls at once, those of one kind (a model's inferences, say) may be three quarters. Thread-safe."""

    def __init__(self, total: int) -> None:
        self._most = total - total // KEPT
        self._held: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one(self, kind: Hashable) -> Iterator[None]:
        """Hold a place for a call of this kind. Raises: CrowdedError when none is left for it."""
        with self._lock:
            if self._held[kind] >= self._most:
                raise CrowdedError(f"{self._most} such calls wait for upstream already; try again")
            self._held[kind] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[kind] -= 1
                if not self._held[kind]:
                    del self._held[kind]  # kinds are named by clients
