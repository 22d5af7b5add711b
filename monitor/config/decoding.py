"""How a model's outputs become signals: the part of a signal map that two maps must share for one monitor."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demur.monitor.config.detection import SUPPRESSED_BY_US, DetectionConfig
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.config.views import ViewsConfig
from demur.monitor.errors import ConfigurationError

OF_A_CALL = frozenset({"input", "output", "budget_ms", "largest_values"})  # where views come from, and how long
OF_SUPPRESSION = ("iou", "class_wise")
SHOWN, WIDEST = 3, 120  # keys in one sentence, characters of a value
KEY, DEEPEST = re.compile(r"[a-z][a-z0-9_]{0,63}"), 8


@dataclass(frozen=True, eq=False)
class Decoding:
    """What decides the numbers of decoded signals, as plain JSON: keys of the signal map without the names of tensors and
    files. Empty where outputs are signals as they are. Two of them are equal when their digests are.
    """

    document: Mapping[str, Any]

    @staticmethod
    def parse(document: object) -> Decoding:
        """What a table or a bundle holds, which may be a stranger's.

        Raises: ValueError for what no signal map gives: other keys, no numbers, no text, sections in sections without end.
        """
        if not isinstance(document, dict):
            raise ValueError("expected sections of a signal map")  # noqa: TRY004  the value of a document
        _check(document, DEEPEST)
        return Decoding(document)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON: sorted keys, no spaces."""
        return hashlib.sha256(self.encode().encode()).hexdigest()

    def encode(self) -> str:
        """The canonical JSON."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def __bool__(self) -> bool:
        return bool(self.document)

    def read_by(self, signals: Collection[str]) -> Decoding:
        """Without views, where their signal is none of these: one map may serve several monitors."""
        views = self.document.get("views")
        if not isinstance(views, Mapping) or views.get("signal") in signals:
            return self
        return Decoding({name: section for name, section in self.document.items() if name != "views"})

    def differences(self, expected: Decoding) -> list[str]:
        """The keys in which this one differs: `detection.iou: expected 0.45, got 0.5`."""
        lone = sorted({*self.document} ^ {*expected.document})
        if lone:
            return [f"{k}: expected {'a' if k in expected.document else 'no'} section of that name" for k in lone]
        ours, theirs = dict(_leaves(self.document)), dict(_leaves(expected.document))
        return [
            f"{key}: expected {_short(_said(theirs, key))}, got {_short(_said(ours, key))}"
            for key in sorted({*ours, *theirs})
            if _said(ours, key) != _said(theirs, key)
        ]

    def conflict(self, expected: Decoding) -> str:
        """In one sentence what is decoded otherwise than expected; "" when nothing is, or nothing is known of one side."""
        if not expected or self.digest == expected.digest:
            return ""
        found = self.differences(expected) or ["another document"]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return "; ".join(found[:SHOWN]) + more


def decoding_of(signal_map: SignalMapConfig | None, folder: Path = Path()) -> Decoding:
    """The decoding part of a map; files that it names are relative to `folder`.

    Raises: ConfigurationError when such a file cannot be read.
    """
    found: dict[str, Any] = {}
    if signal_map is not None and signal_map.detection is not None:
        found["detection"] = _of_boxes(signal_map.detection)
    if signal_map is not None and signal_map.segmentation is not None:
        found["segmentation"] = _of_frames(signal_map.segmentation, folder)
    if signal_map is not None and signal_map.views is not None:
        found["views"] = _of_views(signal_map.views)
    return Decoding(found)


def _of_boxes(config: DetectionConfig) -> dict[str, Any]:
    """Parts that stand in their published places are no names of tensors; feature maps are, and say which layer it is."""
    unused = set() if config.layout in SUPPRESSED_BY_US else set(OF_SUPPRESSION)
    document = config.model_dump(mode="json", exclude={"outputs", "signals", *unused}, exclude_none=True)
    if config.regions is not None:  # in their order, which is that of the features
        document["regions"]["maps"] = [list(pair) for pair in config.regions.maps.items()]
    return {**document, "first_class": config.start, "further": sorted(config.further)}


def _of_frames(config: SegmentationConfig, folder: Path) -> dict[str, Any]:
    document = {key: value for key, value in config.settings().items() if value is not None}
    if config.fitted is not None:
        place = folder / config.fitted
        try:
            document["fitted_sha256"] = hashlib.sha256(place.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigurationError(
                f"{place}: cannot be read ({error.strerror}); expected the file that Segmenter.save wrote"
            ) from error
    return document


def _of_views(config: ViewsConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(OF_A_CALL), exclude_none=True)


def _check(value: object, levels: int) -> None:
    """Raises: ValueError, as `Decoding.parse`."""
    if not levels:
        raise ValueError(f"expected at most {DEEPEST} sections in one another")
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is JSON, and no text
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a number, got {value}")
    if isinstance(value, dict) and not all(KEY.fullmatch(key) for key in value):
        raise ValueError("expected keys of a signal map")
    parts: Collection[object] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _check(part, levels - 1)


def _leaves(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _said(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], sort_keys=True) if key in leaves else "none"


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
