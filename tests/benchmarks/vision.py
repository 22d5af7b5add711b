"""Every row score on the signals of one CNN: what it ranks, what it costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from demur.detectors.score import Reference
from demur.detectors.scores import SCORES
from tests.benchmarks import peers
from tests.benchmarks.probe import Probe, area
from tests.benchmarks.sources import answered, cifar

AXES = ("near", "far", "errors", "OMS")


def energy_after(*transforms: Any) -> tuple[str, dict]:
    return "shaped", {"transforms": list(transforms), "score": "energy"}


ENTRIES: dict[str, tuple[str, dict]] = {
    **{n: (n, {}) for n in ("msp", "max_logit", "energy", "entropy", "max_sup", "margin", "gen", "doctor", "odin")},
    "msp, fitted temperature": ("msp", {"temperature": "fit"}),
    "doctor, beta": ("doctor", {"by": "beta"}),
    **{n: (n, {}) for n in ("kl_matching", "weighted_energy", "open_max", "sirc")},
    "sirc, l1": ("sirc", {"by": "l1"}),
    "mahalanobis": ("mahalanobis", {}),
    "mahalanobis, a covariance a class": ("mahalanobis", {"covariance": "class"}),
    **{n: (n, {}) for n in ("relative_mahalanobis", "robust_mahalanobis", "class_gmm", "gmm", "robust_pca", "drpo")},
    **{n: (n, {}) for n in ("mean_shifted", "vim", "residual", "core", "fdbd", "grad_norm", "she")},
    "nci, alpha .001": ("nci", {}),
    "nci, alpha .01": ("nci", {"alpha": 0.01}),
    **{n: (n, {}) for n in ("pnml", "box", "nac", "react_energy")},
    "knn, cosine": ("knn", {}),
    "knn, cosine, k 1": ("knn", {"k": 1}),
    "knn, cosine, 1,000 rows": ("knn", {"bank": 1000, "k": 5}),
    "knn, cosine, int8": ("knn", {"dtype": "int8"}),
    "knn, euclidean": ("knn", {"metric": "euclidean"}),
    **{
        n: (n, {})
        for n in ("nnguide", "relation", "cider", "cfood", "lof", "isolation_forest", "ecod", "copod", "hbos")
    },
    "pca": ("pca", {}),
    "pca, reconstruction": ("pca", {"by": "reconstruction"}),
    "magnitude": ("magnitude", {}),
    **{f"scale {p}, energy": energy_after({"scale": {"percentile": p}}, "linear_head") for p in (65, 85)},
    **{f"{n} 65, energy": energy_after({n: {"percentile": 65}}, "linear_head") for n in ("ash_p", "ash_b", "ash_s")},
    "lts, energy": energy_after("lts"),
    "lts 65, energy": energy_after({"lts": {"percentile": 65}}),
    "dice, energy": energy_after("dice"),
    **{f"{n}, energy": energy_after(n, "linear_head") for n in ("vra", "vra_plus", "vra_openood_clip")},
    "t2fnorm, energy": energy_after("t2fnorm"),
    **{n: (n, {}) for n in ("activation_kurtosis", "massive_activation", "outlier_dimensions", "saturation")},
    "auto_encoder": ("auto_encoder", {}),
    "flow": ("flow", {}),
}
TAUGHT: dict[str, tuple[str, dict]] = {
    "outlier_head, oe": ("outlier_head", {}),
    "outlier_head, mix_oe": ("outlier_head", {"by": "mix_oe"}),
    "outlier_head, energy_margin": ("outlier_head", {"by": "energy_margin"}),
    "sal": ("sal", {}),
    "contrastive_banks": ("contrastive_banks", {}),
}
FUSED = ("energy", "knn, cosine, 1,000 rows", "relative_mahalanobis")


@dataclass(frozen=True, eq=False)
class World:
    """The CNN's reference, the rows to judge, and which of them each axis counts as bad: name -> (rows used, bad)."""

    reference: Reference
    calibration: Mapping[str, np.ndarray]
    tested: Mapping[str, np.ndarray]
    axes: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def read(cls) -> World:
        """Reference: 27,000 training rows, and half of near as the outliers of the heads that learn from outliers.

        The other half of near is judged by all scores alike.
        """
        signals, labels, (weight, bias) = cifar()
        order = np.random.default_rng(0).permutation(4000)
        shown, near = ({n: a[np.sort(o)] for n, a in signals["near"].items()} for o in (order[:2000], order[2000:]))
        train = signals["train"]
        wild = {n: np.concatenate([shown[n], a]) for n, a in signals["cal"].items()}
        sides = {"outliers": Reference(shown), "wild": Reference(wild)}
        reference = replace(
            answered(train["logits"], labels["train"], train["features"]),
            head_weight=weight,
            head_bias=bias,
            sides=sides,
        )
        parts = (signals["test"], near, signals["mnist"])
        tested = {n: np.ascontiguousarray(np.concatenate([p[n] for p in parts])) for n in ("features", "logits")}
        source = np.repeat([0, 1, 2], [len(p["logits"]) for p in parts])
        wrong = np.zeros(len(source), np.bool_)
        wrong[: len(labels["test"])] = signals["test"]["logits"].argmax(axis=1) != labels["test"]
        axes = {
            "near": (source < 2, source == 1),
            "far": (source != 1, source == 2),
            "errors": (source == 0, wrong),
            "OMS": (source < 2, wrong | (source == 1)),
        }
        return cls(reference, signals["cal"], tested, axes)

    def areas(self, scores: np.ndarray) -> dict[str, float]:
        """AUROC of each axis."""
        return {n: area(bad[used], scores[used]) for n, (used, bad) in self.axes.items()}


def judged(world: World, name: str, entry: tuple[str, dict]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What the tables say of a score, its scores of the tested rows and of the calibration rows."""
    probe = Probe.fitted(*entry, world.reference)
    scores = probe.scores(world.tested)
    found = {
        "name": name,
        "type": entry[0],
        **world.areas(scores),
        "state_bytes": probe.cost.state_bytes,
        "multiply_adds": probe.cost.multiply_adds,
        "fit_seconds": probe.seconds,
        "us_1": probe.microseconds(world.tested, 1),
        "us_256": probe.microseconds(world.tested, 256),
    }
    sys.stderr.write(f"{name}: " + " ".join(f"{found[a]:.3f}" for a in AXES) + f", fit {probe.seconds:.1f} s\n")
    return found, scores, probe.scores(world.calibration)


def run() -> dict[str, Any]:
    """Every score, taught heads marked, the fusion of three, and pytorch-ood's on the same rows where it is installed."""
    world = World.read()
    rows, refused, evidence = [], {}, []
    for name, entry in {**ENTRIES, **TAUGHT}.items():
        if entry[0] not in SCORES:
            refused[name] = "not in this version"
            continue
        try:
            found, scores, calibration = judged(world, name, entry)
        except ValueError as error:
            refused[name] = str(error)
            continue
        rows.append({**found, "taught": name in TAUGHT})
        if name in FUSED:
            table = np.sort(calibration)
            at_least = len(table) - np.searchsorted(table, scores, side="left")
            evidence.append(-np.log((1 + at_least) / (1 + len(table))))
    fused = world.areas(np.sum(evidence, axis=0))
    named = {"fused, Fisher: " + " + ".join(FUSED): fused}
    return {"scores": rows, "refused": refused, "fused": named, "pytorch_ood": peers.pytorch_ood(world)}
