"""Transforms: signals reshaped before a score sees them, by the name configurations use for them."""

from __future__ import annotations

from typing import Any

from demur.detectors.transforms.clip import VRA, ReAct, VRAOpenOODClip, VRAPlus
from demur.detectors.transforms.head import DICE, LinearHead, T2FNorm
from demur.detectors.transforms.impute import Impute, Missing
from demur.detectors.transforms.prune import ASHB, ASHP, ASHS, LTS, Scale
from demur.detectors.transforms.select import Select
from demur.detectors.transforms.standardise import Standardise

__all__ = ["TRANSFORMS", "LinearHead", "ReAct", "Select"]

TRANSFORMS: dict[str, type[Any]] = {
    "react": ReAct,
    "vra": VRA,
    "vra_plus": VRAPlus,
    "vra_openood_clip": VRAOpenOODClip,
    "ash_p": ASHP,
    "ash_b": ASHB,
    "ash_s": ASHS,
    "scale": Scale,
    "lts": LTS,
    "standardise": Standardise,
    "linear_head": LinearHead,
    "dice": DICE,
    "t2fnorm": T2FNorm,
    "select": Select,
    "impute": Impute,
    "missing": Missing,
}
