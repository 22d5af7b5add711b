"""The journal's writer: a bounded queue, one thread, one sync for many records."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from demur.monitor.audit.appender import Appender
from demur.monitor.audit.frame import BLOCK_BYTES
from demur.monitor.audit.pending import Drop, Pending, State
from demur.monitor.audit.record import Record
from demur.monitor.audit.spill import Spill
from demur.monitor.audit.tally import Tally

LOG = logging.getLogger("demur.audit")


@dataclass(frozen=True, slots=True)
class Pace:
    """How the writer works. Seconds and bytes."""

    group_seconds: float = 0.002  # how long a record that nobody waits for may wait for company
    retry_seconds: float = 0.5
    queue_records: int = 8192
    queue_bytes: int = 64 << 20


@dataclass(slots=True)
class Place:
    """Where the log stands: the next sequence, the newest time recorded, what was merged from spills."""

    sequence: int = 0
    clock_max_ns: int = 0
    merged: dict[str, int] = field(default_factory=dict)


class Journal:
    """Makes records durable in order, without gaps. Thread-safe.

    When storage fails, every record in flight loses its provisional sequence and is spilled or counted; nothing waits
    in memory for a disk. The writer tries again every `retry_seconds`; its first batch then holds a recovery record, the
    drop records and what was spilled. What an earlier process spilled is merged first of all (may raise OSError).
    """

    def __init__(
        self, appender: Appender, place: Place, *, spill: Spill | None = None, pace: Pace | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._appender, self._place, self._spill = appender, place, spill
        self._pace, self._clock = pace or Pace(), clock
        self.tally = Tally()
        self.synced = place.sequence  # records in the journal for good
        self.merge()  # what an earlier process spilled
        self.failure: Exception | None = None
        self._failed_at = 0.0
        self._lock = threading.Lock()
        self._work, self._done = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queue: list[Pending] = []
        self._bytes = self._waiting = 0
        self._next = self.synced
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="demur-audit-journal", daemon=True)
        self._thread.start()

    @property
    def next(self) -> int:
        """The sequence number that the next record gets: behind the durable, the written and the waiting ones."""
        return self._next

    @property
    def queued(self) -> int:
        """Records waiting for the writer."""
        return len(self._queue)

    def append(self, record: Record, block: bytes = b"", *, spill: bool = False, patience: float = 0.0) -> Pending:
        """Queue a record; LOST at once when storage is away (and it may not spill) or the queue stays full for
        `patience` seconds. Never blocks on the disk. Raises: ValueError for a block beyond 64 MiB.
        """
        if len(block) > BLOCK_BYTES:
            raise ValueError(
                f"audit: expected a verdict block of at most {BLOCK_BYTES} bytes, got {len(block)}; send fewer rows"
            )
        pending = Pending(self, record, block, spill=spill and self._spill is not None)
        with self._lock:
            cause = self._admit(pending, patience)
            if not cause:
                if self.failure is None:
                    pending.sequence = self._next
                    self._next += 1
                self._queue.append(pending)
                self._bytes += pending.size
                if len(self._queue) == 1:
                    self._work.notify()
                return pending
            pending.settle(State.LOST, cause)
        self.tally.add(record.monitor, cause)
        return pending

    def _admit(self, pending: Pending, patience: float) -> str:
        if not self._room() and patience > 0:
            self._done.wait_for(self._room, patience)
        if self._stopping:
            return "the log is closed"
        if self.failure is not None and not pending.spill:
            return f"storage: {self.failure}"
        return "" if self._room() else "the queue is full"

    def _room(self) -> bool:
        full = len(self._queue) >= self._pace.queue_records or self._bytes >= self._pace.queue_bytes
        return not full or self._stopping

    def wait(self, pending: Pending, timeout: float | None = None) -> bool:
        """See `Pending.wait`."""
        with self._lock:
            self._waiting += 1
            self._work.notify()
            try:
                self._done.wait_for(lambda: pending.state is not State.QUEUED, timeout)
            finally:
                self._waiting -= 1
            return pending.state in (State.DURABLE, State.SPILLED)

    def close(self) -> None:
        """Write what is queued and stop. What cannot be written is counted, and the count is logged."""
        with self._lock:
            self._stopping = True
            self._work.notify()
            self._done.notify_all()
        self._thread.join()
        self._appender.close()
        if self.tally:
            lost = ", ".join(f"{r.count} of {r.monitor or 'the log'} ({r.cause})" for r in self.tally.take())
            LOG.error("audit log closed with records that could not be written or counted in it: %s", lost)

    def _run(self) -> None:
        stop = False
        while not stop:
            batch, stop = self._take()
            if self.failure is None:
                self._write(batch)
                continue
            self._aside(batch)
            if stop or time.monotonic() - self._failed_at >= self._pace.retry_seconds:
                self._recover()

    def _take(self) -> tuple[list[Pending], bool]:
        with self._lock:
            self._work.wait_for(self._busy, self._pace.retry_seconds)
            if not self._stopping and not self._waiting and self._queue:
                self._work.wait_for(lambda: self._stopping or self._waiting > 0, self._pace.group_seconds)
            batch, self._queue, self._bytes = self._queue, [], 0
            if self.failure is None:
                for record in self.tally.take():
                    drop = Drop(self, record, b"", spill=False)
                    drop.sequence, self._next = self._next, self._next + 1
                    batch.append(drop)
            self._done.notify_all()
            return batch, self._stopping

    def _busy(self) -> bool:
        return bool(self._queue) or self._stopping or (bool(self.tally) and self.failure is None)

    def _write(self, batch: list[Pending]) -> None:
        if not batch:
            return
        try:
            self._commit([(p.record, p.block) for p in batch])
        except Exception as error:  # INVARIANT: whatever goes wrong, the writer lives and nobody waits for ever
            self._fail(batch, error)
            return
        with self._lock:
            for pending in batch:
                pending.settle(State.DURABLE)
            self._done.notify_all()

    def _commit(self, records: Sequence[tuple[Record, bytes]]) -> None:
        place, newest, parts = self._place, self._place.clock_max_ns, []
        for i, (record, block) in enumerate(records):
            time_ns, behind = record.time(self._clock(), newest)
            newest = max(newest, time_ns)
            parts.append((_leaf(record, place.sequence + i, time_ns, behind, block), block))
        self._appender.commit(place.sequence, parts)
        place.sequence += len(parts)
        place.clock_max_ns = newest
        self.synced = place.sequence

    def _fail(self, batch: list[Pending], error: Exception) -> None:
        LOG.error("audit journal: %s; records are spilled or counted until it can be written again", error)
        with self._lock:
            self.failure, self._failed_at = error, time.monotonic()
            self._next = self.synced  # withdraws every provisional sequence
            batch, self._queue, self._bytes = batch + self._queue, [], 0
        self.tally.put_back([p.record for p in batch if isinstance(p, Drop)])
        self._aside([p for p in batch if not isinstance(p, Drop)])

    def _aside(self, batch: list[Pending]) -> None:
        spilled = [p for p in batch if p.spill]
        if spilled and self._spill is not None:
            try:
                self._spill.write([(p.record, p.block) for p in spilled])
            except Exception as error:
                LOG.error("audit spill: %s; its records are counted", error)  # noqa: TRY400 - once a batch, no traceback
                spilled = []
        kept = set(map(id, spilled))
        cause = f"storage: {self.failure}"
        with self._lock:
            for pending in batch:
                pending.settle(State.SPILLED if id(pending) in kept else State.LOST, cause)
            self._done.notify_all()
        for pending in batch:
            if id(pending) not in kept:
                self.tally.add(pending.record.monitor, cause)

    def _recover(self) -> None:
        failure, drops = self.failure, self.tally.take()
        note = Record(kind="recovery", cause=f"storage: {failure}", note="the journal can be written again")
        try:
            self._commit([(record, b"") for record in (note, *drops)])
            drops = []
            self.merge()
        except Exception as error:
            self.tally.put_back(drops)
            self.failure, self._failed_at = error, time.monotonic()
            return
        LOG.warning("audit journal: can be written again")
        with self._lock:
            self.failure, self._next = None, self.synced
            for pending in self._queue:
                pending.sequence, self._next = self._next, self._next + 1

    def merge(self) -> None:
        """Bring spilled records into the journal. Only on the writer's thread, or before it starts. Raises: OSError."""
        for chunk in self._spill.chunks(self._place.merged) if self._spill is not None else ():
            self._commit(chunk)


def _leaf(record: Record, sequence: int, time_ns: int, behind: int, block: bytes) -> bytes:
    try:
        return record.leaf_at(sequence, time_ns, behind, block)
    except Exception as error:
        cause = f"the record could not be written: {type(error).__name__}"
        return Record(kind=record.kind, cause=cause).leaf_at(sequence, time_ns, behind, block)
