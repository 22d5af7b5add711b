"""Which error is which gRPC status, and how a refusal is written: the only place that knows both."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Final

import grpc

from demur.monitor import errors
from demur.monitor.errors import DemurError

LOG = logging.getLogger("demur.service")
LONGEST_MESSAGE = 1024
RETRY_KEY: Final = "grpc-retry-pushback-ms"
KIND_KEY: Final = "demur-refusal"


class DeadlinePassed(DemurError):
    """The caller has stopped waiting: nothing is scored for it."""


STATUS: Final[dict[type[DemurError], tuple[grpc.StatusCode, str]]] = {
    errors.InvalidObservation: (grpc.StatusCode.INVALID_ARGUMENT, "invalid"),
    errors.UnknownMonitor: (grpc.StatusCode.NOT_FOUND, "unknown"),
    errors.BundleError: (grpc.StatusCode.FAILED_PRECONDITION, "bundle"),
    errors.Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
    errors.Draining: (grpc.StatusCode.UNAVAILABLE, "draining"),
    errors.AuditUnavailable: (grpc.StatusCode.UNAVAILABLE, "audit"),
    DeadlinePassed: (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline"),
}
RETRY_MS: Final = {"overloaded": 20, "draining": 200}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller is told instead of verdicts. `kind` is RefusalEvent's."""

    code: grpc.StatusCode
    kind: str
    message: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata: the refusal's kind, and when to try again (negative: not at all)."""
        return (KIND_KEY, self.kind), (RETRY_KEY, str(RETRY_MS.get(self.kind, -1)))


def refusal(error: Exception) -> Refusal:
    """The status of an error. What is not ours stays in the log; the caller gets an id to ask for."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            code, name = STATUS[kind]
            return Refusal(code, name, str(error)[:LONGEST_MESSAGE])
    number = secrets.token_hex(8)
    LOG.error("internal error %s", number, exc_info=error)
    return Refusal(grpc.StatusCode.INTERNAL, "internal", f"internal error {number}; the server's log has the details")
