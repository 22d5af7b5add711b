"""A SQLite index over the log, for search and review. Rebuilt from the log at any time; no part of the proof."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from demur.monitor.audit.block import VerdictBlock
from demur.monitor.audit.record import InvalidRecord, Record
from demur.monitor.audit.segment import CorruptJournal, Cursor, Damage, Entry, read_at

INDEX = "index.sqlite"
VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
  sequence INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, kind TEXT NOT NULL, monitor TEXT NOT NULL,
  request TEXT NOT NULL, target TEXT NOT NULL, rows INTEGER NOT NULL, accepted INTEGER NOT NULL,
  file TEXT NOT NULL, offset INTEGER NOT NULL, leaf BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS reason (sequence INTEGER NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS record_monitor ON record (monitor, sequence);
CREATE INDEX IF NOT EXISTS record_request ON record (request);
CREATE INDEX IF NOT EXISTS record_target ON record (target) WHERE target <> '';
CREATE INDEX IF NOT EXISTS reason_kind ON reason (kind, sequence);
"""
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Query:
    """What to search for; empty fields do not restrict. Times in Unix nanoseconds, the end excluded.

    `accepted`: True for records with no abstention, False for records with at least one. `before`: sequences below this
    one, to page on. Newest first unless `oldest_first`.
    """

    monitor: str = ""
    kind: str = ""
    request: str = ""
    target: str = ""
    reason: str = ""
    accepted: bool | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    before: int | None = None
    oldest_first: bool = False
    limit: int = 50


class AuditIndex:
    """Search over a log's folder, which may be open in another process. One thread at a time."""

    def __init__(self, directory: Path | str, path: Path | None = None) -> None:
        """Open or make the index (default: `index.sqlite` in the folder). Raises: sqlite3.Error, OSError."""
        self.directory = Path(directory)
        self._database = sqlite3.connect(path or self.directory / INDEX, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if self._database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            self._clear()

    def refresh(self) -> int:
        """Take in what the log has gained; how many records the index holds. A log that changed behind it is read anew.

        Raises: CorruptJournal when acknowledged data is damaged; OSError, sqlite3.Error.
        """
        try:
            return self._take_in()
        except sqlite3.IntegrityError:  # records are missing amid those it holds
            self._clear()
            return self._take_in()

    def _take_in(self) -> int:
        cursor = self._resume()
        with self._transaction():
            for item in cursor.read():
                if isinstance(item, Damage):
                    if not item.torn:
                        raise CorruptJournal(f"{item.path}: damaged at byte {item.offset}; run `demur audit verify`")
                    break
                self._insert(item)
        return cursor.sequence

    def search(self, query: Query | None = None) -> list[Record]:
        """Matching records."""
        where, values = _where(query := query or Query())
        order = "ASC" if query.oldest_first else "DESC"
        rows = self._database.execute(
            f"SELECT leaf FROM record{where} ORDER BY sequence {order} LIMIT ?",  # noqa: S608 - only fixed words
            (*values, max(0, query.limit)),
        )
        return [Record.parse(leaf) for (leaf,) in rows]

    def count(self, query: Query | None = None) -> int:
        """How many records match, whatever the limit."""
        where, values = _where(query or Query())
        found = self._database.execute(f"SELECT count(*) FROM record{where}", values).fetchone()  # noqa: S608 - as above
        return int(found[0])

    def show(self, sequence: int) -> tuple[Record, VerdictBlock | None]:
        """One record and its verdict block, read from the log itself.

        Raises: KeyError when there is no such record; BadFrame, InvalidBlock, OSError when it cannot be read.
        """
        row = self._row(sequence)
        if row is None:
            raise KeyError(f"audit record {sequence}: expected one of the {self._size()} records; see `demur audit ls`")
        frame = read_at(self.directory / "journal" / row[0], row[1])
        return Record.parse(frame.leaf), VerdictBlock.decode(frame.block) if frame.block else None

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _clear(self) -> None:
        self._database.executescript(
            f"BEGIN IMMEDIATE; DROP TABLE IF EXISTS record; DROP TABLE IF EXISTS reason; {_SCHEMA} "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )

    def _size(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM record").fetchone()[0])

    def _row(self, sequence: int) -> tuple[str, int, bytes] | None:
        if not 0 <= sequence <= _LARGEST:
            return None
        query = "SELECT file, offset, leaf FROM record WHERE sequence = ?"
        row: tuple[str, int, bytes] | None = self._database.execute(query, (sequence,)).fetchone()
        return row

    def _resume(self) -> Cursor:
        cursor = Cursor(self.directory)
        last = self._row(self._size() - 1)
        if last is None:
            return cursor
        path = self.directory / "journal" / last[0]
        try:
            frame = read_at(path, last[1])
            same = frame.leaf == last[2]
        except (ValueError, OSError):
            same = False
        if not same:
            self._clear()
            return cursor
        cursor.path, cursor.offset, cursor.sequence = path, last[1] + frame.size, frame.sequence + 1
        return cursor

    def _insert(self, entry: Entry) -> None:
        leaf = entry.frame.leaf
        try:
            record = Record.parse(leaf)
        except InvalidRecord as error:
            raise CorruptJournal(f"{entry.path}: byte {entry.offset}: {error}; run `demur audit verify`") from None
        self._database.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row_of(entry, record))
        for kind, count in record.reasons.items():
            self._database.execute("INSERT INTO reason VALUES (?, ?, ?)", (entry.frame.sequence, kind, count))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database)


def row_of(entry: Entry, record: Record) -> tuple[int | str | bytes, ...]:
    """What the table `record` holds of it."""
    return (
        entry.frame.sequence, min(record.time_ns, _LARGEST), record.kind, record.monitor, record.request, record.target,
        record.rows, record.accepted, entry.path.name, entry.offset, entry.frame.leaf,
    )  # fmt: skip


@dataclass
class _Transaction:
    database: sqlite3.Connection

    def __enter__(self) -> None:
        self.database.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.execute("COMMIT" if error is None else "ROLLBACK")


def _where(query: Query) -> tuple[str, list[str | int]]:
    clauses, values = [], []
    for clause, value in _clauses(query):
        clauses.append(clause)
        values += [] if value is None else [value]
    return (f" WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _clauses(query: Query) -> Iterator[tuple[str, str | int | None]]:
    for name in ("monitor", "kind", "request", "target"):
        if value := getattr(query, name):
            yield f"{name} = ?", value
    if query.reason:
        yield "sequence IN (SELECT sequence FROM reason WHERE kind = ? AND count > 0)", query.reason
    if query.accepted is not None:
        yield ("accepted = rows AND rows > 0" if query.accepted else "accepted < rows"), None
    for clause, bound in (
        ("time_ns >= ?", query.since_ns),
        ("time_ns < ?", query.until_ns),
        ("sequence < ?", query.before),
    ):
        if bound is not None:
            yield clause, bound
