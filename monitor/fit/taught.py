"""Calibration rows that fusions learnt from: no promise may come from them later, whatever the folds then are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import EXACT_MERGE
from demur.detectors.scores import FUSIONS, SCORES
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.fit.checks import ContractViolation
from demur.monitor.fit.finding import error
from demur.monitor.fit.known_rows import Known, remembered, seen
from demur.monitor.fit.shared import shared_rows
from demur.monitor.fit.table import SignalsTable

MEMBER = "taught"
NO_ROWS = np.zeros(0, np.uint64)
LEARNING = frozenset(n for n in FUSIONS if SCORES[n].scales != EXACT_MERGE)  # the others fit nothing


def taught_rows(policy: PolicyConfig, first: SignalsTable | None) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """What is `remembered` of the rows of fold A, when some fusion of the policy learns from them; else nothing."""
    if first is None or not any(s.type in LEARNING for s in policy.scores):
        return NO_ROWS, np.zeros((2, 0), np.int64)
    return remembered([first])


def check_untaught(promised: SignalsTable, rows: Mapping[str, NDArray[Any]]) -> None:
    """Rows that promises come from must not have taught a score of the bundle. Raises: ContractViolation.

    `rows` are the hashes that the bundle holds; the table it was fitted with passes as long as the seed stays. Of rows in
    groups a few may be equal by chance, as in `shared_rows`.
    """
    known = Known.stored(rows, MEMBER)
    if any(finding.level == "error" for finding in shared_rows(promised, known, "calibration", MEMBER)):
        shared = int(seen(promised, known.marks).sum())
        raise ContractViolation(
            [
                error(
                    "shared_rows",
                    f"calibration: {shared} rows that promises would come from taught a fusion of this bundle where the model "
                    "errs; give rows that are new to it, or the same table with the same seed, or fit again",
                )
            ]
        )
