"""Regions of a map beside loops over pixels; the level and its promise in simulation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from demur.adapters.models.segmentation.level import Level
from demur.adapters.models.segmentation.pixels import Scored
from demur.adapters.models.segmentation.regions import MOST_REGIONS, Components, opened, peak
from demur.adapters.models.segmentation.seen import SeenFrame
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import ConfigurationError
from tests.oracles import frame
from tests.simulators import within

hypothesis = pytest.importorskip("hypothesis")
arrays = pytest.importorskip("hypothesis.extra.numpy")
given, st = hypothesis.given, hypothesis.strategies
RISKS = st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
MAPS = arrays.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=RISKS)
DRAWS = 1000


def seen_of(risk, level=None, void=None, **rest):
    config = SegmentationConfig(logits="z", score="energy", **rest)
    return SeenFrame.of(Scored(np.asarray(risk, np.float32), void), np.shape(risk), config, level)


@given(risk=MAPS, radius=st.integers(0, 3))
def test_opening_takes_the_least_and_then_the_largest_of_each_square(risk, radius):
    assert (opened(risk, radius) == frame.opened(risk, radius)).all()


@given(risk=MAPS, radius=st.integers(0, 2), level=RISKS)
def test_opening_a_map_and_cutting_it_is_cutting_it_and_opening_the_mask(risk, radius, level):
    inside = (risk >= level).astype(np.float32)
    assert ((opened(risk, radius) >= level) == (frame.opened(inside, radius) > 0)).all()


@given(risk=MAPS, least_area=st.integers(1, 12))
def test_the_peak_is_the_highest_level_with_a_part_of_that_size(risk, least_area):
    assert peak(risk, least_area) == frame.peak(risk, least_area)


@pytest.mark.parametrize("least_area", [1, 2, 30, 400])
def test_the_peak_of_a_smooth_map(least_area):
    risk = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 50)), 2).astype(np.float32)
    got = peak(risk, least_area)
    assert max(map(len, frame.parts(risk >= got))) >= least_area
    higher = risk[risk > got]
    assert not higher.size or max(map(len, frame.parts(risk > got))) < least_area


def described(part, risk, least_area):
    """Box, area and peak of a set of pixels."""
    rows, columns = zip(*part, strict=True)
    own = np.full(risk.shape, -np.inf)
    own[rows, columns] = risk[rows, columns]
    box = (min(rows), min(columns), 1 + max(rows), 1 + max(columns))
    return box, len(part), frame.peak(own, least_area)


@given(risk=MAPS, level=RISKS, least_area=st.integers(1, 6))
def test_regions_are_the_connected_parts_above_the_level(risk, level, least_area):
    found = Components.above(risk, level, least_area)
    want = [part for part in frame.parts(risk > level) if len(part) >= least_area]
    assert sorted(found.areas[1:].tolist()) == sorted(map(len, want))
    assert {tuple(p) for p in np.argwhere(found.mask).tolist()} == set().union(*want)
    listed = found.listed(risk, least_area, lambda height: height)
    assert sorted((r.box, r.area, r.peak) for r in listed) == sorted(described(part, risk, least_area) for part in want)
    assert [r.peak for r in listed] == sorted((r.peak for r in listed), reverse=True)


def test_of_many_regions_the_largest_are_listed():
    risk = np.zeros((60, 60), np.float32)
    risk[::2, ::2] = 1
    risk[1, :5] = 1
    found = Components.above(risk, 0.5, 1)
    listed = found.listed(risk, 1, lambda _: None)
    assert len(listed) == MOST_REGIONS < len(found.areas) - 1
    assert max(r.area for r in listed) == found.largest == 11


def test_listing_the_largest_of_very_many_parts_takes_no_memory_for_the_others():
    risk = np.zeros((600, 600), np.float32)
    risk[::2, ::2] = 1
    found = Components.above(risk, 0.5, 1)
    tracemalloc.start()
    listed = found.listed(risk, 1, lambda _: None)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.areas) == 90_001
    assert [r.box for r in listed[:2]] == [(0, 0, 1, 1), (0, 2, 1, 3)]
    assert taken < 8 * risk.size  # 90,000 boxes would take 25 MB


def level_of(peaks, share):
    return Level.of(np.asarray(peaks, np.float32), share)


def test_the_level_is_an_order_statistic_and_p_values_count_frames():
    level = level_of([5, 1, 4, 2, 3, 9, 8, 7, 6], 0.2)
    assert level.value == 8  # ceil(10 * 0.8)
    assert [level.p_value(h) for h in (8.0, 8.5, 9.0, 9.5, 0.0)] == [0.3, 0.2, 0.2, 0.1, 1.0]
    assert np.isnan(level.p_value(float("nan")))


def test_areas_are_measured_above_a_lower_level():
    """Peaks 0..9: regions above 9 (share 0.1), areas above 5 (share 0.5)."""
    level = level_of(range(10), 0.1)
    assert (level.value, level.at(0.5)) == (9, 5)
    risk = np.zeros((4, 5))
    risk[0, :3], risk[3, 4] = 6, 10
    names = ["peak", "anomaly_area", "largest_region"]
    seen = seen_of(risk, level, radius=0, share=0.1, area_share=0.5, signals=names)
    assert seen.signals == {"peak": 10.0, "anomaly_area": 4 / 20, "largest_region": 3 / 20}
    assert [r.box for r in seen.regions] == [(3, 4, 4, 5)]
    assert np.argwhere(seen.untrusted).tolist() == [[3, 4]]
    risk[3, 4] = 0
    assert np.argwhere(seen_of(risk, level, radius=0, share=0.1).untrusted).tolist() == [[0, 0], [0, 1], [0, 2]]


@given(
    peaks=arrays.arrays(np.float32, st.integers(9, 40), elements=st.floats(-9, 9, width=32)),
    share=st.sampled_from([0.1, 0.25, 0.5]),
    height=st.floats(-10, 10, width=32),
)
def test_a_p_value_is_within_the_share_exactly_above_the_level(peaks, share, height):
    level = level_of(peaks, share)
    assert (level.p_value(height) <= share) == (height > level.value)


@given(risk=MAPS, least_area=st.integers(1, 6), radius=st.integers(0, 1))
def test_a_frame_shows_a_region_exactly_when_its_peak_is_above_the_level(risk, least_area, radius):
    level = level_of([-1.5, -0.5, 0.2, 0.7], 0.4)
    seen = seen_of(risk, level, radius=radius, least_area=least_area, signals=["peak"])
    surface = frame.opened(risk, radius)
    shown = any(len(p) >= least_area for p in frame.parts(surface > level.value))
    assert bool(seen.regions) == shown
    if not np.isneginf(risk).all() and max(map(len, frame.parts(surface > -np.inf)), default=0) >= least_area:
        assert shown == (seen.signals["peak"] > level.value)
    assert all(r.p_value <= 0.4 and r.p_value == level.p_value(r.peak) for r in seen.regions)


@given(risk=MAPS, least_area=st.integers(1, 6), radius=st.integers(0, 2))
def test_at_every_level_below_the_peak_a_region_shows_and_at_none_from_it_on(risk, least_area, radius):
    """Regions by loops over the opened mask of each level, beside one number of the grey map."""
    seen = seen_of(risk, radius=radius, least_area=least_area, signals=["peak"])
    levels = np.arange(-2.5, 3.5, 0.5)
    masks = [frame.opened((risk > level).astype(np.float32), radius) > 0 for level in levels]
    shown = [any(len(p) >= least_area for p in frame.parts(mask)) for mask in masks]
    assert [bool(seen.regions_above(level)) for level in levels] == shown
    if shown[0]:
        assert shown == [level < seen.signals["peak"] for level in levels]
    else:  # no region at any level: the lowest judged risk, so that no good frame stands above it for nothing
        judged = risk[risk > -np.inf]
        assert not judged.size or judged.min() <= seen.signals["peak"] <= judged.max()


def test_too_few_frames_or_corrupt_ones_carry_no_level():
    with pytest.raises(ConfigurationError, match=r"18 frames cannot carry share 0.05; at least 19 are needed"):
        level_of(range(18), 0.05)
    with pytest.raises(ConfigurationError, match="frame 2 holds values"):
        level_of([1, 2, np.nan, 4], 0.5)
    assert level_of(range(19), 0.05).value == 18


def noise(rng, frames):
    """Smooth maps of frames that differ in how loud they are."""
    loud = np.exp(0.5 * rng.normal(size=(frames, 1, 1)))
    return (loud * ndimage.gaussian_filter(rng.normal(size=(frames, 12, 16)), (0, 1.2, 1.2))).astype(np.float32)


def test_good_frames_show_a_region_at_most_as_often_as_the_share_says_and_pooled_pixels_break_it():
    """1,000 draws of 19 level frames and 4 fresh ones; the naive level is the same share of all pixels together."""
    share, kinds = 0.1, {"kept": [], "naive": []}
    for draw in range(DRAWS):
        maps = noise(np.random.default_rng(draw), 23)
        surfaces = [opened(m, 1) for m in maps]
        level = level_of([peak(s, 4) for s in surfaces[:19]], share).value
        naive = float(np.quantile(maps[:19], 1 - share))
        for name, cut in (("kept", level), ("naive", naive)):
            kinds[name].append(np.mean([len(Components.above(s, cut, 4).areas) > 1 for s in surfaces[19:]]))
    rate, error = np.mean(kinds["kept"]), np.std(kinds["kept"]) / np.sqrt(DRAWS)
    assert rate <= share + 3 * error
    assert rate >= share - 4 * error  # 2 of 20 ranks are above: the promise is exact
    assert np.mean(kinds["naive"]) > 3 * share


def test_a_verdict_by_area_keeps_its_promise_when_its_level_comes_from_other_frames():
    """The largest region above a level that half of the good frames reach; its threshold from 19 other frames."""
    alpha, refused = 0.1, []
    for draw in range(DRAWS):
        maps = noise(np.random.default_rng(10_000 + draw), 9 + 19 + 4)
        surfaces = [opened(m, 1) for m in maps]
        level = level_of([peak(s, 2) for s in surfaces[:9]], 0.5).value
        areas = np.array([Components.above(s, level, 2).largest for s in surfaces[9:]])
        cut = level_of(areas[:19], alpha).value
        refused.append(np.mean(areas[19:] > cut))
    assert np.mean(refused) <= alpha + 3 * np.std(refused) / np.sqrt(DRAWS)
    assert np.mean(refused) > alpha / 3
    assert not within(np.array(refused) > 0, alpha)  # it can refuse


def test_signals_of_a_hand_made_frame():
    risk = np.zeros((6, 8))
    risk[1:4, 1:4] = 2
    risk[4:6, 5:8] = 1
    risk[0, 7] = 9  # one pixel: the opening takes it
    void = np.zeros((6, 8), bool)
    void[5, :4] = True
    level = level_of([0.5], 0.5)
    names = ["peak", "anomaly_area", "largest_region", "mean_risk"]
    seen = seen_of(risk, level, void, radius=1, least_area=5, signals=names)
    judged = 48 - 4
    assert seen.signals == {
        "peak": 2.0,
        "anomaly_area": (9 + 6 + 1) / judged,
        "largest_region": 9 / judged,
        "mean_risk": pytest.approx((18 + 6 + 9) / judged),
    }
    assert [(r.box, r.area, r.peak) for r in seen.regions] == [((1, 1, 4, 4), 9, 2.0), ((4, 5, 6, 8), 6, 1.0)]
    assert [r.p_value for r in seen.regions] == [0.5, 0.5]
    assert seen.regions_above(1.5) == seen.regions[:1]


def test_all_void_and_no_region():
    everywhere = np.ones((3, 4), bool)
    seen = seen_of(np.ones((3, 4)), level_of([0.5], 0.5), everywhere, signals=["peak", "anomaly_area"])
    assert all(np.isnan(v) for v in seen.signals.values())
    assert seen.regions == ()
    assert seen.untrusted.all()
    calm = seen_of(np.zeros((3, 4)), level_of([0.5], 0.5), signals=["peak", "anomaly_area", "largest_region"])
    assert calm.signals == {"peak": 0.0, "anomaly_area": 0.0, "largest_region": 0.0}
    assert calm.regions == ()


def test_downscaled_boxes_are_in_pixels_of_the_tensors():
    config = SegmentationConfig(logits="z", score="energy", downscale=4, radius=0)
    risk = np.zeros((3, 3), np.float32)
    risk[2, 1:] = 1
    seen = SeenFrame.of(Scored(risk), (10, 11), config, level_of([0.5], 0.5))
    assert seen.regions[0].box == (8, 4, 10, 11)


def test_regions_need_a_level():
    with pytest.raises(ConfigurationError, match="no level was fitted"):
        _ = seen_of(np.zeros((2, 2))).regions
    assert seen_of(np.ones((2, 2)), radius=0).regions_above(0.5)[0].p_value is None
