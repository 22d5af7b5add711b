"""What is asked of upstream for one request: the client's outputs, and those the monitor needs beside them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demur.adapters.servers.oip.proxied_model import ProxiedModel

FORGET_SECONDS = 60.0
VERSIONS_KEPT = 64  # versions come from clients


@dataclass(frozen=True, slots=True)
class Plan:
    """`asking` are the outputs to ask for beside the client's, `extras` those of them to take out of the answer again;
    `cause` says why this answer cannot be judged, when that is known before the call.
    """

    model: ProxiedModel | None = None
    asking: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    cause: str = ""


class Experience:
    """What upstream was seen to do with extra outputs, by model version; forgotten after a while, bounded, thread-safe."""

    def __init__(self, seconds: float = FORGET_SECONDS, versions: int = VERSIONS_KEPT) -> None:
        self._seconds, self._versions = seconds, versions
        self._found: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, version: str, what: str) -> None:
        """Remember `what` was learnt about this version."""
        with self._lock:
            self._found.pop(version, None)
            self._found[version] = (monotonic() + self._seconds, what)
            while len(self._found) > self._versions:
                self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget everything now."""
        with self._lock:
            self._found.clear()

    def of(self, version: str) -> str:
        """What was learnt, or "" when nothing was, or it was long ago."""
        found = self._found.get(version)
        return found[1] if found is not None and monotonic() < found[0] else ""
