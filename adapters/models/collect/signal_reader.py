"""From a batch of a model's outputs to rows of signals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.adapters_of import output_adapter
from demur.adapters.models.collect.tensor_spec import one_of
from demur.adapters.models.output_adapter import Observed
from demur.detectors.scores import SCORES
from demur.monitor.config.decoding import decoding_of
from demur.monitor.config.document import load, parse
from demur.monitor.config.policy import RESERVED
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.fit.columns import HEAD, head_array
from demur.monitor.fit.errors import suggestion
from demur.monitor.fit.memory import Budget
from demur.monitor.fit.readers import open_columns, reading

MapSource = SignalMapConfig | str | Path | Mapping[str, Any]


class SignalReader:
    """Which outputs are needed, and what rows they hold. `kinds` says what the numbers are, where the map knows it;
    `decoding` is the part of the map that decides them.
    """

    def __init__(self, config: SignalMapConfig, folder: Path) -> None:
        """`folder` is the map's own. Raises: ConfigurationError for a map without signals."""
        self.adapter, self.views = output_adapter(config, folder), config.views
        viewed = {} if config.views is None else {config.views.signal: config.views.signal}
        self._signals: dict[str, str] = {**config.signals, **viewed} if self.adapter is None else {}
        if self.adapter is None and not self._signals:
            raise ConfigurationError(
                "the signal map names no signals: write `signals: {logits: OUTPUT, features: OUTPUT}`, "
                "`detection:` or `segmentation:`, or use `demur instrument`"
            )
        self.inputs: dict[str, list[str]] = dict(config.inputs)
        if self.inputs and self.adapter is not None:
            raise ConfigurationError(
                "signal map: `inputs` are rows of the request, detection and segmentation have rows of their own; leave it out"
            )
        if twice := sorted(set(self.inputs) & set(self._signals)):
            raise ConfigurationError(f"signal map: {', '.join(twice)} comes from two places; leave one out")
        if taken := sorted(RESERVED & {*self._signals, *self.inputs}):
            raise ConfigurationError(
                f"signals: {', '.join(taken)} means something else in a table; choose another name"
            )
        self.kinds = dict(config.kinds)
        self.head = {} if config.head is None else _head(folder / config.head)
        self.decoding = decoding_of(config, folder)
        self.document = {**config.model_dump(mode="json", exclude_none=True), "decoding": self.decoding.digest}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output tensors that are read."""
        return tuple(dict.fromkeys(self._signals.values())) if self.adapter is None else self.adapter.outputs

    def observe(self, feed: Mapping[str, NDArray[Any]], tensors: Mapping[str, NDArray[Any]], inputs: int) -> Observed:
        """The rows of `inputs` inputs: what was fed, and the outputs.

        Raises: InvalidObservation for an output that is not (N, width) floats.
        """
        if self.adapter is not None:
            found = self.adapter.observe(tensors)
            if found.groups != inputs:
                raise InvalidObservation(f"the model answered about {found.groups} inputs, {inputs} were sent")
            return found
        rows = {name: _rows(tensors[output], inputs, name, output) for name, output in self._signals.items()}
        for name, places in self.inputs.items():
            rows[name] = np.concatenate([_numbers(feed[place], inputs) for place in places], axis=1)
        return Observed(rows, inputs)


def reader(source: MapSource | None, outputs: Sequence[str], where: str) -> SignalReader:
    """The reader of a map; without one, of the outputs that are named like signals.

    Raises: ConfigurationError.
    """
    if isinstance(source, SignalMapConfig):
        return SignalReader(source, Path())
    if isinstance(source, Mapping):
        return SignalReader(parse(SignalMapConfig, source, "the signal map"), Path())
    if source is not None:
        return SignalReader(load(SignalMapConfig, source, {}), Path(source).parent)
    return SignalReader(_named_like_signals(outputs, where), Path())


def _named_like_signals(outputs: Sequence[str], where: str) -> SignalMapConfig:
    known = {name for score in SCORES.values() if isinstance(score.inputs, tuple) for name in score.inputs}
    chosen = {name: name for name in outputs if name in known}
    if not chosen:
        hint = next((text for text in (suggestion(name, known) for name in outputs) if text), "")
        raise ConfigurationError(
            f"{where}: no output is named like a signal (logits, features, ...); it has {one_of(outputs)}{hint}; "
            "say which is which with --map, or let `demur instrument` write the map"
        )
    return SignalMapConfig(signals=chosen)


def _rows(array: Any, inputs: int, name: str, output: str) -> NDArray[np.float32]:
    """(N, width) float32: axes of size 1 behind the first are dropped, one number an input becomes a width of 1."""
    if not isinstance(array, np.ndarray):
        raise InvalidObservation(
            f"{name}: expected a tensor in output {output}, got a {type(array).__name__}; export the model without maps "
            "(for scikit-learn options={'zipmap': False})"
        )
    if array.dtype.kind != "f":
        raise InvalidObservation(f"{name}: expected floats in output {output}, got {array.dtype}; map another output")
    if array.ndim == 0 or len(array) != inputs:
        raise InvalidObservation(
            f"{name}: expected one row for each of {inputs} inputs in output {output}, got shape {array.shape}"
        )
    wide = [size for size in array.shape[1:] if size != 1]
    if len(wide) > 1 or 0 in wide:
        raise InvalidObservation(
            f"{name}: expected (N, width) in output {output}, got {array.shape}; map an output after pooling, which "
            "`demur instrument` can add"
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.reshape(inputs, -1), np.float32)


def _numbers(array: NDArray[Any], inputs: int) -> NDArray[np.float32]:
    """An input's numbers side by side, as the proxy takes them."""
    with np.errstate(over="ignore"):
        return array.reshape(inputs, math.prod(array.shape[1:])).astype(np.float32)


def _head(path: Path) -> dict[str, NDArray[np.float32]]:
    """head_weight (C, D) and head_bias (C,) of a file. Raises: TableError."""
    opened, found = open_columns(path, Budget(None)), {}
    for name, ndim in zip(HEAD, (2, 1), strict=True):
        with reading(f"{path}: {name}"):
            found[name] = head_array(np.asarray(opened.read(name)), ndim, f"{path}: {name}")
    return found
