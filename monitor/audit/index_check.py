"""The search index held against the log: a search must not hide what the log holds."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from demur.monitor.audit.index import INDEX, VERSION, row_of
from demur.monitor.audit.record import InvalidRecord, Record
from demur.monitor.audit.segment import CorruptJournal, Cursor, Damage

# Another process has it, or the disk is full: nothing is known against it.
ELSEWHERE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)


def index_problem(directory: Path | str) -> str:
    """What the index of a log's folder says otherwise than the log, or "". No index, or one that has yet to take in the newest
    records, is no problem; nor is one that nobody here would use, because its folder cannot be written, or that cannot be looked
    at now.
    """
    path = Path(directory) / INDEX
    if not path.is_file() or not os.access(directory, os.W_OK):
        return ""
    try:
        database = sqlite3.connect(path)
        try:
            at = _first_difference(database, Path(directory))
        finally:
            database.close()
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in ELSEWHERE:
            return ""
        return f"{INDEX}: cannot be read ({error}); delete it, the next `demur audit ls` builds it from the log"
    if at is None:
        return ""
    return (
        f"{INDEX}: differs from the log at record {at}, so searches may have hidden or shown what the log does not; "
        "delete it, the next `demur audit ls` builds it from the log"
    )


def _first_difference(database: sqlite3.Connection, directory: Path) -> int | None:
    if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        return None  # of another version of demur: it is built anew before it is used
    database.execute("BEGIN")  # one state of it, whoever brings it up to date meanwhile
    rows = database.execute("SELECT * FROM record ORDER BY sequence")
    counts = database.execute("SELECT sequence, kind, count FROM reason ORDER BY sequence, kind")
    at = 0
    try:
        for item in Cursor(directory).read():
            row = rows.fetchone()
            if isinstance(item, Damage):
                return None
            if row is None:
                break
            record = Record.parse(item.frame.leaf)
            said = [counts.fetchone() for _ in record.reasons]
            if row != row_of(item, record) or said != [(at, *kind) for kind in sorted(record.reasons.items())]:
                return at
            at += 1
        else:
            row = rows.fetchone()
    except (CorruptJournal, InvalidRecord, OSError):
        return None  # the log's own trouble, which its verification says
    return None if row is None and counts.fetchone() is None else at
