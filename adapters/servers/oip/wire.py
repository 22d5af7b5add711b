"""Where the fields of a serialized protobuf message stand, without parsing what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

VARINT, FIXED64, BYTES, GROUP, END, FIXED32 = range(6)
DEEPEST = 100  # nested groups, as protobuf's own parsers allow
LARGEST_TAG = (1 << 32) - 1
LARGEST = (1 << 31) - 1  # bytes of one message
MOST_FIELDS = 65536  # of one message; a field of no content takes two bytes on the wire and a hundred here


class MalformedError(ValueError):
    """These bytes are no protobuf message."""


class Field(NamedTuple):
    """One field of a message: its tag stands at `at`, its value at `start`, the next field at `end`."""

    number: int
    kind: int
    at: int
    start: int
    end: int


def scan(raw: bytes) -> list[Field]:
    """The top-level fields in their order. The contents of nested messages, strings and tensors are not looked at.

    Follows protobuf's encoding: tags of at most 32 bits, groups (deprecated) skipped as a whole, field number 0 and
    wire types 6 and 7 refused, the former within groups not. Raises: MalformedError, also for more than MOST_FIELDS.
    """
    found, at, end = [], 0, len(raw)
    while at < end:
        # Most fields are short strings and messages: their tag and their length are a byte each.
        tag = raw[at]
        if tag & 135 == BYTES and tag > 7 and at + 1 < end and (size := raw[at + 1]) < 128 and at + 2 + size <= end:
            field = Field(tag >> 3, BYTES, at, at + 2, at + 2 + size)
        else:
            field = _field(raw, at, end)
        found.append(field)
        at = field.end
        if len(found) > MOST_FIELDS:
            raise MalformedError(f"more than {MOST_FIELDS} fields")
    return found


def _field(raw: bytes, at: int, end: int, depth: int = 0) -> Field:
    tag, start = raw[at], at + 1
    if tag > 127:
        tag, start = _varint(raw, at, end, 5)
        if tag > LARGEST_TAG:
            raise MalformedError("a tag has more than 32 bits")
    number, kind = tag >> 3, tag & 7
    if not number and not depth:  # within a group that nobody knows protobuf's parser skips it
        raise MalformedError("field number 0")
    if kind == BYTES:
        size, start = _varint(raw, start, end, 5)
        after = start + size
        if size > LARGEST:
            raise MalformedError("a field is longer than any message")
    elif kind == VARINT:
        _, after = _varint(raw, start, end, 10)
    elif kind in (FIXED64, FIXED32):
        after = start + (8 if kind == FIXED64 else 4)
    elif kind == GROUP:
        after = _group_end(raw, number, start, end, depth + 1)
    else:
        raise MalformedError(f"wire type {kind} where a field begins")
    if after > end:
        raise MalformedError("a field ends behind the message")
    return Field(number, kind, at, start, after)


def _group_end(raw: bytes, number: int, at: int, end: int, depth: int) -> int:
    if depth > DEEPEST:
        raise MalformedError("groups are nested too deep")
    while at < end:
        tag, after = _varint(raw, at, end, 5)
        if tag & 7 == END:
            if tag >> 3 != number:
                raise MalformedError("a group ends with another's number")
            return after
        at = _field(raw, at, end, depth).end
    raise MalformedError("a group does not end")


def _varint(raw: bytes, at: int, end: int, longest: int) -> tuple[int, int]:
    """The value and where it ends."""
    value = shift = 0
    for place in range(at, min(at + longest, end)):
        byte = raw[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise MalformedError("a varint does not end")


def last(raw: bytes, fields: Iterable[Field], number: int) -> str:
    """A string field: the last one counts. "" when it is not there. Raises: MalformedError for what is not UTF-8."""
    found = ""
    for field in fields:
        if field.number == number and field.kind == BYTES:
            found = _text(raw[field.start : field.end])
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"a string is not UTF-8 ({error.reason})") from error


def spliced(raw: bytes, fields: Sequence[Field], changes: Mapping[int, bytes]) -> bytes:
    """The message with other bytes (b"" for none) at these places of `fields`; all else keeps its bytes and its order."""
    parts: list[bytes] = []
    kept_from = 0
    for place in sorted(changes):
        field = fields[place]
        parts += (raw[kept_from : field.at], changes[place])
        kept_from = field.end
    parts.append(raw[kept_from:])
    return b"".join(parts)


def delimited(number: int, value: bytes | memoryview) -> bytes:
    """A field of bytes, a string or a message, as it stands in a message."""
    return b"".join((_encoded(number << 3 | BYTES), _encoded(len(value)), value))


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
