"""The audit log of one process: records in, proofs out, and what happens when the disk says no."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from demur.monitor.audit.appender import Appender
from demur.monitor.audit.block import VerdictBlock
from demur.monitor.audit.journal import Journal, Pace
from demur.monitor.audit.note import Signer
from demur.monitor.audit.pending import Pending, State
from demur.monitor.audit.publisher import CHECKPOINT, Export, Publisher
from demur.monitor.audit.record import InvalidRecord, Record
from demur.monitor.audit.restore import Restored, restore
from demur.monitor.audit.segment import JOURNAL, segment_path
from demur.monitor.audit.spill import Spill
from demur.monitor.audit.storage import DiskStorage, Storage
from demur.monitor.errors import AuditUnavailable

PUBLIC_KEY = "key.pub"
LOCK = "lock"

OnFailure = Literal["block", "serve_and_count", "spill"]
Ack = Literal["after_sync", "queued"]


class AuditLog:
    """An open audit log. Thread-safe; one process at a time holds a folder.

    `append` records one event. Acknowledged means synced: in the journal, or in the spill folder for `spill`. What could
    not be recorded is counted, and the count becomes a drop record as soon as the storage can be written.
    """

    def __init__(
        self, directory: Path, journal: Journal, publisher: Publisher, lock: int, bundles: Sequence[Record]
    ) -> None:
        """For `open` only."""
        self.directory = directory
        self.bundles = bundles  # records of bundles taken and refused, oldest first, as the log was when it was opened
        self._journal, self._publisher, self._lock = journal, publisher, lock
        self._closing = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, directory: Path | str, *, origin: str, signer: Signer, spill_directory: Path | None = None,
        checkpoint_seconds: float = 1.0, exports: Sequence[Export] = (), environment: str = "",
        pace: Pace | None = None, storage: Storage | None = None, clock: Callable[[], int] = time.time_ns,
        segment_bytes: int = 16 << 20,
    ) -> AuditLog:  # fmt: skip
        """Open or begin the log in `directory`. Its records are read once; a torn tail that nobody was told about is cut.

        origin: names the log in its checkpoints. signer: checkpoint key. exports: called with each checkpoint's note, on
        the publisher's thread; what was exported is what later shows a rollback. environment: fingerprint digest.
        Raises: AuditUnavailable when another process holds the folder, when it cannot be written, or when acknowledged
        data is damaged (CorruptJournal).
        """
        directory, storage = Path(directory), storage or DiskStorage()
        if not origin or not origin.isprintable():
            raise ValueError(f"audit origin: expected a printable name such as cluster/namespace/pod, got {origin!r}")
        lock = _locked(directory)
        try:
            _own(directory, signer, storage)
            found = restore(directory, storage, signer.verifier, origin)
            spill = Spill(spill_directory, storage) if spill_directory else None
            first = Record(kind="start", environment=environment, note=f"origin {origin} pid {os.getpid()}")
            journal = _journal(directory, storage, found, spill, pace, clock, segment_bytes, first)
        except (OSError, InvalidRecord) as error:
            os.close(lock)
            raise AuditUnavailable(
                f"audit log {directory}: {error}; check the folder's disk and permissions"
            ) from error
        except BaseException:
            os.close(lock)
            raise
        publisher = Publisher(
            directory, storage, signer, origin, synced=lambda: journal.synced, tree=found.tree, cursor=found.cursor,
            published=found.published, seconds=checkpoint_seconds, exports=exports,
        )  # fmt: skip
        publisher.start()
        return cls(directory, journal, publisher, lock, found.bundles)

    def append(
        self, record: Record, block: VerdictBlock | bytes = b"", *, on_failure: OnFailure = "serve_and_count",
        ack: Ack = "queued", timeout: float = 5.0,
    ) -> Pending:  # fmt: skip
        """Record one event, with its verdict block beside it.

        ack: `after_sync` waits up to `timeout` seconds until the record is durable; `queued` returns at once.
        on_failure: what to do when the log cannot take it. `block` raises; `serve_and_count` counts it; `spill` puts it
        into the spill folder and counts it only when that fails too.
        Raises: AuditUnavailable for `block`; ValueError for a block beyond 64 MiB.
        """
        encoded = block.encode() if isinstance(block, VerdictBlock) else block
        patience = 0.0 if on_failure == "serve_and_count" else timeout
        pending = self._journal.append(record, encoded, spill=on_failure == "spill", patience=patience)
        durable = pending.wait(timeout) if ack == "after_sync" else pending.state is not State.LOST
        if on_failure == "block" and not durable:
            cause = pending.cause or f"not synced within {timeout:g} s"
            raise AuditUnavailable(
                f"audit log {self.directory}: {cause}; the answer is withheld because this monitor's audit.on_failure is "
                "block. Free or repair the disk; the log goes on by itself"
            )
        return pending

    def count_drop(self, monitor: str, cause: str) -> None:
        """Count an event that gets no record of its own, such as a refused request; a drop record will say how many."""
        self._journal.tally.add(monitor, cause)

    def checkpoint(self) -> bytes:
        """Publish a checkpoint of everything synced by now; its note. Raises: AuditUnavailable."""
        if not self._publisher.publish():
            raise AuditUnavailable(
                f"audit log {self.directory}: the checkpoint could not be written; see the server's log"
            )
        return (self.directory / CHECKPOINT).read_bytes()

    @property
    def size(self) -> int:
        """Records that are durable in the journal."""
        return self._journal.synced

    @property
    def next(self) -> int:
        """The sequence number that the next record gets; every smaller one was given to somebody."""
        return self._journal.next

    @property
    def queued(self) -> int:
        """Records waiting for the writer."""
        return self._journal.queued

    @property
    def lag(self) -> int:
        """Durable records that no checkpoint covers yet."""
        return self._publisher.lag

    @property
    def dropped(self) -> int:
        """Records lost or refused since the log was opened."""
        return self._journal.tally.total

    @property
    def failure(self) -> str:
        """Why the journal cannot be written now, or ""."""
        return str(self._journal.failure or "")

    def close(self) -> None:
        """Write what is queued, a stop record and a last checkpoint, and let the folder go. May be called twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._journal.append(Record(kind="stop"))
        self._journal.close()
        self._publisher.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _locked(directory: Path) -> int:
    try:
        (directory / JOURNAL).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise AuditUnavailable(f"audit log {directory}: {error}; check the folder's disk and permissions") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise AuditUnavailable(
            f"audit log {directory}: another process has it open; stop that one, or give this one a folder of its own"
        ) from None
    return descriptor


def _own(directory: Path, signer: Signer, storage: Storage) -> None:
    path, text = directory / PUBLIC_KEY, f"{signer.verifier}\n".encode()
    if not path.exists():
        storage.publish(path, text)
    elif path.read_bytes() != text:
        raise AuditUnavailable(
            f"audit log {directory}: was begun with another key ({path}), not {signer.verifier}; use that key, or a new folder"
        )


def _journal(
    directory: Path, storage: Storage, found: Restored, spill: Spill | None, pace: Pace | None,
    clock: Callable[[], int], segment_bytes: int, first: Record,
) -> Journal:  # fmt: skip
    appender = Appender(
        storage, lambda sequence: segment_path(directory, sequence), path=found.cursor.path, offset=found.cursor.offset,
        segment_bytes=segment_bytes,
    )  # fmt: skip
    records = [first]
    if found.cut is not None:
        cut = found.cut
        note = f"{cut.size - cut.offset} bytes of {cut.path.name} from byte {cut.offset} were never acknowledged"
        records.append(Record(kind="recovery", cause=f"a torn tail was cut: {cut.cause}", note=note))
    journal = Journal(appender, found.place, spill=spill, pace=pace, clock=clock)
    for record in records:
        if not journal.append(record).wait(30):
            journal.close()
            raise OSError(f"the first record could not be written: {journal.failure}")
    return journal
