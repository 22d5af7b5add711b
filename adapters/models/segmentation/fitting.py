"""What a segmenter learns from good frames: class statistics of a pixel score, and the level above which pixels stand out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.segmentation.layout import Frame, frames_of
from demur.adapters.models.segmentation.level import Level
from demur.adapters.models.segmentation.pixels import PixelScorer, channels_of
from demur.adapters.models.segmentation.seen import SeenFrame
from demur.detectors.build import build_score
from demur.detectors.score import Reference
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import ConfigurationError

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
FITTED = "standardised_max_logit"
MOST_BYTES = 1 << 30  # of the pixels that a score is fitted on


def fitted_scorer(
    config: SegmentationConfig,
    reference: Iterable[Tensors] | None,
    pixels: int,
    seed: int,
    threads: int,
    known: set[bytes],
) -> PixelScorer | None:
    """The pixel score fitted on a sample of each frame's pixels; None when it needs no fit. `known` takes the frames' marks.

    Raises: ConfigurationError without reference frames, for values that are not finite, or more pixels than 1 GiB.
    """
    if config.score != FITTED:
        return None
    if reference is None:
        raise ConfigurationError(f"segmentation: {config.score} is fitted on reference frames; give `reference`")
    rng, parts, held, channels = np.random.default_rng(seed), [], 0, 0
    for number, frame in enumerate(_frames(config, reference)):
        rows, channels = _sampled(frame, pixels, rng), channels_of(frame)
        known.add(_mark(frame))
        if not np.isfinite(rows).all():
            raise ConfigurationError(f"reference: frame {number} holds values that are not finite; leave it out")
        parts.append(rows if config.void is None else _judged(rows, config.void))
        held += parts[-1].nbytes
        if held > MOST_BYTES:
            raise ConfigurationError(f"reference: {held} bytes of pixels after {number + 1} frames; lower `pixels`")
    if not held:
        raise ConfigurationError("reference: expected frames with judged pixels, got none")
    score = build_score(config.score, None, Reference({"logits": np.concatenate(parts)}))
    return PixelScorer.of(config, score, channels, threads)


def fitted_level(
    config: SegmentationConfig,
    frames: Iterable[Tensors],
    scorer: PixelScorer | None,
    threads: int,
    known: set[bytes],
) -> tuple[PixelScorer, Level]:
    """The level from the peaks of frames that the score was not fitted on, and the scorer that found them.

    Raises: ConfigurationError for no or too few frames, one of those in `known`, or values that are not finite.
    """
    bare = config.model_copy(update={"signals": ["peak"]})
    peaks = []
    for number, frame in enumerate(_frames(config, frames)):
        if known and _mark(frame) in known:
            raise ConfigurationError(
                f"level: frame {number} is one that the score was fitted on, so it looks calmer than a fresh one; "
                "take other frames for `level`"
            )
        scorer = scorer or PixelScorer.plain(config, channels_of(frame), threads)
        peaks.append(SeenFrame.of(scorer(frame), frame.shape, bare, None).signals["peak"])
    if scorer is None:
        raise ConfigurationError("level: expected good frames, got none")
    return scorer, Level.of(np.array(peaks, np.float32), config.share)


def _frames(config: SegmentationConfig, answers: Iterable[Tensors]) -> Iterator[Frame]:
    for answer in answers:
        yield from frames_of(config, answer)


def _mark(frame: Frame) -> bytes:
    """Tells frames apart by all values of the middle row and of the middle column."""
    height, width = frame.shape
    lines = frame.channels[:, height // 2, :], frame.channels[:, :, width // 2]
    return hashlib.blake2b(b"".join(line.tobytes() for line in lines), digest_size=16).digest()


def _sampled(frame: Frame, pixels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """At most `pixels` of a frame, without repetition: (n, C)."""
    height, width = frame.shape
    count = min(pixels, height * width)
    rows, columns = np.divmod(rng.choice(height * width, count, replace=False), width)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(frame.channels[:, rows, columns].T, np.float32)


def _judged(rows: NDArray[np.float32], void: int) -> NDArray[np.float32]:
    """Pixels where the void class is not the largest, without it."""
    others = np.delete(rows, void, axis=1)
    return np.asarray(others[others.max(axis=1) >= rows[:, void]])
