"""What a reader must know before believing a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demur.monitor.evaluate.graded import LEFT_OUT
from demur.monitor.evaluate.judged import Judged, Unit, columns_of
from demur.monitor.evaluate.known import in_both, known_rows, known_units
from demur.monitor.evaluate.pool import Part
from demur.monitor.fit.contract import CALIBRATION
from demur.monitor.fit.known_rows import marks
from demur.monitor.fit.table import SignalsTable
from demur.monitor.monitor import Monitor


def notes_of(
    monitor: Monitor,
    tables: Mapping[Part, SignalsTable],
    judged: Mapping[Part, Judged],
    counted: Unit,
    digests: Mapping[str, str],
) -> list[str]:
    """What a reader must know before believing a figure; `digests` are of the tables, by name."""
    graded = [part.name for part, one in judged.items() if one.loss is not None]
    notes = [f"{', '.join(graded)}: {LEFT_OUT}"] if graded else []
    novel = any(part.kind == "novel" for part in tables)
    test = marks(next(iter(tables.values()))) if novel else None
    for part, table in tables.items():
        known = _known(monitor, part, table, judged[part], counted, digests[part.name], test)
        notes += [f"{part.name}: {said}" for said in known]
        if judged[part].loss is None and part.kind != "novel" and judged[part].wrong is None:
            notes.append(f"{part.name}: no labels, so nothing is said about the model's mistakes there")
        if table.empty and counted == "group":
            notes.append(f"{part.name}: {_without_rows(table.empty, judged[part], monitor)}")
        if judged[part].weighted:
            notes.append(f"{part.name}: its weight column is not used; every unit counts once")
        broken = int(judged[part].broken.sum())
        if broken:
            notes.append(
                f"{part.name}: {broken} of {len(judged[part])} units are INVALID or UNAVAILABLE; they abstain, and are in no ranking"
            )
    return notes


def _known(
    monitor: Monitor, part: Part, table: SignalsTable, judged: Judged, unit: Unit, digest: str, test: Any
) -> list[str]:
    """What of a set is no news to the bundle; of a novelty set also what `test`, marks of the test set, holds of it."""
    novel, bundle = part.kind == "novel", monitor.bundle
    said = known_rows(table, bundle, digest, novel=novel)
    if digest != bundle.manifest.digests.get(CALIBRATION):
        said += known_units(judged.scores, columns_of(monitor, unit), bundle, unit, novel=novel)
    return [*said, *in_both(table, test)] if novel else said


def _without_rows(empty: int, judged: Judged, monitor: Monitor) -> str:
    accepts = monitor.bundle.manifest.policy.get("empty_group") == "accept"
    every, accepted = len(judged) + empty, int(judged.accept.sum()) + empty * accepts
    what = "are accepted without a score" if accepts else "abstain (UNAVAILABLE)"
    return (
        f"{empty:,} of {every:,} groups have no rows; they {what}, and are in no figure: "
        f"of all groups, {accepted / every:.1%} are accepted"
    )
