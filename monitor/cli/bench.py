"""`demur bench`: what it costs here."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from demur.monitor.cli.console import grid, out
from demur.monitor.cli.options import Figures
from demur.monitor.outputs import check_outputs


def bench(
    output: Figures = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats: shows that it runs, not how fast.")] = False,
) -> None:
    """Measure ratios in one run: in process, the sidecar beside a bare gRPC echo, the proxy beside a plain pass-through.

    Example: [bold]demur bench --output bench.json[/]
    """
    from demur.monitor.bench.run import run

    check_outputs([output], [])
    with out().status("measuring") as status:
        found = run(quick=quick, note=lambda text: status.update(f"measuring: {text}"))
    show(found)
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n")
        out().print(f"\nwritten to {output}")


INSIDE = ("C", "N", "p50 µs", "µs a row", "metrics off", "graph alone", "x graph", "x NumPy scores alone")
OUTSIDE = ("C", "N", "metrics", "audit", "p50 x", "CPU x", "p50 µs", "CPU µs", "echo p50", "echo CPU", "MB")


BETWEEN = ("C", "N", "MB", "named", "ms +", "CPU x", "adding +", "x", "p50", "CPU", "plain", "CPU", "RSS")


def show(found: dict[str, Any]) -> None:
    """Three tables."""
    _table("in process, one thread", INSIDE, [_inside(row) for row in found["in_process"]])
    out().print()
    _table("sidecar over a bare gRPC echo", OUTSIDE, [_outside(row) for row in found["sidecar"]])
    out().print()
    _table(
        "proxy over a plain pass-through in Python, ms; adding: one that adds an output",
        BETWEEN,
        [_between(row) for row in found["proxy"]],
    )


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = grid(*heads, pad_edge=True, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    out().print(table, soft_wrap=False)


def _between(row: dict[str, Any]) -> tuple[Any, ...]:
    mine, plain = row["proxy_milliseconds"], row["plain_milliseconds"]
    named = ", ".join(row["outputs_named"]) or "none"
    ratios = [row[prefix + key] for prefix in ("", "adding_") for key in ("p50_more_milliseconds", "cpu_ratio")]
    times = (mine["p50"], mine["cpu"], plain["p50"], plain["cpu"])
    return (row["classes"], row["rows"], row["request_megabytes"], named, *ratios, *times, row["resident_megabytes"])


def _inside(row: dict[str, Any]) -> tuple[Any, ...]:
    p50 = {name: times["p50"] for name, times in row["microseconds"].items()}
    ratios = (row["ratio_to_graph"], row["ratio_to_numpy_scores"])
    return (
        row["classes"],
        row["rows"],
        p50["assess"],
        row["microseconds_per_row"],
        p50["metrics_off"],
        p50["graph"],
        *ratios,
    )


def _outside(row: dict[str, Any]) -> tuple[Any, ...]:
    mine, bare = row["sidecar_microseconds"], row["echo_microseconds"]
    flags = ("on" if row["metrics"] else "off", "on" if row["audit"] else "off")
    times = (mine["p50"], mine["cpu"], bare["p50"], bare["cpu"])
    return (row["classes"], row["rows"], *flags, row["p50_ratio"], row["cpu_ratio"], *times, row["resident_megabytes"])
