"""Signs that rows are sorted, or come in groups nobody declared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.columns import float32
from demur.monitor.fit.finding import Finding, warning
from demur.monitor.fit.table import SignalsTable

FEWEST_ROWS = 50
RUN_RATIO = 2.0  # mean run of equal labels against that of shuffled rows
PAIRS = 1024
NEAR = 0.1  # of the median distance between rows of the table
NEAR_SHARE = 0.2
SEED = 20_261_124


def check_order(table: SignalsTable, role: str) -> list[Finding]:
    """Warnings for long runs of equal labels, or neighbouring rows much closer than other rows; none with group ids."""
    if table.group_id is not None or len(table) < FEWEST_ROWS:
        return []
    found = label_runs(table, role)
    return found or [finding for name in table.signals for finding in near_neighbours(table, name, role)][:1]


def label_runs(table: SignalsTable, role: str) -> list[Finding]:
    """A warning when runs of equal labels are more than twice as long as in shuffled rows."""
    if table.label is None:
        return []
    label = table.label
    counts = np.unique(label, return_counts=True)[1]
    n = len(label)
    shuffled = 1 + n - float((counts / n * counts).sum())  # expected number of runs
    runs = 1 + int(np.count_nonzero(label[1:] != label[:-1]))
    if len(counts) == 1 or runs * RUN_RATIO > shuffled:
        return []
    message = (
        f"{role}: labels come in runs of {n / runs:.1f} rows, shuffled rows would give {n / shuffled:.1f}; "
        "if rows belong together (an image, a video, a patient) add group_id, otherwise shuffle them"
    )
    return [warning("sorted_rows", message)]


def near_neighbours(table: SignalsTable, name: str, role: str) -> list[Finding]:
    """A warning when many neighbouring rows nearly coincide and rows picked at random do not."""
    array, n = table.signals[name], len(table)
    rng = np.random.default_rng(SEED)
    start = np.sort(rng.choice(n - 1, min(PAIRS, n - 1), replace=False))
    here, after = float32(array[start]), float32(array[start + 1])
    other = here[rng.permutation(len(here))]
    apart, distance = _distances(here, other), _distances(here, after)
    if not len(apart) or not len(distance):
        return []
    scale = float(np.median(apart[apart > 0])) if (apart > 0).any() else 0.0
    near, by_chance = float((distance <= NEAR * scale).mean()), float((apart <= NEAR * scale).mean())
    if scale == 0.0 or near < NEAR_SHARE or near < 3 * by_chance:
        return []
    message = (
        f"{role}: in {name}, {near:.0%} of neighbouring rows nearly coincide, of random pairs {by_chance:.0%}; "
        "they look like frames or boxes of one scene: add group_id, or promises count the same evidence many times"
    )
    return [warning("grouped_rows", message)]


def _distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Root mean squares of the differences, over the cells that both rows have."""
    with np.errstate(invalid="ignore"):
        squares = (a.astype(np.float64) - b) ** 2
    there = np.isfinite(squares)
    counts = there.sum(axis=1)
    distance = np.sqrt(np.where(there, squares, 0.0).sum(axis=1) / np.maximum(counts, 1))
    return np.asarray(distance[counts > 0], np.float64)
