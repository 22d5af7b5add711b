"""What a reader must know before believing a figure."""

from __future__ import annotations

from collections.abc import Mapping

from demur.monitor.bundle import Bundle
from demur.monitor.evaluate.graded import LEFT_OUT
from demur.monitor.evaluate.judged import Judged, Unit
from demur.monitor.evaluate.pool import Part
from demur.monitor.fit.assemble import ROWS
from demur.monitor.fit.known_rows import seen
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.taught import MEMBER as TAUGHT
from demur.monitor.monitor import Monitor


def notes_of(
    monitor: Monitor, tables: Mapping[Part, SignalsTable], judged: Mapping[Part, Judged], counted: Unit
) -> list[str]:
    """What a reader must know before believing a figure."""
    graded = [part.name for part, one in judged.items() if one.loss is not None]
    notes = [f"{', '.join(graded)}: {LEFT_OUT}"] if graded else []
    for part, table in tables.items():
        notes += [f"{part.name}: {said}" for said in known_rows(table, monitor.bundle)]
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


def _without_rows(empty: int, judged: Judged, monitor: Monitor) -> str:
    accepts = monitor.bundle.manifest.policy.get("empty_group") == "accept"
    every, accepted = len(judged) + empty, int(judged.accept.sum()) + empty * accepts
    what = "are accepted without a score" if accepts else "abstain (UNAVAILABLE)"
    return (
        f"{empty:,} of {every:,} groups have no rows; they {what}, and are in no figure: "
        f"of all groups, {accepted / every:.1%} are accepted"
    )


def known_rows(table: SignalsTable, bundle: Bundle) -> list[str]:
    """What the bundle learnt from rows of this table."""
    held = bundle.arrays(ROWS)
    where = {
        "reference": "were in the reference set that the scores were fitted on",
        TAUGHT: "taught a fusion where the model errs",
    }
    shared = {n: int(seen(table, held[n]).sum()) for n in where if n in held}
    return [f"{count} of {len(table)} rows {where[n]}; figures are optimistic" for n, count in shared.items() if count]
