"""What must not change a logit score: the order of rows, the names of classes, a shift of the logits, copies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.detectors.storage import parameters
from tests.contract.entries import C, between_classes, near, reference
from tests.contract.families import logit, transform

LOGIT = {name: (case.kind, dict(case.hyper)) for name, case in logit.CASES.items()}
LOGIT["msp_fitted"] = ("msp", {"temperature": "fit"})
CASES = LOGIT | {name: (case.kind, dict(case.hyper)) for name, case in transform.CASES.items()}
ORDER = np.array([3, 0, 6, 1, 5, 2, 4])  # class k is called ORDER^-1[k] afterwards: column i holds the old ORDER[i]
SHIFTED = [n for n in LOGIT if LOGIT[n][0] not in ("max_logit", "energy", "weighted_energy", "open_max")]
NOISY = np.random.default_rng(1).integers(0, C, 40)


def base() -> Reference:
    """Labels that are sometimes wrong, and logits that are sometimes unsure."""
    labels = reference().labels.copy()
    labels[::11] = NOISY[: len(labels[::11])]
    signals = {**reference().signals, "logits": reference().signals["logits"] * np.float32(0.1)}
    return dataclasses.replace(
        reference(), signals=signals, labels=labels, correct=signals["logits"].argmax(axis=1) == labels
    )


def query(scale=0.1):
    both = [near(15, seed=3), between_classes(15)]
    signals = {s: np.concatenate([part[s] for part in both]) for s in both[0]}
    return {**signals, "logits": signals["logits"] * np.float32(scale)}


def scored(name, ref, signals, **hyper):
    kind, held = CASES[name]
    return evaluate({"s": build_score(kind, {**held, **hyper}, ref)}, signals)["s"]


def relabelled(ref: Reference) -> Reference:
    places = np.argsort(ORDER)
    signals = {**ref.signals, "logits": ref.signals["logits"][:, ORDER]}
    return dataclasses.replace(
        ref,
        signals=signals,
        labels=places[ref.labels],
        head_weight=ref.head_weight[ORDER],
        head_bias=ref.head_bias[ORDER],
    )


@pytest.mark.parametrize("name", CASES)
def test_class_names_do_not_matter(name):
    signals, hyper = query(), {}
    if "weights" in CASES[name][1]:
        hyper["weights"] = [CASES[name][1]["weights"][i] for i in ORDER]
    renamed = {**signals, "logits": np.ascontiguousarray(signals["logits"][:, ORDER])}
    np.testing.assert_allclose(
        scored(name, relabelled(base()), renamed, **hyper), scored(name, base(), signals), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_reference_rows_does_not_matter(name):
    ref = base()
    order = np.random.default_rng(7).permutation(ref.rows)
    shuffled = dataclasses.replace(
        ref,
        signals={s: x[order] for s, x in ref.signals.items()},
        labels=ref.labels[order],
        correct=ref.correct[order],
    )
    np.testing.assert_allclose(scored(name, shuffled, query()), scored(name, ref, query()), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_rows_keep_their_scores_in_another_order(name):
    signals, order = query(), np.random.default_rng(8).permutation(30)
    found = scored(name, base(), {s: np.ascontiguousarray(x[order]) for s, x in signals.items()})
    np.testing.assert_allclose(found, scored(name, base(), signals)[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHIFTED)
@pytest.mark.parametrize("shift", [-64.0, 256.0])
def test_a_common_shift_of_the_logits_does_not_matter(name, shift):
    """Logits are first rounded to multiples of 2^-12, so that the shift is exact in float32."""

    def moved(signals, by):
        return {**signals, "logits": (np.round(signals["logits"] * 4096) / 4096 + by).astype(np.float32)}

    ref = base()
    found, expected = (
        scored(name, dataclasses.replace(ref, signals=moved(ref.signals, by)), moved(query(), by))
        for by in (shift, 0.0)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_the_shift_moves_what_has_the_logits_unit():
    moved = {**query(), "logits": query()["logits"] + np.float32(8)}
    for name in ("max_logit", "energy", "energy_warm", "weighted_energy"):
        np.testing.assert_allclose(scored(name, base(), moved), scored(name, base(), query()) - 8, rtol=1e-5, atol=1e-5)


# OpenMax's tail is a number of rows, not a share of them; Ledoit and Wolf shrink less where there are more rows.
EXACT = [n for n in CASES if CASES[n][0] != "open_max" and n != "standardised_mahalanobis"]


@pytest.mark.parametrize("name", EXACT)
def test_a_reference_twice_over_fits_the_same(name):
    ref = base()
    twice = dataclasses.replace(
        ref,
        signals={s: np.concatenate([x, x]) for s, x in ref.signals.items()},
        labels=np.concatenate([ref.labels, ref.labels]),
        correct=np.concatenate([ref.correct, ref.correct]),
        target=np.concatenate([ref.target, ref.target]),
    )
    kind, hyper = CASES[name]
    once, again = (build_score(kind, hyper, r) for r in (ref, twice))
    for field, value in parameters(once).items():
        np.testing.assert_allclose(parameters(again)[field], value, rtol=1e-5, atol=1e-6, err_msg=field)
    found, expected = (evaluate({"s": score}, query())["s"] for score in (again, once))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_open_max_of_a_reference_twice_over_needs_twice_the_tail():
    ref = base()
    twice = dataclasses.replace(
        ref,
        signals={s: np.concatenate([x, x]) for s, x in ref.signals.items()},
        labels=np.concatenate([ref.labels, ref.labels]),
        correct=np.concatenate([ref.correct, ref.correct]),
        target=np.concatenate([ref.target, ref.target]),
    )
    found = evaluate({"s": build_score("open_max", {"tail": 24}, twice)}, query())["s"]
    expected = evaluate({"s": build_score("open_max", {"tail": 12}, ref)}, query())["s"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
