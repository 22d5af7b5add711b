"""Something made from a file, such as connections that trust an authority: made anew when the file changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

from demur.monitor.errors import ConfigurationError

LOG = logging.getLogger("demur.oip")
LOOK_SECONDS = 1.0  # between two looks at the file
T = TypeVar("T")


class Lease(Generic[T]):
    """One making of it. The last of its users to let go of a replaced one closes it. Thread-safe."""

    def __init__(self, held: T, close: Callable[[T], None]) -> None:
        self.held = held
        self._close, self._lock = close, threading.Lock()
        self._users, self._replaced = 0, False

    def take(self) -> bool:
        """Use it; False when it was replaced meanwhile."""
        with self._lock:
            self._users += not self._replaced
            return not self._replaced

    def let_go(self) -> None:
        """After `take`."""
        with self._lock:
            self._users -= 1
            over = self._replaced and not self._users
        if over:
            self._close(self.held)

    def replace(self) -> None:
        """No new users come."""
        with self._lock:
            over = not self._replaced and not self._users
            self._replaced = True
        if over:
            self._close(self.held)


class Renewed(Generic[T]):
    """What `make` makes, again whenever the file at `path` changes; without a path made once. A file that cannot be used
    keeps the last good one. Raises: what `make` raises, at first.
    """

    def __init__(self, path: Path | None, make: Callable[[], T], close: Callable[[T], None]) -> None:
        self._path, self._make, self._close = path, make, close
        self._lock = threading.Lock()
        self._seen, self._next = self._stamp(), monotonic() + LOOK_SECONDS
        self._lease = Lease(make(), close)

    def lease(self) -> Lease[T]:
        """Taken; `let_go` of it at the end."""
        if self._path is not None and monotonic() >= self._next:
            self._look()
        while not (found := self._lease).take():
            pass  # replaced between two lines
        return found

    def close(self) -> None:
        """Close it now, whoever uses it."""
        self._close(self._lease.held)

    def _look(self) -> None:
        with self._lock:
            self._next = monotonic() + LOOK_SECONDS
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            try:
                before, self._lease = self._lease, Lease(self._make(), self._close)
            except ConfigurationError as error:
                LOG.error("keeping what was good: %s", error)  # noqa: TRY400  the message says it all
                return
        before.replace()

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            said = self._path.stat()
        except OSError:
            return None
        return said.st_ino, said.st_mtime_ns, said.st_size
