"""Segmentation monitoring on real images: unknown objects in photographs, a small classifier of pixels, every score."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import demur
from demur.adapters.models.segmentation import Segmenter
from demur.detectors.promises import binomial
from demur.monitor.config.segmentation import SegmentationConfig
from tests.vision.street import CLASSES, UNKNOWN, model, scene

LEVEL, CALIBRATION, GOOD, STRANGE, ALPHA = 59, 99, 150, 50, 0.1
SIGNALS = ["peak", "anomaly_area", "largest_region"]
DENSITY = ("energy", "max_logit", "standardised_max_logit", "rba", "query_max_logit")


@functools.cache
def scenes(name):
    """Scenes of one set, with both kinds of answers: exchangeable draws, but for the unknown objects of `strange`."""
    count, seed, unknown = {
        "reference": (20, 1, 0),
        "level": (LEVEL, 2, 0),
        "calibration": (CALIBRATION, 3, 0),
        "good": (GOOD, 4, 0),
        "strange": (STRANGE, 5, 2),
    }[name]
    rng = np.random.default_rng(seed)
    made = [scene(rng, unknown) for _ in range(count)]
    return [s.labels for s in made], [{**model().dense(s.image), **model().queries(s.image)} for s in made]


@functools.cache
def segmenter(score):
    queries = score in ("rba", "query_max_logit")
    outputs = {"class_logits": "class_logits", "mask_logits": "mask_logits"} if queries else {"logits": "logits"}
    config = SegmentationConfig(
        kind="queries" if queries else "dense",
        **outputs,
        score=score.removeprefix("query_"),
        least_area=12,
        share=ALPHA,
        signals=SIGNALS,
    )
    return Segmenter.fit(config, reference=scenes("reference")[1], level=scenes("level")[1])


@functools.cache
def seen(score, name):
    return [segmenter(score)(answer).only for answer in scenes(name)[1]]


def pixel_figures(score):
    """AUROC, AP and fpr_ood95 (share of known pixels above what 95 % of the unknown ones reach) over the strange frames."""
    risk = np.concatenate([frame.map.ravel() for frame in seen(score, "strange")])
    unknown = np.concatenate([labels.ravel() == UNKNOWN for labels in scenes("strange")[0]])
    fpr = np.mean(risk[~unknown] >= np.quantile(risk[unknown], 0.05))
    return roc_auc_score(unknown, risk), average_precision_score(unknown, risk), fpr


def test_the_model_knows_its_classes():
    labels, answers = scenes("good")
    right = [np.mean(a["logits"][0].argmax(axis=0) == truth) for truth, a in zip(labels, answers, strict=True)]
    assert np.mean(right) > 0.93
    assert all(a["logits"].shape[1] == CLASSES for a in answers)


@pytest.mark.parametrize("score", DENSITY)
def test_pixels_of_unknown_objects_stand_out(score):
    auroc, precision, fpr = pixel_figures(score)
    print(f"{score}: AUROC {auroc:.3f}, AP {precision:.3f}, fpr_ood95 {fpr:.3f}")
    assert auroc > 0.97
    assert precision > 0.5
    assert fpr < 0.06


@pytest.mark.parametrize("score", ["entropy", "msp", "margin"])
def test_shares_between_classes_do_not_see_what_is_like_no_class(score):
    """A pixel far from every class is nearer to one of them: a probability is sure there. Not every score fits every model."""
    auroc, _, _ = pixel_figures(score)
    print(f"{score}: AUROC {auroc:.3f}")
    assert auroc < 0.5


@pytest.mark.parametrize("score", DENSITY)
def test_good_frames_show_regions_as_seldom_as_promised_and_unknown_objects_are_hit(score):
    shown = sum(bool(frame.regions) for frame in seen(score, "good"))
    # For this one draw of the level the rate is Beta distributed about its promise; 99 % of draws are below this bound.
    most = binomial.upper(int(ALPHA * LEVEL), LEVEL, 0.01)
    assert binomial.lower(shown, GOOD, 0.01) <= most
    hits = touched = 0
    for frame, labels in zip(seen(score, "strange"), scenes("strange")[0], strict=True):
        unknown = labels == UNKNOWN
        hits += bool((frame.components.mask & unknown).any())
        touched += sum(bool(unknown[r.box[0] : r.box[2], r.box[1] : r.box[3]].any()) for r in frame.regions)
    total = sum(len(frame.regions) for frame in seen(score, "strange"))
    print(
        f"{score}: good frames with a region {shown}/{GOOD}; strange {hits}/{STRANGE} hit; {touched}/{total} regions on unknown"
    )
    assert hits >= 0.9 * STRANGE
    assert touched >= 0.85 * total


POLICY = {
    "monitor": "street",
    "signals": dict.fromkeys(SIGNALS, 1),
    "scores": [{name: {"type": "given", "signal": name}} for name in SIGNALS],
}


def signals_of(score, name):
    return {s: np.array([[frame.signals[s]] for frame in seen(score, name)], np.float32) for s in SIGNALS}


@pytest.mark.parametrize("when", SIGNALS)
@pytest.mark.parametrize("score", ["energy", "standardised_max_logit", "rba"])
def test_frames_are_refused_by_peak_or_area_as_promised(score, when):
    rules = [{"novel": {"when": when, "promise": {"refuse_good_at_most": ALPHA}}}]
    bundle = demur.fit(
        {**POLICY, "rules": rules},
        reference=signals_of(score, "level"),
        calibration=signals_of(score, "calibration"),
    )
    monitor = demur.Monitor.of(bundle)
    refused = {n: int((~monitor.assess(**signals_of(score, n)).accept).sum()) for n in ("good", "strange")}
    print(f"{score} by {when}: refuses {refused['good']}/{GOOD} good, {refused['strange']}/{STRANGE} strange")
    assert binomial.lower(refused["good"], GOOD, 0.01) <= binomial.upper(int(ALPHA * CALIBRATION), CALIBRATION, 0.01)
    assert refused["strange"] >= 0.9 * STRANGE


def test_the_second_step_of_standardised_max_logit_runs_on_the_real_map():
    """Boundaries and smoothing cost accuracy on objects of a few pixels, as here; figures in docs/segmentation.md."""
    config = segmenter("standardised_max_logit").config
    both = Segmenter.fit(
        config.model_copy(update={"boundary": 4, "smooth": True}),
        reference=scenes("reference")[1],
        level=scenes("level")[1],
    )
    risk = np.concatenate([both(a).map.ravel() for a in scenes("strange")[1]])
    unknown = np.concatenate([labels.ravel() == UNKNOWN for labels in scenes("strange")[0]])
    auroc = roc_auc_score(unknown, risk)
    print(
        f"standardised_max_logit, boundary 4, smooth: AUROC {auroc:.3f}, AP {average_precision_score(unknown, risk):.3f}"
    )
    assert 0.9 < auroc < pixel_figures("standardised_max_logit")[0] + 0.01
