"""The tamper-evident audit log: append records, publish proofs, verify, search."""

from demur.monitor.audit.block import VerdictBlock
from demur.monitor.audit.log import AuditLog
from demur.monitor.audit.pending import Pending
from demur.monitor.audit.record import Record

__all__ = ["AuditLog", "Pending", "Record", "VerdictBlock"]
