"""Segmentation models: maps of risk from dense logits or queries, alarm regions, verdicts of frames."""

from demur.adapters.models.segmentation.regions import Region
from demur.adapters.models.segmentation.seen import Seen, SeenFrame
from demur.adapters.models.segmentation.segmenter import Segmenter

__all__ = ["Region", "Seen", "SeenFrame", "Segmenter"]
