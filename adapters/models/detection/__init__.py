"""Object detectors: their output tensors as boxes, each box a row of signals."""

from demur.adapters.models.detection.detections import Detections
from demur.adapters.models.detection.detector import Detector

__all__ = ["Detections", "Detector"]
