"""Signals of a proxied exchange that its answer does not show: the request's own inputs, and views that further calls give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.views import Views, gathered
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.config.views import ViewsConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation


class Tensor(Protocol):
    """A tensor of a message, as the proxies read it."""

    def array(self, largest_bytes: int) -> NDArray[Any]: ...


class Asked(Protocol):
    """A request, as the proxies read it."""

    @property
    def inputs(self) -> Callable[[], Mapping[str, Tensor]]: ...


class Answered(Protocol):
    """An answer, as the proxies read it."""

    @property
    def names(self) -> Sequence[str]: ...

    def tensor(self, name: str) -> Tensor: ...


Again = Callable[[Mapping[str, NDArray[Any]], float | None], Answered]


class ViewGather:
    """Supplies one signal, V * C wide, by V - 1 further calls (V when the client's answer does not show the logits)."""

    calls = True

    def __init__(self, config: ViewsConfig, largest_bytes: int) -> None:
        """`largest_bytes`: of one tensor. Raises: ConfigurationError for an unknown corruption."""
        self._config, self._largest = config, largest_bytes
        self._views = Views.configured(config)

    @property
    def signals(self) -> tuple[str, ...]:
        """The one signal."""
        return (self._config.signal,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output tensors that are read of every answer."""
        return (self._config.output,)

    def __call__(
        self, asked: Asked, answered: Answered, again: Again, seconds: float | None
    ) -> Mapping[str, NDArray[np.float32]]:
        """The signal (N, V * C), within `seconds` and the configured budget, whichever ends first.

        Raises: InvalidObservation when the input is absent, no image, or the budget does not suffice; what `again` raises.
        """
        config = self._config
        tensor = asked.inputs().get(config.input)
        if tensor is None:
            raise InvalidObservation(f"views: the request has no input {config.input}; correct `views.input`")
        own = answered.tensor(config.output).array(self._largest) if config.output in answered.names else None

        def call(images: NDArray[Any], left: float | None) -> NDArray[Any]:
            return again({config.input: images}, left).tensor(config.output).array(self._largest)

        limit = config.budget_ms / 1e3
        images = tensor.array(self._largest)
        found = gathered(self._views, call, images, own=own, seconds=limit if seconds is None else min(seconds, limit))
        return {config.signal: found}


class InputGather:
    """Supplies signals that are the request's own inputs, as the rows of a table are; no further calls."""

    calls = False
    outputs: tuple[str, ...] = ()

    def __init__(self, inputs: Mapping[str, Sequence[str]], largest_bytes: int) -> None:
        """`inputs`: the input tensors of each signal, side by side; `largest_bytes`: of one tensor."""
        self._inputs, self._largest = {name: tuple(tensors) for name, tensors in inputs.items()}, largest_bytes

    @property
    def signals(self) -> tuple[str, ...]:
        """Those that it supplies."""
        return tuple(self._inputs)

    def __call__(
        self, asked: Asked, answered: Answered, again: Again | None, seconds: float | None
    ) -> Mapping[str, NDArray[np.float32]]:
        """Each signal (N, width), axes behind the first flattened. Raises: InvalidObservation for absent inputs and others than numbers."""
        del answered, again, seconds
        there = asked.inputs()
        return {name: self._rows(name, tensors, there) for name, tensors in self._inputs.items()}

    def _rows(self, signal: str, tensors: Sequence[str], there: Mapping[str, Tensor]) -> NDArray[np.float32]:
        missing = [name for name in tensors if name not in there]
        if missing:
            raise InvalidObservation(f"{signal}: the request has no input {missing[0]}; correct `inputs` of the map")
        columns = [self._column(name, there[name].array(self._largest)) for name in tensors]
        if len({len(column) for column in columns}) != 1:
            shapes = ", ".join(f"{n} {c.shape}" for n, c in zip(tensors, columns, strict=True))
            raise InvalidObservation(f"{signal}: expected inputs of equal length, got {shapes}")
        return np.concatenate(columns, axis=1)

    def _column(self, name: str, array: NDArray[Any]) -> NDArray[np.float32]:
        if array.dtype.kind not in "fiub" or array.ndim == 0 or 0 in array.shape:
            raise InvalidObservation(f"input {name}: expected rows of numbers, got {array.shape} {array.dtype}")
        with np.errstate(over="ignore"):
            return array.reshape(len(array), -1).astype(np.float32)


class Gathers:
    """Several of them as one."""

    def __init__(self, parts: Sequence[ViewGather | InputGather]) -> None:
        self._parts = parts
        self.calls = any(part.calls for part in parts)

    @property
    def signals(self) -> tuple[str, ...]:
        """Of all."""
        return tuple(name for part in self._parts for name in part.signals)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Of all."""
        return tuple(name for part in self._parts for name in part.outputs)

    def __call__(
        self, asked: Asked, answered: Answered, again: Again, seconds: float | None
    ) -> Mapping[str, NDArray[np.float32]]:
        """See the parts."""
        found: dict[str, NDArray[np.float32]] = {}
        for part in self._parts:
            found |= part(asked, answered, again, seconds)
        return found


def gather_of(signal_map: SignalMapConfig, largest_bytes: int) -> Gathers | None:
    """What a map's `inputs` and `views` ask for, None without either.

    Raises: ConfigurationError for an unknown corruption, or a signal that comes from two places.
    """
    parts: list[ViewGather | InputGather] = []
    if signal_map.inputs:
        parts.append(InputGather(signal_map.inputs, largest_bytes))
    if signal_map.views is not None:
        parts.append(ViewGather(signal_map.views, largest_bytes))
    names = [*signal_map.signals, *(name for part in parts for name in part.signals)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"signal map: {', '.join(twice)} comes from two places; leave one out")
    return Gathers(parts) if parts else None
