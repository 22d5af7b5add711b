"""`demur bundle activate` refuses what the server would refuse, before it installs anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from demur.monitor.bundle import activation, succession
from demur.monitor.bundle.succession import LastServed
from demur.monitor.cli.main import app
from tests.service.bundles import row_bundle
from tests.service.test_restart import other_bundle


def activate(bundle, folder: Path, *options: str):
    bundle.save(folder / "given.demur")
    command = ["bundle", "activate", str(folder / "given.demur"), str(folder / "hot.demur"), *options]
    return CliRunner().invoke(app, command, env={"COLUMNS": "400"})


@pytest.fixture(params=["bundle", "note", "both"])
def hot(request, tmp_path):
    """Version 5 of `toy` at the path, as a bundle, as what a server noted, or as both."""
    if request.param != "note":
        row_bundle(5).save(tmp_path / "hot.demur")
    if request.param != "bundle":
        succession.remember(tmp_path / "hot.demur", LastServed("any", 5, "toy"))
    return tmp_path


def held(folder: Path) -> bytes | None:
    path = folder / "hot.demur"
    return path.read_bytes() if path.exists() else None


def test_a_lower_version_is_refused_and_nothing_is_installed(hot):
    before = held(hot)
    told = activate(row_bundle(4), hot)
    assert told.exit_code == 1
    assert "version 4 is lower than version 5" in str(told.exception or told.output)
    assert "--allow-rollback" in str(told.exception or told.output)
    assert held(hot) == before
    assert activation.read(hot / "hot.demur") is None


def test_with_leave_it_is_installed_and_the_leave_names_it(hot):
    older = row_bundle(4)
    told = activate(older, hot, "--allow-rollback", "--reason", "5 refuses too much")
    assert told.exit_code == 0, told.output
    assert held(hot) == older.encode()
    leave = json.loads(activation.path_for(hot / "hot.demur").read_bytes())
    assert (leave["digest"], leave["reason"]) == (older.digest, "5 refuses too much")


@pytest.mark.parametrize("options", [(), ("--allow-rollback",)])
@pytest.mark.parametrize("version", [4, 5, 6])
def test_another_monitors_bundle_is_refused_with_leave_too(hot, options, version):
    before = held(hot)
    told = activate(other_bundle(version), hot, *options)
    assert told.exit_code == 1
    assert "expected a bundle of the monitor toy, got one of other" in str(told.exception or told.output)
    assert held(hot) == before
    assert activation.read(hot / "hot.demur") is None


@pytest.mark.parametrize("version", [5, 6])
def test_the_same_and_a_newer_version_are_installed(hot, version):
    assert activate(row_bundle(version), hot).exit_code == 0
    assert held(hot) == row_bundle(version).encode()


def test_a_wrong_bundle_that_was_copied_there_does_not_keep_the_right_one_out(tmp_path):
    succession.remember(tmp_path / "hot.demur", LastServed("any", 5, "toy"))
    other_bundle(9).save(tmp_path / "hot.demur")
    assert activate(row_bundle(6), tmp_path).exit_code == 0
    (tmp_path / "hot.demur").write_bytes(b"no bundle")
    assert activate(row_bundle(6), tmp_path).exit_code == 0
    assert held(tmp_path) == row_bundle(6).encode()


def test_an_empty_place_takes_any_bundle(tmp_path):
    assert activate(row_bundle(1), tmp_path).exit_code == 0
    (tmp_path / "hot.demur").write_bytes(b"no bundle")
    assert activate(row_bundle(1), tmp_path).exit_code == 0
