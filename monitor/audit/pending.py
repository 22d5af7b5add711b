"""A record on its way to the disk."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demur.monitor.audit.journal import Journal
    from demur.monitor.audit.record import Record


class State(enum.Enum):
    """Where a record is."""

    QUEUED = "queued"
    DURABLE = "durable"  # synced in the journal
    SPILLED = "spilled"  # synced in the spill folder, to be merged into the journal when its storage returns
    LOST = "lost"  # counted; a drop record will say so


class Pending:
    """What `append` hands back. Until DURABLE its sequence is provisional: a failed write withdraws it (-1)."""

    __slots__ = ("_journal", "block", "cause", "record", "sequence", "spill", "state")

    def __init__(self, journal: Journal, record: Record, block: bytes, *, spill: bool) -> None:
        self._journal = journal
        self.record = record
        self.block = block
        self.spill = spill
        self.sequence = -1
        self.state = State.QUEUED
        self.cause = ""

    @property
    def size(self) -> int:
        """Bytes it is counted as while it waits."""
        return len(self.block) + 1024

    @property
    def audited(self) -> bool:
        """Whether it is, or is on its way to be, in the log or beside it."""
        return self.state is not State.LOST

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the record became durable (in the journal or the spill folder) within `timeout` seconds."""
        return self._journal.wait(self, timeout)

    def settle(self, state: State, cause: str = "") -> None:
        """The writer's word on it; what it held is let go."""
        self.state, self.cause = state, cause
        if state is not State.DURABLE:
            self.sequence = -1


class Drop(Pending):
    """A drop record of the log's own; its counts go back to the tally when it cannot be written."""

    __slots__ = ()
