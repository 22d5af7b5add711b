"""Calibration runs the graph in batches small enough for graphs that hold many numbers a row."""

from __future__ import annotations

import numpy as np
import pytest

from demur.monitor.fit.scoring import parts, score_rows
from demur.monitor.fit.table import SignalsTable

MOST_ROWS = 1024


class Recorded:
    """A session that scores rows by their first feature."""

    inputs = ("features",)

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, feed):
        self.sizes.append(len(feed["features"]))
        return {"scores": feed["features"][:, :1]}


def test_batches_are_small_and_keep_the_order():
    rows = np.random.default_rng(0).normal(size=(5_000, 3)).astype(np.float32)
    session = Recorded()
    found = score_rows(session, SignalsTable.from_arrays(features=rows))["scores"]
    np.testing.assert_array_equal(found, rows[:, :1])
    assert max(session.sizes) <= MOST_ROWS


@pytest.mark.parametrize("groups", [1, 3, 700, 4_999])
def test_no_batch_cuts_a_group(groups):
    group = np.random.default_rng(1).integers(groups, size=5_000)
    seen = list(parts(5_000, group))
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(5_000))
    inside = [set(group[rows]) for rows in seen]
    assert sum(map(len, inside)) == len(set(group))
