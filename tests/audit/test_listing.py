"""`demur audit ls`: what clients and servers chose is shown as it is."""

from pathlib import Path

from typer.testing import CliRunner

from demur.monitor.audit import Record
from demur.monitor.cli.main import app

from .conftest import Opener


def test_identifiers_and_causes_are_neither_markup_nor_control_of_the_terminal(tmp_path: Path, opened: Opener):
    log = opened(tmp_path / "log")
    cause = "[bold]upstream[/bold] said " + "x" * 80
    log.append(Record(kind="verdict", monitor="m", rows=1, request="[/red]\x1b[2J\x07id", cause=cause)).wait(10)
    log.close()
    answer = CliRunner().invoke(app, ["audit", "ls", str(log.directory)], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    assert "[/red]\ufffd[2J\ufffdid" in answer.output
    assert "\x1b" not in answer.output
    assert cause[:59] + "…" in answer.output
