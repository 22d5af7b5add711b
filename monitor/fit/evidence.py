"""What calibration learned from the calibration rows: kept in the bundle, so that another promise needs no data again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.policy import Slicing
from demur.detectors.promises.sample import CalibrationSample
from demur.monitor.bundle import Bundle
from demur.monitor.bundle.bundle import npy
from demur.monitor.errors import BundleError

FOLDER = "calibration"
KNOWN = ("loss", "predicted", "group")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of calibration units as the compiled graph gave them.

    `fold_a` maps each fusion member to its sorted table; `scores` maps each other column to (n,) float32, (G,) for group
    columns, one per stream for stream columns; `outliers` likewise, of units known to be foreign; `loss`, `predicted`, `group`
    (n,) belong to the same rows (fold B), as do `codes` (n,) int64 by the signal that carries them.
    """

    scores: Mapping[str, NDArray[np.float32]]
    fold_a: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    outliers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    loss: NDArray[np.int64] | NDArray[np.float64] | None = None
    predicted: NDArray[np.int64] | None = None
    group: NDArray[np.int64] | None = None
    classes: int | None = None
    weighted: bool = False
    codes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def sample(self, columns: set[str]) -> CalibrationSample:
        """What the promises are calibrated on. Raises: BundleError for a column that was never scored."""
        unknown = sorted(columns - set(self.scores))
        if unknown:
            raise BundleError(
                f"no stored calibration scores for {', '.join(unknown)}; give calibration data with --calibration"
            )
        return CalibrationSample(
            scores={n: self.scores[n] for n in sorted(columns)},
            loss=None if self.loss is None else self.loss.astype(np.float64),
            predicted=self.predicted,
            group=self.group,
            weight=np.ones(1) if self.weighted else None,
            classes=self.classes,
            outliers={n: a for n, a in self.outliers.items() if n in columns},
            codes=self.codes,
        )

    def slicing(self, signal: str, *, closed: bool) -> Slicing:
        """The slices by the codes of a signal that the rows have. Raises: BundleError where none were stored."""
        if signal not in self.codes:
            raise BundleError(f"no stored codes of {signal}; give calibration data with --calibration")
        return Slicing(signal, tuple(np.unique(self.codes[signal]).tolist()), closed)

    def members(self) -> dict[str, bytes]:
        """The `.npy` members that hold it."""
        held: dict[str, Mapping[str, NDArray[Any]]] = {"scores": self.scores, "fold_a": self.fold_a}
        held |= {"outliers": self.outliers, "codes": self.codes}
        arrays = {f"{part}/{n}": a for part, columns in held.items() for n, a in columns.items()}
        arrays |= {n: a for n in KNOWN if (a := getattr(self, n)) is not None}
        if self.classes is not None:
            arrays["classes"] = np.array(self.classes, np.int64)
        return {f"{FOLDER}/{n}.npy": npy(a) for n, a in arrays.items()}

    @staticmethod
    def of(bundle: Bundle) -> Evidence:
        """The evidence stored in a bundle."""
        known = bundle.arrays(FOLDER)
        return Evidence(
            scores={n.removeprefix("scores/"): a for n, a in known.items() if n.startswith("scores/")},
            fold_a={n.removeprefix("fold_a/"): a for n, a in known.items() if n.startswith("fold_a/")},
            outliers={n.removeprefix("outliers/"): a for n, a in known.items() if n.startswith("outliers/")},
            codes={n.removeprefix("codes/"): a for n, a in known.items() if n.startswith("codes/")},
            classes=known["classes"].item() if "classes" in known else None,
            loss=known.get("loss"),
            predicted=known.get("predicted"),
            group=known.get("group"),
        )
