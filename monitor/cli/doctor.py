"""`demur doctor`: what this machine has, and what will bite."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from demur.monitor.cli.console import FOUND, say
from demur.monitor.cli.options import ForPrograms

if TYPE_CHECKING:
    from demur.monitor.config.server import ServerConfig
    from demur.monitor.engine import Engine

CONNECT_SECONDS = 2.0
Check = tuple[str, str, str]  # good | note | bad, what, what to do


def doctor(
    config: Annotated[Path | None, typer.Option(help="Also check this demur.yaml: files, bundles, keys.")] = None,
    as_json: ForPrograms = False,
) -> None:
    """Check the installation, and a server configuration when one is given. Exit code 3 when something is bad.

    Example: [bold]demur doctor --config demur.yaml[/]
    """
    found = [*_installation(), *(_configuration(config) if config else ())]
    if as_json:
        print(json.dumps([{"level": level, "what": what, "next": step} for level, what, step in found], indent=2))
    for check in () if as_json else found:
        _tell(*check)
    if any(level == "bad" for level, _, _ in found):
        raise typer.Exit(FOUND)


def _tell(level: str, what: str, step: str) -> None:
    from rich.markup import escape

    colour = {"good": "green", "note": "yellow", "bad": "red"}[level]
    say(escape(what) + (f"; [dim]{escape(step)}[/]" if step else ""), f"[{colour}]{level:<5}[/]")


def _installation() -> Iterator[Check]:
    from demur.monitor.session import environment, runtime_conflict

    yield "good", f"Python {sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} cores", ""
    conflict = runtime_conflict()
    if conflict:
        yield "bad", conflict, ""
        return
    known = environment()
    yield "good", f"ONNX Runtime {known['onnxruntime']}, NumPy {known['numpy']}, CPU {known['cpu']}", ""
    yield from _protobuf()
    yield from _cores()
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") is None and sys.platform == "linux":
        yield (
            "note",
            "glibc returns large tensors to the system after each request",
            "set MALLOC_MMAP_THRESHOLD_=1073741824 and MALLOC_TRIM_THRESHOLD_=1073741824 for logits beyond 128 kB",
        )
    if time.time() < 1_700_000_000:
        yield "bad", "the clock is before 2023", "set the clock: audit records carry its time"


def _protobuf() -> Iterator[Check]:
    version = importlib.metadata.version("protobuf")
    if int(version.split(".")[0]) < 7:
        yield (
            "note",
            f"protobuf {version} decodes repeated floats 450 times slower than 7",
            "send `raw` tensors, or install protobuf 7",
        )
    else:
        yield "good", f"protobuf {version}", ""


def _cores() -> Iterator[Check]:
    for name in ("detectors", "monitor", "adapters"):
        try:
            found = importlib.metadata.packages_distributions().get(name, [])
        except Exception:
            found = []
        if found and found != ["demur"]:
            yield (
                "note",
                f"another package owns the bare import name {name}: {', '.join(found)}",
                "harmless: demur's code is demur." + name,
            )


def _configuration(path: Path) -> Iterator[Check]:
    from demur.monitor.bundle import Bundle
    from demur.monitor.bundle.signature import load_public
    from demur.monitor.config.document import load
    from demur.monitor.config.server import ServerConfig
    from demur.monitor.engine import Engine
    from demur.monitor.loaded import Loaded

    try:
        config = load(ServerConfig, path)
    except Exception as error:
        yield "bad", str(error), ""
        return
    monitors = "1 monitor" if len(config.monitors) == 1 else f"{len(config.monitors)} monitors"
    yield "good", f"{path}: {monitors}, listening on {', '.join(config.listen)}", ""
    engines = {}
    for monitor in config.monitors:
        try:
            trusted = [load_public(k) for k in monitor.public_keys] if monitor.require_signature else None
            loaded = Loaded.open(Bundle.load(monitor.bundle, trusted=trusted))
        except Exception as error:
            yield "bad", f"monitor {monitor.name}: {error}", ""
            continue
        engines[monitor.name] = Engine(loaded)
        yield (
            "good",
            f"monitor {monitor.name}: sha256:{loaded.bundle.digest[:12]}…, version {loaded.manifest.version}, self-test passed",
            "",
        )
    yield from _mapped(config, engines)
    yield from _upstreams(config)
    if config.tls is None and any(not a.startswith(("127.", "localhost", "[::1]", "unix:")) for a in config.listen):
        yield "note", "listens beyond this machine without TLS", "add a tls section"
    if config.audit is None:
        yield "note", "no audit section: verdicts are answered and not recorded", "add audit: {directory: ...}"


def _upstreams(config: ServerConfig) -> Iterator[Check]:
    """Whether anything listens where the proxies forward to."""
    proxy = config.proxy
    named = [] if proxy is None or not proxy.listen else [("proxy.upstream", proxy.upstream)]
    named += [] if proxy is None or proxy.rest is None else [("proxy.rest.upstream", proxy.rest.upstream)]
    for key, target in named:
        try:
            _connect(target)
        except (OSError, ValueError) as error:
            yield "note", f"{key}: nothing answers at {target} now ({error})", f"start the server, or mend {key}"
        else:
            yield "good", f"{key}: {target} is there", ""


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


def _mapped(config: ServerConfig, engines: Mapping[str, Engine]) -> Iterator[Check]:
    """Whether every model of the proxies and of the external processor can be judged as it is mapped."""
    from demur.adapters.servers.oip.mapping import proxied
    from demur.monitor.errors import DemurError

    proxy, ext_proc = config.proxy, config.ext_proc
    fronts = [("proxy", proxy.models)] if proxy is not None else []
    fronts += [("ext_proc", ext_proc.infer)] if ext_proc is not None else []
    for front, models in fronts:
        for name, model in models.items():
            if model.monitor not in engines:
                continue  # said above
            try:
                found = proxied({name: model}, engines, config.limits)[name]
                outputs = ", ".join(found.contract(found.engine.loaded).needed) or "none"
            except DemurError as error:
                yield "bad", str(error), ""
                continue
            yield "good", f"{front} model {name}: judged by {model.monitor}, from the outputs {outputs}", ""
