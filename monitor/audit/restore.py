"""What a log's folder holds when it is opened: every entry is read, and nothing acknowledged is ever cut."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from demur.monitor.audit.journal import Place
from demur.monitor.audit.note import Checkpoint, InvalidNote, Verifier, open_checkpoint
from demur.monitor.audit.publisher import CHECKPOINT, write_tile
from demur.monitor.audit.record import InvalidRecord, Record
from demur.monitor.audit.segment import CorruptJournal, Cursor, Damage, Entry
from demur.monitor.audit.spill import MARK, mark
from demur.monitor.audit.storage import Storage
from demur.monitor.audit.tiles import Tile, Tree

LOG = logging.getLogger("demur.audit")
_MARKED = f'"note":"{MARK}'.encode()
_BUNDLE = b'"kind":"bundle"'
_TIME = b'"time_ns":"'  # the last field of a leaf


@dataclass
class Restored:
    """A log as it was found: where it stands, its tree, the torn tail to cut, if any, and its bundle records."""

    place: Place
    tree: Tree
    cursor: Cursor
    published: int
    cut: Damage | None = None
    bundles: list[Record] = field(default_factory=list)


def restore(directory: Path, storage: Storage, verifier: Verifier, origin: str, *, mend: bool = True) -> Restored:
    """Read a log's folder from the beginning; with `mend`, missing tiles are written again.

    Raises: CorruptJournal when data that was acknowledged, or that a checkpoint covers, is damaged or missing; OSError.
    """
    checkpoint = _checkpoint(directory, verifier, origin)
    found = Restored(Place(), Tree(), Cursor(directory), checkpoint.size if checkpoint else 0)
    for item in found.cursor.read():
        if isinstance(item, Damage):
            _judge(item, found)
            found.cut = item
            break
        for tile in _take(found, item):
            path = directory / tile.path
            if mend and (not path.exists() or path.stat().st_size != len(tile.data())):
                write_tile(directory, storage, tile)
        if checkpoint and found.tree.size == checkpoint.size and found.tree.root() != checkpoint.root:
            raise CorruptJournal(
                f"audit journal {directory}: its first {checkpoint.size} records are not those that its checkpoint was "
                "signed for; records were changed. Keep the folder as evidence, run `demur audit verify`, and start a new one"
            )
    if checkpoint and found.tree.size < checkpoint.size:
        raise CorruptJournal(
            f"audit journal {directory}: holds {found.tree.size} readable records, its checkpoint covers {checkpoint.size}; "
            "records were removed or damaged. Keep the folder as evidence and start a new one, or restore it from a copy"
        )
    found.place.sequence = found.tree.size
    return found


def _checkpoint(directory: Path, verifier: Verifier, origin: str) -> Checkpoint | None:
    path = directory / CHECKPOINT
    if not path.exists():
        return None
    try:
        checkpoint = open_checkpoint(path.read_bytes(), [verifier])
    except InvalidNote as error:
        raise CorruptJournal(
            f"audit checkpoint {path}: {error}. Open the log with the key it was made with, or start a new folder"
        ) from None
    if checkpoint.origin != origin:
        raise CorruptJournal(
            f"audit checkpoint {path}: belongs to the log {checkpoint.origin!r}, expected {origin!r}; "
            "give each log a folder of its own"
        )
    return checkpoint


def _judge(damage: Damage, found: Restored) -> None:
    if not damage.torn or found.tree.size < found.published:
        raise CorruptJournal(
            f"audit journal {damage.path}: damaged at byte {damage.offset} ({damage.cause}), at record {found.tree.size}, and "
            "the damage is in acknowledged data. Nothing was cut: keep the folder as evidence and start a new one, or "
            "restore this file from a copy"
        )


def _take(found: Restored, entry: Entry) -> list[Tile]:
    """Take an entry in; the tiles that it filled."""
    leaf = entry.frame.leaf
    filled = found.tree.append(leaf)
    found.place.clock_max_ns = max(found.place.clock_max_ns, _time(leaf, entry))
    if _BUNDLE in leaf:
        found.bundles.append(Record.parse(leaf))
    if _MARKED in leaf:
        spilled = mark(Record.parse(leaf))
        if spilled:
            found.place.merged[spilled[0]] = max(spilled[1], found.place.merged.get(spilled[0], -1))
    return filled


def _time(leaf: bytes, entry: Entry) -> int:
    text = leaf[leaf.rfind(_TIME) + len(_TIME) : -2]
    if not text.isdigit():
        raise InvalidRecord(f"audit journal {entry.path}: the leaf at byte {entry.offset} has no time")
    return int(text)
