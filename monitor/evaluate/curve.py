"""A curve as exact vertices, thinned for a report without moving any of those that stay."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_VERTICES = 400
TOLERANCE = 1e-3  # of a unit square: less than half a pixel in the report's plots


@dataclass(frozen=True, eq=False)
class Curve:
    """Vertices (V,) float64: x ascending, y, and the threshold that gives each (+inf: before the first unit)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    threshold: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    def thinned(self, most: int = MOST_VERTICES, tolerance: float = TOLERANCE) -> Curve:
        """At most `most` of the vertices, ends included; fewer when the rest lies within `tolerance` of the lines between.

        The vertex farthest from the lines drawn so far is added until one of the two holds (Douglas and Peucker 1973,
        best first).
        """
        keep = self.kept(most, tolerance)
        return Curve(self.x[keep], self.y[keep], self.threshold[keep])

    def kept(self, most: int, tolerance: float) -> NDArray[np.int64]:
        """The places of the vertices that stay, ascending."""
        last = len(self) - 1
        if last < 1:
            return np.arange(len(self))
        chosen, waiting = [0, last], [self._farthest(0, last)]
        while len(chosen) < most and waiting:
            distance, middle, first, end = heapq.heappop(waiting)
            if -distance <= tolerance:
                break
            chosen.append(middle)
            for part in ((first, middle), (middle, end)):
                heapq.heappush(waiting, self._farthest(*part))
        return np.array(sorted(set(chosen)), np.int64)

    def _farthest(self, first: int, end: int) -> tuple[float, int, int, int]:
        """(minus the distance, place, first, end) of the vertex between two others that lies farthest from their line."""
        if end - first < 2:
            return 0.0, first, first, end
        x, y = self.x[first : end + 1] - self.x[first], self.y[first : end + 1] - self.y[first]
        length = float(np.hypot(x[-1], y[-1]))
        apart = np.abs(x * y[-1] - y * x[-1]) / length if length > 0 else np.hypot(x, y)
        place = int(apart.argmax())
        return -float(apart[place]), first + place, first, end
