"""What a segmentation model's answer shows: maps of risk, alarm regions, signals of frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.segmentation.level import Level
from demur.adapters.models.segmentation.neighbours import smoothed, suppressed
from demur.adapters.models.segmentation.picture import picture
from demur.adapters.models.segmentation.pixels import Scored
from demur.adapters.models.segmentation.regions import Components, Map, Region, opened, peak
from demur.monitor.config.segmentation import OF_A_LEVEL, SegmentationConfig
from demur.monitor.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """One frame. `map` (h, w) float32: risk of each judged pixel, NaN where a value was not finite, -inf where the model
    says nothing (the void class). `size` (H, W) of the tensors; `level` None unless one was fitted.
    """

    map: Map
    size: tuple[int, int]
    config: SegmentationConfig
    level: Level | None

    @classmethod
    def of(cls, scored: Scored, size: tuple[int, int], config: SegmentationConfig, level: Level | None) -> SeenFrame:
        risk = scored.risk
        if config.boundary and scored.predicted is not None:
            risk = suppressed(risk, scored.predicted, config.boundary)
            risk = np.where(np.isnan(scored.risk), np.float32(np.nan), risk)  # neighbours do not make it valid
        if config.smooth:
            risk = smoothed(risk)
        if scored.void is not None:
            risk = np.where(scored.void & np.isfinite(risk), np.float32(-np.inf), risk)
        return cls(risk, size, config, level)

    @cached_property
    def invalid(self) -> NDArray[np.bool_]:
        """(h, w): pixels with a value that is not finite. One makes the frame INVALID."""
        return np.isnan(self.map)

    @cached_property
    def surface(self) -> Map:
        """The opened map, of which regions are cut; an invalid pixel is above every level."""
        return opened(np.where(self.invalid, np.float32(np.inf), self.map), self.config.radius)

    @cached_property
    def components(self) -> Components | None:
        """Regions above the fitted level as a mask; None without one."""
        return None if self.level is None else Components.above(self.surface, self.level.value, self.config.least_area)

    @cached_property
    def low_components(self) -> Components | None:
        """Regions above the lower level of `area_share`, of which areas are measured; None without one."""
        return None if self.level is None else Components.above(self.surface, self._low(), self.config.least_area)

    @property
    def untrusted(self) -> NDArray[np.bool_]:
        """(h, w): what must not be used when the frame is refused: invalid pixels and regions, when there are none those above
        the lower level, and when there are none all of it.
        """
        found = self.invalid if self.components is None else self.invalid | self.components.mask
        if not found.any() and self.low_components is not None:
            found = self.low_components.mask
        return found if found.any() else np.ones_like(found)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Regions above the fitted level, by falling peak; at most 256, the largest. Raises: ConfigurationError without one."""
        if self.level is None:
            raise ConfigurationError("regions: no level was fitted; use Segmenter.fit, or regions_above(level)")
        return self.regions_above(self.level.value)

    def regions_above(self, level: float) -> tuple[Region, ...]:
        """As `regions`, above any level."""
        found = Components.above(self.surface, level, self.config.least_area)
        return found.listed(self.surface, self.config.least_area, self._p_value, self.config.downscale, self.size)

    @cached_property
    def signals(self) -> dict[str, float]:
        """The configured signals of this frame; all NaN, so INVALID, when a pixel is, or when no pixel is judged."""
        judged = self.map[self.map > -np.inf]  # a NaN compares false
        if not judged.size or self.invalid.any():
            return dict.fromkeys(self.config.signals, float("nan"))
        return {name: self._signal(name, judged) for name in self.config.signals}

    def png(self, kind: str = "colour") -> bytes:
        """The map as a PNG. `colour`: blue to red, invalid magenta, void black, regions outlined in white; `grey`: 16 bits,
        1 to 65535 between the text chunks `low` and `high`, 0 invalid or void. The scale runs from the lowest risk to the
        highest, or beyond so that a fitted level is in its middle or below: a calm frame looks calm.

        Raises: ValueError for another kind.
        """
        mask = None if self.components is None else self.components.mask
        return picture(self.map, kind, mask, None if self.level is None else self.level.value)

    def _signal(self, name: str, judged: NDArray[np.float32]) -> float:
        if name == "mean_risk":
            return float(judged.mean(dtype=np.float64))
        if name == "peak":
            return max(peak(self.surface, self.config.least_area), float(judged.min()))
        if self.low_components is None:
            raise ConfigurationError(
                f"segmentation: {', '.join(OF_A_LEVEL)} need a fitted level; name the file that Segmenter.save wrote "
                "after Segmenter.fit, as `fitted`"
            )
        over = np.count_nonzero(judged > self._low()) if name == "anomaly_area" else self.low_components.largest
        return over / judged.size

    def _low(self) -> float:
        return np.inf if self.level is None else self.level.at(self.config.area_share)

    def _p_value(self, height: float) -> float | None:
        return None if self.level is None else self.level.p_value(height)


@dataclass(frozen=True, eq=False)
class Seen:
    """The frames of one answer. With one frame, `map`, `regions` and `png()` are that frame's."""

    frames: tuple[SeenFrame, ...]

    @property
    def only(self) -> SeenFrame:
        """Raises: ValueError unless there is one frame."""
        if len(self.frames) != 1:
            raise ValueError(f"expected one frame, got {len(self.frames)}; take seen.frames[i]")
        return self.frames[0]

    @property
    def map(self) -> Map:
        """(h, w) float32."""
        return self.only.map

    @property
    def regions(self) -> tuple[Region, ...]:
        return self.only.regions

    def png(self, kind: str = "colour") -> bytes:
        return self.only.png(kind)

    @cached_property
    def signals(self) -> Mapping[str, NDArray[np.float32]]:
        """Signals of the frames, (B, 1) float32 each."""
        return {
            name: np.array([[frame.signals[name]] for frame in self.frames], np.float32)
            for name in self.frames[0].config.signals
        }

    def arguments(self) -> dict[str, NDArray[np.float32]]:
        """For `Monitor.assess(**seen.arguments())`: a row is a frame."""
        return dict(self.signals)
