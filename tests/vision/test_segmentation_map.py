"""Maps of risk from dense logits and queries, beside loops over pixels in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demur.adapters.models.segmentation import Segmenter, layout
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import InvalidObservation
from tests.oracles import frame, logit, pixel


def dense(score="energy", **rest):
    return SegmentationConfig(logits="z", score=score, **rest)


def of_queries(score="rba", **rest):
    return SegmentationConfig(kind="queries", class_logits="c", mask_logits="m", score=score, **rest)


def logits(shape, seed=0, scale=6.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def margin(z):
    ordered = np.sort(z, axis=1)
    return ordered[:, -2] - ordered[:, -1]


ORACLES = {
    "energy": logit.energy,
    "max_logit": logit.max_logit,
    "entropy": logit.entropy,
    "msp": logit.msp,
    "margin": margin,
}


def per_pixel(oracle, z):
    """(B, C, h, w) -> (B, h, w), each pixel a row."""
    rows = z.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, z.shape[1])
    return oracle(rows).reshape(z.shape[0], *z.shape[2:])


@pytest.mark.parametrize("score", ORACLES)
def test_a_map_of_dense_logits_is_the_score_of_every_pixel(score):
    z = logits((2, 5, 7, 9))
    np.testing.assert_allclose(
        Segmenter(dense(score)).maps({"z": z}), per_pixel(ORACLES[score], z), rtol=2e-5, atol=2e-6
    )


def test_layouts_and_dtypes_show_the_same_map():
    z = logits((2, 4, 6, 10)).astype(np.float16)
    want = Segmenter(dense()).maps({"z": z.astype(np.float32)})
    assert (Segmenter(dense()).maps({"z": z}) == want).all()
    assert (Segmenter(dense()).maps({"z": z.astype(np.float64)}) == want).all()
    last = np.ascontiguousarray(z.transpose(0, 2, 3, 1))
    assert (Segmenter(dense(channels="last")).maps({"z": last}) == want).all()
    assert (Segmenter(dense(downscale=3)).maps({"z": z}) == want[:, ::3, ::3]).all()


def test_strips_change_no_bit(monkeypatch):
    z, c, m = logits((1, 7, 23, 31)), logits((1, 6, 5)), logits((1, 6, 23, 31), 1)
    whole = Segmenter(dense()).maps({"z": z}), Segmenter(of_queries()).maps({"c": c, "m": m})
    for size in (1, 5, 40, 100):
        monkeypatch.setattr(layout, "STRIP_PIXELS", size)
        assert (Segmenter(dense()).maps({"z": z}) == whole[0]).all()
        np.testing.assert_allclose(Segmenter(of_queries()).maps({"c": c, "m": m}), whole[1], rtol=1e-6)


def test_rba_of_queries_is_its_formula_pixel_by_pixel():
    c, m = logits((2, 5, 4), scale=2.0), logits((2, 5, 3, 4), 1, 3.0)
    got = Segmenter(of_queries()).maps({"c": c, "m": m})
    largest = Segmenter(of_queries("max_logit")).maps({"c": c, "m": m})
    for b, i, j in np.ndindex(2, 3, 4):
        evidence = pixel.evidence(c[b].astype(np.float64), m[b, :, i, j].astype(np.float64))
        assert got[b, i, j] == pytest.approx(pixel.rba(evidence), rel=2e-5)
        assert largest[b, i, j] == pytest.approx(-max(evidence), rel=2e-5)


def test_rba_of_the_golden_queries():
    c = np.array([[[3, 0, -1, 0], [0, 2, 0, 1]]], np.float32)
    m = np.array([2, -1], np.float32).reshape(1, 2, 1, 1)
    assert Segmenter(of_queries()).maps({"c": c, "m": m}) == pytest.approx(-0.90689, abs=6e-6)


def test_standardised_max_logit_is_fitted_on_pixels_by_predicted_class():
    reference, z = logits((3, 4, 6, 8)), logits((1, 4, 5, 6), 7)
    fitted = Segmenter.fit(
        dense("standardised_max_logit", share=0.5), reference=[{"z": reference}], level=[{"z": logits((4, 4, 5, 6), 2)}]
    )
    known = pixel.class_statistics(reference.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 4))
    want = per_pixel(lambda rows: pixel.standardised_max_logit(rows, known), z)
    np.testing.assert_allclose(fitted.maps({"z": z}), want, rtol=2e-5, atol=1e-5)


def test_the_void_class_is_no_part_of_scores_and_its_pixels_are_not_judged():
    z = logits((2, 5, 6, 7))
    got = Segmenter(dense("energy", void=1)).maps({"z": z})
    others = np.delete(z, 1, axis=1)
    silent = z[:, 1] > others.max(axis=1)
    assert silent.any()
    assert not silent.all()
    assert (got[silent] == -np.inf).all()
    np.testing.assert_allclose(got[~silent], per_pixel(logit.energy, others)[~silent], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("score", ["energy", "max_logit", "entropy", "msp", "margin"])
def test_a_pixel_that_is_not_finite_is_invalid_and_so_is_its_frame(score, value):
    z = logits((2, 4, 5, 6))
    before = Segmenter(dense(score)).maps({"z": z})
    z[1, 2, 3, 4] = value
    seen = Segmenter(dense(score, signals=["peak", "mean_risk"]))({"z": z})
    want = np.zeros((5, 6), bool)
    want[3, 4] = True
    assert (seen.frames[1].invalid == want).all()
    assert (seen.frames[1].map[~want] == before[1][~want]).all()
    assert (seen.frames[0].map == before[0]).all()
    assert np.isnan(seen.signals["peak"]).ravel().tolist() == [False, True]
    assert np.isnan(seen.signals["mean_risk"]).ravel().tolist() == [False, True]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_void_logit_that_is_not_finite_does_not_hide_its_pixel(value):
    z = logits((1, 4, 3, 3))
    z[0, 0, 1, 1] = value
    seen = Segmenter(dense(void=0))({"z": z})
    assert np.argwhere(seen.only.invalid).tolist() == [[1, 1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_is_invalid_where_it_is_seen(value):
    c, m = logits((1, 3, 4)), logits((1, 3, 5, 6), 1)
    m[0, 1, 2, 3] = value
    seen = Segmenter(of_queries())({"c": c, "m": m})
    assert np.argwhere(seen.only.invalid).tolist() == [[2, 3]]
    m, c = logits((1, 3, 5, 6), 1), c.copy()
    c[0, 1, 2] = value
    assert Segmenter(of_queries())({"c": c, "m": m}).only.invalid.all()


def test_float64_beyond_float32_is_invalid():
    z = logits((1, 3, 2, 2)).astype(np.float64)
    z[0, 0, 0, 0] = 1e300
    assert np.argwhere(Segmenter(dense())({"z": z}).only.invalid).tolist() == [[0, 0]]


def test_boundaries_are_overwritten_from_beside_as_in_the_paper():
    z = logits((1, 3, 9, 11), 3, 1.0)
    z[0, 0, :, :4] += 9
    z[0, 1, :6, 4:] += 9
    z[0, 2, 6:, 4:] += 9
    plain = Segmenter(dense("max_logit")).maps({"z": z})[0].astype(np.float64)
    for width in (1, 2, 3, 4, 8):
        got = Segmenter(dense("max_logit", boundary=width)).maps({"z": z})[0]
        np.testing.assert_allclose(got, frame.suppressed(plain, z[0].argmax(axis=0), width), rtol=1e-5)
    assert (got != plain).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("width", [1, 2, 8])
def test_boundaries_overwrite_no_pixel_that_is_not_finite(value, width):
    """Classes part between columns 5 and 6; wherever the pixel lies, its neighbours lend it no number."""
    z = np.repeat(logits((12, 3, 7, 1), 5, 1.0), 12, axis=3)
    z[:, 0, :, :6] += 9
    z[:, 1, :, 6:] += 9
    z[range(12), 2, 3, range(12)] = value
    seen = Segmenter(dense("max_logit", boundary=width, signals=["peak", "mean_risk"]))({"z": z})
    assert [bool(f.invalid[3, i]) for i, f in enumerate(seen.frames)] == [True] * 12
    assert all(np.isnan(v).all() for v in seen.signals.values())


def test_smoothing_is_the_dilated_gaussian_of_the_paper():
    z = logits((1, 3, 10, 13), 4)
    plain = Segmenter(dense("max_logit")).maps({"z": z})[0].astype(np.float64)
    got = Segmenter(dense("max_logit", smooth=True)).maps({"z": z})[0]
    np.testing.assert_allclose(got, frame.smoothed(plain), rtol=1e-5, atol=1e-5)


def test_strips_of_many_channels_have_few_pixels():
    for channels, classes in ((19, None), (4096, None), (3, 4096)):
        held = None if classes is None else np.zeros((channels, classes), np.float32)
        parts = layout.Frame(broadcast((channels, 40, 3000)), held).strips()
        sizes = [np.empty((40, 3000), bool)[part].size for part in parts]
        assert sum(sizes) == 40 * 3000
        assert max(sizes) * max(channels, classes or 0) <= 1 << 20


def broadcast(shape):
    """A tensor that claims a size without having it."""
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.parametrize(
    ("config", "tensors", "says"),
    [
        (dense(), {}, "z: expected this output, got none"),
        (dense(), {"z": np.zeros((3, 4, 5), np.float32)}, r"floats \(B, C, H, W\), got \(3, 4, 5\)"),
        (dense(), {"z": np.zeros((1, 3, 4, 5), np.int32)}, "int32"),
        (dense(), {"z": [[1.0]]}, "list"),
        (dense(), {"z": np.zeros((0, 3, 4, 5), np.float32)}, "at least one frame"),
        (dense(), {"z": np.zeros((1, 3, 0, 5), np.float32)}, "at least one pixel"),
        (dense(), {"z": np.zeros((1, 1, 4, 5), np.float32)}, "at least 2 channels, got 1"),
        (dense(void=7), {"z": np.zeros((1, 3, 4, 5), np.float32)}, "at least 8 channels, got 3"),
        (dense(), {"z": broadcast((1, 19, 1 << 20, 1 << 20))}, "at most 67108864 pixels"),
        (dense(), {"z": broadcast((1, 1 << 20, 4, 4))}, "at most 67108864 pixels and 4096 channels"),
        (of_queries(), {"m": np.zeros((1, 2, 3, 3), np.float32)}, "c: expected this output, got m"),
        (of_queries(), {"c": np.zeros((1, 3, 4), np.float32), "m": np.zeros((1, 2, 3, 3), np.float32)}, "that many queries"),
        (of_queries(), {"c": np.zeros((2, 2, 4), np.float32), "m": np.zeros((1, 2, 3, 3), np.float32)}, "that many queries"),
        (of_queries(), {"c": np.zeros((1, 2, 1), np.float32), "m": np.zeros((1, 2, 3, 3), np.float32)}, "with 1 to 4095"),
        (of_queries(), {"c": np.zeros((1, 2), np.float32), "m": np.zeros((1, 2, 3, 3), np.float32)}, r"\(B, Q, K \+ 1\)"),
        (of_queries(), {"c": np.zeros((1, 0, 4), np.float32), "m": np.zeros((1, 0, 3, 3), np.float32)}, "at least 1 chan"),
    ],
)  # fmt: skip
def test_another_layout_is_refused_in_words(config, tensors, says):
    with pytest.raises(InvalidObservation, match=says):
        Segmenter(config).observe(tensors)


def test_one_pixel_is_a_frame():
    z = np.array([2.0, 1.0], np.float32).reshape(1, 2, 1, 1)
    seen = Segmenter(dense("energy", radius=3, least_area=9, smooth=True, boundary=4))({"z": z})
    assert seen.map.shape == (1, 1)
    assert float(seen.signals["peak"][0, 0]) == pytest.approx(-math.log(math.exp(2) + math.exp(1)), rel=1e-6)
