"""Many rows go through a graph in parts, to the same bits; groups stay whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from demur.detectors.compile import compile_monitor, compile_scores, serialize
from demur.detectors.policy import Column
from demur.detectors.scores.logit import MaxLogit
from demur.monitor.session import LANE_WIDTH, MOST_ROWS, PART_ROWS, Session
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


def policy_session():
    scores = {n: entries()[n].score for n in ("energy", "mahalanobis")}
    table = np.sort(np.random.default_rng(0).normal(size=50)).astype(np.float32)
    return Session(serialize(compile_monitor(scores, [Column(n, n, calibration=(table,)) for n in scores], [], WIDTHS)))


def rows_of(session, count):
    signals = {n: a.copy() for n, a in near(count).items() if n in session.inputs}
    signals["logits"][count // 2, 1] = np.nan
    return [{n: a[i : i + 1] for n, a in signals.items()} for i in range(count)]


def test_one_row_in_bound_buffers_gives_the_bits_of_a_plain_call():
    session = policy_session()
    rows = rows_of(session, 9)
    found = [session.run_columns(row) for row in rows]
    assert session._lanes.lane is not None
    for row, columns in zip(rows, found, strict=True):
        for got, want in zip(columns, session._call(session._names, row, None), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    strided = {n: np.repeat(a, 2, axis=1)[:, ::2] for n, a in rows[0].items()}
    for got, want in zip(session.run_columns(strided), found[0], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("copied", ["inputs", "outputs"])
def test_a_runtime_that_copies_what_it_binds_is_called_by_name(monkeypatch, copied):
    """Bound buffers would then give one verdict for ever."""
    import onnxruntime

    real, count = onnxruntime.OrtValue.ortvalue_from_numpy, iter(range(99))
    session = policy_session()
    part = range(len(session.inputs)) if copied == "inputs" else range(len(session.inputs), 99)

    def binding(array):
        return real(np.zeros_like(array) if next(count) in part else array)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", staticmethod(binding))
    for row in rows_of(session, 5):
        for got, want in zip(session.run_columns(row), session._call(session._names, row, None), strict=True):
            np.testing.assert_array_equal(got, want)
    assert next(count) > len(session.inputs)  # a lane was made, and refused


def test_threads_do_not_share_bound_buffers():
    session = policy_session()
    rows = rows_of(session, 8)
    want = [session.run_columns(row)[0] for row in rows]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            for got, expected in zip(pool.map(lambda row: session.run_columns(row)[0], rows), want, strict=True):
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bound", [False, True])
def test_what_does_not_fit_the_bound_buffers_is_answered_as_without_them(bound):
    session = policy_session()
    row = rows_of(session, 1)[0]
    if bound:
        session.run_columns(row)
    for wrong, message in (
        ({**row, "more": row["logits"]}, "Invalid input name: more"),
        ({**row, "logits": row["logits"].astype(np.float64)}, "Unexpected input data type"),
        ({**row, "logits": row["logits"][:, :-1]}, "Got invalid dimensions for input: logits"),
    ):
        with pytest.raises(Exception, match=message):
            session.run_columns(wrong)
    two = {n: np.concatenate([a, a]) for n, a in row.items()}
    assert len(session.run_columns(two)[0]) == 2


def test_wide_rows_are_not_copied_into_buffers():
    score = MaxLogit()
    for width, bound in ((LANE_WIDTH, True), (LANE_WIDTH + 1, False)):
        session = Session(serialize(compile_scores({"max_logit": score}, {"logits": width})))
        session.run_columns({"logits": np.ones((1, width), np.float32)})
        assert hasattr(session._lanes, "lane") is bound
