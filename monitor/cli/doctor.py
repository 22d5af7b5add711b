"""`demur doctor`: what this machine has, and what will bite."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from demur.monitor.cli.console import FOUND, say
from demur.monitor.cli.options import ForPrograms
from demur.monitor.cli.preconditions import Check


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="Also check this demur.yaml: its bundles, log, addresses and upstreams.")
    ] = None,
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

    from demur.monitor.cli.records import plain

    colour = {"good": "green", "note": "yellow", "bad": "red"}[level]
    say(escape(plain(what).plain) + (f"; [dim]{escape(step)}[/]" if step else ""), f"[{colour}]{level:<5}[/]")


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
    from demur.monitor.cli import preconditions
    from demur.monitor.cli.upstreams import upstreams
    from demur.monitor.config.document import load
    from demur.monitor.config.server import ServerConfig

    try:
        config = load(ServerConfig, path)
    except Exception as error:
        yield "bad", str(error), ""
        return
    monitors = "1 monitor" if len(config.monitors) == 1 else f"{len(config.monitors)} monitors"
    yield "good", f"{path}: {monitors}, listening on {', '.join(config.listen)}", ""
    recorded = {} if config.audit is None else (yield from preconditions.log(config.audit))
    engines = {}
    for monitor in config.monitors:
        engine = yield from preconditions.monitor(monitor, recorded)
        if engine is not None:
            engines[monitor.name] = engine
    yield from upstreams(config, engines)
    yield from preconditions.addresses(config)
    if config.tls is None and any(not a.startswith(("127.", "localhost", "[::1]", "unix:")) for a in config.listen):
        yield "note", "listens beyond this machine without TLS", "add a tls section"
    if config.audit is None:
        yield "note", "no audit section: verdicts are answered and not recorded", "add audit: {directory: ...}"
