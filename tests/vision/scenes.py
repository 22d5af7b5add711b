"""Real handwritten digits on real photographs: images with known objects, and images with unknown ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from demur.monitor.evaluate.matching import Objects

SIDE = 96
KNOWN = 8  # digits 0 to 7; 8 and 9 are never shown to the detector
SMALLEST, LARGEST = 26, 38
PARTS = {"train": 0.5, "reference": 0.2, "calibration": 0.15, "test": 0.15}  # of the digits; no digit in two


@dataclass(frozen=True, eq=False)
class Scenes:
    """pixels (B, 3, 96, 96) float32 in [0, 1], and the objects in each image; unknown objects have labels from 8."""

    pixels: NDArray[np.float32]
    objects: list[Objects]


@cache
def _photographs() -> list[NDArray[np.float32]]:
    """China and flower, at half their size, (H, W, 3) in [0, 1]."""
    found = (Image.fromarray(photo) for photo in load_sample_images().images)
    return [np.asarray(p.resize((p.width // 2, p.height // 2)), np.float32) / 255 for p in found]


@cache
def _digits(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Those digits (N, 8, 8) in [0, 1], labels (N,), that belong to this part of the data."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    ends = np.cumsum([round(share * len(order)) for share in PARTS.values()])
    start = dict(zip(PARTS, [0, *ends], strict=False))[part]
    rows = order[start : dict(zip(PARTS, ends, strict=True))[part]]
    return digits.images[rows].astype(np.float32) / 16, digits.target[rows].astype(np.int64)


def known(part: str, count: int, seed: int) -> Scenes:
    """Images with one to three digits of 0 to 7."""
    return _scenes(part, count, seed, lambda rng, tiles: _digit(rng, tiles, range(KNOWN)))


def unknown(part: str, count: int, seed: int) -> Scenes:
    """Images whose objects are digits 8 and 9, and pieces of the other photograph."""

    def tile(rng, tiles):
        return _piece(rng) if rng.random() < 0.3 else _digit(rng, tiles, range(KNOWN, 10))

    return _scenes(part, count, seed, tile)


def _scenes(part, count, seed, tile) -> Scenes:
    rng = np.random.default_rng(seed)
    images, objects = zip(*(_scene(rng, part, tile) for _ in range(count)), strict=True)
    return Scenes(np.stack(images).transpose(0, 3, 1, 2).copy(), list(objects))


def _scene(rng, part, tile):
    """A crop of a photograph (left of the middle for training, right of it else) with one to three objects apart."""
    photo = _photographs()[rng.integers(2)]
    half = photo.shape[1] // 2
    left = 0 if part == "train" else half
    x, y = left + rng.integers(half - SIDE), rng.integers(photo.shape[0] - SIDE)
    image = photo[y : y + SIDE, x : x + SIDE] * rng.uniform(0.4, 0.8)
    boxes, labels = [], []
    for _ in range(rng.integers(1, 4)):
        cover, colour, label = tile(rng, _digits(part))
        size = len(cover)
        x, y = rng.integers(0, SIDE - size, 2)
        rows, columns = np.nonzero(cover > 0.3)
        box = np.array([x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1], np.float32)
        if any(_near(box, other) for other in boxes):
            continue
        place = image[y : y + size, x : x + size]
        place += cover[..., None] * (colour - place)
        boxes.append(box)
        labels.append(label)
    return image, Objects(np.array(boxes, np.float32), np.array(labels, np.int64))


def _near(a, b) -> bool:
    return bool((np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:]) + 2).all())


def _digit(rng, tiles, wanted):
    images, labels = tiles
    row = rng.choice(np.flatnonzero(np.isin(labels, list(wanted))))
    size = int(rng.integers(SMALLEST, LARGEST))
    cover = np.asarray(Image.fromarray((images[row] * 255).astype(np.uint8)).resize((size, size), Image.BILINEAR)) / 255
    return cover, rng.uniform(0.75, 1.0, 3).astype(np.float32), int(labels[row])


def _piece(rng):
    photo = _photographs()[rng.integers(2)]
    size = int(rng.integers(SMALLEST, LARGEST))
    x, y = rng.integers(photo.shape[1] - size), rng.integers(photo.shape[0] - size)
    return np.ones((size, size), np.float32), photo[y : y + size, x : x + size], 10
