"""A small segmentation task on real images: a street photograph with patches of a flower and digits in known inks; digits in
inks that nobody taught are the anomaly. The model is a classifier of single pixels by local colour and texture.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images
from sklearn.mixture import GaussianMixture

HEIGHT, WIDTH, CLASSES = 64, 96, 3
STREET, FLOWER, DIGIT, UNKNOWN = range(4)
KNOWN_INKS = ((0.95, 0.95, 0.95), (0.05, 0.05, 0.08))
UNKNOWN_INKS = ((0.1, 0.75, 0.2), (0.8, 0.1, 0.8))
Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def material() -> tuple[Array, Array, Array]:
    """Two photographs in [0, 1] and 8 x 8 digits in [0, 1]."""
    street, flower = (p.astype(np.float32) / 255 for p in load_sample_images().images)
    return street, flower, load_digits().images.astype(np.float32) / 16


@dataclass
class Scene:
    """An image (H, W, 3) and the class of every pixel (H, W)."""

    image: Array
    labels: Array

    def stamp(self, rng: np.random.Generator, alpha: Array, colour: Array, kind: int) -> None:
        """Somewhere that is free, if a few tries find such a place."""
        tall, wide = alpha.shape
        for _ in range(20):
            y, x = rng.integers(HEIGHT - tall), rng.integers(WIDTH - wide)
            place = slice(y, y + tall), slice(x, x + wide)
            if not self.labels[place].any():
                self.image[place] += (colour - self.image[place]) * alpha[..., None]
                self.labels[place][alpha > 0.5] = kind
                return


def scene(rng: np.random.Generator, unknown: int = 0) -> Scene:
    street, flower, digits = material()
    y, x = rng.integers(street.shape[0] - HEIGHT), rng.integers(street.shape[1] - WIDTH)
    made = Scene(street[y : y + HEIGHT, x : x + WIDTH].copy(), np.zeros((HEIGHT, WIDTH), np.int64))
    size = int(rng.integers(14, 26))
    top, left = rng.integers(150, 300 - size), rng.integers(220, 400)
    inks = [(KNOWN_INKS, DIGIT)] * 2 + [(UNKNOWN_INKS, UNKNOWN)] * unknown
    for colours, kind in inks:
        strokes = ndimage.zoom(digits[rng.integers(len(digits))], int(rng.integers(2, 4)), order=1)
        ink = np.float32(colours[rng.integers(len(colours))] + 0.03 * rng.normal(size=3))
        made.stamp(rng, np.clip(1.3 * strokes, 0, 1), ink, kind)
    made.stamp(rng, disc(size), flower[top : top + size, left : left + size], FLOWER)
    made.image = np.clip(made.image + 0.01 * rng.normal(size=made.image.shape), 0, 1).astype(np.float32)
    return made


def disc(size: int) -> Array:
    down, across = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(down, across) < size / 2).astype(np.float32)


def features(image: Array) -> Array:
    """Colour, its mean and deviation over 5 x 5, its mean over 11 x 11: (H * W, 12)."""
    near = ndimage.uniform_filter(image, (5, 5, 0))
    apart = np.sqrt(np.maximum(ndimage.uniform_filter(image**2, (5, 5, 0)) - near**2, 0))
    wide = ndimage.uniform_filter(image, (11, 11, 0))
    return np.concatenate([image, near, apart, wide], axis=2).reshape(-1, 12)


@dataclass(frozen=True)
class Model:
    """Log densities of pixels by class, as logits with priors, or as queries: is this pixel of that class?"""

    mean: Array
    std: Array
    mixtures: tuple[GaussianMixture, ...]
    least: Array  # (C,), below which log densities of its own pixels fall twice in a hundred times

    def densities(self, image: Array) -> Array:
        rows = (features(image) - self.mean) / self.std
        return np.stack([m.score_samples(rows) for m in self.mixtures]).reshape(1, CLASSES, HEIGHT, WIDTH)

    def dense(self, image: Array) -> dict[str, Array]:
        priors = np.log([0.85, 0.07, 0.08])[:, None, None]
        return {"logits": (self.densities(image) + priors).astype(np.float32)}

    def queries(self, image: Array) -> dict[str, Array]:
        """One query a class, sure of it."""
        sure = np.where(np.eye(CLASSES, CLASSES + 1) > 0, 4.0, -4.0)[None]
        masks = (self.densities(image) - self.least[:, None, None]) / 2
        return {"class_logits": sure.astype(np.float32), "mask_logits": masks.astype(np.float32)}


@functools.cache
def model() -> Model:
    """Fitted on 60 scenes in a second or two."""
    rng = np.random.default_rng(0)
    rows, kinds = [], []
    for _ in range(60):
        made = scene(rng)
        labels = made.labels.ravel()
        for kind, count in ((STREET, 180), (FLOWER, 60), (DIGIT, 60)):
            own = np.flatnonzero(labels == kind)
            chosen = rng.permutation(own)[:count]
            rows.append(features(made.image)[chosen])
            kinds.append(np.full(len(chosen), kind))
    x, y = np.concatenate(rows), np.concatenate(kinds)
    mean, std = x.mean(axis=0), x.std(axis=0)
    x = (x - mean) / std
    mixtures = tuple(
        GaussianMixture(parts, random_state=0, reg_covar=1e-3, max_iter=60, tol=1e-2).fit(x[y == kind])
        for kind, parts in ((STREET, 8), (FLOWER, 4), (DIGIT, 4))
    )
    least = np.array([np.quantile(m.score_samples(x[y == kind]), 0.02) for kind, m in enumerate(mixtures)])
    return Model(mean, std, mixtures, least)
