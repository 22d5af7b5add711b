"""The tamper-evident audit log: append records, publish proofs, verify, search."""

from typing import TYPE_CHECKING, Any

from demur.monitor.audit.block import VerdictBlock
from demur.monitor.audit.log import AuditLog
from demur.monitor.audit.pending import Pending
from demur.monitor.audit.record import Record

if TYPE_CHECKING:
    from demur.monitor.audit.index import AuditIndex, Query
    from demur.monitor.audit.verify import Report, verify_log

__all__ = ["AuditIndex", "AuditLog", "Pending", "Query", "Record", "Report", "VerdictBlock", "verify_log"]

_LATER = {"AuditIndex": "index", "Query": "index", "Report": "verify", "verify_log": "verify"}


def __getattr__(name: str) -> Any:
    """Search and verification, imported when first asked for: a server that only appends needs neither."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
