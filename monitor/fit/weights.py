"""The served model's last layer, known again by its fingerprint: is this the model that the monitor was fitted for?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.fingerprint import Change, Fingerprint, compare
from demur.monitor.bundle import Bundle
from demur.monitor.errors import BundleError
from demur.monitor.fit.columns import HEAD, as_array, head_array
from demur.monitor.fit.memory import Budget
from demur.monitor.fit.readers import open_columns, reading
from demur.monitor.fit.table import SignalsTable

MEMBER = "fingerprint.json"


def print_of(table: SignalsTable) -> Fingerprint | None:
    """The fingerprint of the table's head_weight and head_bias, None when it brings no head."""
    return _print({n: a for n in HEAD if (a := getattr(table, n)) is not None})


def _print(held: Mapping[str, NDArray[Any]]) -> Fingerprint | None:
    return Fingerprint.of({n: np.asarray(a) for n, a in held.items()}) if held else None


def read_head(path: Path) -> dict[str, NDArray[np.float32]]:
    """head_weight (C, D) and head_bias (C,) of a file, as far as it has them; other columns are not read. Raises: TableError."""
    opened, found = open_columns(path, Budget(None)), {}
    for ndim, name in ((2, "head_weight"), (1, "head_bias")):
        if name in opened.names:
            with reading(f"{path}: {name}"):
                found[name] = head_array(as_array(opened.read(name), f"{path}: {name}"), ndim, f"{path}: {name}")
    return found


def members(table: SignalsTable) -> dict[str, bytes]:
    """What a bundle keeps of it."""
    found = print_of(table)
    if found is None:
        return {}
    return {MEMBER: (json.dumps(found.document(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()}


def check_head(bundle: Bundle, source: SignalsTable | Path) -> list[Change]:
    """What differs between the head that the bundle was fitted for and that of a table, or of a file with or without rows
    (`demur instrument` writes one); empty when nothing does.

    Raises: BundleError when the bundle keeps no fingerprint, or the source brings no head; TableError for a damaged file.
    """
    raw = bundle.members.get(MEMBER)
    if raw is None:
        raise BundleError(
            "the bundle keeps no fingerprint; give head_weight and head_bias in the reference set, and fit again"
        )
    found, place = (
        (_print(read_head(source)), source) if isinstance(source, Path) else (print_of(source), source.source)
    )
    if found is None:
        raise BundleError(f"{place}: expected head_weight (C, D) and head_bias (C,), got none; export the last layer")
    return compare(registered(raw), found)


def registered(raw: bytes) -> Fingerprint:
    """The fingerprint that a bundle keeps. Raises: BundleError for bytes that are none."""
    try:
        return Fingerprint.read(dict(json.loads(raw)))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{MEMBER} is not a fingerprint: {error}; build the bundle again") from error
