"""Frame pairs with depth and motion: errors by the definition, and frames in which something moves."""

from __future__ import annotations

import math

import numpy as np
import pytest

import demur
from demur.adapters.models.photometric import photometric_error
from demur.monitor.errors import InvalidObservation

HEIGHT, WIDTH = 14, 18
CAMERA = np.array([[20.0, 0, 8.5], [0, 20.0, 6.5], [0, 0, 1]])


def turned(angle: float, shift: tuple[float, float, float]) -> np.ndarray:
    """About the vertical axis, then a shift."""
    c, s = math.cos(angle), math.sin(angle)
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = shift
    return pose


def frames(count: int, seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((count, HEIGHT, WIDTH, channels))


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    total = np.zeros(image.shape[2])
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            total += max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row)) * image[row, column]
    return total


def oracle(frame, other, depth, pose, camera):
    """Pixel by pixel from the definition: unproject, move, project, interpolate."""
    inverse = np.linalg.inv(camera)
    error, seen = np.zeros(frame.shape[:2]), np.zeros(frame.shape[:2], bool)
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            point = depth[y, x] * inverse @ np.array([x, y, 1.0])
            moved = pose[:3, :3] @ point + pose[:3, 3]
            if moved[2] <= 0:
                continue
            u, v, w = camera @ moved
            if not (0 <= u / w <= frame.shape[1] - 1 and 0 <= v / w <= frame.shape[0] - 1):
                continue
            seen[y, x] = True
            error[y, x] = np.abs(frame[y, x] - bilinear(other, u / w, v / w)).mean()
    return error.ravel(), seen.ravel()


@pytest.mark.parametrize("pose", [turned(0.05, (0.1, -0.05, 0.2)), turned(-0.3, (0, 0, 0)), turned(0.0, (0, 0, -4.0))])
def test_the_error_equals_the_definition(pose):
    frame, other = frames(2, 0), frames(2, 1)
    depth = np.random.default_rng(2).uniform(1, 6, size=(2, HEIGHT, WIDTH))
    found = photometric_error(frame, other, depth, np.stack([pose] * 2), CAMERA)
    for row in range(2):
        error, seen = oracle(frame[row], other[row], depth[row], pose, CAMERA)
        np.testing.assert_array_equal(found.seen[row], seen)
        np.testing.assert_allclose(found.error[row], error, atol=1e-6)
    assert 0 < found.seen.mean() < 1


def test_no_motion_compares_pixels():
    frame, other = frames(1, 0, 1), frames(1, 1, 1)
    found = photometric_error(frame[..., 0], other[..., 0], np.full((1, HEIGHT, WIDTH), 3.0), np.eye(4)[None], CAMERA)
    np.testing.assert_allclose(found.error, np.abs(frame - other).reshape(1, -1), atol=1e-7)
    assert found.seen.all()


def test_a_wall_shifts_by_focal_length_times_motion_over_depth():
    """20 pixels x 0.5 / 5 = 2 pixels; what the wall shows is found again there."""
    wide = np.random.default_rng(0).integers(0, 256, size=(1, HEIGHT, WIDTH + 2, 3)).astype(np.uint8)
    pose = turned(0.0, (0.5, 0, 0))[None]
    found = photometric_error(wide[:, :, 2:], wide[:, :, :-2], np.full((1, HEIGHT, WIDTH), 5.0), pose, CAMERA)
    seen = found.seen.reshape(HEIGHT, WIDTH)
    assert seen[:-1, :-3].all()
    assert not seen[:, -2:].any()
    assert found.error.max() < 1e-6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"other": frames(2, 0)[:, 1:]}, "other: expected shape"),
        ({"depth": np.ones((2, HEIGHT))}, "depth: expected shape"),
        ({"pose": np.eye(4)}, "pose: expected shape"),
        ({"intrinsics": np.eye(4)}, "intrinsics: expected shape"),
        ({"frame": np.zeros((2, HEIGHT, WIDTH), np.int32)}, "frame: expected"),
        ({"intrinsics": np.zeros((3, 3))}, "row 0 has no inverse"),
    ],
)
def test_what_is_no_frame_pair(change, words):
    given = {
        "frame": frames(2, 0),
        "other": frames(2, 1),
        "depth": np.ones((2, HEIGHT, WIDTH)),
        "pose": np.stack([np.eye(4)] * 2),
        "intrinsics": CAMERA,
    }
    with pytest.raises(InvalidObservation, match=words):
        photometric_error(**{**given, **change})


@pytest.mark.parametrize("spoil", ["depth_zero", "depth_nan", "frame_nan", "pose_inf"])
def test_rows_that_cannot_be_trusted_are_not_numbers(spoil):
    frame, depth, pose = frames(2, 0), np.ones((2, HEIGHT, WIDTH)), np.stack([np.eye(4)] * 2)
    {"depth_zero": depth, "depth_nan": depth, "frame_nan": frame, "pose_inf": pose}[spoil][1].flat[3] = {
        "depth_zero": 0.0,
        "pose_inf": np.inf,
    }.get(spoil, np.nan)
    found = photometric_error(frame, frames(2, 1), depth, pose, CAMERA)
    assert np.isfinite(found.error[0]).all()
    assert np.isnan(found.error[1]).all()


def scene(count: int, seed: int, moving: float) -> np.ndarray:
    """Errors of a wall seen twice from a moving camera, a sixth of the frame moving on its own in some of the pairs."""
    rng = np.random.default_rng(seed)
    wall = rng.random((count, HEIGHT, WIDTH + 2, 3))
    frame, other = wall[:, :, 2:].copy(), wall[:, :, :-2] + 0.01 * rng.normal(size=(count, HEIGHT, WIDTH, 3))
    for row in np.flatnonzero(rng.random(count) < moving):
        y, x = rng.integers(HEIGHT - 6), rng.integers(WIDTH - 9)
        frame[row, y : y + 6, x : x + 7] = rng.random(3)
    pose = np.stack([turned(0.0, (0.5, 0, 0))] * count)
    return photometric_error(frame, other, np.full((count, HEIGHT, WIDTH), 5.0), pose, CAMERA).error


@pytest.mark.parametrize("depth", [2.0, 1e-300])
@pytest.mark.parametrize("far", [1e308, -1e308, 1e39])
def test_a_motion_beyond_all_numbers_sees_nothing(far, depth):
    pose = np.eye(4)[None].copy()
    pose[0, 0, 3] = far
    frame = np.random.default_rng(0).random((1, 6, 7, 3))
    found = photometric_error(
        frame, frame, np.full((1, 6, 7), depth), pose, np.array([[5.0, 0, 3], [0, 5, 2.5], [0, 0, 1]])
    )
    assert not found.seen.any()
    assert not found.error.any()


def test_floats_up_to_255_are_not_compared_with_floats_up_to_1():
    frame = np.random.default_rng(0).random((1, 6, 7, 3))
    pose, camera = np.eye(4)[None], np.array([[5.0, 0, 3], [0, 5, 2.5], [0, 0, 1]])
    with pytest.raises(InvalidObservation, match=r"other: expected floats in \[0, 1\], got"):
        photometric_error(frame, 255 * frame, np.ones((1, 6, 7)), pose, camera)


def test_moving_things_raise_the_share_and_a_broken_depth_is_invalid():
    config = {
        "monitor": "depth",
        "signals": {"photometric_error": HEIGHT * WIDTH},
        "scores": [{"photometric": {"k": 2.5}}],
        "rules": [{"moving": {"when": "photometric", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    tables = [{"photometric_error": scene(300, seed, 0.0)} for seed in (0, 1)]
    monitor = demur.Monitor.of(demur.fit(config, reference=tables[0], calibration=tables[1]))
    still, moving = (monitor.assess(photometric_error=scene(300, 2, share)) for share in (0.0, 1.0))
    assert still.accept.mean() > 0.9
    assert moving.accept.mean() < 0.1
    broken = scene(2, 3, 0.0)
    broken[1] = np.nan
    assert not monitor.assess(photometric_error=broken).accept[1]
