"""A frame's cost is bounded: memory by the map and one strip, whatever the number of classes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.vision.segmentation_speed import NUMPY, costs, frame

MAP_BYTES = 4 * 256 * 512


@pytest.mark.parametrize("score", NUMPY)
def test_memory_is_the_map_and_a_strip(score):
    found = costs(frame(256, 512), score, rounds=1)
    strip = 4 * 19 * (1 << 14)
    assert found["map"].peak_bytes < 1.5 * MAP_BYTES + 2 * strip
    assert found["frame"].peak_bytes < 8 * MAP_BYTES + 2 * strip
    rest = [one for name, one in found.items() if name in ("numpy", "scipy.special") and score != "max_logit"]
    assert all(one.peak_bytes > 15 * MAP_BYTES for one in rest)  # of the size of the logits, once or more


def test_memory_does_not_grow_with_classes():
    few, many = (costs(frame(128, 256, classes), "energy", rounds=1)["frame"].peak_bytes for classes in (5, 150))
    assert many < few + 4 * 150 * (1 << 14) * 2.2


def test_numpy_and_ours_agree_on_the_frame_that_is_timed():
    from demur.adapters.models.segmentation import Segmenter
    from demur.monitor.config.segmentation import SegmentationConfig

    z = frame(40, 70)
    for score, others in NUMPY.items():
        got = Segmenter(SegmentationConfig(logits="z", score=score)).maps({"z": z})
        for other in others.values():
            np.testing.assert_allclose(got, other(z), rtol=1e-4, atol=1e-4)
