"""Ray Data with two workers: every score of the catalogue is fitted to the same bits as here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.storage import kind_of, parameters, settings
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
