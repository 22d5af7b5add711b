"""A reader for the text form of protobuf messages, as far as model configurations use it."""

from __future__ import annotations

import re
from typing import Any

TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_]\w*|-?\d+|[{}\[\]:,])')


def read(text: str) -> dict[str, list[Any]]:
    """Field name to its values, in order; nested messages are dicts. Raises: ValueError for anything else."""
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        found = TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"not a token: {text[place : place + 20]!r}")
        tokens.append(found[1])
        place = found.end()
    message, rest = _message([*tokens, "}"])
    if rest:
        raise ValueError(f"left over: {rest[:5]}")
    return message


def _message(tokens: list[str]) -> tuple[dict[str, list[Any]], list[str]]:
    made: dict[str, list[Any]] = {}
    while tokens[0] != "}":
        name, tokens = tokens[0], tokens[1:]
        if tokens[0] == "{":
            value, tokens = _message(tokens[1:])
            made.setdefault(name, []).append(value)
            continue
        if tokens[0] != ":":
            raise ValueError(f"{name}: expected a colon, got {tokens[0]!r}")
        values, tokens = _values(tokens[1:])
        made.setdefault(name, []).extend(values)
    return made, tokens[1:]


def _values(tokens: list[str]) -> tuple[list[Any], list[str]]:
    if tokens[0] != "[":
        return [_scalar(tokens[0])], tokens[1:]
    end = tokens.index("]")
    return [_scalar(t) for t in tokens[1:end] if t != ","], tokens[end + 1 :]


def _scalar(token: str) -> Any:
    if token.startswith('"'):
        return token[1:-1].encode().decode("unicode_escape").encode("latin-1").decode()
    return int(token) if token.lstrip("-").isdigit() else token
