"""From the outputs of a segmentation model to maps, regions and signals of frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.output_adapter import Observed
from demur.adapters.models.segmentation import stored
from demur.adapters.models.segmentation.blanking import blanked
from demur.adapters.models.segmentation.fitting import Tensors, fitted_level, fitted_scorer
from demur.adapters.models.segmentation.layout import Frame, frame_size, frames_of
from demur.adapters.models.segmentation.level import Level
from demur.adapters.models.segmentation.pixels import PixelScorer, channels_of
from demur.adapters.models.segmentation.seen import Seen, SeenFrame
from demur.monitor.bundle.archive import install
from demur.monitor.config.segmentation import OF_A_LEVEL, SegmentationConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation

PROBE = 3  # channels of the scorer that shows, before the first frame, that a score needs no fit


class Segmenter:
    """An OutputAdapter whose rows are frames; called in process, it gives the map and the regions too. Thread-safe.

    >>> seen = segmenter({"logits": logits})  # doctest: +SKIP
    >>> seen.map, seen.regions, monitor.assess(**seen.arguments())  # doctest: +SKIP
    """

    def __init__(
        self,
        config: SegmentationConfig,
        scorer: PixelScorer | None = None,
        level: Level | None = None,
        threads: int = 1,
    ) -> None:
        """Of parts; `of` and `fit` are the ways to make one. Without a scorer the pixel score must need no fit.

        Raises: ConfigurationError for signals that need a level when there is none.
        """
        lacking = [s for s in config.signals if s in OF_A_LEVEL] if level is None else []
        if lacking:
            raise ConfigurationError(
                f"segmentation: {', '.join(lacking)} need a fitted level; name the file that Segmenter.save wrote "
                "after Segmenter.fit, as `fitted`"
            )
        self.config, self.level, self._threads = config, level, threads
        self._scorer, self._plain = scorer, None if scorer else PixelScorer.plain(config, PROBE + (config.void or 0))

    @classmethod
    def of(cls, config: SegmentationConfig, folder: Path = Path(), threads: int = 1) -> Segmenter:
        """As configured; a relative `fitted` is looked up in `folder`.

        Raises: ConfigurationError for a file that is missing, foreign, changed, or fitted with other settings.
        """
        if config.fitted is None:
            return cls(config, threads=threads)
        scorer, level = stored.load(folder / config.fitted, config, threads)
        return cls(config, scorer, level, threads)

    @classmethod
    def fit(
        cls,
        config: SegmentationConfig,
        *,
        level: Iterable[Tensors],
        reference: Iterable[Tensors] | None = None,
        pixels: int = 4096,
        seed: int = 0,
        threads: int = 1,
    ) -> Segmenter:
        """The pixel score fitted on `reference` frames (seeded, at most `pixels` of each; only for scores that are fitted), the
        level on the peaks of other good frames, `level`. Calibrate the monitor on a third set, which neither saw.

        Each set is an iterable of answers, name -> tensor; one answer may hold several frames.
        Raises: ConfigurationError for too few frames, the same frame in both sets, values that are not finite, or a missing
        reference.
        """
        known: set[bytes] = set()
        scorer = fitted_scorer(config, reference, pixels, seed, threads, known)
        scorer, found = fitted_level(config, level, scorer, threads, known)
        return cls(config, scorer, found, threads)

    def save(self, path: str | Path) -> SegmentationConfig:
        """Write the fit as one file; returns the configuration that names it, with its SHA-256.

        Raises: ConfigurationError when nothing was fitted.
        """
        if self._scorer is None or self.level is None:
            raise ConfigurationError("segmentation: nothing was fitted; use Segmenter.fit")
        raw = stored.encode(self._scorer, self.level, self.config)
        install(Path(path), raw)
        return self.config.model_copy(update={"fitted": Path(path), "digest": stored.digest_of(raw)})

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors it reads."""
        return self.config.outputs

    def __call__(self, tensors: Mapping[str, NDArray[Any]]) -> Seen:
        """Maps, regions and signals of every frame. Raises: InvalidObservation for tensors of another layout."""
        frames = frames_of(self.config, tensors)
        scorer, size = self._scorer_for(frames[0]), frame_size(self.config, tensors)
        return Seen(tuple(SeenFrame.of(scorer(frame), size, self.config, self.level) for frame in frames))

    def observe(self, tensors: Mapping[str, NDArray[Any]]) -> Observed:
        """One row a frame, no groups. Raises: InvalidObservation for tensors of another layout."""
        seen = self(tensors)
        return Observed(seen.signals, len(seen.frames))

    def maps(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """(B, h, w) float32: risk, NaN where invalid, -inf where void. Raises: InvalidObservation as `observe`."""
        return np.stack([frame.map for frame in self(tensors).frames])

    def without(self, tensors: Mapping[str, NDArray[Any]], refused: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The tensors with the regions and invalid pixels of refused frames (B,) blanked; the whole frame when it has neither.

        `labels` hold void_label there, dense logits the void class, queries no mask.
        Raises: ConfigurationError for dense logits without a void class and without `labels`; InvalidObservation.
        """
        frames = frames_of(self.config, tensors)
        if refused.shape != (len(frames),):
            raise InvalidObservation(f"refused: expected ({len(frames)},) bool, one a frame, got {refused.shape}")
        scorer, size = self._scorer_for(frames[0]), frame_size(self.config, tensors)
        masks = {
            int(i): SeenFrame.of(scorer(frames[i]), size, self.config, self.level).untrusted
            for i in np.flatnonzero(refused)
        }
        return blanked(self.config, tensors, masks)

    def _scorer_for(self, frame: Frame) -> PixelScorer:
        """The fitted scorer, or a plain one for as many channels as this frame has; the last one is kept."""
        scorer = self._scorer or self._plain
        if scorer is None or (self._scorer is None and scorer.channels != channels_of(frame)):
            scorer = self._plain = PixelScorer.plain(self.config, channels_of(frame), self._threads)
        return scorer
