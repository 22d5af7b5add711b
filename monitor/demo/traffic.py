"""Four streams of inputs: what the model knows, what it never saw, what got damaged, and what is no digit at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.monitor.demo.model import Digits, Images

SIDE = 8
STRENGTHS = (1, 2, 3)


@dataclass(frozen=True, eq=False)
class Traffic:
    """One stream: images (N, 64) and what they show; a label of -1 is nothing the model could answer correctly."""

    name: str
    images: Images
    labels: NDArray[np.int64]
    promised: bool = False


def streams(digits: Digits, seed: int = 0) -> list[Traffic]:
    """The four streams of the tour."""
    images, labels = digits.test
    damaged = [corrupt(images, kind, s, seed) for kind in ("blur", "noise", "occlusion") for s in STRENGTHS]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(images) * len(damaged), 360, replace=False)
    patches = photograph_patches(300, seed)
    return [
        Traffic("known digits 0-7", images, labels, promised=True),
        Traffic("unseen digits 8, 9", digits.novel[0], np.full(len(digits.novel[0]), -1)),
        Traffic("damaged digits", np.concatenate(damaged)[chosen], np.tile(labels, len(damaged))[chosen]),
        Traffic("photograph patches", patches, np.full(len(patches), -1)),
    ]


def corrupt(images: Images, kind: str, strength: int, seed: int = 0) -> Images:
    """Blur, noise or occlusion of strength 1 to 3; same shape, values kept in [0, 1]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng((seed, strength))
    square = images.reshape(-1, SIDE, SIDE)
    if kind == "blur":
        out = gaussian_filter(square, (0, 0.5 * strength, 0.5 * strength))
    elif kind == "noise":
        out = square + rng.normal(0, 0.12 * strength, square.shape)
    elif kind == "occlusion":
        out = square.copy()
        for image, (row, column) in zip(out, rng.integers(0, SIDE - strength, (len(out), 2)), strict=True):
            image[row : row + strength + 1, column : column + strength + 1] = 0
    else:
        raise ValueError(f"expected blur, noise or occlusion, got {kind!r}")
    damaged: Images = np.clip(out, 0, 1).reshape(len(images), -1).astype(np.float32)
    return damaged


def photograph_patches(count: int, seed: int = 0) -> Images:
    """Patches of the two photographs shipped with scikit-learn, grey and shrunk to 8 x 8."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    patches = []
    photographs = [p.mean(axis=2) / 255.0 for p in load_sample_images().images]
    for _ in range(count):
        photo = photographs[rng.integers(len(photographs))]
        size = SIDE * int(rng.integers(2, 9))
        row, column = (int(rng.integers(0, limit - size)) for limit in photo.shape)
        patch = photo[row : row + size, column : column + size]
        patches.append(patch.reshape(SIDE, size // SIDE, SIDE, size // SIDE).mean(axis=(1, 3)).ravel())
    return np.array(patches, np.float32)
