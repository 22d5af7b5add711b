"""Our scores beside pytorch-ood 0.4's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from demur.detectors.build import build_score, build_transform
from demur.detectors.scores.logit import MSP
from demur.detectors.scores.shaped import Shaped
from tests.differential.deviations import PYTORCH_OOD
from tests.differential.peers import Peers, peers, rows, soft
from tests.differential.rows import assert_same, scored

pytestmark = pytest.mark.differential

Scores = NDArray[np.float64]
Both = tuple[Scores, Scores]


def energy_after(transform: str, **hyper: float) -> Scores:
    return rows().ours("shaped", transforms=[{transform: hyper}, "linear_head"], score="energy")


def cosines() -> Both:
    towards = np.random.default_rng(4).normal(size=(7, rows().test.shape[1])).astype(np.float32)
    unit = rows().test / np.linalg.norm(rows().test, axis=1, keepdims=True)
    given = {"logits": (20 * unit @ (towards / np.linalg.norm(towards, axis=1, keepdims=True)).T).astype(np.float32)}
    theirs = peers().of_features("MCM", peers().torch.tensor(towards), temperature=0.05, fit=False)
    return scored(MSP(), given), 1 + theirs


def odin() -> Both:
    found = peers().detectors.ODIN(peers().head, eps=0.0, temperature=10.0)
    theirs = found.predict(peers().test).numpy().astype(np.float64)
    return rows().ours("odin", temperature=10.0), 1 / len(rows().weight) + theirs


def weighted_energy() -> Both:
    weights = np.linspace(0.2, 3, len(rows().weight)).tolist()
    theirs = peers().of_logits("WeightedEBO", peers().torch.tensor(weights))
    return rows().ours("weighted_energy", weights=weights), theirs


def one_covariance() -> Both:
    """The classes are one cloud, moved: each has the covariance of all."""
    rng = np.random.default_rng(6)
    cloud, centres = rng.normal(size=(60, 8)) * np.linspace(0.5, 2, 8), 2 * rng.normal(size=(3, 8))
    features = (centres[:, None] + cloud).reshape(-1, 8).astype(np.float32)
    moved = rows().but(features=features, labels=np.repeat(np.arange(3), 60), weight=np.ones((3, 8), np.float32))
    moved = moved.but(bias=np.zeros(3, np.float32), test=(3 * rng.normal(size=(50, 8))).astype(np.float32))
    return moved.ours("class_gmm", shrinkage=0.0), Peers(moved).of_features("GMM", reg=0.0)


def grad_norm(*, bias: bool) -> Both:
    chosen = None if bias else (lambda name: name == "weight")
    theirs = peers().detectors.GradNorm(peers().head, param_filter=chosen).predict(peers().test)
    return rows().ours("grad_norm", bias=bias), theirs.numpy().astype(np.float64)


def clipped() -> Both:
    """Their thresholds in our transform."""
    found = peers().detectors.VRA(None, peers().map_head)
    found.fit_feature_maps(peers().features[:, :, None, None], peers().labels)
    transform = build_transform("vra_openood_clip", rows().reference)
    low, high = (t.numpy().ravel() for t in (found._lower_threshold, found._upper_threshold))
    head = build_transform("linear_head", rows().reference)
    energy = build_score("energy", {}, rows().reference)
    ours = scored(Shaped((replace(transform, low=low, high=high), head), energy), rows().given)
    return ours, found.predict_feature_maps(peers().test[:, :, None, None]).numpy().astype(np.float64)


def maps(variant: str) -> Both:
    theirs = peers().of_maps("ASH", variant=variant.replace("_", "-"))
    return energy_after(variant, percentile=65), theirs


def of_logits(score: str, name: str, *given: float, **hyper: float) -> Both:
    return rows().ours(score, **hyper), peers().of_logits(name, *given)


def confidence(temperature: float) -> Both:
    """Compared as minus the probability: both round it to float32, and near 1 its complement has few digits."""
    ours, theirs = of_logits("msp", "MaxSoftmax", temperature, temperature=temperature)
    return ours - 1, theirs


def open_max() -> Both:
    """Their Weibull laws in our score."""
    found = peers().detectors.OpenMax(None)
    found.fit_logits(peers().logits, peers().labels)
    laws = [found._openmax.distributions[c] for c in range(len(rows().weight))]
    ours = build_score("open_max", {"tail": 25, "alpha": 10}, rows().reference)
    shape, scale = (np.array([getattr(law, name) for law in laws]) for name in ("c", "scale"))
    offset = shape * np.log(10_000 / scale)
    theirs = found.predict_logits(peers().test_logits).numpy()
    given = replace(ours, shape=shape.astype(np.float32), offset=offset.astype(np.float32))
    return scored(given, rows().given), theirs


def she() -> Both:
    """Theirs finds out by itself which rows the head answers right."""
    labels = np.where(np.arange(len(rows().labels)) % 7 == 0, 2, rows().labels)
    r = rows().but(labels=labels)
    correct = r.logits(r.features).argmax(axis=1) == labels
    assert 0.5 < correct.mean() < 1
    score = build_score("she", {}, replace(r.reference, correct=correct))
    return scored(score, r.given), Peers(r).of_features("SHE", peers().head)


COUNT = len(rows().labels)
CASES: dict[str, Callable[[], Both]] = {
    "max_logit": lambda: of_logits("max_logit", "MaxLogit"),
    "msp": lambda: confidence(1.0),
    "msp_temperature": lambda: confidence(4.0),
    "energy": lambda: of_logits("energy", "EnergyBased", 2.0, temperature=2.0),
    "entropy": lambda: (soft().ours("entropy"), Peers(soft()).of_logits("Entropy")),
    "gen": lambda: (soft().ours("gen", top=5), 5 * Peers(soft()).of_logits("GEN", 0.1, 5)),
    "odin": odin,
    "kl_matching": lambda: (soft().ours("kl_matching"), Peers(soft()).of_logits("KLMatching", fit=True)),
    "weighted_energy": weighted_energy,
    "open_max": open_max,
    "msp_mcm": cosines,
    "mahalanobis": lambda: (
        rows().ours("mahalanobis", shrinkage=0.0),
        2 * COUNT * peers().of_features("Mahalanobis"),
    ),
    "relative_mahalanobis": lambda: (
        rows().ours("relative_mahalanobis", shrinkage=0.0),
        COUNT * peers().of_features("RMD"),
    ),
    "class_gmm": one_covariance,
    "she": she,
    "nci": lambda: (rows().ours("nci", alpha=1e-3), peers().of_features("NCI", peers().head, alpha=1e-3)),
    "fdbd": lambda: (rows().ours("fdbd"), peers().of_features("fDBD", peers().head)),
    "grad_norm": lambda: grad_norm(bias=False),
    "grad_norm_bias": lambda: grad_norm(bias=True),
    "knn": lambda: (rows().ours("knn", k=10), peers().of_features("KNN", k=10) ** 2 / 2),
    "knn_euclidean": lambda: (
        rows().ours("knn", k=10, metric="euclidean"),
        peers().of_features("KNN", k=10, normalize=False),
    ),
    "nnguide": lambda: (rows().ours("nnguide"), peers().of_features("NNGuide", peers().head)),
    "vim": lambda: (rows().ours("vim", dim=20), peers().of_features("ViM", 20, *peers().weights)),
    "react_energy": lambda: (rows().ours("react_energy"), peers().of_maps("ReAct", fit=True)),
    "dice": lambda: (
        rows().ours("shaped", transforms=["dice"], score="energy"),
        peers().of_features("DICE", *peers().weights, 0.9),
    ),
    "ash_p": lambda: maps("ash_p"),
    "ash_b": lambda: maps("ash_b"),
    "ash_s": lambda: maps("ash_s"),
    "scale": lambda: (energy_after("scale", percentile=65), peers().of_maps("SCALE")),
    "lts": lambda: (
        rows().ours("shaped", transforms=["lts"], score="energy"),
        peers().of_features("LTS", peers().head),
    ),
    "vra_openood_clip": clipped,
}


def test_every_agreement_of_the_table_is_tested():
    assert list(CASES) == list(PYTORCH_OOD)


@pytest.mark.parametrize("name", CASES)
def test_same_scores(name):
    assert_same(*CASES[name]())
