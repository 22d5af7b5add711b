"""Rows that a bundle has met before: figures on them are optimistic, and its promises are kept by construction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from demur.monitor.bundle import Bundle
from demur.monitor.evaluate.kept import STOPPED
from demur.monitor.fit.assemble import ROWS
from demur.monitor.fit.contract import CALIBRATION
from demur.monitor.fit.evidence import Evidence
from demur.monitor.fit.fingerprint import row_hashes
from demur.monitor.fit.known_rows import seen
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.taught import MEMBER as TAUGHT

OPTIMISTIC, MISLEADING = "figures are optimistic", "figures mislead"
LEARNT = {
    "reference": "the scores were fitted on",
    "selection": "the scores were chosen on",
    "outliers": "scores or thresholds learnt from",
    "wild": "scores learnt from",
}
FOREIGN = frozenset({"outliers", "wild"})
OVER_CHANCE = 3.0  # times as many equal scores as ties alone would give


def known_rows(table: SignalsTable, bundle: Bundle, digest: str = "", *, novel: bool = False) -> list[str]:
    """What the bundle learnt from rows of this table, a novelty set or not; `digest` is the table's, when it is at hand."""
    held, digests = bundle.arrays(ROWS), bundle.manifest.digests
    same = {name for name in digests if digests[name] == (digest or table.digest())}
    sets = _left_marks(same & LEARNT.keys() or digests)
    where = {"reference": f"were in {_named(sets)}", TAUGHT: "taught a fusion where the model errs"}
    shared = {n: int(seen(table, held[n]).sum()) for n in where if n in held}
    foreign = FOREIGN.issuperset(sets)
    said = [
        f"{count} of {len(table)} rows {where[n]}; {_so(novel and not foreign)}" for n, count in shared.items() if count
    ]
    if CALIBRATION in same:
        said.append(f"these are the rows of the calibration set, which the thresholds come from; {_so(novel)}")
    return said


def known_units(
    scores: NDArray[np.float32], columns: Sequence[str], bundle: Bundle, unit: str, *, novel: bool
) -> list[str]:
    """Whether units (N, S) of these scores were among those that thresholds come from."""
    found = calibrated_on(scores, columns, bundle)
    same = f"{found} of {len(scores)} {unit}s have the very scores of {unit}s in the calibration set"
    return [f"{same}, which the thresholds come from; {_so(novel)}"] if found else []


def calibrated_on(scores: NDArray[np.float32], columns: Sequence[str], bundle: Bundle) -> int:
    """How many of these units are calibration units, told by their scores (N, S); 0 where ties alone may explain it.

    A bundle holds the scores of its calibration units, without those that fusions learnt from.
    """
    held = Evidence.of(bundle).scores
    chosen = {s.name for s in bundle.manifest.scores if s.type == STOPPED}  # places are kept of these, no scores
    of = {c.name: c.score for c in bundle.manifest.columns}
    names = [n for n in columns if n in held and of[n] not in chosen]
    if not names:
        return 0
    return met_again(scores[:, [columns.index(n) for n in names]], np.column_stack([held[n] for n in names]))


def met_again(scores: NDArray[np.float32], before: NDArray[np.float32]) -> int:
    """How many of N units (N, S) have the scores of one of n units (n, S), and of no other, to the last bit; 0 when two draws
    of one distribution may well agree as often.

    Of what is there once among the n, a draw of N meets about 2 N / n times as many as there are pairs of equal units among
    the n (Good 1953), and likewise the other way round; one pair more than was seen is reckoned with. NaN and infinities
    are left out.
    """
    mine, theirs = (a[np.isfinite(a).all(axis=1)] for a in (scores, before))
    if not len(mine) or not len(theirs):
        return 0
    marks, held = (row_hashes(iter([[a]])) for a in (mine, theirs))
    (values, here), (known, there) = (np.unique(a, return_counts=True) for a in (marks, held))
    found = int(np.isin(marks, known[there == 1]).sum())
    once = len(np.intersect1d(values[here == 1], known[there == 1], assume_unique=True))
    pairs, ratio = 1 + int((there == 2).sum()), len(mine) / len(theirs)
    chance = 2 * ratio * pairs
    least = min(chance, 2 / ratio * (1 + int((here == 2).sum())))
    return found if found > 1 + OVER_CHANCE * chance or once > 1 + OVER_CHANCE * least else 0


def in_both(table: SignalsTable, test: NDArray[np.uint64]) -> list[str]:
    """Rows of a novelty set that are in-distribution test rows too, told by their marks."""
    count = int(seen(table, test).sum())
    return [f"{count} of {len(table)} rows are rows of the test set too; {MISLEADING}"] if count else []


def _left_marks(names: Collection[str]) -> list[str]:
    return [name for name in LEARNT if name in names]


def _named(sets: Sequence[str]) -> str:
    if len(sets) == 1:
        return f"the {sets[0]} set that {LEARNT[sets[0]]}"
    return f"the {', '.join(sets[:-1])} or {sets[-1]} set that the scores come from"


def _so(misleading: bool) -> str:
    return MISLEADING if misleading else OPTIMISTIC
