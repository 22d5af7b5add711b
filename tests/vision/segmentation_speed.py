"""What a frame costs on one thread, beside NumPy in the same run: `python -m tests.vision.segmentation_speed`."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from demur.adapters.models.segmentation import Segmenter
from demur.monitor.config.segmentation import SegmentationConfig

CLASSES, HEIGHT, WIDTH, ROUNDS = 19, 1024, 2048, 5
Array = np.ndarray[Any, np.dtype[np.float32]]


def entropy(z: Array) -> Array:
    log_p = log_softmax(z, axis=1)
    return -(np.exp(log_p) * log_p).sum(axis=1)


def energy(z: Array) -> Array:
    """As fast as NumPy goes: no scipy, everything in place."""
    largest = z.max(axis=1, keepdims=True)
    apart = z - largest
    np.exp(apart, out=apart)
    return -(largest[:, 0] + np.log(apart.sum(axis=1)))


NUMPY: dict[str, dict[str, Callable[[Array], Array]]] = {
    "max_logit": {"numpy": lambda z: -z.max(axis=1)},
    "energy": {"numpy": energy, "scipy.special": lambda z: -logsumexp(z, axis=1)},
    "entropy": {"scipy.special": entropy},
}


@dataclass(frozen=True)
class Cost:
    """`seconds` of the fastest round; `peak_bytes` allocated beyond the input."""

    seconds: float
    peak_bytes: int


def cost(work: Callable[[], Any], rounds: int = ROUNDS) -> Cost:
    work()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return Cost(min(taken), peak)


def frame(height: int = HEIGHT, width: int = WIDTH, classes: int = CLASSES) -> Array:
    """Logits with smooth regions: blocks of 32 pixels, and noise."""
    rng = np.random.default_rng(0)
    coarse = 6 * rng.normal(size=(1, classes, -(-height // 32), -(-width // 32))).astype(np.float32)
    fine = coarse.repeat(32, axis=2).repeat(32, axis=3)[:, :, :height, :width]
    return fine + rng.normal(size=fine.shape).astype(np.float32)


def costs(z: Array, score: str, rounds: int = ROUNDS) -> dict[str, Cost]:
    """Ours: the map alone, and everything a verdict needs; and NumPy's map."""
    segmenter = Segmenter(SegmentationConfig(logits="z", score=score, radius=2, least_area=64))
    ours = {"map": lambda: segmenter({"z": z}).map, "frame": lambda: segmenter.observe({"z": z})}
    others = {name: lambda of=of: of(z) for name, of in NUMPY[score].items()}
    return {name: cost(work, rounds) for name, work in (ours | others).items()}


def main() -> None:
    z = frame()
    for score in NUMPY:
        found = costs(z, score)
        for name, one in found.items():
            ratio = found["map"].seconds / one.seconds
            print(
                f"{score:10} {name:14} {1e3 * one.seconds:7.1f} ms {one.peak_bytes / 2**20:7.1f} MiB  map / this {ratio:5.2f}"
            )


if __name__ == "__main__":
    main()
