"""Promises: thresholds with a finite-sample guarantee, in the words that say exactly what is guaranteed."""

from demur.detectors.promises.digest import policy_digest
from demur.detectors.promises.pipeline import Calibrated, calibrate
from demur.detectors.promises.promise import (
    CalibrationRefused,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    StableAtContamination,
    WrongAndAcceptedAtMost,
)
from demur.detectors.promises.sample import CalibrationSample
from demur.detectors.promises.statement import Statement
from demur.detectors.promises.total import TotalShare

__all__ = [
    "Calibrated",
    "CalibrationRefused",
    "CalibrationSample",
    "ErrorWhenAcceptedAtMost",
    "RefuseGoodAtMost",
    "RuleSpec",
    "StableAtContamination",
    "Statement",
    "TotalShare",
    "WrongAndAcceptedAtMost",
    "calibrate",
    "policy_digest",
]
