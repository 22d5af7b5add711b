"""A calibration set that is unlike the reference set is told so: by the norm of a signal, or by a score."""

from __future__ import annotations

from dataclasses import make_dataclass

import numpy as np
import pytest

import demur
from demur.monitor.fit.likeness import CHECK, FEWEST_ROWS, SAMPLE_BYTES, _sample, remembers
from demur.monitor.fit.pipeline import calibrate
from demur.monitor.fit.table import SignalsTable


def rows(count: int, seed: int, width: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) @ np.diag(np.arange(1, width + 1))).astype(np.float32)


def policy(*scores, width: int = 8, **signals) -> dict:
    rules = [{"novel": {"when": next(iter(scores)), "promise": {"refuse_good_at_most": 0.05}}}]
    return {"monitor": "m", "signals": {"features": width, **signals}, "scores": list(scores), "rules": rules}


def unlike(config: dict, reference: dict, calibration: dict) -> list[str]:
    bundle = demur.fit(config, reference=reference, calibration=calibration)
    return [f for f in bundle.manifest.findings if "unlike" in f]


@pytest.mark.parametrize("seed", range(3))
def test_further_rows_of_the_same_data_are_no_news(seed):
    config = policy("gmm", "knn", "hbos", "pca")
    assert unlike(config, {"features": rows(700, seed)}, {"features": rows(60, 50 + seed)}) == []


def test_features_in_another_unit_are_told_by_their_norm():
    ours, theirs = rows(900, 0), rows(300, 1) * 255
    (told,) = unlike(policy("knn"), {"features": ours}, {"features": theirs})
    norms, further = (np.sqrt((a.astype(np.float64) ** 2).sum(axis=1)) for a in (ours, theirs))
    ranked = np.sort(norms)
    low = ranked[89] + 0.9 * (ranked[90] - ranked[89])  # a tenth of the way from the first of 900 rows to the last
    high = ranked[809] + 0.1 * (ranked[810] - ranked[809])
    expected = "calibration: unlike the reference set, in the middle 80 % of which the norm of features is "
    assert told.startswith(f"{expected}{low:.3g} to {high:.3g}, here {np.median(further):.3g} in the median; {CHECK}")


def test_outliers_of_ordinary_length_are_told_by_a_score():
    ours, theirs = rows(900, 0), rows(300, 1)[:, ::-1].copy()
    (told,) = unlike(policy("pca"), {"features": ours}, {"features": theirs})
    assert "the norm" not in told
    assert "pca is " in told


def test_rows_that_a_model_scales_to_one_length_differ_by_rounding_only():
    scaled = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (rows(900, 0), rows(300, 1))]
    ours, theirs = scaled[0], np.nextafter(scaled[1], np.float32(2))
    assert unlike(policy("knn"), {"features": ours}, {"features": theirs}) == []


def test_missing_cells_make_no_row_short():
    config = policy("isolation_forest", features={"width": 8, "kind": "table"})
    config["scores"] = ["isolation_forest"]
    ours, theirs = rows(600, 0), rows(300, 1)
    theirs[:, :3] = np.where(np.random.default_rng(2).random((300, 3)) < 0.9, np.nan, theirs[:, :3])
    told = unlike(config, {"features": ours}, {"features": theirs})
    assert not any("the norm of features" in text for text in told)


def test_few_rows_are_not_judged():
    assert unlike(policy("hbos"), {"features": rows(900, 0)}, {"features": rows(19, 1) * 255}) == []


def test_banks_and_large_covariances_are_not_asked_about_their_own_rows():
    def score(**arrays):
        return make_dataclass("S", list(arrays))(**arrays)

    bank, covariance = score(bank=np.zeros((900, 8))), score(whiten=np.zeros((512, 512)))
    assert remembers(bank, 900, 8)
    assert not remembers(bank, 2700, 8)
    assert remembers(covariance, 10_000, 512)
    assert not remembers(covariance, 20_000, 512)
    assert not remembers(score(), 5, 8)


def test_new_calibration_rows_are_held_against_those_before():
    ours, theirs, strange = rows(900, 0), rows(300, 1), rows(200, 2) * 40
    bundle = demur.fit(policy("pca"), reference={"features": ours}, calibration={"features": theirs})
    assert not [f for f in calibrate(bundle, calibration={"features": rows(200, 3)}).manifest.findings if "unlike" in f]
    moved = calibrate(bundle, calibration={"features": strange})
    (told,) = [f for f in moved.manifest.findings if "unlike" in f]
    assert told.startswith("calibration: unlike the calibration set before, in the middle 80 % of which pca is ")
    back = calibrate(moved, calibration={"features": theirs})
    assert len([f for f in back.manifest.findings if "unlike" in f]) == 1


def test_what_was_unlike_the_reference_set_stays_so_for_rows_like_it():
    ours, strange = rows(900, 0), rows(300, 2) * 40
    bundle = demur.fit(policy("pca"), reference={"features": ours}, calibration={"features": strange})
    noted = [f for f in bundle.manifest.findings if "unlike the reference set" in f]
    assert len(noted) == 1
    again = calibrate(bundle, calibration={"features": rows(250, 5) * 40})
    assert [f for f in again.manifest.findings if "unlike" in f] == noted
    better = calibrate(bundle, calibration={"features": rows(250, 6)})
    assert not [f for f in better.manifest.findings if "unlike the reference set" in f]


def test_rows_as_wide_as_images_are_looked_at_in_bounded_memory():
    wide = SignalsTable.from_arrays(features=np.broadcast_to(np.float32(1), (2000, 1 << 14)))
    kept = _sample(wide)
    assert FEWEST_ROWS < len(kept) < 2000
    assert len(kept) * 8 * (1 << 14) <= SAMPLE_BYTES


def test_a_signal_that_nothing_reads_may_be_missing_from_a_table():
    config = policy("hbos", spare=3)
    ours, theirs = (SignalsTable.from_arrays(features=rows(n, n)) for n in (600, 200))
    assert unlike(config, ours, theirs) == []
