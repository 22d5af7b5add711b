"""Ground truth and reviews of earlier verdicts, on their way to the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from demur.monitor.errors import BundleError, DemurError, InvalidObservation
from demur.proto.v1 import monitor_pb2 as pb

KINDS = ("label", "review")
LONGEST_TEXT = 1024


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody, or the world, said about row `row` of audit record `sequence`."""

    monitor: str
    sequence: int
    row: int
    label: str
    correct: bool | None
    reviewer: str
    note: str
    kind: str


class LabelSink(Protocol):
    """Where labels are kept."""

    def label(self, label: Label) -> int:
        """Append; the new record's sequence number. Raises: AuditUnavailable, InvalidObservation."""
        ...


class NoAuditLog(BundleError):
    """A label for a server that keeps no audit log."""


def read(request: pb.LabelRequest, monitor: str) -> Label:
    """A checked label. Raises: InvalidObservation."""
    kind = request.kind or KINDS[0]
    if kind not in KINDS:
        raise InvalidObservation(f"kind: expected one of {', '.join(KINDS)}, got {kind[:32]!r}")
    if not request.sequence:
        raise InvalidObservation("sequence: expected the audit record of the verdict, as its answer named it, got 0")
    for name in ("label", "reviewer", "note"):
        if len(getattr(request, name)) > LONGEST_TEXT:
            raise InvalidObservation(f"{name}: expected at most {LONGEST_TEXT} characters; keep longer texts elsewhere")
    correct = request.correct if request.HasField("correct") else None
    return Label(monitor, request.sequence, request.row, request.label, correct, request.reviewer, request.note, kind)


def refuse() -> DemurError:
    """For a server without a log."""
    return NoAuditLog(
        "this server keeps no audit log, so labels have no place; add an `audit` section to its configuration"
    )
