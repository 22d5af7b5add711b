"""Whether the upstreams of a configuration have what its proxies judge by, and what they put in its place."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from demur.monitor.cli.preconditions import Check
from demur.monitor.errors import DemurError

if TYPE_CHECKING:
    from pathlib import Path

    from demur.adapters.servers.oip.described import Outputs
    from demur.adapters.servers.oip.proxied_model import ProxiedModel
    from demur.monitor.config.proxied import ProxiedModelConfig
    from demur.monitor.config.server import ProxyConfig, ServerConfig
    from demur.monitor.engine import Engine

CONNECT_SECONDS = 2.0


def upstreams(config: ServerConfig, engines: Mapping[str, Engine]) -> Iterator[Check]:
    """Whether every mapped model can be judged as it is mapped, and whether its upstream has what that takes."""
    proxy, ext_proc = config.proxy, config.ext_proc
    models: dict[str, ProxiedModel] = {}
    if proxy is not None:
        models = yield from _mapped("proxy", proxy.models, config, engines)
    if ext_proc is not None:
        yield from _mapped("ext_proc", ext_proc.infer, config, engines)
    if proxy is not None:
        yield from _there(proxy, models)


def _mapped(
    front: str, models: Mapping[str, ProxiedModelConfig], config: ServerConfig, engines: Mapping[str, Engine]
) -> Generator[Check, None, dict[str, ProxiedModel]]:
    from demur.adapters.servers.oip.mapping import proxied

    judged: dict[str, ProxiedModel] = {}
    for name, model in models.items():
        if model.monitor not in engines:
            continue  # said above
        try:
            found = proxied({name: model}, engines, config.limits)[name]
            outputs = ", ".join(found.contract(found.engine.loaded).needed) or "none"
        except DemurError as error:
            yield "bad", str(error), ""
            continue
        judged[name] = found
        yield "good", f"{front} model {name}: judged by {model.monitor}, from the outputs {outputs}", ""
    return judged


def _there(proxy: ProxyConfig, models: Mapping[str, ProxiedModel]) -> Iterator[Check]:
    from demur.adapters.servers.oip import described

    sides: list[tuple[str, str, Path | None, Callable[..., Outputs]]] = []
    if proxy.listen:
        sides.append(("proxy.upstream", proxy.upstream, proxy.upstream_tls_ca, described.over_grpc))
    if proxy.rest is not None:
        sides.append(("proxy.rest.upstream", proxy.rest.upstream, proxy.rest.upstream_tls_ca, described.over_http))
    for key, target, authority, ask in sides:
        try:
            _connect(target)
        except (OSError, ValueError) as error:
            yield "note", f"{key}: nothing answers at {target} now ({error})", f"start the server, or mend {key}"
            continue
        yield "good", f"{key}: {target} is there", ""
        for name, model in models.items():
            yield from _described(f"{key}, model {name}", model, partial(ask, target, authority), name)


def _described(where: str, model: ProxiedModel, ask: Callable[..., Outputs], name: str) -> Iterator[Check]:
    from demur.adapters.servers.oip.described import UndescribedError, contradictions

    other = model.config.fallback
    try:
        found = list(contradictions(model, ask(name)))
        if other is not None:
            ask(other.model, other.version)
        for said in found:
            yield "bad", f"{where}: {said}", "correct how it is mapped, or what the server exports"
        if not found:
            yield "good", f"{where}: has every output that is named", ""
    except UndescribedError as error:
        yield "note", f"{where}: the server does not describe it ({error})", "its outputs were not checked"
    except DemurError as error:
        yield "bad", f"{where}: {error}", "name a model that the server has"


def _connect(target: str) -> None:
    """Open a connection to a gRPC target or an HTTP address, and close it. Raises: OSError, ValueError."""
    if target.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(target.removeprefix("unix:").removeprefix("//"))
        return
    url = urlsplit(target if "//" in target else f"//{target}")
    place = urlsplit(f"//{url.path.lstrip('/')}") if url.scheme == "dns" else url
    port = place.port or (443 if url.scheme in ("https", "dns") else 80)
    socket.create_connection((place.hostname or "", port), CONNECT_SECONDS).close()
