"""The journal's files: journal/<first sequence, 20 digits>.journal, read in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demur.monitor.audit.frame import HEAD_BYTES, BadFrame, Frame, body_bytes, decode, survivor
from demur.monitor.errors import AuditUnavailable

JOURNAL = "journal"
_DIGITS = 20


class CorruptJournal(AuditUnavailable):
    """Acknowledged data is damaged or missing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry and where it stands."""

    frame: Frame
    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Damage:
    """The end of what can be read: `offset` in `path`, of a file `size` bytes long."""

    path: Path
    offset: int
    size: int
    cause: str
    torn: bool  # only an unacknowledged tail is hit, as far as the journal alone can tell


def segment_path(directory: Path, first: int) -> Path:
    """The file whose first entry has this sequence."""
    return directory / JOURNAL / f"{first:0{_DIGITS}d}.journal"


def segments(directory: Path) -> list[Path]:
    """The journal's files in order. Raises: CorruptJournal for a file that has no business there."""
    folder = directory / JOURNAL
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        if path.suffix != ".journal" or len(path.stem) != _DIGITS or not path.stem.isdecimal() or not path.is_file():
            raise CorruptJournal(f"audit journal: {path} is not a journal file; move it out of {folder}")
    return paths


class Cursor:
    """Reads entries onwards from a place in the journal, as they are synced; holds one position, no data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path: Path | None = None
        self.offset = 0
        self.sequence = 0

    def read(self, upto: int | None = None) -> Iterator[Entry | Damage]:
        """Entries before sequence `upto` (None: all there are). A Damage, if any, is the last thing yielded."""
        for path in segments(self._directory):
            if self.path is not None and path < self.path:
                continue
            if path != self.path:
                self.path, self.offset = path, 0
            for item in self._segment(path, upto):
                yield item
                if isinstance(item, Damage):
                    return
            if upto is not None and self.sequence >= upto:
                return

    def _segment(self, path: Path, upto: int | None) -> Iterator[Entry | Damage]:
        base = self.offset
        data = _tail(path, base)
        while self.offset < base + len(data) and (upto is None or self.sequence < upto):
            at = self.offset
            try:
                frame = decode(data, at - base, base)
                if frame.sequence != self.sequence or (at == 0 and frame.sequence != int(path.stem)):
                    raise BadFrame(f"sequence {frame.sequence} where {self.sequence} is due")  # noqa: TRY301
            except BadFrame as error:
                yield self._damage(path, data, base, str(error))
                return
            self.offset += frame.size
            self.sequence += 1
            yield Entry(frame, path, at)

    def _damage(self, path: Path, data: bytes, base: int, cause: str) -> Damage:
        at = self.offset - base
        last = path == segments(self._directory)[-1]
        torn = last and not _whole(data, at, base) and survivor(data, at, base) is None
        return Damage(path, self.offset, base + len(data), cause, torn)


def _tail(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:  # not mapped: a file cut meanwhile would kill a reader with SIGBUS
        file.seek(offset)
        return file.read()


def _whole(data: bytes, at: int, base: int) -> bool:
    """Whether a whole entry stands here, though not the one that is due: no tear makes that."""
    try:
        decode(data, at, base)
    except BadFrame:
        return False
    return True


def read_at(path: Path, offset: int) -> Frame:
    """One entry by its place. Raises: BadFrame, OSError."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(HEAD_BYTES)
        return decode(head + file.read(body_bytes(head)), 0, offset)
