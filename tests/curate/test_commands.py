"""`demur curate`: every command on a small table, its report, and its refusals."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from demur.detectors.selection import select_bank
from demur.monitor.cli.main import app
from demur.monitor.curate import CurationError, choose_outliers, label_noise, veracity
from demur.monitor.curate.report import softmax


def run(*words):
    return CliRunner().invoke(app, ["curate", *map(str, words)], env={"COLUMNS": "300"})


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 120)
    features = (np.eye(4, 6)[truth] * 3 + 0.5 * rng.normal(size=(120, 6))).astype(np.float32)
    label = truth.copy()
    label[[5, 50]] = (label[[5, 50]] + 1) % 4
    columns = {
        "features": features,
        "logits": (2 * features[:, :4]).astype(np.float32),
        "dose": (features @ np.arange(6.0) + 0.1 * rng.normal(size=120)).astype(np.float32)[:, None],
        "label": label,
        "slice": np.array(["a", "b"])[rng.integers(0, 2, 120)],
        "id": np.array([f"r{i}" for i in range(120)]),
    }
    columns["dose"][7] += 40
    np.savez(tmp_path / "t.npz", **columns)
    return columns


def test_labels_are_reported_and_left_where_they_are(tmp_path, table):
    before = (tmp_path / "t.npz").read_bytes()
    said = run("labels", tmp_path / "t.npz", "-o", tmp_path / "r.json")
    assert said.exit_code == 0, said.output
    assert "2 of 120 rows: labels that disagree" in said.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert [row["id"] for row in found["rows"] if row["flagged"]] == ["r5", "r50"]
    expected = label_noise(table["features"], softmax(table["logits"].astype(np.float64)), table["label"])
    assert [row["score"] for row in found["rows"]] == pytest.approx(expected.score)
    assert (tmp_path / "t.npz").read_bytes() == before


def test_responses(tmp_path, table, monkeypatch):
    monkeypatch.setattr(sys.modules["demur.monitor.curate.veracity"], "SHARES", ())  # a fit of each share takes long
    said = run("responses", tmp_path / "t.npz", "--response", "dose", "-o", tmp_path / "r.npz", "--show", 1)
    assert said.exit_code == 0, said.output
    with np.load(tmp_path / "r.npz") as found:
        assert found["score"] == pytest.approx(veracity(table["features"], table["dose"]).risk)
        assert np.argmax(np.abs(found["response"] - found["expected"])) == 7


def test_outliers_and_bank(tmp_path, table):
    said = run(
        "outliers", tmp_path / "t.npz", "--size", 12, "--clusters", 4, "--risk", "dose", "-o", tmp_path / "o.npz"
    )
    assert said.exit_code == 0, said.output
    with np.load(tmp_path / "o.npz") as found:
        expected = choose_outliers(table["features"], table["dose"], 12, clusters=4)
        assert np.array_equal(np.flatnonzero(found["flagged"]), expected)
    assert run("outliers", tmp_path / "t.npz", "--size", 12, "--clusters", 4).exit_code == 0
    said = run("bank", tmp_path / "t.npz", "--size", 9, "--method", "balanced", "-o", tmp_path / "b.parquet")
    assert said.exit_code == 0, said.output
    assert "9 of 120 rows: rows chosen" in said.output
    import pyarrow.parquet as pq

    found = pq.read_table(tmp_path / "b.parquet").to_pydict()
    chosen = select_bank(table["features"], 9, "balanced", 0, table["label"])
    assert np.array_equal(np.flatnonzero(found["flagged"]), chosen)
    assert np.array(found["score"])[chosen] == pytest.approx(0)


def test_contamination_says_its_prior(tmp_path):
    rng = np.random.default_rng(1)
    rows = np.concatenate(
        [rng.normal(size=(380, 2)), rng.normal(size=(20, 2)) + 9 * rng.choice([-1, 1], (20, 2))]
    ).astype(np.float32)
    np.savez(tmp_path / "t.npz", features=rows)
    said = run("contamination", tmp_path / "t.npz", "-o", tmp_path / "r.npz")
    assert said.exit_code == 0, said.output
    assert "under the prior that 0.15 or more has probability 0.01" in said.output
    with np.load(tmp_path / "r.npz") as found:
        assert found["flagged"][380:].mean() > 0.8
        assert found["flagged"][:380].mean() < 0.05


def test_anomalies(tmp_path):
    rng = np.random.default_rng(2)
    sets = {"normal": rng.normal(size=(60, 2)), "known": rng.normal(loc=[2, 0], scale=0.3, size=(6, 2))}
    sets["made"] = np.array([[2.0, 0], [900, 900]])
    for name, rows in sets.items():
        np.savez(tmp_path / f"{name}.npz", features=rows)
    words = [
        "anomalies",
        tmp_path / "made.npz",
        "--normals",
        tmp_path / "normal.npz",
        "--known",
        tmp_path / "known.npz",
    ]
    said = run(*words, "--subsets", 10, "-o", tmp_path / "r.npz")
    assert said.exit_code == 0, said.output
    with np.load(tmp_path / "r.npz") as found:
        assert found["flagged"].tolist() == [0, 1]
        assert found["posterior"][1] == pytest.approx(6 / 66)


def test_columns(tmp_path, table):
    said = run("columns", tmp_path / "t.npz", "--target", "label")
    assert said.exit_code == 0, said.output
    first = [line.split()[0] for line in said.output.splitlines()[1:]]
    assert first[0] == "prediction"
    assert set(first) == {"prediction", "loss", "slice", "dose"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["labels", "t.npz", "--features", "pixels"], "pixels: expected this signal, got features, logits, dose"),
        (["columns", "t.npz", "--target", "severity"], "severity: expected one of dose, label"),
        (["responses", "t.npz", "--response", "logits"], r"response: expected (120,)"),
        (["bank", "t.npz", "--size", 0], "size of at least 1"),
    ],
)
def test_refusals_in_words(tmp_path, table, words, message):
    said = run(words[0], tmp_path / words[1], *words[2:])
    assert said.exit_code == 1
    assert message in str(said.exception)


def test_labels_need_labels(tmp_path):
    np.savez(tmp_path / "t.npz", features=np.ones((9, 2)), logits=np.ones((9, 2)))
    assert "label: expected this column, got none" in str(run("labels", tmp_path / "t.npz").exception)
    assert isinstance(run("labels", tmp_path / "t.npz").exception, CurationError)
