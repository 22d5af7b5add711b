"""Ray Data with two workers: every score of the catalogue is fitted to the same bits as here."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from demur.detectors.accumulate import Counts
from demur.detectors.build import build_score
from demur.detectors.score import Reference
from demur.detectors.storage import kind_of, parameters, settings
from demur.monitor.fit.picked import Picked
from demur.monitor.fit.table import load_table
from tests.contract.entries import reference
from tests.contract.families import CASES
from tests.scale.test_passes import world

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def engine():
    from demur.monitor.fit.ray_engine import RayEngine

    return RayEngine(workers=2)


def elsewhere(data, engine):
    sides = {n: replace(s, engine=engine) for n, s in data.sides.items()}
    return replace(data, engine=engine, sides=sides)


@pytest.mark.parametrize("name", sorted(CASES))
def test_two_workers_give_the_same_bits(name, engine):
    case = CASES[name]
    here = build_score(case.kind, case.hyper, reference())
    there = build_score(case.kind, case.hyper, elsewhere(reference(), engine))
    assert (kind_of(here), settings(here)) == (kind_of(there), settings(there))
    for field, array in parameters(here).items():
        np.testing.assert_array_equal(array, parameters(there)[field], err_msg=field)


@pytest.mark.parametrize("kind", ["mahalanobis", "vim", "knn"])
def test_chunks_are_merged_in_the_order_of_the_rows(kind, engine, tmp_path):
    data = world(rows=300_000, width=48)
    for name, array in data.signals.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = replace(data, signals={n: np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in data.signals})
    here, there = build_score(kind, {}, data), build_score(kind, {}, elsewhere(mapped, engine))
    for field, array in parameters(here).items():
        np.testing.assert_array_equal(array, parameters(there)[field], err_msg=field)


@pytest.mark.parametrize(
    "cut", [lambda a: a[70_000:], lambda a: np.asarray(a)[3:-5], lambda a: a[:, 1:], lambda a: a[::2]]
)
def test_parts_of_a_mapped_file_are_read_where_they_lie(cut, engine, tmp_path):
    """A slice of a memmap claims the offset of the whole file: workers must not read its first rows instead."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(3).normal(size=(90_000, 6)).astype(np.float32))
    mapped = cut(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    here, there = (build_score("pca", {}, Reference({"features": mapped}, engine=e)) for e in (None, engine))
    for field, array in parameters(here).items():
        np.testing.assert_array_equal(array, parameters(there)[field], err_msg=field)


def test_picked_rows_of_a_mapped_file(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("demur.monitor.fit.picked.PICKED_BYTES", 0)
    np.save(tmp_path / "features.npy", np.random.default_rng(3).normal(size=(9_000, 6)).astype(np.float32))
    table = load_table(tmp_path).take(np.arange(0, 9_000, 3))
    assert isinstance(table.signals["features"], Picked)
    here, there = (build_score("pca", {}, Reference(table.signals, engine=e)) for e in (None, engine))
    np.testing.assert_array_equal(here.project, there.project)


def test_two_engines_in_one_folder_do_not_meet(engine, tmp_path):
    from demur.monitor.fit.ray_engine import RayEngine

    data = [Reference({"features": np.full((9, 2), v, np.float32)}) for v in (1, 2)]
    engines = [RayEngine(folder=tmp_path) for _ in data]
    for _ in range(2):
        for value, (one, rows) in enumerate(zip(engines, data, strict=True), 1):
            total = replace(rows, engine=one).reduce(lambda b: Counts(b.signals["features"].sum(axis=0)), "features")
            np.testing.assert_array_equal(total.of, [9 * value] * 2)
    del engines, one
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_the_command_fits_the_same_bundle(engine, tmp_path):
    from demur.monitor.fit.pipeline import fit
    from tests.conftest import POLICY, draw

    given = {"reference": draw(300, 1), "calibration": draw(400, 2)}
    assert fit(POLICY, **given).digest == fit(POLICY, **given, engine=engine).digest


def test_a_fault_in_a_worker_reaches_the_caller(engine):
    def broken(batch):
        raise ValueError("a fault of our own")

    with pytest.raises(Exception, match="a fault of our own"):
        elsewhere(reference(), engine).reduce(broken, "logits")
