"""Logit scores of LLM answers to multiple-choice questions: do they find the wrong ones?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.probe import Probe, area
from tests.benchmarks.sources import answered, options

SCORES: dict[str, tuple[str, dict]] = {
    "msp": ("msp", {}),
    "msp, fitted temperature": ("msp", {"temperature": "fit"}),
    "doctor": ("doctor", {}),
    "margin": ("margin", {}),
    "entropy": ("entropy", {}),
    "gen": ("gen", {}),
    "max_sup": ("max_sup", {}),
    "max_logit": ("max_logit", {}),
    "energy": ("energy", {}),
    "odin": ("odin", {}),
    "kl_matching": ("kl_matching", {}),
    "weighted_energy": ("weighted_energy", {}),
    "open_max": ("open_max", {}),
}
FUSED = ("msp", "margin", "energy")


def run() -> list[dict[str, Any]]:
    """Of each model its accuracy and each score's AUROC of wrong answers, fitted on 5,000 questions, judged on the others."""
    rows = []
    for model, (logits, labels) in options().items():
        order = np.random.default_rng(0).permutation(len(labels))
        first, tested = np.split(order, [5000])
        wrong = logits[tested].argmax(axis=1) != labels[tested]
        found: dict[str, Any] = {"model": model, "accuracy": float(1 - wrong.mean()), "scores": {}, "refused": {}}
        evidence = np.zeros(len(tested))
        for name, entry in SCORES.items():
            try:
                probe = Probe.fitted(*entry, answered(logits[first], labels[first]))
            except ValueError as error:
                found["refused"][name] = str(error)
                continue
            scores = probe.scores({"logits": logits[tested]})
            found["scores"][name] = area(wrong, scores)
            if name in FUSED:
                table = np.sort(probe.scores({"logits": logits[first]}))
                at_least = len(table) - np.searchsorted(table, scores, "left")
                evidence -= np.log((1 + at_least) / (1 + len(table)))
        found["scores"]["fused: " + " + ".join(FUSED)] = area(wrong, evidence)
        rows.append(found)
    return rows
