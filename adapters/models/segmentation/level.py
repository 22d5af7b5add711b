"""The level above which pixels make a region, from the peaks of good frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises.order import marginal_rank, units_for_marginal
from demur.monitor.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Level:
    """Sorted peaks (n,) float32 of n good frames, and the share of good frames that may show a region.

    A fresh frame that is exchangeable with them has a peak above `value`, and so any region at all, with a probability of
    at most `share`, on average over draws of the n frames.
    """

    peaks: NDArray[np.float32]
    share: float

    @classmethod
    def of(cls, peaks: NDArray[np.float32], share: float) -> Level:
        """Raises: ConfigurationError for peaks that are not finite, or too few of them for the share."""
        if not np.isfinite(peaks).all():
            first = int(np.flatnonzero(~np.isfinite(peaks))[0])
            raise ConfigurationError(
                f"level: frame {first} holds values that are not finite, or no pixel; leave it out"
            )
        if marginal_rank(len(peaks), share) > len(peaks):
            raise ConfigurationError(
                f"level: {len(peaks)} frames cannot carry share {share}; at least {units_for_marginal(share)} are needed"
            )
        return cls(np.sort(peaks.astype(np.float32)), share)

    @property
    def value(self) -> float:
        """Above it a pixel belongs to a region."""
        return self.at(self.share)

    def at(self, share: float) -> float:
        """The ceil((n + 1)(1 - share))-th smallest peak, for this share or a larger one. Source: Vovk et al. 2005."""
        return float(self.peaks[marginal_rank(len(self.peaks), share) - 1])

    def p_value(self, height: float) -> float:
        """(1 + number of frames whose peak is at least `height`) / (n + 1); at most `share` exactly when above `value`."""
        if np.isnan(height):
            return float("nan")
        reached = len(self.peaks) - int(np.searchsorted(self.peaks, np.float32(height)))
        return (1 + reached) / (len(self.peaks) + 1)
