"""Box features against RoiAlign written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demur.adapters.models.detection import Detector
from demur.adapters.models.detection.regions import box_features
from demur.monitor.config.detection import DetectionConfig, RegionsConfig
from demur.monitor.errors import InvalidObservation

F = np.float32
SIZE = (64, 96)


def at(grid, y, x):
    """Bilinear between cells; beyond the outermost by more than one cell, nothing."""
    height, width = grid.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = grid[y0, x0] * (x0 + 1 - x) + grid[y0, x1] * (x - x0)
    low = grid[y1, x0] * (x0 + 1 - x) + grid[y1, x1] * (x - x0)
    return top * (y0 + 1 - y) + low * (y - y0)


def roi_align(grid, box, stride, cells):
    """(D, cells, cells): He et al. 2017, as many samples a bin as it has cells of the map (at least 1)."""
    x1, y1, x2, y2 = (v / stride for v in box)
    w, h = max(x2 - x1, 1.0) / cells, max(y2 - y1, 1.0) / cells
    ny, nx = math.ceil(h), math.ceil(w)
    found = np.zeros((len(grid), cells, cells))
    for d, plane in enumerate(grid):
        for i in range(cells):
            for j in range(cells):
                samples = [
                    at(plane, y1 + h * (i + (a + 0.5) / ny), x1 + w * (j + (b + 0.5) / nx))
                    for a in range(ny)
                    for b in range(nx)
                ]
                found[d, i, j] = sum(samples) / len(samples)
    return found


def feature_map(stride, channels=3, images=2, seed=0):
    shape = (images, channels, -(-SIZE[0] // stride), -(-SIZE[1] // stride))
    return np.random.default_rng(seed).normal(size=shape).astype(F)


def boxes(count=12, seed=1):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (count, 2))
    found = np.concatenate([corner, corner + rng.uniform(1, 60, (count, 2))], axis=1)
    return np.minimum(found, [SIZE[1], SIZE[0]] * 2).astype(F), rng.integers(0, 2, count)


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("pool", [True, False])
def test_features_are_roi_align(cells, pool):
    config = RegionsConfig(maps={"p3": 8, "p4": 16}, cells=cells, pool=pool)
    maps = {"p3": feature_map(8), "p4": feature_map(16, channels=2)}
    rows, image = boxes()
    got = box_features(config, SIZE, maps, rows, image, 2)
    want = []
    for box, number in zip(rows.astype(np.float64), image, strict=True):
        parts = [roi_align(maps[n][number].astype(np.float64), box, s, cells) for n, s in config.maps.items()]
        want.append(np.concatenate([p.mean(axis=(1, 2)) if pool else p.ravel() for p in parts]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_constant_map_gives_its_constant_and_a_box_is_cut_to_the_image():
    config = RegionsConfig(maps={"p3": 8})
    maps = {"p3": np.full((1, 1, 8, 12), 7, F)}
    rows = np.array([[8, 8, 40, 40], [-500, -500, 32, 32], [90, 60, 1e20, 3e38], [200, 200, 300, 300], [5, 5, 5, 5]], F)
    got = box_features(config, SIZE, maps, rows, np.zeros(5, np.int64), 1)
    np.testing.assert_allclose(got[:3], 7, rtol=1e-6)
    assert np.isfinite(got).all()
    assert got.shape == (5, 1)


def test_a_box_reads_the_level_that_fits_its_size():
    """Lin et al. 2017, eq. 1: of area 224^2 level 4, stride 16; half as wide level 3; beyond the ends the ends."""
    side = 1024
    maps = {f"p{k}": np.full((1, 2, side >> k, side >> k), k, F) for k in (3, 4, 5)}
    config = RegionsConfig(maps={f"p{k}": 2**k for k in (4, 3, 5)}, join="level")
    sides = np.array([8, 111, 113, 223, 225, 447, 449, 900], F)
    rows = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    got = box_features(config, (side, side), maps, rows, np.zeros(8, np.int64), 1)
    assert got[:, 0].tolist() == [3, 3, 3, 3, 4, 4, 5, 5]


def test_two_maps_of_one_stride_are_both_read():
    config = RegionsConfig(maps={"a": 8, "b": 8})
    maps = {"a": np.full((1, 1, 8, 12), 2, F), "b": np.full((1, 2, 8, 12), 5, F)}
    got = box_features(config, SIZE, maps, np.array([[8, 8, 40, 40]], F), np.zeros(1, np.int64), 1)
    np.testing.assert_allclose(got, [[2, 5, 5]], rtol=1e-6)
    with pytest.raises(ValueError, match="another stride"):
        RegionsConfig(maps={"a": 8, "b": 8}, join="level")


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ({}, "p3: expected this output tensor"),
        ({"p3": np.zeros((1, 3, 8, 11), F)}, r"expected \(B, D, 8, 12\) for stride 8"),
        ({"p3": np.zeros((1, 0, 8, 12), F)}, "stride 8"),
        ({"p3": np.zeros((3, 8, 12), F)}, "a feature map"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(maps, words):
    rows, _ = boxes(2)
    with pytest.raises(InvalidObservation, match=words):
        box_features(RegionsConfig(maps={"p3": 8}), SIZE, maps, rows, np.zeros(2, np.int64), 1)


def test_levels_of_different_widths_are_refused():
    config = RegionsConfig(maps={"p3": 8, "p4": 16}, join="level")
    rows, _ = boxes(2)
    with pytest.raises(InvalidObservation, match="concatenate"):
        box_features(config, SIZE, {"p3": feature_map(8), "p4": feature_map(16, 2)}, rows, np.zeros(2, np.int64), 2)


def detector():
    regions = RegionsConfig(maps={"p3": 8})
    return Detector(
        DetectionConfig(layout="yolov8", classes=1, image=SIZE, signals=["logits", "box_features"], regions=regions)
    )


def test_a_detector_gives_box_features_and_nan_stays_in_its_box():
    """The map is NaN in one corner; boxes elsewhere do not see it."""
    rows = np.array([[[80, 16, 16, 16, 0.9], [16, 48, 20, 20, 0.8]]], F).transpose(0, 2, 1)
    maps = feature_map(8, images=1)
    maps[..., :4, 8:] = np.nan
    seeing = detector()
    assert seeing.outputs == ("output0", "p3")
    seen = seeing({"output0": rows, "p3": maps})
    assert np.isnan(seen.signals["box_features"]).all(axis=1).tolist() == [True, False]
    assert np.isfinite(seen.signals["box_features"][1]).all()
    none = seeing({"output0": 0 * rows, "p3": maps})
    assert none.signals["box_features"].shape == (0, 3)


def test_feature_maps_of_fewer_images_are_refused():
    rows = np.array([[16, 48, 20, 20, 0.8]], F).reshape(1, 5, 1).repeat(2, axis=0)
    with pytest.raises(InvalidObservation, match="2 images"):
        detector()({"output0": rows, "p3": feature_map(8, images=1)})
