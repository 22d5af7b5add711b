"""`demur serve` and the schema of its configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.monitor.cli.console import say

if TYPE_CHECKING:
    from demur.monitor.config.server import ServerConfig


def serve(
    config: Annotated[Path | None, typer.Option(help="demur.yaml; DEMUR_SECTION__KEY variables override it.")] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Serve this bundle; without --config that is all it needs.")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="host:port or unix:/path, instead of the configured ones.")] = None,
    announce: Annotated[
        bool, typer.Option("--announce", help="Print one JSON line with the addresses once serving.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens.")] = False,
) -> None:
    """Serve monitors over gRPC until SIGTERM, which drains first; SIGHUP looks for new bundles.

    Example: [bold]demur serve --bundle digits.demur[/]
    """
    from demur.monitor.cli.server import build, configuration

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = configuration(config, bundle or [], listen)
    running = build(settings)
    try:
        running.start()
        if announce:
            print(json.dumps(running.addresses()), flush=True)
        else:
            _tell(settings, running.addresses(), running.waiting())
        running.wait()
    finally:
        running.stop()


def _tell(settings: ServerConfig, at: Mapping[str, Any], waiting: list[str]) -> None:
    """Every address that clients are to be pointed at, with the port that was taken, and what cannot be served yet."""
    from rich.markup import escape

    names = ", ".join(m.name for m in settings.monitors if m.name not in waiting) or "nothing yet"
    lines = [f"serving {names} on {', '.join(at['listen'])}"]
    if waiting:
        lines.append(f"not ready: {', '.join(waiting)}; served as soon as a good bundle is at its path")
    proxy = settings.proxy
    if proxy is not None and at["proxy"]:
        lines.append(f"proxy (gRPC) on {at['proxy']}, before {proxy.upstream}")
    if proxy is not None and proxy.rest is not None:
        lines.append(f"proxy (REST) on {at['proxy_rest']}, before {proxy.rest.upstream}")
    if at["ext_proc"]:
        lines.append(f"ext_proc on {at['ext_proc']}")
    for line in lines:
        say(escape(line))


def schema(
    which: Annotated[
        str, typer.Argument(help="monitor (the policy, monitor.yaml) or server (demur.yaml).")
    ] = "monitor",
) -> None:
    """Print the JSON Schema of a configuration file, for editors.

    Example: [bold]demur schema server > demur.schema.json[/]
    """
    from demur.monitor.config.document import Section
    from demur.monitor.config.policy import PolicyConfig
    from demur.monitor.config.server import ServerConfig

    models: dict[str, type[Section]] = {"monitor": PolicyConfig, "server": ServerConfig}
    if which not in models:
        raise typer.BadParameter(f"expected one of {', '.join(models)}, got {which!r}")
    print(json.dumps(models[which].model_json_schema(), indent=2))
