"""`demur bench`: what it costs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.monitor.cli.console import out


def bench(
    output: Annotated[Path | None, typer.Option(help="Write every figure as JSON.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats: shows that it runs, not how fast.")] = False,
) -> None:
    """Measure ratios in one run: in process, and the sidecar beside a bare gRPC echo.

    Example: [bold]demur bench --output bench.json[/]
    """
    from demur.monitor.bench.run import run

    with out().status("measuring") as status:
        found = run(quick=quick, note=lambda text: status.update(f"measuring: {text}"))
    show(found)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=2) + "\n")
        out().print(f"\nwritten to {output}")


def show(found: dict[str, Any]) -> None:
    """Two tables."""
    from rich.table import Table

    inside = Table(
        "C",
        "N",
        "p50 µs",
        "µs a row",
        "metrics off",
        "graph alone",
        "x graph",
        "x NumPy scores alone",
        box=None,
        header_style="bold",
        title="in process, one thread",
        title_justify="left",
    )
    for row in found["in_process"]:
        times = row["microseconds"]
        inside.add_row(
            *map(
                str,
                (
                    row["classes"],
                    row["rows"],
                    times["assess"]["p50"],
                    row["microseconds_per_row"],
                    times["metrics_off"]["p50"],
                    times["graph"]["p50"],
                    row["ratio_to_graph"],
                    row["ratio_to_numpy_scores"],
                ),
            )
        )
    outside = Table(
        "C",
        "N",
        "metrics",
        "audit",
        "p50 x echo",
        "CPU x echo",
        "p50 µs",
        "CPU µs",
        "echo p50",
        "echo CPU",
        "MB",
        box=None,
        header_style="bold",
        title="sidecar over a bare gRPC echo",
        title_justify="left",
    )
    for row in found["sidecar"]:
        mine, bare = row["sidecar_microseconds"], row["echo_microseconds"]
        flags = ("on" if row["metrics"] else "off", "on" if row["audit"] else "off")
        outside.add_row(
            *map(
                str,
                (
                    row["classes"],
                    row["rows"],
                    *flags,
                    row["p50_ratio"],
                    row["cpu_ratio"],
                    mine["p50"],
                    mine["cpu"],
                    bare["p50"],
                    bare["cpu"],
                    row["resident_megabytes"],
                ),
            )
        )
    out().print(inside, soft_wrap=False)
    out().print()
    out().print(outside, soft_wrap=False)
