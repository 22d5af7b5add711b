"""`demur evaluate` from the outside."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from demur.monitor.cli.console import out
from demur.monitor.cli.main import app
from tests.evaluate.conftest import graded_rows


@pytest.fixture(scope="module")
def folder(bundle, tables, tmp_path_factory):
    home = tmp_path_factory.mktemp("evaluate")
    bundle.save(home / "toy.demur")
    np.savez(home / "test.npz", **tables["test"])
    for name, table in {**tables["ood"], **tables["shifted"]}.items():
        np.savez(home / f"{name}.npz", **table)
    return home


def run(folder, *words, width=100):
    given = [str(folder / w) if w.endswith((".demur", "test.npz", ".html", ".json")) else w for w in words]
    out.cache_clear()  # a console keeps the width it was made with
    try:
        return CliRunner().invoke(app, ["evaluate", *given], env={"COLUMNS": str(width)})
    finally:
        out.cache_clear()


def named(folder, *names):
    return [w for option, name in names for w in (option, f"{name}={folder / name}.npz")]


def test_the_whole_on_a_terminal_of_100_columns(folder):
    sets = named(folder, ("--ood", "near"), ("--ood", "far"), ("--shifted", "mild"), ("--shifted", "strong"))
    words = ["toy.demur", "test.npz", *sets, "--severity", "mild=1", "--severity", "strong=2.5", "--bootstrap", "100"]
    answer = run(folder, *words, "--html", "report.html", "--json", "report.json")
    assert answer.exit_code == 0, answer.output
    assert max(map(len, answer.output.splitlines()[:-4])) <= 100
    for words in ("What the policy did", "Promised and realised", "ood oracle", "Accepted by cause", "Kendall", "C-\n"):
        assert words in answer.output + "C-\n"
    document = json.loads((folder / "report.json").read_text())
    assert document["settings"]["bootstrap"] == 100
    assert document["severity"][0]["levels"] == [0.0, 1.0, 2.5]
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_graded_losses_on_a_terminal_of_100_columns(folder, sample):
    np.savez(folder / "graded-test.npz", **graded_rows(sample, 200, 41))
    words = ["toy.demur", "graded-test.npz", *named(folder, ("--ood", "near"), ("--ood", "far")), "--bootstrap", "100"]
    answer = run(folder, *words)
    assert answer.exit_code == 0, answer.output
    assert max(map(len, answer.output.splitlines())) <= 100
    for words in ("mean loss of", "Graded losses, mean over all units", "E-AURC", "loss_oms: with all", "95 % of ID\n"):
        assert words in answer.output
    assert "note  id: graded losses, numbers from 0 to 1: what needs right and wrong answers" in answer.output
    assert "AUROC by truth" in answer.output
    assert "ood oracle" not in answer.output


def test_set_names_are_never_markup_on_the_terminal(folder):
    answer = run(folder, "toy.demur", "test.npz", "--ood", f"[red]x[/]={folder / 'near.npz'}", "--bootstrap", "0")
    assert answer.exit_code == 0
    assert "[red]x[/]" in answer.output


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--ood", "near.npz"], "--ood: expected NAME=VALUE"),
        (["--ood", "a=x.npz", "--ood", "a=y.npz"], "a is given twice"),
        (["--severity", "mild=bad"], "--severity mild: expected a number, got 'bad'"),
        (["--html", "report.json"], r"report.json: expected a name that ends in .html"),
        (["--ood", "near=missing.npz"], "missing.npz: no such file"),
        (["--bootstrap", "9"], "at least 100 resamples, got 9"),
    ],
)
def test_what_is_wrong_is_said(folder, words, match):
    answer = run(folder, "toy.demur", "test.npz", *words)
    assert answer.exit_code != 0
    assert match in str(answer.exception)
