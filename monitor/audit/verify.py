"""Reads a log's folder again from the beginning, recomputes everything, and says what it proves.

What a good report proves: no record that the newest checkpoint covers was changed, removed or reordered. Truncation
behind that checkpoint, or rewriting by somebody who holds the key, shows only against a checkpoint kept elsewhere:
give it as `expect`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demur.monitor.audit.block import digest
from demur.monitor.audit.log import PUBLIC_KEY
from demur.monitor.audit.note import Checkpoint, InvalidNote, Verifier, open_checkpoint
from demur.monitor.audit.publisher import CHECKPOINT
from demur.monitor.audit.record import InvalidRecord, Record
from demur.monitor.audit.segment import CorruptJournal, Cursor, Damage, Entry
from demur.monitor.audit.shelf import Shelf
from demur.monitor.audit.tiles import Tree

PROBLEMS = 100


@dataclass(frozen=True)
class Report:
    """What was found. `covered` records are proved by the checkpoint; `uncovered` ones came after it.

    `trusted`: the key was given by the verifier; otherwise it is the folder's own, which proves nothing against whoever
    can write the folder. `tail_bytes`: unreadable bytes after the last record, as a crash leaves them before recovery.
    """

    directory: Path
    problems: tuple[str, ...]
    checkpoint: Checkpoint | None
    expected: Checkpoint | None
    trusted: bool
    size: int
    covered: int
    uncovered: int
    blocks: int
    drops: int
    tail_bytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the log."""
        return not self.problems


@dataclass
class _Audit:
    """A verification under way."""

    directory: Path
    problems: list[str] = field(default_factory=list)
    tree: Tree = field(default_factory=Tree)
    blocks: int = 0
    drops: int = 0
    tail_bytes: int = 0
    batch: int = 0

    def blame(self, problem: str) -> None:
        """Note a problem; after a hundred only that there are more."""
        if len(self.problems) < PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == PROBLEMS:
            self.problems.append("more problems are not listed")


def verify_log(directory: Path | str, keys: Sequence[Verifier] = (), expect: bytes | None = None) -> Report:
    """Verify a log's folder; it may be open in another process.

    keys: public keys trusted to sign checkpoints; none: the folder's own `key.pub`. expect: the note of a checkpoint kept
    elsewhere, which must be of this log and of a prefix of it. Reads every byte; memory is one journal file and one edge
    of the tree. Never raises for what the folder holds: that is in the report.
    """
    directory = Path(directory)
    audit = _Audit(directory)
    verifiers = _keys(audit, keys)
    newest = _note(audit, "checkpoint", _read(audit, directory / CHECKPOINT), verifiers)
    expected = None if expect is None else _note(audit, "expected checkpoint", expect, verifiers)
    if newest and expected and newest.origin != expected.origin:
        audit.blame(f"this is the log {newest.origin!r}, the expected checkpoint is of {expected.origin!r}")
    shelf = Shelf(directory, audit.blame)
    heads = [(name, head) for name, head in (("its checkpoint", newest), ("the expected checkpoint", expected)) if head]
    _walk(audit, shelf, heads)
    shelf.close(audit.tree, newest.size if newest else 0)
    size, covered = audit.tree.size, newest.size if newest else 0
    return Report(
        directory, tuple(audit.problems), newest, expected, bool(keys), size, min(covered, size), max(0, size - covered),
        audit.blocks, audit.drops, audit.tail_bytes,
    )  # fmt: skip


def _walk(audit: _Audit, shelf: Shelf, heads: Sequence[tuple[str, Checkpoint]]) -> None:
    _compare(audit, heads)
    needed = max((head.size for _, head in heads), default=0)
    for item in _items(audit):
        if isinstance(item, Damage):
            if item.torn and audit.tree.size >= needed:
                audit.tail_bytes = item.size - item.offset
            else:
                audit.blame(f"{item.path.name}: damaged at byte {item.offset}, record {audit.tree.size}: {item.cause}")
            break
        _entry(audit, item)
        for tile in audit.tree.append(item.frame.leaf):
            shelf.check(tile)
        _compare(audit, heads)
    for name, head in heads:
        if head.size > audit.tree.size:
            audit.blame(
                f"rolled back or cut: the journal holds {audit.tree.size} readable records, {name} covers {head.size}"
            )


def _items(audit: _Audit) -> Iterator[Entry | Damage]:
    try:
        yield from Cursor(audit.directory).read()
    except (CorruptJournal, OSError) as error:
        audit.blame(str(error))


def _entry(audit: _Audit, entry: Entry) -> None:
    frame, where = entry.frame, f"record {entry.frame.sequence} ({entry.path.name} byte {entry.offset})"
    if frame.batch not in (entry.offset, audit.batch):
        audit.blame(f"{where}: claims a batch from byte {frame.batch} that did not begin there")
    audit.batch = frame.batch
    try:
        record = Record.parse(frame.leaf)
    except InvalidRecord as error:
        audit.blame(f"{where}: {error}")
        return
    audit.blocks += bool(frame.block)
    audit.drops += record.count if record.kind == "drop" else 0
    if record.sequence != frame.sequence:
        audit.blame(f"{where}: the leaf says it is record {record.sequence}")
    if frame.block and record.block != digest(frame.block):
        audit.blame(f"{where}: the verdict block is not the one the leaf names")
    if record.block and not frame.block:
        audit.blame(f"{where}: the verdict block that the leaf names is missing")


def _compare(audit: _Audit, heads: Sequence[tuple[str, Checkpoint]]) -> None:
    for name, head in heads:
        if head.size == audit.tree.size and head.root != audit.tree.root():
            audit.blame(f"the first {head.size} records are not those that {name} was signed for")


def _keys(audit: _Audit, keys: Sequence[Verifier]) -> list[Verifier]:
    text = _read(audit, audit.directory / PUBLIC_KEY)
    try:
        own = [Verifier.parse(text.decode()[:-1])] if text.endswith(b"\n") else []
    except (InvalidNote, UnicodeDecodeError):
        own = []
    if not own:
        audit.blame(f"{PUBLIC_KEY}: not a public key")
    elif keys and own[0] not in keys:
        audit.blame(f"{PUBLIC_KEY}: is {own[0]}, which is not among the trusted keys")
    return list(keys) or own


def _note(audit: _Audit, what: str, note: bytes, verifiers: Sequence[Verifier]) -> Checkpoint | None:
    try:
        return open_checkpoint(note, verifiers)
    except InvalidNote as error:
        audit.blame(f"{what}: {error}")
        return None


def _read(audit: _Audit, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        audit.blame(f"{path.name}: {error.strerror or error}")
        return b""
