"""From a frame pair with depth and motion to a map of photometric errors, the signal of the `photometric` score."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation

Float64 = NDArray[np.float64]
SLACK = 0.1  # of the range: what noise and resampling may cost
EDGE = 1e-6  # of a pixel: what rounding moves a point at the frame's edge


class PhotometricError(NamedTuple):
    """error (N, H * W) float32 in [0, 1], 0 where nothing can be compared; seen (N, H * W) bool: where something can."""

    error: NDArray[np.float32]
    seen: NDArray[np.bool_]


def photometric_error(
    frame: NDArray[Any], other: NDArray[Any], depth: NDArray[Any], pose: NDArray[Any], intrinsics: NDArray[Any]
) -> PhotometricError:
    """Mean over the channels of |frame - other|, `other` sampled where depth and motion put each pixel of `frame`.

    Pixel (x, y) at depth d is the point P = d K^-1 (x, y, 1); it lies at K (R P + t) in the other camera, `pose` = [R t; 0 1]
    going from this camera to the other. Sampling is bilinear between pixel centres at whole coordinates. Nothing can be
    compared where the point is behind the other camera or outside its frame: the error is 0 there, and `seen` says so.
    Shapes: frame, other (N, H, W) or (N, H, W, C), floats in [0, 1] or uint8; depth (N, H, W) above 0; pose (N, 4, 4);
    intrinsics K (3, 3) or (N, 3, 3). A row with numbers that are not finite, or depth not above 0, gets NaN: INVALID.
    Raises: InvalidObservation for other shapes, pixels outside the range, or a K without inverse.
    Source: Zhou et al. 2017, arXiv:1704.07813, eq. 2 and 3 (view synthesis); L1 only, without DiPE's SSIM term.
    """
    here, there = _pixels(frame, "frame"), _pixels(other, "other")
    count, height, width = here.shape[:3]
    camera = np.asarray(intrinsics, np.float64)
    camera = np.stack([camera] * count) if camera.shape == (3, 3) else camera
    wanted = {"other": here.shape, "depth": (count, height, width), "pose": (count, 4, 4), "intrinsics": (count, 3, 3)}
    for name, array in (("other", there), ("depth", depth), ("pose", pose), ("intrinsics", camera)):
        if np.shape(array) != wanted[name]:
            raise InvalidObservation(f"{name}: expected shape {wanted[name]}, got {np.shape(array)}")
    depth, pose = np.asarray(depth, np.float64), np.asarray(pose, np.float64)
    error, seen = np.zeros((count, height, width)), np.zeros((count, height, width), np.bool_)
    for row in range(count):
        held = (here[row], there[row], depth[row], pose[row], camera[row])
        if not all(np.isfinite(array).all() for array in held) or not (depth[row] > 0).all():
            error[row] = np.nan
            continue
        places, seen[row] = _places(depth[row], pose[row], _inverse(camera[row], row), camera[row])
        off = np.abs(here[row] - _sampled(there[row], places)).mean(axis=-1)
        error[row] = np.where(seen[row], off, 0.0)
    return PhotometricError(error.reshape(count, -1).astype(np.float32), seen.reshape(count, -1))


def _pixels(images: NDArray[Any], name: str) -> Float64:
    """(N, H, W, C) float64 in [0, 1]."""
    if images.ndim not in (3, 4) or not (images.dtype.kind == "f" or images.dtype == np.uint8) or 0 in images.shape:
        raise InvalidObservation(
            f"{name}: expected (N, H, W) or (N, H, W, C) floats in [0, 1] or uint8, got {images.shape} {images.dtype}"
        )
    pixels = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
    stray = pixels[np.isfinite(pixels) & ((pixels < -SLACK) | (pixels > 1 + SLACK))]
    if stray.size:
        raise InvalidObservation(f"{name}: expected floats in [0, 1], got {stray[0]:g}; divide them by their white")
    return pixels[..., None] if images.ndim == 3 else pixels


def _inverse(camera: Float64, row: int) -> Float64:
    try:
        return np.asarray(np.linalg.inv(camera))
    except np.linalg.LinAlgError as error:
        raise InvalidObservation(
            f"intrinsics: row {row} has no inverse; expected [[f, 0, cx], [0, f, cy], [0, 0, 1]]"
        ) from error


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a point too far away for a number is not inside
def _places(depth: Float64, pose: Float64, inverse: Float64, camera: Float64) -> tuple[Float64, NDArray[np.bool_]]:
    """Where each pixel lies in the other frame, (H, W, 2) as x, y, and whether that is inside it and before its camera."""
    height, width = depth.shape
    down, across = np.mgrid[0:height, 0:width].astype(np.float64)
    rays = np.stack([across, down, np.ones_like(down)], axis=-1) @ inverse.T
    points = (depth[..., None] * rays) @ pose[:3, :3].T + pose[:3, 3]
    projected = points @ camera.T
    before = points[..., 2] > 0
    places = projected[..., :2] / np.where(before, projected[..., 2], 1.0)[..., None]
    x, y = places[..., 0], places[..., 1]
    inside = (x >= -EDGE) & (x <= width - 1 + EDGE) & (y >= -EDGE) & (y <= height - 1 + EDGE)
    seen = before & inside
    return np.where(seen[..., None], places, 0.0), seen


def _sampled(image: Float64, places: Float64) -> Float64:
    """Bilinear, at the edge where a place is outside: (H, W, C) at (H, W, 2)."""
    height, width = image.shape[:2]
    x, y = np.clip(places[..., 0], 0, width - 1), np.clip(places[..., 1], 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = (1 - across) * image[top, left] + across * image[top, right]
    lower = (1 - across) * image[below, left] + across * image[below, right]
    found: Float64 = (1 - down) * upper + down * lower
    return found
