"""Upstream models as a configuration maps them: each with its monitor, its decoder and what it is called again for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from demur.adapters.models.output_adapter import OutputAdapter
from demur.adapters.servers.oip.proxied_model import Gather, ProxiedModel
from demur.monitor.config.decoding import decoding_of
from demur.monitor.config.document import parse, read_yaml
from demur.monitor.config.proxied import ProxiedModelConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError

Decoders = Callable[[SignalMapConfig, Path], OutputAdapter | None]


def proxied(
    models: Mapping[str, ProxiedModelConfig],
    engines: Mapping[str, Engine],
    limits: LimitsConfig,
    adapter: Decoders | None = None,
) -> dict[str, ProxiedModel]:
    """The models of a configuration by upstream name.

    Raises: ConfigurationError when a monitor is not served here, judges streams, or its signals and the mapping differ.
    """
    return {name: _proxied(name, config, engines, limits, adapter or output_adapter) for name, config in models.items()}


def output_adapter(signal_map: SignalMapConfig, folder: Path) -> OutputAdapter | None:
    """The decoder that a map names, None when its outputs are rows already. Files that it names are relative to `folder`."""
    from demur.adapters.models import adapters_of

    return adapters_of.output_adapter(signal_map, folder)


def further_views(signal_map: SignalMapConfig, limits: LimitsConfig) -> Gather | None:
    """What calls the model again for signals of the map, None when nothing does."""
    from demur.adapters.models import view_gather

    return view_gather.gather_of(signal_map, limits.tensor_bytes)


def _proxied(
    name: str,
    config: ProxiedModelConfig,
    engines: Mapping[str, Engine],
    limits: LimitsConfig,
    adapter: Decoders,
) -> ProxiedModel:
    where = f"proxy model {name}"
    engine = engines.get(config.monitor)
    if engine is None:
        raise ConfigurationError(f"{where}: no monitor {config.monitor!r} is served here; add it under monitors")
    loaded = engine.loaded
    if loaded.manifest.kind != "rows":
        raise ConfigurationError(f"{where}: monitor {config.monitor} judges streams; one answer needs a row monitor")
    wrong = sorted(set(config.signals) - set(loaded.widths))
    if wrong:
        raise ConfigurationError(
            f"{where}: expected output tensors for signals of monitor {config.monitor} "
            f"({', '.join(sorted(loaded.widths))}); no such signal: {', '.join(wrong)}"
        )
    signal_map = _signal_map(config.map)
    folder = config.map.parent if isinstance(config.map, Path) else Path()
    decoder = None if signal_map is None else adapter(signal_map, folder)
    if config.on_abstain == "replace" and not config.replace and decoder is None:
        raise ConfigurationError(
            f"{where}: on_abstain: replace needs `replace: {{OUTPUT: VALUE}}`; its map names no decoder"
        )
    mapped = {**(signal_map.signals if signal_map is not None else {}), **config.signals}
    gather = None if signal_map is None else further_views(signal_map, limits)
    decoding = decoding_of(signal_map, folder)
    if conflict := loaded.conflict(decoding):
        raise ConfigurationError(f"{where}, monitor {config.monitor}: {conflict}")
    return ProxiedModel(engine, mapped, limits, config, decoder, gather, decoding=decoding)


def _signal_map(given: Path | SignalMapConfig | None) -> SignalMapConfig | None:
    if given is None or isinstance(given, SignalMapConfig):
        return given
    return parse(SignalMapConfig, read_yaml(given), str(given))
