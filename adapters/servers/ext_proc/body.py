"""A body as it comes, decompressed, within limits."""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass

from demur.adapters.servers.oip.rest.coding import CodingError, Unpacker

TRUNCATED = "body truncated"


class UnreadableBodyError(Exception):
    """A body that cannot be read; the message becomes the verdict's cause."""


class Memory:
    """Bytes that all streams together may hold. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def move(self, before: int, after: int) -> bool:
        """Hold `after` bytes instead of `before`; False, and nothing changes, when that is too much."""
        with self._lock:
            if after > before and self._held + after - before > self._limit:
                return False
            self._held += after - before
            return True


@dataclass(eq=False)
class Body:
    """`data` so far, decoded. `cause` says why it cannot be used, and nothing more is kept then."""

    encoding: str
    limit: int
    memory: Memory
    data: bytes | bytearray = b""
    cause: str = ""
    ended: bool = False
    raw_size: int = 0
    _held: int = 0
    _unpacker: Unpacker | None = None

    def __post_init__(self) -> None:
        try:
            self._unpacker = Unpacker(self.encoding)
        except CodingError as error:
            self.spoil(str(error))

    @property
    def coding(self) -> str:
        """What `data` was packed in on the wire, "" for nothing."""
        return "" if self._unpacker is None else self._unpacker.name

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self.raw_size += len(chunk)
        if self.cause:
            return
        try:
            self._append(self._decoded(chunk))
            self.hold(0)
        except UnreadableBodyError as error:
            self.spoil(str(error))

    def end(self) -> None:
        """No more bytes will come."""
        self.ended = True
        if not self.cause and self._unpacker is not None and not self._unpacker.ended:
            self.spoil(TRUNCATED)

    def hold(self, beside: int) -> None:
        """Account for `data` and `beside` bytes that were made of it. Raises: UnreadableBodyError when it is too much."""
        size = len(self.data) + beside
        if size > self.limit:
            raise UnreadableBodyError(f"a body larger than body_bytes = {self.limit}")
        if not self.memory.move(self._held, size):
            raise UnreadableBodyError("the bodies held at once exceed buffer_bytes")
        self._held = size

    def spoil(self, cause: str) -> None:
        """Say why it cannot be used, and forget it."""
        self.cause = self.cause or cause
        self.forget()

    def forget(self) -> None:
        """Give the memory back."""
        self.data = b""
        self.memory.move(self._held, 0)
        self._held = 0

    def _append(self, part: bytes) -> None:
        """A body that comes in one piece is not copied."""
        if not self.data:
            self.data = part
        elif isinstance(self.data, bytearray):
            self.data += part
        else:
            self.data = bytearray(self.data) + part

    def _decoded(self, chunk: bytes) -> bytes:
        assert self._unpacker is not None  # noqa: S101  otherwise it was spoilt from the start
        try:
            return self._unpacker.feed(
                chunk, self.limit - len(self.data) + 1
            )  # one byte too many shows that there are more
        except zlib.error as error:
            raise UnreadableBodyError(f"the body is not {self._unpacker.name} ({error})") from error
