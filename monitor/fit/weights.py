"""The served model's last layer, known again by its fingerprint: is this the model that the monitor was fitted for?"""

from __future__ import annotations

import json

import numpy as np

from demur.detectors.fingerprint import Change, Fingerprint, compare
from demur.monitor.bundle import Bundle
from demur.monitor.errors import BundleError
from demur.monitor.fit.table import SignalsTable

MEMBER = "fingerprint.json"


def print_of(table: SignalsTable) -> Fingerprint | None:
    """The fingerprint of the table's head_weight and head_bias, None when it brings no head."""
    held = {"head_weight": table.head_weight, "head_bias": table.head_bias}
    given = {n: np.asarray(a) for n, a in held.items() if a is not None}
    return Fingerprint.of(given) if given else None


def members(table: SignalsTable) -> dict[str, bytes]:
    """What a bundle keeps of it."""
    found = print_of(table)
    if found is None:
        return {}
    return {MEMBER: (json.dumps(found.document(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()}


def check_head(bundle: Bundle, table: SignalsTable) -> list[Change]:
    """What differs between the head that the bundle was fitted for and the table's; empty when nothing does.

    Raises: BundleError when the bundle keeps no fingerprint, or the table brings no head.
    """
    raw, found = bundle.members.get(MEMBER), print_of(table)
    if raw is None:
        raise BundleError(
            "the bundle keeps no fingerprint; give head_weight and head_bias in the reference set, and fit again"
        )
    if found is None:
        raise BundleError(
            f"{table.source}: expected head_weight (C, D) and head_bias (C,), got none; export the last layer"
        )
    return compare(registered(raw), found)


def registered(raw: bytes) -> Fingerprint:
    """The fingerprint that a bundle keeps. Raises: BundleError for bytes that are none."""
    try:
        return Fingerprint.read(dict(json.loads(raw)))
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{MEMBER} is not a fingerprint: {error}; build the bundle again") from error
