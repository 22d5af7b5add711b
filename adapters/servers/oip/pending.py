"""Requests of a stream that still await answers: found by their id, else in their order, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.reading import Asked

MOST = 16384  # requests remembered in one stream


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request under way. `request` holds its bytes where they may be needed: while upstream may yet reject the outputs added
    to it, and where signals are the request's own inputs.
    """

    asked: Asked | None
    plan: Plan
    request: bytes = b""


class Pending:
    """Thread-safe. One that takes no more says so, and the stream then adds nothing to its requests."""

    def __init__(self, most: int = MOST, most_bytes: int = 64 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        self._ids: dict[str, list[int]] = {}
        self._held = 0
        self._numbers = count()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> bool:
        """False when it cannot be remembered."""
        size = len(waiting.request)
        with self._lock:
            if len(self._waiting) >= self._most or self._held + size > self._most_bytes:
                return False
            number = next(self._numbers)
            self._waiting[number] = waiting
            self._held += size
            if waiting.asked is not None and waiting.asked.id:
                self._ids.setdefault(waiting.asked.id, []).append(number)
        return True

    def answered(self, request_id: str, *, final: bool) -> Waiting | None:
        """The request that an answer with this id belongs to, forgotten when `final`; None when no request waits.

        The oldest one when none waits for that id: there may be none, and MLServer gives every answer of a stream the id of the
        stream's first request.
        """
        with self._lock:
            known = self._ids.get(request_id)
            number = known[0] if known else next(iter(self._waiting), None)
            if number is None:
                return None
            found = self._waiting[number]
            if final:
                self._forget(number, found)
            return found

    def _forget(self, number: int, found: Waiting) -> None:
        del self._waiting[number]
        self._held -= len(found.request)
        name = "" if found.asked is None else found.asked.id
        if name:
            self._ids[name].remove(number)
            if not self._ids[name]:
                del self._ids[name]
