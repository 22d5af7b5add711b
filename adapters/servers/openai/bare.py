"""Answers as they are without log-probabilities: `logprobs` null in each choice, every other character as it came."""

from __future__ import annotations

import json
import re

from demur.adapters.servers.oip.rest.document import Document, Edit

LINE = re.compile(r"^data:[^\r\n]*", re.MULTILINE)
MEMBER = re.compile(r'"logprobs"[ \t]*:[ \t]*')  # within a string its quotes are escaped
DECODER = json.JSONDecoder()


def whole(text: str) -> str:
    """A JSON answer. Raises: MalformedError when it is none."""
    document, edit = Document(text, ("choices",)), Edit()
    for choice in document.elements.get("choices", []):
        said = Document(text[choice.start : choice.end]).members.get("logprobs")
        if said is not None:
            edit.replace(choice.start + said.start, choice.start + said.end, "null")
    return edit.of(text)


def events(text: str) -> str:
    """Server-sent events with an answer's chunks; what is no such chunk stays."""
    return LINE.sub(_line, text)


def _line(found: re.Match[str]) -> str:
    line = found[0]
    places = list(MEMBER.finditer(line))
    try:
        if len(places) != 1:
            return f"data:{_padding(line)}{whole(line[5:].lstrip(' '))}" if places else line
        _, end = DECODER.raw_decode(line, places[0].end())  # one choice in a chunk: found without reading the rest
    except ValueError:  # MalformedError is one too
        return line
    return f"{line[: places[0].end()]}null{line[end:]}"


def _padding(line: str) -> str:
    return line[5 : len(line) - len(line[5:].lstrip(" "))]
