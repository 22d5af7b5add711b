"""Many rows go through a graph in parts, to the same bits; groups stay whole."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.compile import compile_monitor, compile_scores, serialize
from demur.detectors.policy import Column
from demur.monitor.session import MOST_ROWS, PART_ROWS, Session
from tests.contract.entries import WIDTHS, entries, near

COUNTS = (MOST_ROWS, MOST_ROWS + 1, 4 * PART_ROWS, 4 * PART_ROWS + 3)


@pytest.mark.parametrize("count", COUNTS)
def test_parts_give_the_bits_of_the_whole(count):
    scores = {n: entries()[n].score for n in ("energy", "mahalanobis", "knn", "ecod")}
    session = Session(serialize(compile_scores(scores, WIDTHS)))
    feed = {n: a for n, a in near(count).items() if n in session.inputs}
    feed["features"] = feed["features"].copy()
    feed["features"][count - 1, 0] = np.nan
    (found,) = session.run_columns(feed)
    np.testing.assert_array_equal(found, session._call(["scores"], feed, None)[0])
    assert np.isnan(found[-1]).any()
    assert list(session.run(feed)) == ["scores"]


def test_groups_are_never_cut():
    score = entries()["energy"].score
    table = np.sort(np.random.default_rng(0).normal(size=50)).astype(np.float32)
    columns = [Column("energy@max", "energy", "group", "max", calibration=(table,))]
    session = Session(serialize(compile_monitor({"energy": score}, columns, [], WIDTHS)))
    count = MOST_ROWS * 2
    feed = {"logits": near(count)["logits"], "group_id": np.arange(count) % 3, "group_count": np.array([3])}
    assert session.run(feed)["group_scores"].shape == (3, 1)
