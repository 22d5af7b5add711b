"""One upstream model as `demur.yaml` maps it: which monitor judges it, and which outputs are which signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from demur.adapters.servers.oip import tensors
from demur.adapters.servers.oip.tensors import UnreadableOutputError
from demur.monitor.config.server import LimitsConfig, ProxiedModelConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation, observe
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse


@dataclass(frozen=True, eq=False)
class ProxiedModel:
    """`outputs` names the upstream output tensor of each signal."""

    engine: Engine
    outputs: Mapping[str, str]
    limits: LimitsConfig

    def observe(self, loaded: Loaded, request: ModelInferRequest, answer: ModelInferResponse | None) -> Observation:
        """The signals of this answer, or an observation without signals whose cause says why it cannot be assessed."""
        about: dict[str, Any] = {
            "request": request.id,
            "model": {"name": request.model_name, "version": request.model_version},
        }
        try:
            return observe(loaded.widths, self._signals(loaded, request, answer), **about)
        except (UnreadableOutputError, InvalidObservation) as error:
            shapes = chain((i.shape for i in request.inputs), (o.shape for o in answer.outputs) if answer else ())
            # INVARIANT: a claimed batch size allocates nothing that the messages do not pay for
            largest = min(self.limits.rows, request.ByteSize() + (answer.ByteSize() if answer else 0))
            return Observation({}, tensors.claimed_rows(shapes, largest), cause=str(error), **about)

    def _signals(self, loaded: Loaded, request: ModelInferRequest, answer: ModelInferResponse | None) -> dict[str, Any]:
        if answer is None:
            raise UnreadableOutputError("upstream's answer is not a readable ModelInferResponse")
        present = {output.name for output in answer.outputs}
        requested = {output.name for output in request.outputs}
        signals = {}
        for signal, width in loaded.widths.items():
            name = self.outputs.get(signal)
            if name is None:
                continue  # a newer bundle may ask for more than the mapping knows: the engine calls it missing
            if name not in present and requested and name not in requested:
                raise UnreadableOutputError(f"output {name} was not requested by the client")
            signals[signal] = tensors.read(answer, name, width, self.limits.tensor_bytes)
            if len(signals[signal]) > self.limits.rows:
                raise UnreadableOutputError(
                    f"output {name}: {len(signals[signal])} rows exceed the limit rows = {self.limits.rows}"
                )
        return signals


def proxied(
    models: Mapping[str, ProxiedModelConfig], engines: Mapping[str, Engine], limits: LimitsConfig
) -> dict[str, ProxiedModel]:
    """The models of a configuration by upstream name.

    Raises: ConfigurationError when a monitor is not served here, judges streams, or its signals and the mapping differ.
    """
    return {name: _proxied(name, config, engines, limits) for name, config in models.items()}


def _proxied(
    name: str, config: ProxiedModelConfig, engines: Mapping[str, Engine], limits: LimitsConfig
) -> ProxiedModel:
    where = f"proxy model {name}"
    engine = engines.get(config.monitor)
    if engine is None:
        raise ConfigurationError(f"{where}: no monitor {config.monitor!r} is served here; add it under monitors")
    loaded = engine.loaded
    if loaded.manifest.kind != "rows":
        raise ConfigurationError(f"{where}: monitor {config.monitor} judges streams; one answer needs a row monitor")
    wrong = sorted(set(config.signals) ^ set(loaded.widths))
    if wrong:
        raise ConfigurationError(
            f"{where}: expected an output tensor for each signal of monitor {config.monitor} "
            f"({', '.join(sorted(loaded.widths))}) and no others; wrong or absent: {', '.join(wrong)}"
        )
    return ProxiedModel(engine, dict(config.signals), limits)
