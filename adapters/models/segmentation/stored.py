"""The file of a fitted segmenter: the pixel graph as ONNX, with the level's peaks and the settings inside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from demur.adapters.models.segmentation.level import Level
from demur.adapters.models.segmentation.pixels import PixelScorer
from demur.monitor.bundle.graph import check
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import BundleError, ConfigurationError

PEAKS, SETTINGS = "level.peaks", "demur.segmentation"
LARGEST_BYTES = 64 << 20


def encode(scorer: PixelScorer, level: Level, config: SegmentationConfig) -> bytes:
    """The same bytes for the same fit."""
    model = onnx.load_from_string(scorer.graph)
    model.graph.initializer.append(numpy_helper.from_array(level.peaks, PEAKS))
    entry = model.metadata_props.add()
    entry.key, entry.value = SETTINGS, json.dumps(config.settings(), sort_keys=True)
    return model.SerializeToString(deterministic=True)


def digest_of(raw: bytes) -> str:
    """SHA-256, lower-case hex."""
    return hashlib.sha256(raw).hexdigest()


def load(path: Path, config: SegmentationConfig, threads: int = 1) -> tuple[PixelScorer, Level]:
    """What `encode` wrote, verified.

    Raises: ConfigurationError for a missing, oversized or foreign file, one with another digest than configured, or one
    fitted with other settings, which it lists.
    """
    raw = _read(path)
    if config.digest is not None and digest_of(raw) != config.digest:
        raise ConfigurationError(
            f"{path}: expected SHA-256 {config.digest}, got {digest_of(raw)}; restore the file or fit again"
        )
    try:
        model = check(raw)
        settings = json.loads(next(e.value for e in model.metadata_props if e.key == SETTINGS))
        peaks = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == PEAKS))
        channels = next(v for v in model.graph.input if v.name in ("logits", "classes")).type.tensor_type.shape.dim[1]
    except (BundleError, ValueError, StopIteration) as error:
        raise ConfigurationError(
            f"{path}: expected a file that Segmenter.save wrote, but its graph, peaks or settings cannot be read; fit again"
        ) from error
    _compare(path, settings, config)
    gives = {"risk"} | ({"void"} if config.void is not None else set()) | ({"predicted"} if config.boundary else set())
    if {o.name for o in model.graph.output} != gives:
        raise ConfigurationError(f"{path}: expected a graph that gives {', '.join(sorted(gives))}; fit again")
    if peaks.dtype != np.float32 or peaks.ndim != 1:
        raise ConfigurationError(f"{path}: expected peaks (n,) float32, got {peaks.shape} {peaks.dtype}; fit again")
    return PixelScorer(raw, channels.dim_value, threads), Level.of(peaks, config.share)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); fit it with Segmenter.fit") from error
    if len(raw) > LARGEST_BYTES:
        raise ConfigurationError(f"{path}: larger than {LARGEST_BYTES} bytes; this is no file of Segmenter.save")
    return raw


def _compare(path: Path, settings: object, config: SegmentationConfig) -> None:
    wanted = config.settings()
    held = settings if isinstance(settings, dict) else {}
    other = [f"{n}: {held.get(n)!r} there, {v!r} here" for n, v in wanted.items() if held.get(n) != v]
    if other:
        raise ConfigurationError(f"{path} was fitted with other settings ({'; '.join(other)}); use those, or fit again")
