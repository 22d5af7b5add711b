"""Single perturbations against values worked out by hand or another way."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import convolve, uniform_filter

from demur.monitor.perturb import CATALOGUE, Context, find
from demur.monitor.perturb.blur import quantisation, smeared
from demur.monitor.perturb.degradations import WEIGHT, ramped
from demur.monitor.perturb.text import CONFUSABLES, INVISIBLE, NEIGHBOURS
from tests.perturb.material import features, images, series


def made(kind, name, rows, severity, **how):
    return find(kind, name)(rows, severity, **how)


def test_tones_by_hand():
    image = np.array([[[[0.1, 0.5, 0.9], [0.3, 0.5, 0.1]]]])
    assert made("images", "brightness", image, 3).array == pytest.approx(np.clip(image + 0.3, 0, 1))
    assert made("images", "contrast", image, 2).array == pytest.approx(
        np.array([[[[0.15, 0.5, 0.7], [0.25, 0.5, 0.3]]]])
    )
    assert made("images", "invert", image, 5).array == pytest.approx(1 - image)
    assert made("images", "invert", image, 3).array == pytest.approx(np.full_like(image, 0.5))
    grey = 0.299 * 0.3 + 0.587 * 0.5 + 0.114 * 0.1
    assert made("images", "saturate", image, 2).array[0, 0, 1] == pytest.approx(
        [2 * 0.3 - grey, 2 * 0.5 - grey, max(0.0, 2 * 0.1 - grey)]
    )


def test_saturate_needs_colour():
    with pytest.raises(ValueError, match="expected 3 channels"):
        made("images", "saturate", np.zeros((2, 8, 8)), 1)


def test_fog_lies_between_half_its_density_and_its_density():
    fog = made("images", "fog", np.zeros((8, 24, 30)), 4).array
    assert fog.min() == pytest.approx(0.325)
    assert fog.max() == pytest.approx(0.65)
    smooth = np.abs(np.diff(fog, axis=2)).mean()
    assert smooth < 0.3 * np.abs(np.diff(np.random.default_rng(0).permuted(fog, axis=2), axis=2)).mean()


@pytest.mark.parametrize(
    ("name", "spread"),
    [("gaussian_noise", 0.12), ("shot_noise", math.sqrt(0.5 / 25)), ("impulse_noise", math.sqrt(0.06 * 0.25))],
)
def test_noises_have_their_mean_and_spread(name, spread):
    noise = made("images", name, np.full((40, 32, 32), 0.5), 3).array - 0.5
    assert abs(noise.mean()) < 0.003
    assert noise.std() == pytest.approx(spread, rel=0.02)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur"])
@pytest.mark.parametrize("severity", [1, 5])
def test_blurs_keep_the_light_and_spread_a_point_as_far_as_stated(name, severity):
    point = np.zeros((6, 101, 101))
    point[:, 50, 50] = 1
    spot = made("images", name, point, severity).array
    assert spot.sum(axis=(1, 2)) == pytest.approx(1)
    down, across = np.mgrid[-50:51, -50:51]
    second = ((down**2 + across**2) * spot).sum(axis=(1, 2))
    length = 101 * CATALOGUE["images"][name].values[severity - 1]
    expected = {"defocus_blur": length**2 / 2, "gaussian_blur": 2 * length**2, "motion_blur": length**2 / 12}[name]
    assert second == pytest.approx(expected, rel=0.2, abs=0.4)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 1), (1, 300, 3), (32, 48, 3)])
def test_smearing_is_the_direct_sum_with_repeated_borders(shape):
    rng = np.random.default_rng(0)
    for side in (1, 3, 11):
        image, kernel = rng.random(shape), rng.random((side, side))
        want = convolve(image, (kernel / kernel.sum())[..., None], mode="nearest")
        assert smeared(image, kernel) == pytest.approx(want, abs=1e-12)


def test_a_large_image_is_smeared_in_bounded_memory():
    picture = np.random.default_rng(0).random((1, 600, 600))
    tracemalloc.start()
    made("images", "defocus_blur", picture, 5)
    assert tracemalloc.get_traced_memory()[1] < 40 * picture.nbytes
    tracemalloc.stop()


def test_pixelate_is_block_means():
    image = images(2, side=20)
    coarse = made("images", "pixelate", image, 2).array
    blocks = image.reshape(2, 10, 2, 10, 2, 3).mean(axis=(2, 4))
    assert coarse == pytest.approx(np.repeat(np.repeat(blocks, 2, 1), 2, 2))
    assert uniform_filter(image[0], (2, 2, 1))[1::2, 1::2] == pytest.approx(blocks[0])


def _cosines():
    k, n = np.arange(8)[:, None], np.arange(8)[None]
    basis = np.sqrt(2 / 8) * np.cos(np.pi * (n + 0.5) * k / 8)
    basis[0] /= np.sqrt(2)
    return basis


def test_block_quantise_rounds_each_blocks_cosine_coefficients():
    image, basis = images(1, side=16)[..., 1], _cosines()
    got = made("images", "block_quantise", image, 2).array[0]
    for down in (0, 8):
        for across in (0, 8):
            block = image[0, down : down + 8, across : across + 8] * 255 - 128
            table = quantisation(25)
            rounded = np.round(basis @ block @ basis.T / table) * table
            expected = np.clip((basis.T @ rounded @ basis + 128) / 255, 0, 1)
            assert got[down : down + 8, across : across + 8] == pytest.approx(expected, abs=1e-12)


def test_quantisation_tables_are_the_published_ones():
    assert quantisation(50)[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert quantisation(25)[0].tolist() == [32, 22, 20, 32, 48, 80, 102, 122]
    assert (quantisation(100) == 1).all()
    assert quantisation(5).max() == 255


def test_occlude_covers_its_share():
    image = np.ones((20, 40, 60))
    for severity, share in enumerate(CATALOGUE["images"]["occlude"].values, 1):
        hidden = made("images", "occlude", image, severity).array == 0.5
        assert hidden.mean(axis=(1, 2)) == pytest.approx(share, abs=0.02)


def test_jigsaw_moves_so_many_tiles_and_loses_no_pixel():
    image = np.random.default_rng(0).random((5, 16, 16))
    for severity, tiles in enumerate((2, 4, 7, 11, 16), 1):
        mixed = made("images", "jigsaw", image, severity).array
        assert np.array_equal(np.sort(mixed.reshape(5, -1)), np.sort(image.reshape(5, -1)))
        assert ((mixed != image).mean(axis=(1, 2)) == tiles / 16).all()


def test_rotate_turns_about_the_centre():
    square = np.zeros((1, 33, 33))
    square[0, 16, 26] = 1
    turned = made("images", "rotate", square, 5).array[0]
    down, across = np.unravel_index(np.argmax(turned), turned.shape)
    angle = math.degrees(math.atan2(abs(down - 16), across - 16))
    assert angle == pytest.approx(80, abs=4)


def test_features_by_hand():
    rows = features(200)
    context = Context.of(rows)
    assert context.mean == pytest.approx(rows.astype(np.float64).mean(axis=0))
    assert context.std == pytest.approx(rows.astype(np.float64).std(axis=0))
    far = made("features", "extrapolate", rows, 5).array
    assert far == pytest.approx(context.mean + 5 * (rows - context.mean), rel=1e-5, abs=1e-5)
    noise = (made("features", "gaussian_noise", rows, 3).array - rows) / context.std
    assert noise.std(axis=0) == pytest.approx(0.5, abs=0.1)
    assert ((made("features", "dropout", rows, 4).array == 0).sum(axis=1) == 32).all()
    flipped = made("features", "sign_flip", rows, 5).array
    assert ((flipped == -rows).sum(axis=1) == 32).all()
    assert np.array_equal(np.abs(flipped), np.abs(rows))
    moved = made("features", "permute", rows, 2).array
    assert ((moved != rows).sum(axis=1) == 16).all()
    assert np.array_equal(np.sort(moved), np.sort(rows))
    assert np.array_equal(made("features", "scale", rows, 3).array, 2 * rows)
    assert not made("features", "shrink", rows, 5).array.any()


def test_mix_goes_a_share_of_the_way_to_another_row_of_the_pool():
    rows = features(30).astype(np.float64)
    mixed = made("features", "mix", rows, 4).array
    partner = (mixed - 0.6 * rows) / 0.4
    apart = np.abs(partner[:, None] - rows[None]).max(axis=2)
    assert (apart.min(axis=1) < 1e-9).all()
    assert (apart.argmin(axis=1) != np.arange(30)).all()


def test_dead_dimensions_stay_dead():
    rows = features(30)
    rows[:, 7] = 0
    assert not made("features", "gaussian_noise", rows, 5).array[:, 7].any()


@pytest.mark.parametrize(("name", "share"), [("case", 0.3), ("homoglyphs", 0.25), ("character_noise", 0.1)])
def test_texts_change_as_many_letters_as_stated(name, share):
    before = "Abcde opxys " * 20
    after = str(made("text", name, [before], 3).array[0])
    can = {"case": 200, "homoglyphs": sum(c in CONFUSABLES for c in before), "character_noise": 240}[name]
    assert len(after) == len(before)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == round(share * can)


def test_each_text_change_is_of_its_kind():
    before = "a stitch in time saves nine Every Day of your pace"
    words = before.split()

    def after(name, severity=5):
        return str(made("text", name, [before], severity).array[0])

    assert after("case") == before.swapcase()
    assert after("homoglyphs").isascii() is False
    assert "".join({v: k for k, v in CONFUSABLES.items()}.get(c, c) for c in after("homoglyphs")) == before
    assert after("invisible").translate(dict.fromkeys(map(ord, INVISIBLE))) == before
    assert len(after("invisible")) == len(before) + round(0.4 * len(before))
    assert after("whitespace").replace(" ", "") == before.replace(" ", "")
    assert len(after("word_drop").split()) == len(words) - round(0.5 * len(words))
    assert sorted(after("word_swap").split()) == sorted(words)
    assert all(a != b for a, b in zip(after("word_swap").split(), words, strict=True))
    assert len(after("word_duplicate").split()) == len(words) + round(0.5 * len(words))
    assert after("truncate", 3) == before[:25]
    assert all(ord(c) < 128 for c in after("character_noise"))


def test_look_alikes_are_other_letters_and_neighbours_lie_beside():
    assert len(CONFUSABLES) == 26
    assert all(key.isascii() and not value.isascii() for key, value in CONFUSABLES.items())
    assert len(set(CONFUSABLES.values())) == 26
    assert all(a in NEIGHBOURS[b] for a in NEIGHBOURS for b in NEIGHBOURS[a])
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")


def test_typos_strike_neighbouring_keys():
    before = "g" * 600
    after = str(made("text", "typos", [before], 5).array[0])
    assert set(after) == set("gfhtyvb")
    assert sum(c != "g" for c in after) == pytest.approx(60, abs=20)


SHARES = (0.015, 0.03, 0.06, 0.1, 0.15)


@pytest.mark.parametrize("name", ["soft_replacement", "uniform_replacement"])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_degraded_intervals_are_one_piece_of_the_papers_lengths(name, severity):
    touched = made("series", name, series(30), severity).touched[:, :, 0]
    assert (touched.sum(axis=1) == round(SHARES[severity - 1] * 200)).all()
    assert (np.abs(np.diff(touched.astype(int), axis=1)).sum(axis=1) <= 2).all()


def test_soft_replacement_blends_another_window_between_ramps():
    assert ramped(10).tolist() == [1.0] * 10
    assert ramped(30) == pytest.approx([1 / 3, 2 / 3, *[1.0] * 26, 2 / 3, 1 / 3])
    rows = np.stack([np.zeros((200, 1)), np.tile(np.linspace(1, 2, 200)[:, None], 1)])
    got = made("series", "soft_replacement", rows, 5)
    inside = got.array[0, :, 0][got.touched[0, :, 0]]
    assert (inside[3:-3] >= WEIGHT * 1 - 1e-9).all()
    assert (inside[3:-3] <= WEIGHT * 2 + 1e-9).all()
    steps = inside[3:-3]
    assert np.abs(np.diff(steps)) == pytest.approx(WEIGHT / 199)


def test_uniform_replacement_is_one_value_inside_the_range():
    rows = series(20)
    got = made("series", "uniform_replacement", rows, 5)
    for row, new, touched in zip(rows, got.array, got.touched, strict=True):
        for channel in range(2):
            [value] = set(new[touched[:, channel], channel].tolist())
            assert row[:, channel].min() <= value <= row[:, channel].max()


def test_peak_and_spikes_stand_where_stated():
    rows = series(20).astype(np.float64)
    std = rows.std(axis=1)
    peak = made("series", "peak_noise", rows, 3)
    assert (peak.touched.sum(axis=1) == 1).all()
    assert np.abs(peak.array - rows).sum(axis=1) == pytest.approx(6 * std)
    spikes = made("series", "spikes", rows, 5)
    assert (spikes.touched.sum(axis=1) == 20).all()
    assert np.abs(spikes.array - rows).max(axis=1) == pytest.approx(6 * std)


def test_drift_and_shift_end_at_their_level():
    rows = series(20).astype(np.float64)
    std = rows.std(axis=1)
    for name in ("drift", "level_shift"):
        got = made("series", name, rows, 3)
        apart = np.abs(got.array - rows)
        assert apart[:, -1] == pytest.approx(2 * std)
        assert (apart[:, 0] <= 0.05 * std).all()
        assert (np.diff(apart, axis=1) >= -1e-9).all()
    inner = made("series", "level_shift", rows, 3).touched[:, :, 0].mean(axis=1)
    assert (inner >= 0.25).all()
    assert (inner <= 0.75).all()


def test_missing_is_nan_in_its_share_and_stuck_repeats_a_value():
    rows = series(20)
    lost = made("series", "missing", rows, 4)
    assert np.array_equal(np.isnan(lost.array), lost.touched)
    assert (lost.touched[:, :, 0].sum(axis=1) == 40).all()
    stuck = made("series", "stuck", rows, 5)
    for new, touched in zip(stuck.array, stuck.touched, strict=True):
        first = np.flatnonzero(touched[:, 0])[0]
        assert touched[:, 0].sum() == 99
        assert (new[touched[:, 0]] == new[first - 1]).all()


def test_time_runs_at_the_stated_speeds():
    line = np.tile(np.arange(400.0)[None, :, None], (30, 1, 1))
    got = made("series", "length_adjustment", line, 1)
    speeds = {
        round(float(np.median(np.diff(x[t[:, 0], 0])[:5])), 6) for x, t in zip(got.array, got.touched, strict=True)
    }
    assert speeds <= {2.0, 0.5, 0.0}
    assert {2.0, 0.5} <= speeds
    warped = made("series", "time_warp", line, 5).array[:, :, 0]
    assert (np.diff(warped, axis=1) >= 0).all()
    assert np.abs(warped - line[:, :, 0]).max(axis=1) == pytest.approx(0.1 * 399, rel=1e-3)
    assert warped[:, 0] == pytest.approx(0)
    assert warped[:, -1] == pytest.approx(399)


def test_jitter_and_gain_have_their_size():
    rows = series(30).astype(np.float64)
    std = rows.std(axis=1, keepdims=True)
    assert ((made("series", "jitter", rows, 3).array - rows) / std).std() == pytest.approx(0.5, rel=0.03)
    assert made("series", "gain", rows, 4).array.std(axis=1) == pytest.approx(2 * std[:, 0])


def test_the_pool_is_bounded_and_the_same_for_the_same_seed(monkeypatch):
    rows = features(5000, width=3)
    assert len(Context.of(rows).pool) == 4096
    assert np.array_equal(Context.of(rows).pool, Context.of(rows).pool)
    monkeypatch.setattr("demur.monitor.perturb.context.BLOCK_VALUES", 30)
    assert Context.of(rows).std == pytest.approx(rows.astype(np.float64).std(axis=0))
