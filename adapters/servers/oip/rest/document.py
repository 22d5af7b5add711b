"""A JSON object whose members can be cut out and put in while every other character stays as it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

MOST_CONTAINERS = 1 << 20  # an empty list takes 2 bytes of text and 64 of memory; tensors nested by rows have thousands
SPACE = re.compile(r"[ \t\n\r]*")


class MalformedError(ValueError):
    """A text that is no JSON object, or one that can be read in two ways."""


class Value(NamedTuple):
    """A value and where it stands: text[start:end]."""

    value: Any
    start: int
    end: int


@contextmanager
def readable(text: str) -> Iterator[None]:
    """For reading JSON of somebody else's. Raises: MalformedError for whatever is wrong with it."""
    if text.count("[") + text.count("{") > MOST_CONTAINERS:
        raise MalformedError(f"more than {MOST_CONTAINERS} lists and objects")
    try:
        yield
    except MalformedError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error) or "nested too deep") from error


def value(raw: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """Any JSON text, under the rules of Document; `decoder` may leave out more. Raises: MalformedError."""
    text = raw.decode("utf-8", "surrogateescape")
    with readable(text):
        return (decoder or DECODER).decode(text)


class Document:
    """The members of a JSON object by key; those named in `listed` are arrays, taken apart into their elements.

    As inference servers write it: NaN, Infinity and -Infinity are numbers. A key that stands twice in one object is refused:
    readers disagree about which of the two counts. Raises: MalformedError.
    """

    def __init__(self, text: str, listed: Sequence[str] = ()) -> None:
        self.text = text
        self.members: dict[str, Value] = {}
        self.elements: dict[str, list[Value]] = {}
        with readable(text):
            self._read(listed)

    def get(self, key: str) -> Any:
        """The member's value, None when there is none."""
        found = self.members.get(key)
        return None if found is None else found.value

    def without(self, key: str, places: Iterable[int]) -> Edit:
        """Take these elements out of the array `key`."""
        drop, elements = set(places), self.elements[key]
        kept = [e for i, e in enumerate(elements) if i not in drop]
        opening = self.members[key].start + 1
        if not kept:
            return Edit().replace(opening, elements[-1].end, "") if elements else Edit()
        edit, previous = Edit(), opening
        for place, element in enumerate(elements):
            if place not in drop:
                previous = element.end
            elif previous == opening:  # nothing is kept before it: its comma goes with it
                edit.replace(element.start, elements[place + 1].start, "")
            else:
                edit.replace(elements[place - 1].end, element.end, "")
        return edit

    def appended(self, key: str, texts: Sequence[str]) -> Edit:
        """Put elements behind those of the array `key`, which is made when there is none."""
        joined = ",".join(texts)
        if key not in self.members:
            return self.member(key, f"[{joined}]")
        if key not in self.elements:  # null
            return Edit().replace(self.members[key].start, self.members[key].end, f"[{joined}]")
        elements, closing = self.elements[key], self.members[key].end - 1
        at = elements[-1].end if elements else closing
        return Edit().replace(at, at, f",{joined}" if elements else joined)

    def member(self, key: str, text: str) -> Edit:
        """Add a member behind the others."""
        comma = "," if self.members else ""
        return Edit().replace(self.last, self.last, f"{comma}{json.dumps(key)}:{text}")

    def _read(self, listed: Sequence[str]) -> None:
        text = self.text
        at = self._expect("{", _skip(text, 0))
        self.last = at
        if text[at : at + 1] != "}":
            at = self._members(at, listed)
        if _skip(text, at + 1) != len(text):
            raise MalformedError("text behind the object")

    def _members(self, at: int, listed: Sequence[str]) -> int:
        text = self.text
        while True:
            key, at = DECODER.raw_decode(text, at)
            if not isinstance(key, str) or key in self.members:
                raise MalformedError(f"expected a new key, got {key!r:.80}")
            at = self._expect(":", _skip(text, at))
            if key in listed and text[at : at + 1] == "[":
                elements, end = _array(text, at)
                self.elements[key] = elements
                found = Value([e.value for e in elements], at, end)
            else:
                found = Value(*_decoded(text, at))
            self.members[key], self.last = found, found.end
            at = _skip(text, found.end)
            if text[at : at + 1] == "}":
                return at
            at = self._expect(",", at)

    def _expect(self, character: str, at: int) -> int:
        if self.text[at : at + 1] != character:
            raise MalformedError(f"expected {character!r} at character {at}")
        return _skip(self.text, at + 1)


class Edit:
    """Replacements of stretches of a text, none overlapping another."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int, str]] = []

    def replace(self, start: int, end: int, text: str) -> Edit:
        """Put `text` where text[start:end] stood."""
        self._parts.append((start, end, text))
        return self

    def also(self, other: Edit) -> Edit:
        """Both edits at once."""
        self._parts.extend(other._parts)
        return self

    def of(self, text: str) -> str:
        """The edited text."""
        out: list[str] = []
        at = 0
        for start, end, new in sorted(self._parts, key=lambda part: part[:2]):
            out += (text[at:start], new)
            at = end
        return "".join((*out, text[at:]))


def _array(text: str, at: int) -> tuple[list[Value], int]:
    elements: list[Value] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return elements, at + 1
    while True:
        value, start, end = _decoded(text, at)
        elements.append(Value(value, start, end))
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            return elements, at + 1
        if text[at : at + 1] != ",":
            raise MalformedError(f"expected ',' or ']' at character {at}")
        at = _skip(text, at + 1)


def _decoded(text: str, at: int) -> tuple[Any, int, int]:
    value, end = DECODER.raw_decode(text, at)
    return value, at, end


def _skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return at if found is None else found.end()


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members. Raises: MalformedError when a key stands twice in it."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("a key stands twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=unique)
