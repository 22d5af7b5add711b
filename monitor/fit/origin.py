"""Where the signals of a table come from: how they were decoded, and from which model's file. Written by `demur collect`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.config.decoding import Decoding
from demur.monitor.fit.errors import TableError

LARGEST_BYTES, MOST_SECTIONS = 1 << 20, 64
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Origin:
    """`decoding`: the signal map's part that decides the numbers; `model`: SHA-256 of the model's file as it was before it
    was instrumented, "" when nobody knows it.
    """

    decoding: Decoding = field(default_factory=lambda: Decoding({}))
    model: str = ""

    def __bool__(self) -> bool:
        return bool(self.decoding or self.model)

    def column(self) -> NDArray[np.str_]:
        """As it stands in a table: (1,) one string of JSON. Batches of one origin may be concatenated."""
        held = {"decoding": dict(self.decoding.document), "model": self.model}
        return np.array([json.dumps({k: v for k, v in held.items() if v}, sort_keys=True)])

    @staticmethod
    def parse(array: NDArray[Any], where: str) -> Origin:
        """What `column` wrote, once or many times. Raises: TableError for anything else, or two different ones."""
        known = set(np.asarray(array).ravel().tolist()) if array.dtype.kind == "U" else set[str]()
        if len(known) > 1:
            raise TableError(
                f"{where}: its rows were collected in different ways; expected rows of one model and one signal map"
            )
        text = next(iter(known), "")
        try:
            document = json.loads(text) if len(text) <= LARGEST_BYTES and text.count("{") <= MOST_SECTIONS else None
            found = _checked(document)
        except (ValueError, RecursionError):
            found = None
        if found is None:
            raise TableError(f"{where}: expected what `demur collect` writes there; collect again, or leave it out")
        return found


def _checked(document: Any) -> Origin | None:
    """None for what is no origin. Raises: ValueError for a decoding that no signal map gives."""
    if not isinstance(document, dict) or not set(document) <= {"decoding", "model"}:
        return None
    model = document.get("model", "")
    if not isinstance(model, str) or (model and not DIGEST.fullmatch(model)):
        return None
    return Origin(Decoding.parse(document.get("decoding", {})), model)
