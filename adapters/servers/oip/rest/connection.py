"""A client's connection, closed when it holds the server up without a request that could be refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SLOWEST = 1024  # bytes a second


class Connection(H11Protocol):
    """uvicorn's own, with patience: it would wait for ever for the rest of a head, and for a client that reads no more of
    its answer. Either, slower than SLOWEST, ends the connection after `patience_seconds`.
    """

    def __init__(self, *, patience_seconds: float, **settings: Any) -> None:
        super().__init__(**settings)
        self._patience = patience_seconds
        self._head, self._reading = _Timer(self.loop, patience_seconds), _Timer(self.loop, patience_seconds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A head is awaited from here on."""
        super().connection_made(transport)
        self._head.start(self._no_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head.stop()
        self._reading.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes between two requests begin a head; a request under way has its own patience."""
        super().data_received(data)
        if not self._between:
            self._head.stop()
        elif not self._head.runs:
            self._head.start(self._no_head)

    def on_response_complete(self) -> None:
        """What came while the answer was under way begins the next head, and no more may follow."""
        super().on_response_complete()
        if self._between and self.conn.trailing_data[0] and not self.transport.is_closing():
            self._head.start(self._no_head)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._reading.start(self._not_read, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has read."""
        self._reading.stop()
        super().resume_writing()

    @property
    def _between(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _no_head(self) -> None:
        self._head.stop()
        if self._between:
            self.transport.abort()

    def _not_read(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < SLOWEST * self._patience:
            self.transport.abort()
        else:
            self._reading.start(self._not_read, left)


class _Timer:
    """Calls something once, after `seconds`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds
        self._handle: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._handle is not None

    def start(self, then: Callable[..., None], *about: int) -> None:
        """Begin anew."""
        self.stop()
        self._handle = self._loop.call_later(self._seconds, then, *about)

    def stop(self) -> None:
        """Call nothing."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
