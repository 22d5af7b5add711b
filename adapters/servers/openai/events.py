"""Server-sent events, read as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator

ENDS = re.compile(rb"\r\n|\n|\r")
BOM = b"\xef\xbb\xbf"


class Events:
    """The `data` of each event (WHATWG HTML, "Server-sent events"); other fields and comments are passed over.

    Bytes that end within an event are kept until the rest comes: `size` says how many.
    """

    def __init__(self) -> None:
        self._line, self._data = bytearray(), bytearray()
        self._any = self._began = self._after_return = False

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._line) + len(self._data)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of every event that ends within `chunk`."""
        if self._after_return and chunk:
            self._after_return = False
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r")
        at = 0
        for end in ENDS.finditer(chunk):
            line = bytes(self._line) + chunk[at : end.start()]
            self._line.clear()
            at = end.end()
            yield from self._took(line)
        self._line += chunk[at:]

    def rest(self) -> Iterator[bytes]:
        """The last event, when the stream ended without an empty line behind it."""
        line = bytes(self._line)
        self._line.clear()
        yield from self._took(line)
        yield from self._took(b"")

    def _took(self, line: bytes) -> Iterator[bytes]:
        if not self._began:
            line, self._began = line.removeprefix(BOM), True
        if not line:
            if self._any:
                yield bytes(self._data)
            self._data.clear()
            self._any = False
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            if self._any:
                self._data += b"\n"
            self._data += value.removeprefix(b" ")
            self._any = True
