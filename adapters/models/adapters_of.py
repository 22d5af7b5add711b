"""From a signal map to what decodes the model's outputs."""

from __future__ import annotations

from demur.adapters.models.output_adapter import OutputAdapter
from demur.monitor.config.signal_map import SignalMapConfig


def output_adapter(map: SignalMapConfig) -> OutputAdapter | None:  # noqa: A002  what the document is called
    """The adapter of a model whose outputs are not rows already; None when every input of the model is one row."""
    if map.detection is not None:
        from demur.adapters.models.detection import Detector

        return Detector(map.detection)
    return None
