"""An index that was edited says so when the log is verified: every column, every row, every count."""

import sqlite3
from pathlib import Path

import pytest

from demur.monitor.audit import AuditIndex, Record, verify_log
from demur.monitor.audit.index_check import index_problem

from .conftest import Opener


@pytest.fixture
def log(tmp_path: Path, opened: Opener) -> Path:
    """start, 8 verdicts (two with abstentions), a label, stop; and its index."""
    log = opened(tmp_path / "log")
    for i in range(8):
        reasons = {"NOVEL": 1, "AMBIGUOUS": 2} if i % 4 == 0 else {}
        log.append(
            Record(kind="verdict", monitor="m", request=f"r{i}", rows=4, accepted=4 - len(reasons), reasons=reasons)
        )
    log.append(Record(kind="label", target="7/3", monitor="m", note="5")).wait(10)
    log.close()
    with AuditIndex(log.directory) as index:
        index.refresh()
    return log.directory


def edit(log: Path, *statements: str) -> None:
    database = sqlite3.connect(log / "index.sqlite")
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_an_honest_index_has_no_problem(log: Path, opened: Opener) -> None:
    before = sorted(path.name for path in log.iterdir())
    assert index_problem(log) == ""
    assert sorted(path.name for path in log.iterdir()) == before
    again = opened(log)
    again.append(Record(kind="review", request="new")).wait(10)
    assert index_problem(log) == ""  # it has yet to take the newest records in
    again.close()
    with AuditIndex(log) as index:
        index.refresh()
    assert index_problem(log) == ""
    (log / "index.sqlite").unlink()
    assert index_problem(log) == ""
    assert index_problem(log / "absent") == ""


REST = "time_ns, kind, monitor, request, target, rows, accepted, file, offset, leaf"
EDITS = {
    "hides an abstention": ("UPDATE record SET accepted = rows WHERE sequence = 1", 1),
    "of another monitor": ("UPDATE record SET monitor = 'x' WHERE sequence = 5", 5),
    "another leaf": ("UPDATE record SET leaf = (SELECT leaf FROM record WHERE sequence = 2) WHERE sequence = 1", 1),
    "another time": ("UPDATE record SET time_ns = time_ns + 1 WHERE sequence = 9", 9),
    "a reason less": ("DELETE FROM reason WHERE sequence = 5 AND kind = 'NOVEL'", 5),
    "a reason more": ("INSERT INTO reason VALUES (2, 'NOVEL', 1)", 5),
    "a reason more, at the end": ("INSERT INTO reason VALUES (99, 'NOVEL', 1)", 11),
    "a count": ("UPDATE reason SET count = 0 WHERE sequence = 1", 1),
    "a record less": ("DELETE FROM record WHERE sequence = 1", 1),
    "a record more": (f"INSERT INTO record SELECT 11, {REST} FROM record WHERE sequence = 2", 11),  # noqa: S608
    "a column more": ("ALTER TABLE record ADD COLUMN more TEXT", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_every_edit_is_found(log: Path, case: str) -> None:
    statement, at = EDITS[case]
    edit(log, statement)
    assert f"index.sqlite: differs from the log at record {at}," in index_problem(log)
    assert verify_log(log).ok  # the proof stands without the index
    (log / "index.sqlite").unlink()
    with AuditIndex(log) as index:
        assert index.refresh() == 11
    assert index_problem(log) == ""


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\x00" + bytes(200)])
def test_what_is_no_database_is_said(log: Path, content: bytes) -> None:
    (log / "index.sqlite").write_bytes(content)
    assert index_problem(log) == "" if not content else "cannot be read" in index_problem(log)


def test_a_table_less_is_said(log: Path) -> None:
    edit(log, "DROP TABLE reason")
    assert "index.sqlite: cannot be read" in index_problem(log)


def test_records_missing_amid_the_index_are_read_anew(log: Path) -> None:
    edit(log, "DELETE FROM record WHERE sequence = 1")
    with AuditIndex(log) as index:
        assert index.refresh() == 11
        assert [r.sequence for r in index.search()] == list(range(10, -1, -1))
    assert index_problem(log) == ""


def test_the_trouble_of_a_damaged_log_is_the_logs_own(log: Path) -> None:
    path = next((log / "journal").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    assert index_problem(log) == ""
    assert not verify_log(log).ok
