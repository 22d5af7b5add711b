"""Why no verdict came back: a short code to count, and words to show."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Final, cast

import grpc

from demur.monitor.errors import BundleError, DemurError, Draining, InvalidObservation, Overloaded, UnknownMonitor

KIND_KEY: Final = "demur-refusal"
RETRY_KEY: Final = "grpc-retry-pushback-ms"
BAD_ANSWER: Final = "bad_answer"
STREAM_LOST: Final = "stream_lost"
NEVER_SENT: Final = (
    "failed to connect to all addresses",
    "connection refused",
    "dns resolution failed",
    "no such file",
)


class Unreachable(DemurError):
    """No answer from the server."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call. `safe` says that the server surely did no work for it, `pause_seconds` when it asks to be tried again."""

    code: str
    cause: str
    safe: bool = False
    pause_seconds: float | None = None

    def error(self) -> DemurError:
        """For calls that have no verdict to hide behind."""
        return ERRORS.get(self.code, Unreachable)(self.cause)


ERRORS: Final[dict[str, type[DemurError]]] = {
    "invalid": InvalidObservation,
    "unknown_monitor": UnknownMonitor,
    "bundle": BundleError,
    "overloaded": Overloaded,
    "draining": Draining,
}
CODES: Final = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.NOT_FOUND: "unknown_monitor",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.FAILED_PRECONDITION: "bundle",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "unauthenticated",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.UNIMPLEMENTED: "not_demur",
    grpc.StatusCode.INTERNAL: "internal",
}


def failure(error: grpc.RpcError) -> Failure:
    """What an RpcError means.

    Safe to repeat: a refusal by admission or draining (marked by the server), and a connection that was never made.
    Not safe: a connection lost with the request under way, since it may have been judged and recorded already.
    """
    call = cast("grpc.Call", error)
    status, details = call.code(), str(call.details() or "")
    marks = dict(call.trailing_metadata() or ())
    kind, code = str(marks.get(KIND_KEY, "")), CODES.get(status, "refused")
    if kind in ("draining", "audit"):
        code = kind
    safe = kind in ("overloaded", "draining") or (not kind and _never_sent(status, details))
    return Failure(code, f"{status.name}: {details}"[:1024], safe, _pause(marks.get(RETRY_KEY)))


def _never_sent(status: grpc.StatusCode, details: str) -> bool:
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:  # gRPC's own limit of concurrent calls, or of message sizes
        return "limit exceeded" in details.lower()
    return status is grpc.StatusCode.UNAVAILABLE and any(words in details.lower() for words in NEVER_SENT)


def _pause(value: object) -> float | None:
    try:
        milliseconds = int(str(value))
    except ValueError:
        return None
    return milliseconds / 1e3 if 0 <= milliseconds <= 60_000 else None


class Failures:
    """Counts by code. Thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, code: str) -> None:
        with self._lock:
            self._counts[code] += 1

    def read(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)
