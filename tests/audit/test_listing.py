"""`demur audit ls`: what clients and servers chose is shown as it is."""

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from demur.monitor.audit import Record
from demur.monitor.audit.keys import generate
from demur.monitor.cli import console
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


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch):
    """Nobody says how wide a line may be."""
    monkeypatch.delenv("COLUMNS", raising=False)
    console.out.cache_clear()
    yield
    console.out.cache_clear()


def run(*command: str | Path):
    return CliRunner().invoke(app, ["audit", *map(str, command)])


def refused(*command: str | Path) -> str:
    answer = run(*command)
    assert answer.exit_code == 1
    return str(answer.exception)


@pytest.mark.usefixtures("pipe")
def test_in_a_pipe_every_record_has_one_whole_line(tmp_path: Path, opened: Opener):
    log = opened(tmp_path / "log")
    note = json.dumps({"label": "7", "reviewer": "ana", "note": "x" * 200})
    log.append(Record(kind="label", monitor="m", target="0/0", request="r" * 100, note=note)).wait(10)
    log.close()
    lines = run("ls", log.directory).output.splitlines()
    assert len(lines) == 4
    assert note in lines[2]
    assert "r" * 100 in lines[2]


def test_a_kind_or_reason_that_does_not_exist_is_refused(small: Path):
    assert "--kind lable: did you mean label? expected one of verdict, stream" in refused(
        "ls", small, "--kind", "lable"
    )
    assert "--reason NOVL: did you mean NOVEL?" in refused("ls", small, "--reason", "NOVL")
    assert "--reason row:NOVEL: " in refused("ls", small, "--reason", "row:NOVEL")
    for kind in ("verdict", "stream", "refused", "label", "review", "drop", "recovery", "bundle", "start", "stop"):
        assert run("ls", small, "--kind", kind).exit_code == 0


def test_reasons_of_rows_and_groups_are_found_in_any_case(tmp_path: Path, opened: Opener):
    log = opened(tmp_path / "log")
    log.append(Record(kind="verdict", request="rowwise", rows=1, reasons={"NOVEL": 1}))
    log.append(Record(kind="verdict", request="groupwise", rows=1, reasons={"group:NOVEL": 1})).wait(10)
    log.close()
    for reason, request in (("novel", "rowwise"), ("Group:novel", "groupwise")):
        found = [
            json.loads(line)["request"]
            for line in run("ls", log.directory, "--json", "--reason", reason).output.splitlines()
        ]
        assert found == [request]


def test_no_log_is_told_from_a_bad_one(tmp_path: Path, small: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for place in ("absent", "empty", "file"):
        assert "no audit log here" in refused("verify", tmp_path / place)
    for path in (small / "journal").iterdir():
        path.unlink()
    (small / "journal").rmdir()  # what is left of a log is one that verification complains of
    assert run("verify", small).exit_code == 3


def test_an_edited_index_is_a_finding_and_the_log_still_good(small: Path):
    assert run("ls", small).exit_code == 0
    assert json.loads(run("verify", small, "--json").output)["index"] == ""
    with sqlite3.connect(small / "index.sqlite") as database:
        database.execute("UPDATE record SET accepted = rows")
    database.close()
    answer = run("verify", small)
    assert answer.exit_code == 3
    assert "good 4 of 4 records are covered" in answer.output
    assert "index.sqlite: differs from the log at record 1," in answer.output
    told = json.loads(run("verify", small, "--json").output)
    assert told["ok"]
    assert "record 1" in told["index"]
    (small / "index.sqlite").unlink()
    assert run("verify", small).exit_code == 0


def test_an_index_that_is_no_database_says_what_to_do(small: Path):
    (small / "index.sqlite").write_bytes(b"not a database")
    for command in (("ls", small), ("show", small, "1")):
        assert "index.sqlite: file is not a database; delete it" in refused(*command)
    assert "cannot be read" in run("verify", small).output


def test_a_private_key_is_not_taken_for_a_public_one(small: Path, tmp_path: Path):
    (tmp_path / "audit.key").write_text(generate("toy").secret())
    assert "this is the private key; give its public half" in refused("verify", small, "--key", tmp_path / "audit.key")
