"""Every perturbation with its severities: the one table of values."""

from __future__ import annotations

from difflib import get_close_matches

from demur.monitor.perturb import blur, degradations, faults, features, layout, noise, text, tone
from demur.monitor.perturb.errors import PerturbationError
from demur.monitor.perturb.perturbation import Perturbation
from demur.monitor.perturb.rows import KINDS, Kind

CORRUPTIONS = "Hendrycks & Dietterich 2019, arXiv:1903.12261"
POE = "own form; pseudo-outliers of Ma et al. 2023, arXiv:2307.09165 (POE)"
BERT = "Jeong et al. 2023, arXiv:2305.04468 (AnomalyBERT)"
CHAOS = "own form; the textual family of CHAOS (omoured/CHAOS)"
MIXOE = "Zhang et al. 2023, arXiv:2106.03917 (MixOE)"
OWN = "own form"

ENTRIES = (
    Perturbation("brightness", "images", "added to every value", (0.1, 0.2, 0.3, 0.4, 0.5), CORRUPTIONS, tone.brightness),
    Perturbation("contrast", "images", "factor on distances from the mean", (0.75, 0.5, 0.35, 0.2, 0.05), CORRUPTIONS, tone.contrast),
    Perturbation("saturate", "images", "factor on distances from grey", (1.5, 2, 3, 5, 8), CORRUPTIONS, tone.saturate),
    Perturbation("fog", "images", "largest share of white", (0.2, 0.35, 0.5, 0.65, 0.8), CORRUPTIONS, tone.fog),
    Perturbation("gaussian_noise", "images", "standard deviation", (0.04, 0.08, 0.12, 0.18, 0.26), CORRUPTIONS, noise.gaussian),
    Perturbation("shot_noise", "images", "photons of a white pixel", (100, 50, 25, 12, 5), CORRUPTIONS, noise.shot),
    Perturbation("impulse_noise", "images", "share of values", (0.01, 0.03, 0.06, 0.12, 0.25), CORRUPTIONS, noise.impulse),
    Perturbation("defocus_blur", "images", "radius / shorter side", (0.02, 0.03, 0.045, 0.065, 0.09), CORRUPTIONS, blur.defocus),
    Perturbation("gaussian_blur", "images", "standard deviation / shorter side", (0.015, 0.022, 0.03, 0.045, 0.065), CORRUPTIONS, blur.gaussian),
    Perturbation("motion_blur", "images", "length / shorter side", (0.06, 0.1, 0.15, 0.22, 0.3), CORRUPTIONS, blur.motion),
    Perturbation("pixelate", "images", "cells / pixels, a side", (0.6, 0.5, 0.4, 0.3, 0.2), CORRUPTIONS, blur.pixelate),
    Perturbation("block_quantise", "images", "JPEG quality", (40, 25, 15, 10, 5), CORRUPTIONS, blur.block_quantise),
    Perturbation("occlude", "images", "share of the area", (0.05, 0.1, 0.2, 0.35, 0.5), "DeVries & Taylor 2017, arXiv:1708.04552 (cutout)", layout.occlude),
    Perturbation("rotate", "images", "degrees", (5, 10, 20, 40, 80), POE, layout.rotate),
    Perturbation("jigsaw", "images", "tiles of 16 moved", (2, 4, 7, 11, 16), POE, layout.jigsaw),
    Perturbation("invert", "images", "share of the way to the negative", (0.15, 0.3, 0.5, 0.75, 1), POE, tone.invert),
    Perturbation("gaussian_noise", "features", "standard deviations of the dimension", (0.1, 0.25, 0.5, 1, 2), OWN, features.gaussian_noise, "context"),
    Perturbation("dropout", "features", "share of dimensions", (0.05, 0.1, 0.25, 0.5, 0.75), OWN, features.dropout),
    Perturbation("permute", "features", "share of dimensions", (0.1, 0.25, 0.5, 0.75, 1), OWN, features.permute),
    Perturbation("extrapolate", "features", "further from the mean, factor", (0.25, 0.5, 1, 2, 4), OWN, features.extrapolate, "context"),
    Perturbation("scale", "features", "factor", (1.25, 1.5, 2, 4, 8), OWN, features.scale),
    Perturbation("shrink", "features", "factor", (0.8, 0.6, 0.4, 0.2, 0), OWN, features.scale),
    Perturbation("mix", "features", "share of the other row", (0.1, 0.2, 0.3, 0.4, 0.5), MIXOE, features.mix, "context"),
    Perturbation("sign_flip", "features", "share of dimensions", (0.02, 0.05, 0.1, 0.25, 0.5), OWN, features.sign_flip),
    Perturbation("typos", "text", "share of letters", (0.02, 0.05, 0.1, 0.2, 0.3), CHAOS, text.typos),
    Perturbation("character_noise", "text", "share of characters", (0.02, 0.05, 0.1, 0.2, 0.4), CHAOS, text.character_noise),
    Perturbation("case", "text", "share of letters", (0.05, 0.15, 0.3, 0.6, 1), CHAOS, text.case),
    Perturbation("whitespace", "text", "share of characters", (0.02, 0.05, 0.1, 0.2, 0.4), CHAOS, text.whitespace),
    Perturbation("homoglyphs", "text", "share of letters with a look-alike", (0.05, 0.1, 0.25, 0.5, 1), "Unicode Technical Standard 39, confusables", text.homoglyphs),
    Perturbation("invisible", "text", "share of characters", (0.02, 0.05, 0.1, 0.2, 0.4), "Boucher et al. 2022, arXiv:2106.09898", text.invisible),
    Perturbation("word_drop", "text", "share of words", (0.05, 0.1, 0.2, 0.3, 0.5), CHAOS, text.word_drop),
    Perturbation("word_swap", "text", "share of words", (0.1, 0.2, 0.35, 0.6, 1), OWN, text.word_swap),
    Perturbation("word_duplicate", "text", "share of words", (0.05, 0.1, 0.2, 0.3, 0.5), OWN, text.word_duplicate),
    Perturbation("truncate", "text", "share of characters cut", (0.1, 0.25, 0.5, 0.75, 0.9), OWN, text.truncate),
    Perturbation("soft_replacement", "series", "interval / window", (0.015, 0.03, 0.06, 0.1, 0.15), BERT, degradations.soft_replacement, "context"),
    Perturbation("uniform_replacement", "series", "interval / window", (0.015, 0.03, 0.06, 0.1, 0.15), BERT, degradations.uniform_replacement),
    Perturbation("peak_noise", "series", "standard deviations", (2, 4, 6, 9, 12), BERT, degradations.peak_noise),
    Perturbation("length_adjustment", "series", "speed, or its inverse", (2, 2.5, 3, 3.5, 4), BERT, degradations.length_adjustment),
    Perturbation("missing", "series", "share of steps", (0.02, 0.05, 0.1, 0.2, 0.4), OWN, faults.missing),
    Perturbation("stuck", "series", "interval / window", (0.05, 0.1, 0.2, 0.35, 0.5), OWN, faults.stuck),
    Perturbation("drift", "series", "standard deviations at the end", (0.5, 1, 2, 3, 5), OWN, faults.drift),
    Perturbation("level_shift", "series", "standard deviations", (0.5, 1, 2, 3, 5), OWN, faults.level_shift),
    Perturbation("jitter", "series", "standard deviations", (0.1, 0.25, 0.5, 1, 2), OWN, faults.jitter),
    Perturbation("spikes", "series", "share of steps", (0.01, 0.02, 0.04, 0.07, 0.1), OWN, faults.spikes),
    Perturbation("gain", "series", "factor on distances from the mean", (1.1, 1.25, 1.5, 2, 3), OWN, faults.gain),
    Perturbation("time_warp", "series", "largest lead / window", (0.01, 0.02, 0.04, 0.07, 0.1), OWN, faults.time_warp),
)  # fmt: skip
CATALOGUE: dict[Kind, dict[str, Perturbation]] = {
    kind: {entry.name: entry for entry in ENTRIES if entry.kind == kind} for kind in KINDS
}


def find(kind: str, name: str) -> Perturbation:
    """The entry of that kind and name.

    Raises: PerturbationError, naming what there is.
    """
    if kind not in CATALOGUE:
        raise PerturbationError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    known = CATALOGUE[kind]
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise PerturbationError(f"{kind}: expected one of {', '.join(known)}, got {name!r}{hint}")
    return known[name]
