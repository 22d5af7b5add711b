"""Stress sets: what a table becomes, and the command that makes it."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from demur.monitor.cli.main import app
from demur.monitor.config.decoding import Decoding
from demur.monitor.fit.origin import Origin
from demur.monitor.fit.table import SignalsTable, TableError, load_table
from demur.monitor.fit.writing import write_columns
from demur.monitor.perturb import PerturbationError, find
from demur.monitor.perturb.stress import stress_set
from tests.perturb.material import features, images, series, text


def table():
    rng = np.random.default_rng(5)
    head, rows = rng.normal(size=(3, 64)).astype(np.float32), features()
    return {
        "features": rows,
        "logits": (rows @ head.T + 1).astype(np.float32),
        "label": rng.integers(0, 3, 40),
        "loss": rng.integers(0, 2, 40),
        "prediction": rng.integers(0, 3, 40),
        "group_id": np.arange(40) // 4,
        "id": np.array([f"r{i}" for i in range(40)]),
        "head_weight": head,
        "head_bias": np.ones(3, np.float32),
    }


def run(*words):
    return CliRunner().invoke(app, ["perturb", *map(str, words)], env={"COLUMNS": "400"})


def test_rows_once_a_severity_with_what_is_still_true_of_them():
    made = stress_set(table(), find("features", "scale"), [0, 2, 5])
    stress = SignalsTable.from_columns(made.columns)
    assert len(stress) == 120
    assert stress.severity.tolist() == [0] * 40 + [2] * 40 + [5] * 40
    assert stress.eval_only.all()
    assert np.array_equal(stress.label, np.tile(table()["label"], 3))
    assert stress.id[41] == "r1"
    assert made.left_out == ["loss", "prediction"]
    assert np.array_equal(stress.signals["features"][:40], table()["features"])
    assert stress.signals["logits"][:40] == pytest.approx(table()["logits"], rel=1e-4, abs=1e-4)
    assert stress.signals["logits"][80:] == pytest.approx(8 * (table()["logits"] - 1) + 1, rel=1e-3, abs=1e-3)


def test_what_stands_beside_the_rows_stays(tmp_path):
    origin = Origin(Decoding({"detection": {"floor": 0.25}}))
    write_columns(tmp_path / "t.npz", {**table(), "empty_groups": np.array([70, 71]), "_origin": origin.column()})
    done = run(tmp_path / "t.npz", "--as", "features", "--how", "scale", "--severity", 1, "-o", tmp_path / "s.npz")
    assert done.exit_code == 0, done.output
    assert "left out, being of the rows as they were: loss, prediction\n" in done.output
    stress = load_table(tmp_path / "s.npz")
    assert stress.empty_groups.tolist() == [70, 71]
    assert stress.origin.decoding.digest == origin.decoding.digest


def test_signals_of_the_rows_as_they_were_are_left_out_without_a_head():
    columns = {k: v for k, v in table().items() if not k.startswith("head")}
    assert stress_set(columns, find("features", "scale"), [1]).left_out == ["logits", "loss", "prediction"]
    assert "logits" not in stress_set(columns, find("features", "scale"), [1]).columns


def test_the_randomness_belongs_to_the_id():
    entry, columns = find("features", "gaussian_noise"), table()
    order = np.random.default_rng(0).permutation(40)
    mixed = {k: v[order] if len(v) == 40 else v for k, v in columns.items()}
    a, b = (stress_set(c, entry, [3]).columns["features"] for c in (columns, mixed))
    assert a[order] == pytest.approx(b, rel=1e-5, abs=1e-5)


def test_rows_that_are_not_finite_stay_at_severity_0():
    columns = table()
    columns["features"][2, 3] = np.nan
    made = stress_set(columns, find("features", "mix"), [4])
    assert made.unchanged == 1
    assert np.flatnonzero(made.columns["severity"] == 0).tolist() == [2]
    broken = {"features": np.full((3, 2), np.nan)}
    assert stress_set(broken, find("features", "mix"), [4]).unchanged == 3


def test_series_say_what_was_touched():
    made = stress_set({"windows": series(6)}, find("series", "soft_replacement"), [1, 5], column="windows")
    assert made.columns["_touched"].shape == made.columns["windows"].shape == (12, 200, 2)


@pytest.mark.parametrize(
    ("columns", "how", "message"),
    [
        ({"x": np.zeros((2, 2))}, {}, "features: expected this column, got x; name it by --column"),
        ({"features": np.zeros((0, 2))}, {}, "at least one row"),
        ({"features": np.zeros((2, 2)), "label": np.zeros(3)}, {}, "label: expected 2 entries"),
        ({"features": np.zeros((2, 2)), "head_weight": np.zeros((2, 3))}, {}, r"head_weight: expected \(C, 2\)"),
        ({"features": np.zeros((2, 2))}, {"severities": []}, "at least one severity"),
    ],
)
def test_what_is_refused(columns, how, message):
    with pytest.raises(PerturbationError, match=message):
        stress_set(columns, find("features", "scale"), **{"severities": [1]} | how)


@pytest.mark.parametrize("name", ["s.npz", "s.parquet", "s.arrow", "s.feather", "s"])
def test_every_format_is_written_and_read_again(tmp_path, name):
    made = stress_set({k: v for k, v in table().items() if k[:4] != "head"}, find("features", "scale"), [3]).columns
    write_columns(tmp_path / name, made)
    assert load_table(tmp_path / name).digest() == SignalsTable.from_columns(made).digest()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_safetensors_hold_numbers_only_and_nothing_half_written_stays(tmp_path):
    made = stress_set(table(), find("features", "scale"), [3]).columns
    with pytest.raises(TableError, match=r"id: expected numbers for \.safetensors"):
        write_columns(tmp_path / "s.safetensors", made)
    assert list(tmp_path.iterdir()) == []
    made["id"] = np.arange(40)
    write_columns(tmp_path / "s.safetensors", made)
    assert load_table(tmp_path / "s.safetensors").eval_only.all()
    with pytest.raises(TableError, match=r"expected \(40,\) or \(40, width\), got \(3, 64\)"):
        write_columns(tmp_path / "s.parquet", made)
    with pytest.raises(TableError, match=r"expected one of \.npz, "):
        write_columns(tmp_path / "s.csv", made)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.npy").touch()
    with pytest.raises(TableError, match="new or empty folder"):
        write_columns(tmp_path / "full", made)


def test_the_command_writes_what_fit_refuses(tmp_path):
    np.savez(tmp_path / "in.npz", **table())
    said = run(
        tmp_path / "in.npz",
        "--as",
        "features",
        "--how",
        "sign_flip",
        "--severity",
        1,
        "--severity",
        4,
        "-o",
        tmp_path / "out.npz",
    )
    assert said.exit_code == 0, said.output
    assert "severity 4  share of dimensions: 0.25" in said.output
    assert "left out, being of the rows as they were: loss, prediction" in said.output
    made = load_table(tmp_path / "out.npz", {"features": 64, "logits": 3})
    assert made.eval_only.all()
    assert set(made.severity.tolist()) == {1, 4}


@pytest.mark.parametrize(
    ("kind", "rows", "how"), [("images", images(4), "fog"), ("text", text(4), "typos"), ("series", series(4), "stuck")]
)
def test_the_command_takes_every_kind(tmp_path, kind, rows, how):
    np.savez(tmp_path / "in.npz", **{kind: rows, "label": np.arange(4)})
    said = run(tmp_path / "in.npz", "--as", kind, "--how", how, "-o", tmp_path / "out.npz", "--seed", 3)
    assert said.exit_code == 0, said.output
    with np.load(tmp_path / "out.npz") as made:
        expected = find(kind, how)(rows, 3, seed=3).array
        assert np.array_equal(made[kind], expected)
        assert made["label"].tolist() == [0, 1, 2, 3]
        assert made["severity"].tolist() == [3] * 4


def test_the_command_refuses_in_words(tmp_path):
    np.savez(tmp_path / "in.npz", **table())
    said = run(tmp_path / "in.npz", "--as", "images", "--how", "blur", "-o", tmp_path / "o.npz")
    assert isinstance(said.exception, PerturbationError)
    assert "images: expected one of brightness, contrast" in str(said.exception)
    said = run(tmp_path / "in.npz", "--as", "features", "--how", "scale", "--severity", 9, "-o", tmp_path / "o.npz")
    assert "expected a severity from 0 to 5, got 9" in str(said.exception)
    assert not (tmp_path / "o.npz").exists()
