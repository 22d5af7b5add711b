"""How many objects a detector invents on images without known objects, before and after its boxes are filtered."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.bundle import Bundle
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.evaluation import plain
from demur.monitor.evaluate.filtering import Boxes, counted
from demur.monitor.evaluate.judged import columns_of
from demur.monitor.evaluate.known import known_rows
from demur.monitor.evaluate.run import Source, as_table
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.table import SignalsTable
from demur.monitor.monitor import Monitor
from demur.monitor.verdicts import BROKEN


@dataclass(frozen=True)
class Filtered:
    """One filter. `threshold`: boxes of a higher score are refused; None for the bundle's own policy, which is told as it
    judges boxes and, when it judges images too, without the boxes of refused images, as behind a proxy.

    kept_true: share of the true detections on known images that it keeps; after: hallucinations that it keeps; reduction:
    1 - after / before; with intervals over images.
    """

    name: str
    threshold: float | None
    kept_true: Estimate
    after: Estimate
    reduction: Estimate


@dataclass(frozen=True)
class Hallucinations:
    """`before`: detections on unknown images that are left after hygiene, every one of them a hallucination.

    Hygiene: images_removed of images_given images with detections were removed because they hold known objects, by
    `removed_by_label` and `removed_by_person` (both may name one image), and with them boxes_removed detections.
    images_empty: unknown images on which nothing was detected, as far as the table names them: resamples draw them too.
    notes: what a reader must know before believing a figure.
    """

    images_given: int
    images_removed: int
    removed_by_label: int
    removed_by_person: int
    boxes_removed: int
    true_detections: int
    keep: float
    before: Estimate
    filters: tuple[Filtered, ...]
    notes: tuple[str, ...] = ()
    images_empty: int = 0

    def document(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"schema_version": 1, "kind": "demur.hallucinations", **plain(self)}

    def save(self, path: str | Path) -> None:
        """Write the document as JSON; a missing folder is made."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(self.document(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def hallucinations(
    bundle: Bundle | str | Path,
    known: Source,
    unknown: Source,
    *,
    confirmed: Collection[Any] = (),
    keep: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Hallucinations:
    """Detections on images without known objects, before and after each score's threshold and the bundle's policy.

    known, unknown: tables with a row for each box and `group_id`, the image. In `known`, `loss` 0 marks true detections;
    a score's threshold keeps at least the share `keep` of them, as few more as ties allow. From `unknown`, images are
    removed first that hold a known object: those of a box with loss 0, and those in `confirmed`, group ids that a person
    looked at. Intervals resample the images of both tables (thresholds too).
    Source: He et al. 2025, arXiv:2503.07330: hallucinations at 95 % true positives, and the hygiene of test sets.
    Raises: EvaluationError when labels or images are missing, or an id in `confirmed` is no image; TableError, BundleError.
    """
    if not 0 < keep <= 1:
        raise EvaluationError(f"keep: expected a share in (0, 1], got {keep}")
    monitor = Monitor.of(bundle if isinstance(bundle, Bundle) else Bundle.load(bundle))
    tables = {name: _imaged(as_table(source, monitor), name) for name, source in _named(known, unknown).items()}
    right = _true(tables["known"])
    gone, by_label, by_person = _hygiene(tables["unknown"], confirmed)
    true = _boxes(monitor, tables["known"]).take(right)
    strange = true.none() if gone.all() else _boxes(monitor, tables["unknown"].take(~gone))
    given, removed, empty = _count(tables["unknown"]), _removed(tables["unknown"], gone), tables["unknown"].empty
    strange = replace(strange, images=strange.images + empty)
    stratum = np.repeat([0, 1], [true.images, strange.images])
    resampler = Resampler(stratum, None, bootstrap, seed, confidence)
    names = columns_of(monitor, "row")
    return Hallucinations(
        images_given=given,
        images_removed=removed,
        removed_by_label=by_label,
        removed_by_person=by_person,
        boxes_removed=int(gone.sum()),
        true_detections=int(right.sum()),
        keep=keep,
        **_estimates(names, tuple(true.accepted), counted(len(names), true, strange, keep, resampler), resampler),
        images_empty=empty,
        notes=tuple(f"{name}: {said}" for name in tables for said in known_rows(tables[name], monitor.bundle)),
    )


def images_to_review(unknown: Source, monitor: Monitor) -> list[Any]:
    """Group ids of the images with detections, most detections first: where a person should look for known objects."""
    image = np.asarray(_imaged(as_table(unknown, monitor), "unknown").group_id)
    names, counts = np.unique(image, return_counts=True)
    found: list[Any] = names[np.argsort(-counts, kind="stable")].tolist()
    return found


def _named(known: Source, unknown: Source) -> Mapping[str, Source]:
    return {"known": known, "unknown": unknown}


def _imaged(table: SignalsTable, name: str) -> SignalsTable:
    if table.group_id is None:
        raise EvaluationError(f"{name}: expected group_id, the image of each box; write it beside the signals")
    return table


def _true(table: SignalsTable) -> NDArray[np.bool_]:
    if table.loss is None:
        raise EvaluationError(
            "known: expected loss or label, which boxes are true detections; got neither; `labelled` of "
            "demur.monitor.evaluate.matching gives boxes a loss, from the objects of each image"
        )
    if table.right is None:
        raise EvaluationError("known: expected loss 0 (true detection) or 1, got losses between; write 0 or 1")
    true = table.right
    if not true.any():
        raise EvaluationError("known: expected true detections (loss 0), got none; a threshold cannot be set")
    return true


def _count(table: SignalsTable) -> int:
    return 0 if table.grouping is None else table.grouping.count


def _removed(table: SignalsTable, gone: NDArray[np.bool_]) -> int:
    return len(np.unique(np.asarray(table.group_id)[gone]))


def _hygiene(table: SignalsTable, confirmed: Collection[Any]) -> tuple[NDArray[np.bool_], int, int]:
    """(N,) boxes of images that hold a known object, and by whose word how many images do."""
    image = np.asarray(table.group_id)
    names = {str(name): name for name in np.unique(image).tolist()}
    strays = [word for word in map(str, confirmed) if word not in names]
    if strays:
        raise EvaluationError(
            f"confirmed: {strays[0]!r} is no image with detections; give group ids of the unknown table"
        )
    person = {names[str(word)] for word in confirmed}
    label = set() if table.right is None else set(np.unique(image[table.right]).tolist())
    gone = np.isin(image, np.array(sorted(person | label))) if person | label else np.zeros(len(image), np.bool_)
    return gone, len(label), len(person)


def _boxes(monitor: Monitor, table: SignalsTable) -> Boxes:
    verdicts, grouping = assess_table(monitor, table), table.grouping
    assert grouping is not None  # noqa: S101  `_imaged` has seen it
    risk = verdicts.scores.astype(np.float64)
    risk[~np.isfinite(risk) | ((verdicts.reason_bits & BROKEN) != 0)[:, None]] = np.inf
    accepted = {"policy": verdicts.accept}
    if verdicts.groups is not None:
        accepted["policy, images too"] = verdicts.accept & verdicts.groups.accept[grouping.index]
    return Boxes(risk, accepted, grouping.index, grouping.count + table.empty)


def _estimates(
    scores: tuple[str, ...], policies: tuple[str, ...], found: NDArray[np.float64], resampler: Resampler
) -> dict[str, Any]:
    before, filters = found[:, 0], []
    for place, name in enumerate((*scores, *policies)):
        limit, share, after = found[:, 1 + 3 * place : 4 + 3 * place].T
        with np.errstate(invalid="ignore", divide="ignore"):
            figures = [_estimate(resampler, column) for column in (share, after, 1 - after / before)]
        filters.append(Filtered(name, float(limit[0]) if place < len(scores) else None, *figures))
    return {"before": _estimate(resampler, before), "filters": tuple(filters)}


def _estimate(resampler: Resampler, values: NDArray[np.float64]) -> Estimate:
    limits = resampler.interval(values[1:])
    return Estimate(float(values[0]), *(limits or (None, None)))
