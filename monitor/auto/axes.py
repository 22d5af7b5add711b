"""What in-distribution data can say about a score: rows that it should rank above ordinary ones, made without any outlier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference
from demur.monitor.perturb.catalogue import find
from demur.monitor.perturb.context import Context

Kind = Literal["errors", "between", "near", "far"]
Rows = dict[str, Array]
FOLDS = 6
PROBES: tuple[tuple[Kind, str, int], ...] = (
    ("between", "mix", 5),
    ("far", "gaussian_noise", 5),
    ("far", "permute", 3),
    ("far", "dropout", 4),
    ("far", "shrink", 3),
)
FEWEST = 20


@dataclass(frozen=True, eq=False)
class Axis:
    """Ordinary and strange rows, signals (n, width) each; a good score puts the strange ones above."""

    name: str
    kind: Kind
    ordinary: Rows
    strange: Rows


@dataclass(frozen=True, eq=False)
class World:
    """A reference to fit on and the axes to judge by."""

    reference: Reference
    axes: tuple[Axis, ...]


def worlds(reference: Reference, selection: Reference, seed: int) -> Iterator[World]:
    """The data as they are, with errors and far probes; then the data without some classes, which become novel."""
    rows = {n: np.asarray(a, np.float32) for n, a in selection.signals.items()}
    axes = [*errors(rows, selection.correct), *probes(rows, reference, seed)]
    if axes:
        yield World(reference, tuple(axes))
    yield from _leave_classes_out(reference, selection, rows, seed)


def errors(rows: Rows, correct: NDArray[np.bool_] | None) -> Iterator[Axis]:
    """Answers that were wrong, against those that were right."""
    if correct is not None and min(correct.sum(), (~correct).sum()) >= FEWEST:
        yield Axis("errors", "errors", _cut(rows, correct), _cut(rows, ~correct))


def probes(rows: Rows, reference: Reference, seed: int) -> Iterator[Axis]:
    """Rows between the data (the middle of two rows) and far from them: noise, exchanged, lost, collapsed dimensions.

    Distances alone see a middle as ordinary, confidences alone see noise as ordinary: together they keep a choice from
    leaning to one side. Rows of a table, without logits, have no classes to lie between: their columns are shuffled.
    The others are made of the features, and their logits by the head; without a head, of features and logits
    each by itself, with one seed.
    """
    if "logits" not in rows and "features" in rows:
        yield Axis("far: shuffled columns", "far", rows, {"features": _shuffled(rows["features"], seed)})
        return
    has_head = reference.head_weight is not None or reference.recover is not None
    bases: list[str] = [n for n in ("features", "logits") if n in rows]
    if len(bases) > 1 and has_head:
        bases = ["features"]
    contexts = {n: Context.of(rows[n]) for n in bases}
    for kind, name, severity in PROBES if bases else ():
        strange = {n: _changed(rows[n], name, severity, seed, contexts[n]) for n in bases}
        if "logits" in rows and "logits" not in strange:
            strange["logits"] = _logits(strange["features"], reference)
        yield Axis(f"{kind}: {name}", kind, {n: rows[n] for n in strange}, strange)


def _shuffled(rows: Array, seed: int) -> Array:
    """Each column's values in another order: every value is ordinary, what belongs together is not."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(column) for column in rows.T], axis=1)


def _changed(rows: Array, name: str, severity: int, seed: int, context: Context) -> Array:
    """A perturbation of the rows that keeps rectified features rectified."""
    made = find("features", name)(rows, severity, seed=seed, context=context).array
    return np.asarray(np.maximum(made, 0) if rows.min() >= 0 else made, np.float32)


def _logits(features: Array, reference: Reference) -> Array:
    weight, bias = reference.head("auto")
    return (features @ weight.T + bias).astype(np.float32)


def _leave_classes_out(reference: Reference, selection: Reference, rows: Rows, seed: int) -> Iterator[World]:
    if reference.labels is None or selection.labels is None:
        return
    classes = np.unique(reference.labels)
    if len(classes) < 3:
        return
    order = np.random.default_rng(seed).permutation(classes)
    share = max(1, len(classes) // 10)
    for fold in range(min(FOLDS, len(classes) // share)):
        out = np.sort(order[fold * share : (fold + 1) * share])
        strange = np.isin(selection.labels, out)
        if min(strange.sum(), (~strange).sum()) >= FEWEST:
            yield _without(reference, rows, strange, out)


def _without(reference: Reference, rows: Rows, strange: NDArray[np.bool_], out: NDArray[np.int64]) -> World:
    """The model without some classes: their logits, head rows and reference rows are gone."""
    assert reference.labels is not None  # noqa: S101 - the caller looked
    kept = ~np.isin(reference.labels, out)
    cut = _cut({n: np.asarray(a) for n, a in reference.signals.items()}, kept)
    labels, columns = reference.labels[kept], None
    weight, bias = reference.head_weight, reference.head_bias
    if "logits" in rows:
        columns = np.setdiff1d(np.arange(rows["logits"].shape[1]), out)
        cut, rows = ({**s, "logits": np.ascontiguousarray(s["logits"][:, columns])} for s in (cut, rows))
        labels = np.searchsorted(columns, labels)
        correct = cut["logits"].argmax(axis=1) == labels
    else:
        correct = None if reference.correct is None else reference.correct[kept]
    if weight is not None and bias is not None and columns is not None:
        weight, bias = weight[columns], bias[columns]
    smaller = replace(
        reference,
        signals=cut,
        labels=labels,
        correct=correct,
        head_weight=weight,
        head_bias=bias,
        target=None if reference.target is None else reference.target[kept],
        engine=None,
    )
    name = f"near: without {', '.join(map(str, out[:3]))}{'…' if len(out) > 3 else ''}"
    return World(smaller, (Axis(name, "near", _cut(rows, ~strange), _cut(rows, strange)),))


def _cut(rows: Mapping[str, Array], mask: NDArray[np.bool_]) -> Rows:
    return {n: np.ascontiguousarray(a[mask], np.float32) for n, a in rows.items()}
