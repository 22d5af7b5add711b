"""A model to collect from whose every call also asks about the views: calibration sees what serving will see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.views import Views, gathered
from demur.monitor.config.views import ViewsConfig


class Model(Protocol):
    """As `collect` uses one."""

    @property
    def inputs(self) -> tuple[Any, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def identity(self) -> Mapping[str, str]: ...

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]: ...

    def close(self) -> None: ...


class ViewedModel:
    """The model with one more output, named like the signal of its views: (N, V * C), the inputs' own logits first.

    Further calls have no budget here: a table holds what would be seen in time.
    """

    def __init__(self, model: Model, config: ViewsConfig) -> None:
        """Raises: ConfigurationError for an unknown corruption."""
        self._model, self._config, self._views = model, config, Views.configured(config)
        self.inputs = model.inputs
        self.outputs: tuple[str, ...] = (*model.outputs, config.signal) if model.outputs else ()

    def identity(self) -> Mapping[str, str]:
        """That of the model, and the views."""
        return {**self._model.identity(), "views": self._config.model_dump_json()}

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The named outputs. Raises: as the model's own, and InvalidObservation for an input that holds no images."""
        config = self._config
        if config.signal not in outputs:
            return self._model.run(feed, outputs)
        shown = tuple(dict.fromkeys((*(o for o in outputs if o != config.signal), config.output)))
        answer = self._model.run(feed, shown)

        def call(images: NDArray[Any], _seconds: float | None) -> NDArray[Any]:
            return self._model.run({**feed, config.input: images}, (config.output,))[config.output]

        own = np.asarray(answer[config.output])
        answer[config.signal] = gathered(self._views, call, feed[config.input], own=own)
        return {name: answer[name] for name in outputs}

    def close(self) -> None:
        """Give the model's connections back."""
        self._model.close()


def asked_of(config: ViewsConfig, outputs: Sequence[str]) -> tuple[str, ...]:
    """The outputs that the model itself must show so that `outputs` can be had from it with its views."""
    return tuple(dict.fromkeys(config.output if name == config.signal else name for name in outputs))
