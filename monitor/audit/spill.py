"""Where records wait while the journal's storage is away: another folder, best on another disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from demur.monitor.audit.appender import Appender
from demur.monitor.audit.frame import BadFrame, decode
from demur.monitor.audit.record import InvalidRecord, Record
from demur.monitor.audit.storage import Storage, sync_folder

MARK = "spill:"
CHUNK = 256
FILE_BYTES = 16 << 20


class Spill:
    """Spilled records, in files of the journal's format. One thread only.

    A merged record's note begins with "spill:<file>:<number>", so a merge that was cut short goes on where it stopped.
    """

    def __init__(self, directory: Path, storage: Storage) -> None:
        self.directory = directory
        self._storage = storage
        self._appender: Appender | None = None
        self._number = 0

    def write(self, records: Sequence[tuple[Record, bytes]]) -> None:
        """Make records durable here. Raises: OSError."""
        if self._appender is None or self._appender.offset >= FILE_BYTES:
            self._finish()
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / f"spill-{time.time_ns():020d}-{os.getpid()}.journal"
            self._appender, self._number = Appender(self._storage, lambda _: path, path=path, segment_bytes=1 << 62), 0
        parts = [
            (record.leaf_at(self._number + i, *record.time(time.time_ns(), 0)), block)
            for i, (record, block) in enumerate(records)
        ]
        self._appender.commit(self._number, parts)
        self._number += len(parts)

    def chunks(self, merged: dict[str, int]) -> Iterator[list[tuple[Record, bytes]]]:
        """Every spilled record that is not merged yet, oldest first; a file goes once its records were taken.

        `merged`: the highest number already in the journal, by file.
        """
        self._finish()
        for path in sorted(self.directory.glob("spill-*.journal")) if self.directory.is_dir() else []:
            chunk: list[tuple[Record, bytes]] = []
            for number, record, block in _read(path):
                if number <= merged.get(path.stem, -1):
                    continue
                chunk.append((replace(record, note=f"{MARK}{path.stem}:{number} {record.note}"), block))
                if len(chunk) >= CHUNK:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk
            path.unlink()  # the caller has committed every chunk by the time it asks for the next
            sync_folder(self.directory)

    def _finish(self) -> None:
        if self._appender is not None:
            self._appender.close()
        self._appender = None


def mark(record: Record) -> tuple[str, int] | None:
    """(file, number) of a record that was merged from a spill."""
    if not record.note.startswith(MARK):
        return None
    name, _, number = record.note.split(" ", 1)[0][len(MARK) :].rpartition(":")
    return (name, int(number)) if number.isdecimal() and name else None


def _read(path: Path) -> Iterator[tuple[int, Record, bytes]]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        try:
            frame = decode(data, at)
            record = Record.parse(frame.leaf)
        except (BadFrame, InvalidRecord):
            return  # a torn tail: never acknowledged
        yield frame.sequence, record, frame.block
        at += frame.size
