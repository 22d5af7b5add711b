"""From a signal map to what decodes the model's outputs."""

from __future__ import annotations

from pathlib import Path

from demur.adapters.models.output_adapter import OutputAdapter
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError


def output_adapter(map: SignalMapConfig, folder: Path = Path()) -> OutputAdapter | None:  # noqa: A002  what the document is called
    """The adapter of a model whose outputs are not rows already; None when every input of the model is one row.

    `folder` is the map's own: files that it names are looked up there.
    Raises: ConfigurationError for a file that is missing, foreign, or fitted with other settings, or for two decoders.
    """
    if map.detection is not None and map.segmentation is not None:
        raise ConfigurationError(
            "signal map: expected detection or segmentation, got both; write a map for each monitor"
        )
    if map.detection is not None:
        from demur.adapters.models.detection import Detector

        return Detector(map.detection)
    if map.segmentation is not None:
        from demur.adapters.models.segmentation import Segmenter

        return Segmenter.of(map.segmentation, folder)
    return None
