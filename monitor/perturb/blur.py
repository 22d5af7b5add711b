"""Lost detail in images (H, W, C) in [0, 1]: out of focus, in motion, too coarse, compressed.

Lengths are shares of the shorter side; one that comes out below a pixel does little or nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn, irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter

from demur.monitor.perturb.context import Context

Float64 = NDArray[np.float64]
Rng = np.random.Generator
BLOCK = 8
STEPS = 4  # points a pixel along a motion
QUANTISATION = np.array(  # ITU-T T.81, annex K.1, luminance
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float64,
)


def gaussian(image: Float64, share: float, _rng: Rng, _context: Context | None) -> Float64:
    """A Gaussian of standard deviation `share` x the shorter side."""
    return np.asarray(gaussian_filter(image, share * _side(image), mode="nearest", axes=(0, 1)))


def defocus(image: Float64, share: float, _rng: Rng, _context: Context | None) -> Float64:
    """A disc of radius `share` x the shorter side, its rim softened over one pixel."""
    radius = share * _side(image)
    reach = int(np.ceil(radius + 0.5))
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return smeared(image, np.clip(radius + 0.5 - np.hypot(down, across), 0, 1))


def motion(image: Float64, share: float, rng: Rng, _context: Context | None) -> Float64:
    """A straight smear of length `share` x the shorter side in a random direction."""
    length, angle = share * _side(image), rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, int(np.ceil(STEPS * length)) + 1)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    down, across = reach + along * np.sin(angle), reach + along * np.cos(angle)
    low_down, low_across = np.floor(down).astype(int), np.floor(across).astype(int)
    for step_down in (0, 1):
        for step_across in (0, 1):
            weight = np.abs(1 - step_down - (down - low_down)) * np.abs(1 - step_across - (across - low_across))
            np.add.at(kernel, (low_down + step_down, low_across + step_across), weight)
    return smeared(image, kernel)


def pixelate(image: Float64, share: float, _rng: Rng, _context: Context | None) -> Float64:
    """Means over a coarser grid with `share` times as many cells a side."""
    result = image
    for axis in (0, 1):
        size = image.shape[axis]
        cells = max(1, round(share * size))
        cell = np.arange(size) * cells // size
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        counts = np.diff(np.append(starts, size))
        sums = np.add.reduceat(result, starts, axis=axis)
        means = sums / np.expand_dims(counts, tuple(a for a in range(3) if a != axis))
        result = np.take(means, cell, axis=axis)
    return result


def block_quantise(image: Float64, quality: float, _rng: Rng, _context: Context | None) -> Float64:
    """JPEG's loss without its colour space: each channel's 8 x 8 cosine coefficients rounded by the scaled table."""
    height, width, channels = image.shape
    padding = ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0))
    padded = np.pad(image, padding, mode="edge") * 255 - 128
    tall, wide = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    blocks = padded.reshape(tall, BLOCK, wide, BLOCK, channels).transpose(0, 2, 4, 1, 3)
    table = quantisation(quality)
    rounded = np.round(dctn(blocks, axes=(3, 4), norm="ortho") / table) * table
    restored = idctn(rounded, axes=(3, 4), norm="ortho").transpose(0, 3, 1, 4, 2).reshape(padded.shape)
    result: Float64 = (restored[:height, :width] + 128) / 255
    return np.clip(result, 0, 1)


def quantisation(quality: float) -> Float64:
    """The table for a quality from 1 to 100, scaled as the Independent JPEG Group does."""
    factor = 5000 / quality if quality < 50 else 200 - 2 * quality
    return np.clip(np.floor((QUANTISATION * factor + 50) / 100), 1, 255)


def _side(image: Float64) -> int:
    return int(min(image.shape[0], image.shape[1]))


def smeared(image: Float64, kernel: Float64) -> Float64:
    """The image under a square kernel of odd side, its border repeated outwards.

    By Fourier transform: with the kernel a share of the image, direct sums take a minute and gigabytes for 1,000 x 1,000.
    """
    height, width, _ = image.shape
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    size = [next_fast_len(n, real=True) for n in padded.shape[:2]]
    seen = rfft2(padded, size, axes=(0, 1)) * rfft2(kernel / kernel.sum(), size)[..., None]
    whole = irfft2(seen, size, axes=(0, 1))
    blurred: Float64 = np.clip(whole[2 * reach :][:height, 2 * reach :][:, :width], image.min(), image.max())
    return blurred
