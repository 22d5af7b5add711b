"""What is wrong with a configuration, in words: where, what was expected, what came, and what may be meant."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

LONGEST_VALUE = 80
NEAR = 0.65  # of a name that may be meant
# An unknown key may hold a secret: its name is enough.
UNNAMED = {"missing": "this key is needed", "extra_forbidden": "there is no such key"}
SAID = UNNAMED | {"model_type": "expected a mapping of keys"}
PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def faults(model: type[BaseModel], document: Mapping[str, Any], errors: list[Any]) -> list[str]:
    """A line for each place of `document` that is wrong, from what pydantic found; of alternatives the first is told."""
    found: dict[str, str] = {}
    for error in errors:
        place = ".".join(_place(document, error))
        said = SAID.get(error["type"], error["msg"].removeprefix("Value error, "))
        hint = (
            did_you_mean(str(error["loc"][-1]), _keys(model, error["loc"]))
            if error["type"] == "extra_forbidden"
            else ""
        )
        line = f"{f'{place}: ' if place else ''}{said}{hint}{_came(error)}"
        found.setdefault(place or line, line)
    if any(error["type"] in UNNAMED and len(error["loc"]) == 1 for error in errors):
        found[""] = f"top-level keys are: {', '.join(model.model_fields)}"
    return list(found.values())


def did_you_mean(name: str, known: list[str]) -> str:
    """`; did you mean when?` where a known name is near, else nothing."""
    close = get_close_matches(name, known, 1, NEAR)
    return f"; did you mean {close[0]}?" if close else ""


def _place(document: Any, error: Any) -> list[str]:
    """The keys that lead there, as they are written: rules and scores by their names, and nothing that only pydantic knows."""
    here, place = document, list[str]()
    for part in error["loc"]:
        if isinstance(here, list) and isinstance(part, int) and part < len(here):
            here, name = here[part], str(part)
            if isinstance(here, dict) and len(here) == 1 and isinstance(body := next(iter(here.values())), dict):
                name, here = (name, here) if "name" in body else (str(next(iter(here))), body)
            place.append(name)
        elif isinstance(here, dict | list):
            here = here.get(part, {}) if isinstance(here, dict) else {}
            place.append(str(part))
    return place


def _keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that may stand beside the last one of `loc`."""
    sections = [model]
    for part in loc[:-1]:
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        if fields:
            sections = [s for field in fields for s in _sections(field.annotation)]
    return [key for section in sections for key in section.model_fields]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _came(error: Any) -> str:
    value = error.get("input")
    if error["type"] in UNNAMED or isinstance(value, dict | list):
        return ""
    return f", got {textwrap.shorten(repr(value), LONGEST_VALUE)}{_as_share(error, value)}"


def _as_share(error: Any, value: Any) -> str:
    """How a percentage is written, where a share was expected."""
    written = PERCENT.fullmatch(value) if isinstance(value, str) else None
    if written and error["type"] == "float_parsing":
        percentage = float(written[1])
    elif error["type"] == "less_than" and error["ctx"]["lt"] <= 1 and isinstance(value, int | float) and value < 100:
        percentage = float(value)
    else:
        return ""
    return f"; {percentage:g} % is written {percentage / 100:.12g}"
