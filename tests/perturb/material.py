"""Rows of each kind to perturb, and how far two of them are apart."""

from __future__ import annotations

from difflib import SequenceMatcher

import numpy as np

WORDS = (
    "the monitor sits beside a model in production and looks at what it produced for each input before somebody relies "
    "on that output because an answer that nobody should trust is worse than none at all and Errors Cost Money Here"
).split()


def images(rows=16, seed=0, side=32, channels=3):
    """Smooth coloured ramps with discs and some texture."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:side, 0:side] / side
    made = np.empty((rows, side, side, channels))
    for row in made:
        a, b, c = rng.uniform(-1, 1, (3, channels))
        row[:] = 0.5 + 0.25 * (a * down[..., None] + b * across[..., None] + c * (down * across)[..., None])
        for _ in range(4):
            y, x, r = rng.random(3)
            row[np.hypot(down - y, across - x) < 0.1 + 0.15 * r] = rng.uniform(0.2, 0.8, channels)
    return np.clip(made + 0.02 * rng.normal(size=made.shape), 0, 1)


def features(rows=40, seed=0, width=64):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=width) + rng.normal(size=(rows, width)) * rng.uniform(0.2, 2, width)).astype(np.float32)


def text(rows=12, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([" ".join(rng.permutation(WORDS)) for _ in range(rows)])


def series(rows=60, seed=0, steps=200, channels=2):
    rng = np.random.default_rng(seed)
    times = np.arange(steps)[:, None] / steps
    phase, speed = rng.uniform(0, 6, (rows, 1, channels)), rng.uniform(1, 2, (rows, 1, channels))
    made = 3 * np.sin(2 * np.pi * speed * times + phase) + 2 * times * rng.normal(size=(rows, 1, channels))
    return (made + 0.02 * rng.normal(size=made.shape)).astype(np.float32)


ROWS = {"images": images, "features": features, "text": text, "series": series}


def distance(kind, a, b):
    """(N,) how far rows lie apart: edits a character, or the root of the summed squares; a value lost counts as 1."""
    if kind == "text":
        return np.array([1 - SequenceMatcher(None, x, y, autojunk=False).ratio() for x, y in zip(a, b, strict=True)])
    apart = np.where(np.isnan(b), 1.0, a.astype(np.float64) - b.astype(np.float64))
    return np.sqrt((apart.reshape(len(a), -1) ** 2).sum(axis=1))
