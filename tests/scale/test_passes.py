"""A pass gives the same bits however the rows come: from memory, from mapped files, from an engine, chunk by chunk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.score import BATCH_ROWS, CHUNK_ROWS, Reference
from demur.detectors.storage import parameters
from demur.monitor.fit.pipeline import fit
from demur.monitor.fit.progress import Watched
from tests.conftest import POLICY, draw
from tests.contract.entries import reference as entry_reference
from tests.contract.families import CASES

ROWS = CHUNK_ROWS + 2 * BATCH_ROWS + 100


def world(rows: int = ROWS, width: int = 12, classes: int = 4) -> Reference:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(classes, width)).astype(np.float32)
    features = np.abs(rng.normal(size=(rows, width))).astype(np.float32)
    logits = features @ weight.T
    labels = np.where(rng.random(rows) < 0.9, logits.argmax(axis=1), rng.integers(0, classes, rows))
    return Reference(
        {"features": features, "logits": logits}, labels, weight, np.zeros(classes, np.float32),
        logits.argmax(axis=1) == labels,
    )  # fmt: skip


def same(one, two):
    assert parameters(one).keys() == parameters(two).keys()
    for name, array in parameters(one).items():
        np.testing.assert_array_equal(array, parameters(two)[name], err_msg=name)


def test_chunks_cover_every_row_once_and_in_order():
    reference = world()
    seen = []

    class Starts:
        def __init__(self, found):
            self.found = found

        def merge(self, other):
            return Starts(self.found + other.found)

    total = reference.reduce(lambda b: Starts([(b.start, len(b.correct))]), "logits")
    for start, count in total.found:
        assert start == sum(c for _, c in seen)
        seen.append((start, count))
    assert sum(c for _, c in seen) == ROWS
    assert reference.chunks == 2


@pytest.mark.parametrize("kind", ["mahalanobis", "relative_mahalanobis", "vim", "react_energy", "knn"])
def test_mapped_files_and_memory_give_the_same_bits(kind, tmp_path):
    reference = world()
    for name, array in reference.signals.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {n: np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in reference.signals}
    same(build_score(kind, {}, reference), build_score(kind, {}, replace(reference, signals=mapped)))


def test_an_engine_sees_every_pass_and_progress_reaches_the_end():
    reference, ticks = world(), []
    watched = Watched(lambda *tick: ticks.append(tick))
    same(build_score("mahalanobis", {}, reference), build_score("mahalanobis", {}, replace(reference, engine=watched)))
    assert ticks == [("fitting", CHUNK_ROWS, ROWS), ("fitting", ROWS, ROWS)] * 2  # two passes


def test_fit_ticks_through_every_stage():
    ticks = []
    fit(POLICY, reference=draw(300, 1), calibration=draw(400, 2), tick=lambda *tick: ticks.append(tick))
    stages = dict.fromkeys(stage for stage, _, _ in ticks)
    assert "fitting mahalanobis" in stages
    assert "calibrating" in stages
    for stage in stages:
        assert next(t for t in reversed(ticks) if t[0] == stage)[1:] in ((300, 300), (160, 160), (240, 240))


class Counting:
    """An engine that counts passes."""

    def __init__(self):
        self.passes = 0

    def __call__(self, reference, part, needs):
        self.passes += 1
        return (reference.chunk(part, needs, number) for number in range(reference.chunks))


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_fit_makes_no_more_passes_than_it_declares(name):
    case, engine = CASES[name], Counting()
    sides = {n: replace(s, engine=engine) for n, s in entry_reference().sides.items()}
    score = build_score(case.kind, case.hyper, replace(entry_reference(), engine=engine, sides=sides))
    most = {"exact_merge": 1, "sketch": 1, "k_pass": score.scales.passes}.get(score.scales.kind)
    if most is not None:
        assert engine.passes <= most
    else:
        assert 0 < score.scales.size <= 1_000_000
