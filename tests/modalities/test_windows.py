"""Windows of time series: AnomalyBERT's mixture of degradations, and what scores see of it, without point adjustment."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import demur
from demur.detectors.score import Reference
from demur.detectors.scores.reconstruction import Reconstruction
from demur.detectors.scores.self_similarity import spectral_residual
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.roc import auroc
from demur.monitor.perturb import Context, PerturbationError
from demur.monitor.perturb.mixture import RATES, degraded

STEPS, CHANNELS, SEASON = 192, 2, 24
PATCHES = STEPS // SEASON


def series(count: int, seed: int) -> np.ndarray:
    """(N, T, C): two seasons of random phase and size in each channel, and autoregressive noise."""
    rng = np.random.default_rng(seed)
    time, windows = np.arange(STEPS), np.zeros((count, STEPS, CHANNELS))
    for channel, second in enumerate((8, 12)):
        phase, size = rng.uniform(0, 2 * np.pi, (count, 1)), rng.uniform(0.7, 1.3, (count, 1))
        season = np.sin(2 * np.pi * time / SEASON + phase) + 0.5 * np.sin(2 * np.pi * time / second + 2 * phase)
        shocks, noise = 0.2 * rng.normal(size=(count, STEPS)), np.zeros((count, STEPS))
        for step in range(1, STEPS):
            noise[:, step] = 0.6 * noise[:, step - 1] + shocks[:, step]
        windows[:, :, channel] = size * season + noise
    return windows.astype(np.float32)


def test_the_mixture_draws_what_it_says():
    windows = series(3000, 0)
    found = degraded(windows, seed=1)
    for name, rate in RATES.items():
        assert np.mean(found.kind == name) == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / 3000) + 1e-9)
    assert np.mean(found.kind == "") == pytest.approx(0.2, abs=0.03)
    clean = found.kind == ""
    np.testing.assert_array_equal(found.array[clean], windows[clean])
    assert not found.touched[clean].any()
    np.testing.assert_array_equal(found.array[~found.touched], windows[~found.touched])
    lengths = found.touched[..., 0].sum(axis=1)
    assert set(lengths[found.kind == "peak_noise"]) == {1}
    for name in ("soft_replacement", "uniform_replacement"):
        shares = lengths[found.kind == name] / STEPS
        assert shares.min() >= 0.015 - 0.5 / STEPS
        assert shares.max() <= 0.15 + 0.5 / STEPS
        assert np.mean(shares) == pytest.approx(0.0825, abs=0.01)  # evenly drawn
        starts = found.touched[found.kind == name][..., 0]
        assert (np.abs(np.diff(np.pad(starts, ((0, 0), (1, 1))).astype(int))).sum(axis=1) == 2).all()  # one interval


def test_soft_replacement_blends_another_window_by_the_formula():
    """(1 - 0.7 r) x + 0.7 r y, r rising over a tenth of the interval and falling over the last (AnomalyBERT's code)."""
    ours, theirs = np.zeros((1, 400, 1), np.float32), np.ones((1, 400, 1), np.float32)
    for row in range(20):
        found = degraded(ours, rates={"soft_replacement": 1.0}, ids=[row], context=Context.of(theirs))
        inside = found.array[0, found.touched[0, :, 0], 0].astype(np.float64)
        ramp = max(1, round(0.1 * len(inside)))
        want = [0.7 * min(1.0, (i + 1) / ramp, (len(inside) - i) / ramp) for i in range(len(inside))]
        np.testing.assert_allclose(inside, want, rtol=1e-6)  # of equal windows, flips are equal too


def test_a_window_is_degraded_alike_wherever_it_stands():
    windows = series(20, 0)
    context = Context.of(windows)
    whole = degraded(windows, seed=4, context=context)
    part = degraded(windows[5:9], seed=4, ids=range(5, 9), context=context)
    np.testing.assert_array_equal(part.array, whole.array[5:9])
    np.testing.assert_array_equal(part.kind, whole.kind[5:9])
    assert (degraded(windows, seed=5, context=context).kind != whole.kind).any()


def test_what_cannot_be_degraded():
    windows = series(4, 0)
    windows[2, 7, 1] = np.nan
    found = degraded(windows, rates={"uniform_replacement": 1.0})
    assert found.kind.tolist() == ["uniform_replacement", "uniform_replacement", "", "uniform_replacement"]
    np.testing.assert_array_equal(found.array[2], windows[2])
    for rates in ({"soft_replacement": 0.9, "peak_noise": 0.2}, {"peak_noise": -0.1}, {"jitter": float("nan")}):
        with pytest.raises(PerturbationError, match="sum to at most 1"):
            degraded(windows, rates=rates)
    with pytest.raises(PerturbationError, match="peak_noise"):
        degraded(windows, rates={"peak_nose": 1.0})
    with pytest.raises(PerturbationError, match="expected 4 ids"):
        degraded(windows, ids=[1])
    with pytest.raises(PerturbationError, match="series"):
        degraded(windows[0])
    assert degraded(windows, rates={}).kind.tolist() == [""] * 4
    assert len(degraded(windows[:0]).array) == 0


def linear_auto_encoder(rows: np.ndarray, code: int) -> bytes:
    """Somebody's network: the projection on the `code` strongest components of flat windows, (N, T * C) to the same."""
    middle = rows.mean(axis=0)
    basis = np.linalg.svd(rows - middle, full_matrices=False)[2][:code]
    width = rows.shape[1]
    weights = {"middle": middle, "down": basis.T, "up": basis}
    nodes = [
        helper.make_node("Sub", ["windows", "middle"], ["centred"]),
        helper.make_node("MatMul", ["centred", "down"], ["code"]),
        helper.make_node("MatMul", ["code", "up"], ["rebuilt"]),
        helper.make_node("Add", ["rebuilt", "middle"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "ae",
        [helper.make_tensor_value_info("windows", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def signals(windows: np.ndarray) -> dict[str, np.ndarray]:
    """Flat windows, and as the patches' embeddings the spectra of their seasons."""
    patches = windows.reshape(len(windows), PATCHES, SEASON, CHANNELS)
    spectra = np.abs(np.fft.rfft(patches.astype(np.float64), axis=2)).reshape(len(windows), -1)
    return {"windows": windows.reshape(len(windows), -1), "window_embeddings": spectra.astype(np.float32)}


SCORES = {
    "rebuilt": {"type": "reconstruction", "channels": CHANNELS},
    "rebuilt_worst": {"type": "reconstruction", "channels": CHANNELS, "by": "max"},
    "any": {"type": "self_similarity", "patches": PATCHES, "of": "any"},
    "any_top": {"type": "self_similarity", "patches": PATCHES, "of": "any", "by": "top", "k": 3},
    "newest": {"type": "self_similarity", "patches": PATCHES},
}
WIDTHS = {"windows": STEPS * CHANNELS, "window_embeddings": PATCHES * (SEASON // 2 + 1) * CHANNELS}
FLOORS = {  # AUROC of windows degraded in this way against others as they were
    "soft_replacement": {"rebuilt": 0.92, "rebuilt_worst": 0.94, "any": 0.87, "any_top": 0.87, "newest": 0.76},
    "uniform_replacement": {"rebuilt": 0.95, "rebuilt_worst": 0.97, "any": 0.95, "any_top": 0.95, "newest": 0.9},
    "peak_noise": {"rebuilt": 0.97, "rebuilt_worst": 0.98, "any": 0.96, "any_top": 0.96, "newest": 0.88},
    "length_adjustment": {"rebuilt": 0.98, "rebuilt_worst": 0.98, "any": 0.98, "any_top": 0.98, "newest": 0.96},
}


@functools.cache
def fitted(folder: str) -> demur.Bundle:
    reference = series(800, 0)
    path = f"{folder}/ae.onnx"
    Path(path).write_bytes(linear_auto_encoder(reference.reshape(800, -1).astype(np.float64), 16))
    scores = [{n: {**h, "path": path} if h["type"] == "reconstruction" else h} for n, h in SCORES.items()]
    config = {
        "monitor": "machine",
        "signals": WIDTHS,
        "scores": scores,
        "rules": [{"strange": {"when": "rebuilt_worst", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    return demur.fit(config, reference=signals(reference), calibration=signals(series(600, 1)))


@pytest.fixture
def bundle(tmp_path_factory) -> demur.Bundle:
    return fitted(str(tmp_path_factory.getbasetemp()))


def ranked(ordinary: np.ndarray, strange: np.ndarray) -> float:
    bad = np.repeat([0, 1], [len(ordinary), len(strange)])
    return float(auroc(Counts.of(np.concatenate([ordinary, strange]), bad)))


@pytest.mark.parametrize("name", FLOORS)
def test_windows_degraded_in_each_way_stand_out(name, bundle, record_property):
    monitor = demur.Monitor.of(bundle)
    found = degraded(series(600, 3), rates={name: 1.0}, context=Context.of(series(600, 4)))
    ordinary, strange = monitor.assess(**signals(series(600, 2))), monitor.assess(**signals(found.array))
    for place, column in enumerate(ordinary.columns):
        area = ranked(ordinary.scores[:, place], strange.scores[:, place])
        print(name, column, round(area, 3))
        record_property(f"AUROC of {column}, {name}", area)
        assert area > FLOORS[name][column], column
    assert ordinary.accept.mean() > 0.92
    assert strange.accept.mean() < 0.6


def test_the_spectral_residual_offline_sees_changed_speed():
    clean, fast = series(300, 2), degraded(series(300, 3), rates={"length_adjustment": 1.0}).array
    ordinary, strange = (spectral_residual(signals(w)["window_embeddings"], PATCHES).max(axis=1) for w in (clean, fast))
    assert ranked(ordinary, strange) > 0.9


def test_a_window_with_a_lost_step_is_invalid(bundle):
    rows = series(3, 5)
    rows[1, 100, 0] = np.nan
    verdicts = demur.Monitor.of(bundle).assess(**signals(rows))
    assert ["INVALID" in str(r) for r in verdicts.reasons] == [False, True, False]


def network(nodes: list, inputs: dict[str, int], width: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w]) for n, w in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(np.array([0], np.int64), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (network([helper.make_node("Concat", ["windows", "windows"], ["out"], axis=1)], {"windows": 6}, 12), "as it went in"),
        (
            network(
                [
                    helper.make_node("ReduceMean", ["windows", "zero"], ["m"], keepdims=1),
                    helper.make_node("Sub", ["windows", "m"], ["out"]),
                ],
                {"windows": 6},
                6,
            ),
            "depends on the other rows",
        ),
        (network([helper.make_node("Add", ["windows", "more"], ["out"])], {"windows": 6, "more": 6}, 6), "expected one input"),
        (network([helper.make_node("RandomNormalLike", ["windows"], ["out"])], {"windows": 6}, 6), "reconstruction: operators"),
        (network([helper.make_node("CumSum", ["windows", "zero"], ["out"])], {"windows": 6}, 6), "fails on reference rows"),
        (b"no model", "reconstruction: not an ONNX model"),
    ],
)  # fmt: skip
def test_networks_that_rebuild_nothing(model, words):
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    with pytest.raises(ValueError, match=words):
        Reconstruction.of(model, Reference({"windows": rows}))


def test_channels_divide_the_window():
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    model = network([helper.make_node("Identity", ["windows"], ["out"])], {"windows": 6}, 6)
    with pytest.raises(ValueError, match="4 channels do not divide windows of width 6"):
        Reconstruction.of(model, Reference({"windows": rows}), channels=4)
    with pytest.raises(ValueError, match="is not a file of at most"):
        Reconstruction.fit(Reference({"windows": rows}), path="/no/such.onnx")
