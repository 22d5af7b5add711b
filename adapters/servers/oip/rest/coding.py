"""Content codings of HTTP bodies, gzip and deflate, with a bound on what comes out."""

from __future__ import annotations

import zlib

GZIP, ZLIB, BARE = 31, 15, -15  # zlib's names for the three framings
KNOWN = ("gzip", "deflate")
MOST_MEMBERS = 64  # of one gzip body
PIECE_BYTES = 1 << 16  # unpacked at once: the end of a member costs a copy of what stands behind it
DEFLATE = 8  # the low bits of a zlib header's first byte; bare deflate, which many senders send, begins otherwise


class CodingError(ValueError):
    """A coding that is not known here, or bytes that are not of it."""


class TooLargeError(Exception):
    """More bytes than a limit; the message names the limit."""


class Unpacker:
    """Bytes of one coding, gzip (of any number of members up to MOST_MEMBERS), deflate or none, in as they come; bytes inside out.

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
        parts: list[bytes] = []
        for at in range(0, len(chunk), PIECE_BYTES):
            piece = chunk[at : at + PIECE_BYTES]
            while piece and room > 0:
                if self._inflate is None or self._inflate.eof:
                    self._inflate = self._begun(piece)
                parts.append(self._inflate.decompress(piece, room))
                room -= len(parts[-1])
                piece = self._inflate.unused_data
        return b"".join(parts)

    def _begun(self, piece: bytes) -> zlib._Decompress:
        self._members += 1
        if self.name != "gzip" and self._members > 1:
            raise zlib.error("something stands behind its end")
        if self._members > MOST_MEMBERS:
            raise zlib.error("it has too many members")
        bare = self.name == "deflate" and piece[0] & 15 != DEFLATE
        return zlib.decompressobj(BARE if bare else GZIP if self.name == "gzip" else ZLIB)


def coding(value: str) -> str:
    """The coding that a Content-Encoding header names, "" for none. Raises: CodingError for others and for several."""
    name = value.strip().lower()
    name = {"identity": "", "x-gzip": "gzip"}.get(name, name)
    if name and name not in KNOWN:
        raise CodingError(f"Content-Encoding: expected gzip or deflate, got {value!r:.80}")
    return name


def decoded(content: bytes, name: str, largest_bytes: int) -> bytes:
    """The bytes inside. Raises: CodingError; TooLargeError before more than `largest_bytes` are made."""
    if not name:
        return content
    unpacker = Unpacker(name)
    try:
        found = unpacker.feed(content, largest_bytes + 1)
    except zlib.error as error:
        raise CodingError(f"the body is not {name} ({error})") from error
    if len(found) > largest_bytes:
        raise TooLargeError(f"the decoded body exceeds limits.message_bytes = {largest_bytes}")
    if not unpacker.ended:
        raise CodingError(f"the body is not {name} (it ends too early)")
    return found


def encoded(content: bytes, name: str) -> bytes:
    """The bytes in this coding."""
    if not name:
        return content
    packer = zlib.compressobj(wbits=GZIP if name == "gzip" else ZLIB)
    return packer.compress(content) + packer.flush()


def acceptable(value: str) -> str:
    """An Accept-Encoding that asks only for what can be read here."""
    wanted = {name for name, weight in map(_weighed, value.split(",")) if weight != "0"}
    return ", ".join(n for n in KNOWN if n in wanted or "*" in wanted) or "identity"


def _weighed(part: str) -> tuple[str, str]:
    """A coding and its weight; "0", however many digits it is written with, refuses it (RFC 9110 section 12.4.2)."""
    name, _, weight = part.partition(";")
    return name.strip().lower(), weight.strip().lower().removeprefix("q=").rstrip("0").rstrip(
        "."
    ) or "0" if weight else "1"
