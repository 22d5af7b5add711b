"""A thread that looks at files: bundles, the token."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

LOG = logging.getLogger("demur.service")


class Watcher:
    """Calls `look(force)` every `seconds`, and at once when woken."""

    def __init__(self, look: Callable[[bool], None], seconds: float) -> None:
        self._look, self._seconds = look, seconds
        self._wake = threading.Event()
        self._forced = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demur-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look now, changed or not. Safe to call from a signal handler."""
        self._forced = True
        self._wake.set()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self._seconds)
            self._wake.clear()
            forced, self._forced = self._forced, False
            if self._stopped.is_set():
                return
            try:
                self._look(forced)
            except Exception:  # INVARIANT: the watcher outlives whatever a file does to it
                LOG.exception("looking at files failed")
