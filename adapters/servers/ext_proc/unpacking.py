"""Content codings read as they come; whole bodies are read by `oip.rest.coding`."""

from __future__ import annotations

import zlib

from demur.adapters.servers.oip.rest.coding import BARE, GZIP, ZLIB, coding

MOST_MEMBERS = 64  # each costs a copy of what stands behind it
DEFLATE = 8  # the low bits of a zlib header's first byte; bare deflate, which many senders send, begins otherwise


class Unpacker:
    """Bytes of one coding, gzip (of any number of members), deflate or none, in; bytes inside out.

    Raises: CodingError for another coding.
    """

    def __init__(self, value: str) -> None:
        self.name = coding(value)
        self._inflate: zlib._Decompress | None = None
        self._members = 0

    @property
    def ended(self) -> bool:
        """Whether what came is complete in itself."""
        return not self.name or not self._members or (self._inflate is not None and self._inflate.eof)

    def feed(self, chunk: bytes, room: int) -> bytes:
        """What is inside the next bytes, `room` bytes at most. Raises: zlib.error."""
        if not self.name:
            return chunk
        found = b""
        while chunk and len(found) < room:
            if self._inflate is None or self._inflate.eof:
                self._begin(chunk)
            assert self._inflate is not None  # noqa: S101  _begin makes it
            found += self._inflate.decompress(chunk, room - len(found))
            chunk = self._inflate.unused_data
        return found

    def _begin(self, chunk: bytes) -> None:
        self._members += 1
        if self._members > (MOST_MEMBERS if self.name == "gzip" else 1):
            raise zlib.error("something stands behind its end")
        self._inflate = zlib.decompressobj(self._framing(chunk))

    def _framing(self, chunk: bytes) -> int:
        if self.name == "gzip":
            return GZIP
        return ZLIB if chunk[0] & 15 == DEFLATE else BARE
