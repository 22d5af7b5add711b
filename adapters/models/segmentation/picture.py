"""A map of risk as a PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

COLOURS = np.array([[32, 48, 128], [40, 150, 180], [240, 220, 90], [200, 30, 30]], np.float64)  # low to high
INVALID, VOID, OUTLINE = (255, 0, 255), (0, 0, 0), (255, 255, 255)


def picture(
    risk: NDArray[np.float32], kind: str, regions: NDArray[np.bool_] | None = None, level: float | None = None
) -> bytes:
    """The PNG of a map (h, w), described at `SeenFrame.png`. Raises: ValueError for another kind."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if kind not in ("colour", "grey"):
        raise ValueError(f"kind: expected colour or grey, got {kind!r}")
    share, low, high = _scaled(risk, level)
    ends = PngInfo()
    ends.add_text("low", repr(low))
    ends.add_text("high", repr(high))
    grey = np.where(np.isfinite(risk), 1 + np.rint(65534 * share), 0).astype(np.uint16)
    image = Image.fromarray(grey if kind == "grey" else _coloured(risk, share, regions))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=ends)
    return file.getvalue()


def _scaled(risk: NDArray[np.float32], level: float | None) -> tuple[NDArray[np.float64], float, float]:
    """Finite risks between 0, the lowest, and 1, the highest, or what puts a level into the middle; others 0."""
    finite = np.isfinite(risk)
    values = risk[finite].astype(np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if level is not None and values.size:
        high = max(high, 2 * level - low)
    share = np.zeros(risk.shape)
    if high > low:
        share[finite] = (values - low) / (high - low)
    return share, low, high


def _coloured(
    risk: NDArray[np.float32], share: NDArray[np.float64], regions: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    stops = np.linspace(0, 1, len(COLOURS))
    pixels = np.stack([np.interp(share, stops, channel) for channel in COLOURS.T], axis=-1).astype(np.uint8)
    pixels[np.isneginf(risk)] = VOID
    if regions is not None:
        from scipy.ndimage import binary_dilation

        pixels[binary_dilation(regions) & ~regions] = OUTLINE
    pixels[np.isnan(risk)] = INVALID
    return pixels
