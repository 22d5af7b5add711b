"""Rows that two sets share by value: a discrete table shares values by nature, a continuous one does not."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import demur
from demur.monitor.cli.main import app
from demur.monitor.errors import BundleError
from demur.monitor.fit.checks import ContractViolation, check_tables, inspect_tables
from demur.monitor.fit.known_rows import Known
from demur.monitor.fit.pipeline import calibrate
from demur.monitor.fit.repeats import Repeats
from demur.monitor.fit.table import SignalsTable

POLICY = {
    "monitor": "m",
    "signals": {"features": 3},
    "scores": ["ecod"],
    "rules": [{"novel": {"when": "ecod", "promise": {"refuse_good_at_most": 0.05}}}],
}


def discrete(rows: int, seed: int) -> np.ndarray:
    """(rows, 3) counts, most of which stand in a table several times."""
    return np.random.default_rng(seed).poisson(2.5, (rows, 3)).astype(np.float32)


def continuous(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)


def table(features: np.ndarray, **columns: np.ndarray) -> SignalsTable:
    return SignalsTable.from_arrays(features=features, **columns)


def said(reference: SignalsTable, calibration: SignalsTable) -> dict[str, tuple[str, str]]:
    codes = ("shared_rows", "copied_rows")
    return {f.code: (f.level, f.message) for f in inspect_tables(reference, calibration) if f.code in codes}


def test_the_share_of_rows_that_meet_an_equal_one_is_what_draws_give():
    values = np.array([7] * 6 + [3] * 2 + [1, 2, 4, 5], np.uint64)
    held = Repeats.of(values)
    assert (held.rows, held.copies) == (12, 6)
    assert held.met(11) == pytest.approx(8 / 12)  # all others: rows that have an equal one at all
    assert held.met(0) == 0
    for among in (1, 4):
        expected = 0.0
        for value in values:
            others = np.count_nonzero(values == value) - 1
            missed = 1.0
            for _ in range(others):
                missed *= 1 - among / 11
            expected += (1 - missed) / 12
        assert held.met(among) == pytest.approx(expected)
    assert Repeats.of(np.array([1], np.uint64)).met(5) == 0


@pytest.mark.parametrize(("rows", "further"), [(2000, 1000), (300, 1500), (1200, 60)])
def test_two_draws_of_a_discrete_source_are_taken_as_they_are(rows, further):
    for seed in range(10):
        found = said(table(discrete(rows, seed)), table(discrete(further, 100 + seed)))
        assert set(found) == {"shared_rows"}
        assert found["shared_rows"][0] == "warning"
        assert "values repeat inside both sets as often; leave them where they are" in found["shared_rows"][1]


def test_rows_of_the_reference_set_are_found_among_those_that_merely_have_the_same_values():
    ours, theirs = discrete(2000, 1) * 40, discrete(1000, 2) * 40
    for rows, seed in ((ours, 3), (theirs, 4)):
        fine = np.random.default_rng(seed).integers(0, 40, rows.shape)
        rows += np.where(np.arange(len(rows))[:, None] % 3 == 0, 0, fine)  # every third row is coarse
    assert said(table(ours), table(theirs))["shared_rows"][0] == "warning"
    theirs[:300] = ours[:300]
    level, message = said(table(ours), table(theirs))["shared_rows"]
    assert level == "error"
    assert "take these inputs out of the reference set, so that calibration stays a fair draw; an `id`" in message


def test_copies_in_a_continuous_reference_set_excuse_no_shared_row():
    ours = np.tile(continuous(1000, 0), (2, 1))
    theirs = continuous(1000, 1)
    assert said(table(ours), table(theirs)) == {}
    theirs[:3] = ours[:3]
    assert said(table(ours), table(theirs))["shared_rows"][0] == "error"


def test_ids_tell_inputs_of_equal_values_apart():
    ours, theirs = continuous(500, 0), continuous(400, 1)
    theirs[:5] = ours[:5]
    apart = said(table(ours, id=np.arange(500)), table(theirs, id=np.arange(500, 900)))
    assert apart["shared_rows"][0] == "warning"
    assert "because no id is in both" in apart["shared_rows"][1]
    counted = said(table(ours, id=np.arange(500)), table(theirs, id=np.arange(400)))
    assert counted["shared_rows"][0] == "error"
    assert "ids tell nothing, 400 of them are in both tables" in counted["shared_rows"][1]
    text = np.array([f"x{i}" for i in range(400)])
    assert said(table(ours), table(theirs, id=text))["shared_rows"][0] == "error"


def test_copies_inside_the_calibration_set_are_counted():
    reference = table(continuous(2000, 0))
    assert said(reference, table(continuous(400, 1))) == {}
    level, message = said(reference, table(np.tile(continuous(50, 1), (40, 1))))["copied_rows"]
    assert level == "warning"
    assert message.startswith("calibration: 1,950 of 2,000 rows are copies of another row; each counts in n as if")
    copied = said(table(discrete(2000, 0)), table(np.tile(discrete(100, 1), (10, 1))))
    assert "copied_rows" in copied
    assert "copied_rows" not in said(table(discrete(2000, 0)), table(discrete(1000, 1)))
    groups = np.arange(2000) // 4
    assert said(reference, table(np.tile(continuous(50, 1), (40, 1)), group_id=groups)) == {}


def test_calibrate_knows_how_often_values_stood_in_the_reference_set():
    ours, theirs = discrete(1500, 0), discrete(800, 1)
    bundle = demur.fit(POLICY, reference={"features": ours}, calibration={"features": theirs})
    noted = [f for f in bundle.manifest.findings if "shared" in f or "set too" in f]
    assert len(noted) == 1
    again = calibrate(calibrate(bundle, calibration={"features": theirs}), calibration={"features": theirs})
    assert again.manifest.findings == bundle.manifest.findings
    copied = calibrate(bundle, calibration={"features": np.tile(discrete(100, 3), (10, 1))})
    assert [f for f in copied.manifest.findings if "rows are copies" in f]
    fitted = demur.fit(POLICY, reference={"features": continuous(900, 0)}, calibration={"features": continuous(500, 1)})
    with pytest.raises(ContractViolation, match="2 rows are in the reference set too"):
        calibrate(fitted, calibration={"features": np.vstack([continuous(900, 0)[:2], continuous(500, 2)])})


def test_fusions_of_a_discrete_table_can_be_calibrated_again():
    """Fold A and fold B of one discrete table share values, and the fusion learnt from the one."""
    policy = POLICY | {
        "scores": ["ecod", "hbos", {"both": {"type": "failure", "of": ["ecod", "hbos"]}}],
        "rules": [{"novel": {"when": "both", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    rng = np.random.default_rng(5)
    calibration = {"features": discrete(800, 1), "loss": rng.integers(0, 2, 800)}
    bundle = demur.fit(policy, reference={"features": discrete(1500, 0)}, calibration=calibration)
    assert calibrate(bundle, calibration=calibration).manifest.findings == bundle.manifest.findings


def test_outliers_are_no_reference_rows():
    ours = continuous(400, 0)
    arrays = {"reference": {"features": ours}, "calibration": {"features": continuous(300, 1)}}
    with pytest.raises(
        ContractViolation, match=r"outliers: 400 rows are in the reference set too .* out of the outliers set"
    ):
        demur.fit(POLICY, **arrays, outliers={"features": ours})
    with pytest.raises(
        ContractViolation, match=r"outliers: 7 rows are in the calibration set too .* out of the outliers set, so"
    ):
        demur.fit(POLICY, **arrays, outliers={"features": np.vstack([continuous(300, 1)[:7], continuous(50, 9) + 8])})
    demur.fit(POLICY, **arrays, outliers={"features": continuous(50, 9) + 8}, wild={"features": ours[:60]})


def test_a_set_without_the_groups_that_rules_judge_is_refused_by_name():
    policy = POLICY | {
        "rules": [{"novel": {"when": "ecod", "unit": "group", "promise": {"refuse_good_at_most": 0.05}}}]
    }
    ours, theirs = {"features": continuous(400, 0)}, {"features": continuous(300, 1)}
    expected = "calibration: expected group_id because rule novel judges groups, got none; add that column"
    with pytest.raises(demur.DemurError, match=expected):
        demur.fit(policy, reference=ours, calibration=theirs)
    with pytest.raises(demur.DemurError, match=expected):
        demur.fit(policy, reference=ours | {"group_id": np.arange(400) // 2}, calibration=theirs)
    bundle = demur.fit(policy, reference=ours, calibration=theirs | {"group_id": np.arange(300) // 3})
    with pytest.raises(demur.DemurError, match=expected):
        calibrate(bundle, calibration=theirs)


def test_check_tables_takes_a_discrete_pair():
    assert [f.level for f in check_tables(table(discrete(900, 0)), table(discrete(500, 1)))] == ["warning"]


@pytest.mark.parametrize(
    "times",
    [
        np.zeros((2, 0), np.int64),
        np.ones((3, 2), np.int64),
        np.ones(2, np.int64),
        np.array([[1, 2], [3, -1]], np.int64),
        np.array([[1, 2], [3, 1]], np.float64),
        np.full((2, 3), 1 << 40, np.int64),
    ],
)
def test_counts_that_no_rows_give_are_refused(times):
    with pytest.raises(BundleError, match=r"rows/reference_times\.npy: expected \(2, K\) counts of rows"):
        Known.stored({"reference": np.zeros(3, np.uint64), "reference_times": times}, "reference")
    assert Known.stored({"reference": np.zeros(3, np.uint64)}, "reference").repeats is None  # an older bundle


def test_inspect_shows_what_was_said_when_it_was_fitted(tmp_path):
    rows = continuous(60, 1).repeat(10, axis=0)
    demur.fit(POLICY, reference={"features": continuous(900, 0)}, calibration={"features": rows}).save(
        tmp_path / "m.demur"
    )
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.demur")], env={"COLUMNS": "200"}).output
    assert "note  calibration: 540 of 600 rows are copies of another row" in shown


@pytest.mark.parametrize("shape", [lambda rows: rows, lambda rows: np.maximum(rows, 0), np.float16])
def test_copies_of_measured_rows_on_both_sides_are_a_leak(shape):
    """Oversampled and split; exported twice; the same file: values repeat alike in both sets, and no promise would hold."""
    rows = np.asarray(shape(np.random.default_rng(3).normal(size=(300, 12)).astype(np.float32)), np.float32)
    both = np.random.default_rng(4).permutation(rows.repeat(4, axis=0))
    twice = rows.repeat(2, axis=0)
    for reference, calibration in ((both[:600], both[600:]), (twice, twice[::-1]), (twice, twice[:200])):
        assert said(table(reference), table(np.ascontiguousarray(calibration)))["shared_rows"][0] == "error"


def test_a_discrete_table_copied_whole_is_a_leak_too():
    rows = discrete(2000, 0)
    assert said(table(rows), table(rows[::-1].copy()))["shared_rows"][0] == "error"
    assert said(table(rows), table(discrete(2000, 1)))["shared_rows"][0] == "warning"
