"""A body as it comes, decompressed, within limits."""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass, field

TRUNCATED = "body truncated"
AUTO_HEADER = 32  # zlib: gzip or zlib, by what stands in front


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
    data: bytearray = field(default_factory=bytearray)
    cause: str = ""
    ended: bool = False
    raw_size: int = 0
    _held: int = 0
    _inflate: zlib._Decompress | None = None

    def __post_init__(self) -> None:
        self.encoding = self.encoding.strip().lower()
        if self.encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | AUTO_HEADER)
        elif self.encoding not in ("", "identity"):
            self.spoil(f"content-encoding {self.encoding[:40]!r} is not one demur reads (gzip, deflate)")

    @property
    def compressed(self) -> bool:
        """Whether `data` is not what stood on the wire."""
        return self._inflate is not None

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self.raw_size += len(chunk)
        if self.cause:
            return
        try:
            self.data += self._decoded(chunk)
            self.hold(0)
        except UnreadableBodyError as error:
            self.spoil(str(error))

    def end(self) -> None:
        """No more bytes will come."""
        self.ended = True
        if not self.cause and self._inflate is not None and self.raw_size and not self._inflate.eof:
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
        self.data = bytearray()
        self.memory.move(self._held, 0)
        self._held = 0

    def _decoded(self, chunk: bytes) -> bytes:
        if self._inflate is None:
            return chunk
        room = self.limit - len(self.data) + 1  # one byte more than allowed shows that there is more
        try:
            found = self._inflate.decompress(chunk, room)
        except zlib.error as error:
            raise UnreadableBodyError(f"content-encoding {self.encoding}: the body is damaged") from error
        if self._inflate.unused_data:
            raise UnreadableBodyError(f"content-encoding {self.encoding}: something stands behind the body")
        return found
