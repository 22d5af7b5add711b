"""Refused share over a moving window, computed when somebody looks, from counters that only grow."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 600.0
SPACING_SECONDS = 10.0


class RollingShare:
    """Share of `part` in `whole` over the last ten minutes; remembers one mark every ten seconds at most, 62 in all."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int]] = deque(
            [(0.0, 0, 0)], maxlen=int(WINDOW_SECONDS / SPACING_SECONDS) + 2
        )

    def read(self, now: float, part: int, whole: int) -> float | None:
        """The share, or None when no unit was judged in the window. `now` in seconds, monotonic."""
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= now - WINDOW_SECONDS:
            marks.popleft()
        _, old_part, old_whole = marks[0]
        if now - marks[-1][0] >= SPACING_SECONDS:
            marks.append((now, part, whole))
        return (part - old_part) / (whole - old_whole) if whole > old_whole else None
