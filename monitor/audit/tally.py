"""What was not recorded, counted until a record can say so."""

from __future__ import annotations

import threading
import time

from demur.monitor.audit.record import Record

PAIRS = 256


class Tally:
    """Lost records by monitor and cause. Thread-safe; at most 256 pairs, the rest are counted together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}  # count, time of the first
        self.total = 0

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, monitor: str, cause: str, count: int = 1, since_ns: int = 0) -> None:
        """Count records that will not be in the log."""
        key = (monitor[:64], cause[:200])
        with self._lock:
            if key not in self._counts and len(self._counts) >= PAIRS:
                key = ("", "other monitors and causes")
            before, first = self._counts.get(key, (0, since_ns or time.time_ns()))
            self._counts[key] = (before + count, first)
            self.total += count

    def take(self) -> list[Record]:
        """Drop records for everything counted since the last call; `put_back` when they could not be written."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [
            Record(kind="drop", monitor=monitor, cause=cause, count=count, note=f"since time_ns {first}")
            for (monitor, cause), (count, first) in counts.items()
        ]

    def put_back(self, records: list[Record]) -> None:
        """Undo `take`."""
        for record in records:
            self.add(record.monitor, record.cause, record.count, int(record.note.rpartition(" ")[2]))
            with self._lock:
                self.total -= record.count
