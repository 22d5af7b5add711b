"""What a fit reads of the reference beside its features: the head that fits them, their mean, the classes' means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import ClassMoments, Float64, Sums
from demur.detectors.score import Batch, Reference
from demur.detectors.scores.class_fit import correct


def checked_head(reference: Reference, score: str) -> tuple[Float64, Float64]:
    """The last layer in float64: (C, D), (C,).

    Raises: ValueError naming the score without a head, or when it does not map these features to these logits.
    """
    weight, bias = reference.head(score)
    first = next(reference.batches("features", "logits", size=1)).signals
    expected = (first["logits"].shape[1], first["features"].shape[1])
    if weight.shape != expected or bias.shape != expected[:1]:
        raise ValueError(f"{score}: expected a head of shape {expected}, got {weight.shape} with bias {bias.shape}")
    return weight, bias


def feature_mean(reference: Reference) -> Float64:
    """Mean (D,) of all rows."""

    def part(batch: Batch) -> Sums:
        rows = batch.signals["features"].astype(np.float64)
        return Sums(len(rows), {"features": rows.sum(axis=0)})

    return reference.reduce(part, "features").mean("features")


def class_means(reference: Reference, score: str) -> Float64:
    """Means (C, D) of the correctly answered rows of each of the model's classes 0..C-1.

    Raises: ValueError without labels, with labels that are no class, or when a class has no correctly answered row.
    """
    moments = by_class(reference, score)
    empty = np.flatnonzero(moments.counts == 0)
    if len(empty):
        raise ValueError(f"{score}: classes {empty.tolist()} have no correctly answered reference rows; add some")
    return moments.means


def by_class(reference: Reference, score: str) -> ClassMoments:
    """Counts (C,) and sums (C, D) of the correctly answered rows of each of the model's classes 0..C-1.

    Raises: ValueError without labels, or with labels that are no class.
    """
    classes = class_count(reference, score)

    def part(batch: Batch) -> ClassMoments:
        assert batch.labels is not None  # noqa: S101 - refused by class_count
        rows = batch.signals["features"][batch.correct].astype(np.float64)
        return ClassMoments.of(rows, batch.labels[batch.correct], classes)

    return reference.reduce(part, "features")


def means_by_label(reference: Reference, score: str) -> tuple[NDArray[np.int64], Float64]:
    """The labels that have correctly answered rows, ascending (K,), and the means of those rows (K, D).

    Raises: ValueError without labels, or when no row is answered correctly.
    """
    if reference.labels is None:
        raise ValueError(
            f"{score}: expected labels in the reference, as it is fitted class by class; add a `label` column, or take a score without, such as knn"
        )
    classes = np.unique(np.asarray(reference.labels, np.int64))
    moments = reference.reduce(lambda batch: ClassMoments.of(*correct(batch, classes), len(classes)), "features")
    kept = moments.counts > 0
    if not kept.any():
        raise ValueError(f"{score}: expected correctly answered reference rows, got none")
    return classes[kept], moments.sums[kept] / moments.counts[kept, None]


def class_count(reference: Reference, score: str) -> int:
    """C, the width of the logits. Raises: ValueError without labels, or with labels outside 0..C-1."""
    if reference.labels is None:
        raise ValueError(
            f"{score}: expected labels in the reference, as it is fitted class by class; add a `label` column, or take a score without, such as knn"
        )
    width = next(reference.batches("logits", size=1)).signals["logits"].shape[1]
    found = np.unique(np.asarray(reference.labels, np.int64))
    if found[0] < 0 or found[-1] >= width:
        raise ValueError(f"{score}: expected labels in 0..{width - 1}, as many classes as logits; got {found.tolist()}")
    return int(width)
