"""Rows kept for evaluation: read from every format, refused by fit and calibrate, taken by assess."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import demur
from demur.monitor.auto.run import choose
from demur.monitor.cli.main import app
from demur.monitor.fit.checks import ContractViolation, inspect_table, inspect_tables
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.pipeline import calibrate, fit
from demur.monitor.fit.table import SignalsTable, TableError, load_table


@pytest.fixture(scope="module")
def marked(sample):
    def make(rows, seed, where):
        flag = np.zeros(rows, bool)
        flag[list(where)] = True
        return sample(rows, seed) | {"eval_only": flag}

    return make


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint8, np.float32])
def test_a_flag_of_any_number_type_becomes_a_mask(dtype):
    table = SignalsTable.from_arrays(logits=np.eye(3, dtype=np.float32), eval_only=np.array([0, 1, 0], dtype))
    assert table.eval_only.tolist() == [False, True, False]
    assert table.given["eval_only"].dtype == np.int64
    assert table.take([1, 2]).eval_only.tolist() == [True, False]
    assert SignalsTable.from_arrays(logits=np.eye(3, dtype=np.float32)).eval_only is None


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ([0, 2, 0], r"eval_only: expected 0 \(any use\) or 1 \(evaluation only\), got 2"),
        ([0.0, np.nan, 0.0], "expected whole numbers, got nan in row 1"),
        (["yes", "no", "no"], "expected integers"),
        ([0, 1], "expected 3 rows"),
    ],
)
def test_what_is_no_flag_is_refused(flag, message):
    with pytest.raises(TableError, match=message):
        SignalsTable.from_arrays(logits=np.eye(3, dtype=np.float32), eval_only=np.array(flag))


def test_severity_is_a_level_of_at_least_0():
    table = SignalsTable.from_arrays(logits=np.eye(3, dtype=np.float32), severity=np.array([0, 1.0, 5]))
    assert table.severity.tolist() == [0, 1, 5]
    with pytest.raises(TableError, match="levels of at least 0"):
        SignalsTable.from_arrays(logits=np.eye(3, dtype=np.float32), severity=np.array([0, -1, 5]))


def test_a_misspelt_flag_is_not_left_out_in_silence(tmp_path, sample):
    np.savez(tmp_path / "t.npz", **sample(5, 0), eval_onyl=np.ones(5))
    with pytest.raises(TableError, match=r"eval_onyl.*eval_only"):
        load_table(tmp_path / "t.npz", {"logits": 4, "features": 8})


def test_fit_refuses_and_names_the_table_and_the_count(tmp_path, policy, sample, marked):
    path = tmp_path / "stress.npz"
    np.savez(path, **marked(600, 2, [4, 9]))
    with pytest.raises(ContractViolation) as caught:
        fit(policy, reference=sample(500, 1), calibration=path)
    assert f"calibration: 2 of 600 rows of {path} are marked eval_only (rows 4, 9)" in str(caught.value)
    with pytest.raises(ContractViolation, match="reference: 1 of 500 rows of arrays are marked eval_only"):
        fit(policy, reference=marked(500, 1, [0]), calibration=sample(600, 2))


def test_calibrate_refuses_and_assess_takes_them(bundle, marked, tmp_path):
    rows = marked(600, 2, range(600))
    with pytest.raises(ContractViolation, match="600 of 600 rows"):
        calibrate(bundle, calibration=rows)
    bundle.save(tmp_path / "toy.demur")
    verdicts = assess_table(demur.Monitor.load(tmp_path / "toy.demur"), SignalsTable.from_columns(rows))
    assert len(verdicts) == 600


def test_flags_that_are_all_zero_change_nothing(marked):
    table = SignalsTable.from_columns(marked(300, 3, []))
    assert "eval_only" not in {finding.code for finding in inspect_tables(table)}
    every = SignalsTable.from_columns(marked(300, 3, range(300)))
    assert "eval_only" not in {finding.code for finding in inspect_table(every, "evaluation")}


def test_the_commands_say_it(tmp_path, bundle, marked):
    bundle.save(tmp_path / "toy.demur")
    np.savez(tmp_path / "stress.npz", **marked(50, 2, range(50)))
    words = ["calibrate", "toy.demur", "--calibration", "stress.npz", "-o", "x.demur"]
    words = [str(tmp_path / word) if "." in word else word for word in words]
    answer = CliRunner().invoke(app, words)
    assert isinstance(answer.exception, ContractViolation)
    assert not (tmp_path / "x.demur").exists()
    taken = CliRunner().invoke(app, ["assess", str(tmp_path / "toy.demur"), str(tmp_path / "stress.npz")])
    assert taken.exit_code == 0, taken.output


def test_every_format_holds_the_mark(tmp_path, write, marked):
    table = load_table(write(tmp_path, marked(20, 4, [3])))
    assert np.flatnonzero(table.eval_only).tolist() == [3]
    assert table.digest() != SignalsTable.from_columns(marked(20, 4, [])).digest()


def test_nothing_is_chosen_on_them_either(policy, sample, marked):
    plain = {name: policy[name] for name in ("monitor", "signals")} | {
        "rules": [{"novel": {"when": "novelty", "promise": {"refuse_good_at_most": 0.05}}}]
    }
    with pytest.raises(ContractViolation, match="1 of 300 rows of arrays are marked eval_only"):
        choose(plain, reference=sample(400, 1), selection=marked(300, 2, [8]), calibration=sample(300, 3))
