"""Whether a request is traced, decided before any SDK object exists: an unsampled request costs about a microsecond."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

# https://www.w3.org/TR/trace-context/#traceparent-header: version 00 has exactly four fields, later ones may have more
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span."""

    trace_id: int
    span_id: int


ROOT = Parent(0, 0)


def sample(traceparent: str, ratio: float) -> Parent | None:
    """The parent to trace under, ROOT to begin a trace, or None not to trace.

    A valid traceparent decides by its sampled flag; without one (or with a malformed one) `ratio` 0..1 does.
    """
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent)):
        version, trace_id, span_id, flags, more = match.groups()
        if version != "ff" and (more is None or version != "00"):
            return Parent(int(trace_id, 16), int(span_id, 16)) if int(flags, 16) & 1 else None
    return ROOT if random.random() < ratio else None  # noqa: S311  no secret: one request in a hundred
