"""Content codings of HTTP bodies, gzip and deflate, with a bound on what comes out."""

from __future__ import annotations

import zlib

GZIP, ZLIB, BARE = 31, 15, -15  # zlib's names for the three framings
KNOWN = ("gzip", "deflate")
MOST_MEMBERS = 64  # of one gzip body; each costs a copy of what is behind it


class CodingError(ValueError):
    """A coding that is not known here, or bytes that are not of it."""


class TooLargeError(Exception):
    """More bytes than a limit; the message names the limit."""


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
    try:
        return _inflated(content, GZIP if name == "gzip" else ZLIB, largest_bytes)
    except zlib.error as error:
        if name == "gzip":
            raise CodingError(f"the body is not gzip ({error})") from error
    try:
        return _inflated(content, BARE, largest_bytes)  # what many senders call deflate
    except zlib.error as error:
        raise CodingError(f"the body is not deflate ({error})") from error


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


def _inflated(content: bytes, framing: int, largest_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = largest_bytes
    while content:
        if len(parts) == MOST_MEMBERS:
            raise zlib.error("it has too many members")
        unpacker = zlib.decompressobj(framing)
        part = unpacker.decompress(content, left + 1)
        left -= len(part)
        if left < 0:
            raise TooLargeError(f"the decoded body exceeds limits.message_bytes = {largest_bytes}")
        if not unpacker.eof:
            raise zlib.error("it ends too early")
        parts.append(part)
        content = unpacker.unused_data if framing == GZIP else b""
    return b"".join(parts)
