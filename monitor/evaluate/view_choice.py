"""Which corruptions make useful views: those that the model's confidence survives on ordinary inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import ConfigurationError
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.roc import auroc

MOST = 3
Logits = NDArray[Any]


class ViewChoice(NamedTuple):
    """corruptions: chosen, in order; drops: by corruption, how much mean confidence it costs on ordinary inputs; refused:
    those that cost too much; auroc: of the chosen views, None without outliers.
    """

    corruptions: tuple[str, ...]
    drops: dict[str, float]
    refused: tuple[str, ...]
    auroc: float | None


def choose_views(
    own: Logits,
    by_corruption: Mapping[str, Logits],
    *,
    drop_at_most: float = 0.05,
    most: int = MOST,
    outliers: tuple[Logits, Mapping[str, Logits]] | None = None,
) -> ViewChoice:
    """At most `most` corruptions whose drop of the mean largest softmax on ordinary inputs is at most `drop_at_most`.

    own (N, C): logits of ordinary inputs that neither fit nor calibration see; by_corruption: of their corrupted copies.
    With `outliers`, the same two for foreign inputs, corruptions are added greedily while the AUROC of CoVer's score (the
    mean largest softmax over the input and its views, negated) rises; without, those that cost least are taken.
    Raises: ConfigurationError for shapes that differ.
    Source: the choice by a validation set of Chen et al. 2024 (CoVer), at most 3; the bound on the drop is ours.
    """
    confidence, views = _confidences(own, by_corruption, "ordinary inputs")
    drops = {name: float(confidence.mean() - view.mean()) for name, view in views.items()}
    kept = [name for name in sorted(drops, key=lambda n: (drops[n], n)) if drops[name] <= drop_at_most]
    refused = tuple(name for name in views if name not in kept)
    if outliers is None:
        return ViewChoice(tuple(kept[:most]), drops, refused, None)
    foreign, foreign_views = _confidences(outliers[0], outliers[1], "outliers")
    if missing := sorted(set(kept) - set(foreign_views)):
        raise ConfigurationError(f"views: expected the outliers under {', '.join(missing)} too; add them")
    chosen, best = list[str](), _auroc(confidence, foreign)
    while len(chosen) < most:
        rest = [n for n in kept if n not in chosen]
        scored = [
            (_auroc(_mean(confidence, views, [*chosen, n]), _mean(foreign, foreign_views, [*chosen, n])), n)
            for n in rest
        ]
        if not scored or max(scored)[0] <= best:
            break
        best, name = max(scored)
        chosen.append(name)
    return ViewChoice(tuple(chosen), drops, refused, best)


def _confidences(
    own: Logits, by_corruption: Mapping[str, Logits], what: str
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    for name, logits in by_corruption.items():
        if logits.shape != own.shape or own.ndim != 2:
            raise ConfigurationError(f"views: {what}, {name}: expected logits {own.shape}, got {logits.shape}")
    return _largest(own), {name: _largest(logits) for name, logits in by_corruption.items()}


def _largest(logits: Logits) -> NDArray[np.float64]:
    """(N,) largest softmax."""
    z = np.asarray(logits, np.float64)
    return np.asarray(1 / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1))


def _mean(own: NDArray[np.float64], views: Mapping[str, NDArray[np.float64]], names: list[str]) -> NDArray[np.float64]:
    return np.asarray(np.mean([own, *(views[name] for name in names)], axis=0))


def _auroc(ordinary: NDArray[np.float64], foreign: NDArray[np.float64]) -> float:
    scores = -np.concatenate([ordinary, foreign])
    return float(auroc(Counts.of(scores, np.repeat([0, 1], [len(ordinary), len(foreign)]))))
