"""The monitor of the tiny detector: one configuration for the tests that train it and those that use the committed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import demur
from demur.adapters.models.collect import collect
from demur.adapters.models.instrument import instrument
from demur.monitor.evaluate.matching import labelled
from tests.vision.scenes import KNOWN, SIDE, Scenes, known, unknown

CONFIG = {
    "monitor": "digit-boxes",
    "signals": {"logits": KNOWN, "box": 5, "box_features": 320},
    "scores": [
        "max_logit",
        {"relative": {"type": "relative_mahalanobis", "on": "box_features"}},
        {"untrusted": {"type": "fused", "of": ["max_logit", "relative"], "by": "fisher"}},
    ],
    "rules": [
        {"novel": {"when": "untrusted", "promise": {"refuse_good_at_most": 0.05}}},
        {"unknown_object": {"when": "untrusted", "unit": "group", "aggregate": "max", "promise": {"refuse_good_at_most": 0.05}}},
        {"strange_image": {"when": "untrusted", "unit": "group", "aggregate": "mean", "promise": {"refuse_good_at_most": 0.05}}},
    ],
    "empty_group": "accept",
}  # fmt: skip


def signal_map(model: Path, folder: Path) -> tuple[Path, dict]:
    """The model with its feature map as an output, and the map that decodes it."""
    made = instrument(model)
    place = folder / "tiny.instrumented.onnx"
    made.save(place)
    detection = {
        "layout": "yolov8",
        "classes": KNOWN,
        "image": [SIDE, SIDE],
        "floor": 0.3,
        "iou": 0.5,
        "regions": {"maps": dict(made.maps), "cells": 2, "pool": False},
        "signals": ["logits", "box", "box_features"],
    }
    return place, {"detection": detection}


def boxes_of(model: Path, map_of: dict, scenes: Scenes, place: Path) -> dict:
    """Collected to a table, read back, and labelled with what is really in the images."""
    collect(model, {"images": scenes.pixels}, place, map=map_of, batch=50)
    return labelled(dict(np.load(place)), dict(enumerate(scenes.objects)))


def world(model: Path, folder: Path, sizes: dict[str, int]) -> dict:
    """Tables of boxes by part, the bundle fitted on them, the instrumented model and its map."""
    place, map_of = signal_map(model, folder)
    scenes = {part: known(part, count, 100 + n) for n, (part, count) in enumerate(sizes.items()) if part != "unknown"}
    scenes["unknown"] = unknown("test", sizes["unknown"], 200)
    tables = {name: boxes_of(place, map_of, found, folder / f"{name}.npz") for name, found in scenes.items()}
    bundle = demur.fit(CONFIG, reference=tables["reference"], calibration=tables["calibration"])
    return {"model": place, "map": map_of, "scenes": scenes, "tables": tables, "bundle": bundle}
