"""What the client knows about monitors: their policies, and whether they interfere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

import grpc

from demur.monitor.client.answer import minimal, view
from demur.monitor.verdicts import PolicyView
from demur.proto.v1 import monitor_pb2 as pb

LARGEST = 256
PAUSE_SECONDS = 10.0


class Policies:
    """Policies by bundle, fetched when a bundle answers for the first time. Thread-safe."""

    def __init__(self, fetch: Callable[[str, float], pb.MonitorInfo]) -> None:
        self._fetch = fetch
        self._views: dict[tuple[str, str], PolicyView] = {}
        self._latest: dict[str, tuple[PolicyView, str]] = {}
        self._lock = threading.Lock()
        self._again = (
            0.0  # not before this time, so that a server that will not describe itself is not asked twice a call
        )

    def of(self, response: pb.AssessResponse, asked: str, seconds: float) -> PolicyView:
        """The policy of an answer; `seconds` is what is left to ask for it. Without it, sentences name reason kinds only."""
        known = self._views.get((response.monitor, response.bundle)) or self._ask(response, seconds)
        self._latest[asked] = (known, response.mode)
        return known

    def last(self, asked: str) -> tuple[PolicyView, str]:
        """Policy and mode of the newest answer, for verdicts without one; a monitor never heard of counts as enforcing."""
        return self._latest.get(asked, (PolicyView(asked, "", 0, (), (), ()), "enforce"))

    def _ask(self, response: pb.AssessResponse, seconds: float) -> PolicyView:
        if seconds <= 0 or monotonic() < self._again:
            return minimal(response)
        try:
            found = view(self._fetch(response.monitor, seconds))
        except (grpc.RpcError, ValueError):
            self._again = monotonic() + PAUSE_SECONDS
            return minimal(response)
        if found.bundle != response.bundle:  # another bundle was activated in between
            return minimal(response)
        with self._lock:
            if len(self._views) >= LARGEST:
                self._views.clear()
            return self._views.setdefault((response.monitor, response.bundle), found)
