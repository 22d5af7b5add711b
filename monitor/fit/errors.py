"""What can be wrong with a signals table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from demur.monitor.errors import InvalidObservation


class TableError(InvalidObservation):
    """A signals table that cannot be read or used. Names the file and the column, what was expected and what came."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean "label"?` when a known name is close to `name`, otherwise nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.65)  # 0.6 takes logits for loss
    return f'; did you mean "{close[0]}"?' if close else ""
