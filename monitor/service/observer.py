"""Who hears what the service does. Nobody who listens can change an answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from demur.monitor.event import BundleEvent, DecisionEvent, RefusalEvent

LOG = logging.getLogger("demur.service")


class Observer(Protocol):
    """Telemetry, or a test."""

    def on_decision(self, event: DecisionEvent) -> None: ...

    def on_refusal(self, event: RefusalEvent) -> None: ...

    def on_bundle(self, event: BundleEvent) -> None: ...


class Observers:
    """Several as one; what one of them raises is logged and goes no further."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def refused(self, event: RefusalEvent) -> None:
        for observer in self._observers:
            try:
                observer.on_refusal(event)
            except Exception:  # INVARIANT: telemetry never changes an answer
                LOG.exception("a telemetry listener failed")

    def bundle(self, event: BundleEvent) -> None:
        for observer in self._observers:
            try:
                observer.on_bundle(event)
            except Exception:
                LOG.exception("a telemetry listener failed")
