"""The signal of views for a proxied exchange: the model behind the proxy is asked again about corrupted inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.views import Views, gathered
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.config.views import ViewsConfig
from demur.monitor.errors import InvalidObservation


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

        limits = [s for s in (seconds, None if config.budget_ms is None else config.budget_ms / 1e3) if s is not None]
        images = tensor.array(self._largest)
        found = gathered(self._views, call, images, own=own, seconds=min(limits) if limits else None)
        return {config.signal: found}


def gather_of(signal_map: SignalMapConfig, largest_bytes: int) -> ViewGather | None:
    """What a map's `views` ask for, None without them. Raises: ConfigurationError for an unknown corruption."""
    return None if signal_map.views is None else ViewGather(signal_map.views, largest_bytes)
