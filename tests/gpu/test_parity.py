"""Another execution provider gives the scores of the CPU to 1e-4 and the same verdicts but for marginal rows: `make test-gpu`."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.compile import compile_monitor, compile_scores, serialize
from demur.detectors.policy import Column, Rule
from demur.detectors.reason import Reason
from demur.monitor.session import Session
from tests.contract.checks import check_corrupt_rows, hostile
from tests.contract.entries import WIDTHS, entries, near
from tests.gpu import worlds
from tests.gpu.parity import CPU, DEVICE, TOLERANCE, noted, worst

pytestmark = pytest.mark.gpu
MONITOR = ("energy", "msp", "vim", "knn")


def both(model):
    raw = serialize(model)
    return Session(raw, providers=CPU), Session(raw, providers=DEVICE)


def test_the_device_is_what_runs():
    _, there = both(entries()["energy"].model)
    assert there.providers[0] == DEVICE[0]


@pytest.mark.parametrize("name", list(entries()))
def test_contract_rows(name):
    entry = entries()[name]
    here, there = both(entry.model)
    found = 0.0
    for count, seed in ((1, 1), (40, 2), (700, 3)):
        feed = entry.feed(near(count, seed))
        got, want = (s.run(feed)["scores"][:, -1] for s in (there, here))
        found = max(found, worst(got, want))
    noted("contract", name, found)
    assert found <= 1


@pytest.mark.parametrize("name", list(entries()))
def test_a_corrupt_row_is_not_finite_there(name):
    """A provider that folds 0 * x, or whose reductions drop NaN, would give such a row an ordinary score."""
    entry = entries()[name]
    _, there = both(entry.model)
    check_corrupt_rows(entry, [lambda signals: there.run(entry.feed(signals))["scores"][:, -1]], TOLERANCE)


@pytest.mark.parametrize("name", list(entries()))
def test_hostile_rows_are_the_same_or_not_finite(name):
    """Where both sides give a number for a row that overflows or underflows, it is the same number."""
    entry = entries()[name]
    here, there = both(entry.model)
    got, want = (s.run(entry.feed(hostile()))["scores"][:, -1] for s in (there, here))
    both_finite = np.isfinite(got) & np.isfinite(want)
    close = np.isclose(got, want, rtol=1e-3, atol=1e-3) | ~both_finite
    noted("hostile", name, [f"row {i}: {got[i]!r} for {want[i]!r}" for i in np.flatnonzero(~close)])
    assert close.all(), (got[~close], want[~close])


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8, 3e38])
def test_large_equal_logits_are_not_sure(size):
    """Two classes with the same logit: the larger probability is one half whatever the size."""
    entry = entries()["msp"]
    here, there = both(entry.model)
    logits = np.full((3, WIDTHS["logits"]), -size, np.float32)
    logits[:, :2] = size
    for run in (here, there):
        np.testing.assert_allclose(run.run({"logits": logits})["scores"][:, 0], 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", worlds.NAMES)
def test_rows_at_the_size_people_serve(name):
    here, there = both(compile_scores({name: worlds.fitted(name)}, worlds.widths(name)))
    feed = worlds.sample_rows(name, 512)
    got, want = (s.run(feed)["scores"][:, 0] for s in (there, here))
    found = worst(got, want)
    noted("large", name, found)
    assert found <= 1


def test_verdicts_are_equal_but_for_marginal_rows():
    """Four scores at full size: a row may differ only where a score lies within the tolerance of a calibration score."""
    scores = {name: worlds.fitted(name) for name in MONITOR}
    width = {"features": worlds.WIDTH, "logits": worlds.CLASSES}
    calibration = {n: a for name in MONITOR for n, a in worlds.sample_rows(name, 2000, seed=5).items()}
    here = Session(serialize(compile_scores(scores, width)), providers=CPU)
    tables = dict(zip(scores, np.sort(here.run(calibration)["scores"], axis=0).T, strict=True))
    columns = [Column(n, n, calibration=(np.ascontiguousarray(tables[n]),)) for n in scores]
    rules = [
        Rule(f"r_{n}", n, Reason.NOVEL, np.quantile(tables[n], [0.95]).astype(np.float32), np.zeros(1, np.bool_))
        for n in scores
    ]
    here, there = both(compile_monitor(scores, columns, rules, width))
    live = {n: a for name in MONITOR for n, a in worlds.sample_rows(name, 4000, seed=6).items()}
    live["features"][7, 3], live["logits"][9, 2] = np.nan, -np.inf
    want, got = here.run(live), there.run(live)
    room = TOLERANCE * np.maximum(np.abs(want["scores"]), 1.0)
    limits = np.array([r.threshold[0] for r in rules])
    marginal = (np.abs(want["scores"] - limits) <= room).any(axis=1)
    for output in ("accept", "reasons", "rule_hits"):
        np.testing.assert_array_equal(got[output][~marginal], want[output][~marginal], err_msg=output)
    assert not got["accept"][[7, 9]].any()
    assert (got["reasons"][[7, 9]] & Reason.INVALID).all()
    assert marginal.mean() < 0.01
    assert 0.05 < want["accept"].mean() < 0.99
    moved = np.abs(got["p_values"] - want["p_values"])
    noted(
        "monitor",
        "rows",
        {
            "rows": 4000,
            "marginal": int(marginal.sum()),
            "verdicts_differ": int((got["accept"] != want["accept"]).sum()),
            "largest_p_value_move": float(np.nanmax(moved)),
        },
    )
    assert np.nanmax(moved) <= 0.02


def test_the_same_bits_again():
    """One provider gives the same bits for the same batch."""
    _, there = both(entries()["mahalanobis"].model)
    feed = entries()["mahalanobis"].feed(near(64))
    one, two = (there.run(feed)["scores"] for _ in range(2))
    np.testing.assert_array_equal(one, two)
