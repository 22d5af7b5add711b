"""`demur assess`: a signals table in, a verdict table out, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.monitor.cli.console import out


def assess(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.")],
    table: Annotated[Path, typer.Argument(help="Signals: .npz, a folder of .npy, .safetensors, .parquet or .arrow.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write every verdict: .parquet, .arrow or .jsonl.")
    ] = None,
    show: Annotated[int, typer.Option(help="How many rows to print.")] = 10,
) -> None:
    """Assess a table of signals offline.

    Example: [bold]demur assess digits.demur test.npz -o verdicts.parquet[/]
    """
    from rich.table import Table

    from demur.monitor.fit.contract import check_origin
    from demur.monitor.fit.offline import assess_table
    from demur.monitor.fit.table import load_table
    from demur.monitor.fit.verdict_table import terminal_rows, write_verdicts
    from demur.monitor.monitor import Monitor

    monitor = Monitor.load(bundle)
    rows = load_table(table, monitor.engine.loaded.widths)
    check_origin(rows, monitor.bundle.manifest)
    verdicts = assess_table(monitor, rows)
    ids = None if rows.id is None else rows.id.tolist()
    if output is not None:
        write_verdicts(output, verdicts, ids)
    shown = Table("row", "verdict", "why", box=None, pad_edge=False, header_style="bold")
    for name, verdict, why in terminal_rows(verdicts, ids, limit=show):
        shown.add_row(name, f"[{'green' if verdict == 'ACCEPT' else 'yellow'}]{verdict}[/]", why)
    out().print(shown, soft_wrap=False)
    accepted = int(verdicts.accept.sum())
    where = f", every verdict in {output}" if output else ""
    out().print(f"\n[bold]{accepted}[/] of {len(verdicts)} accepted ({accepted / len(verdicts):.1%}){where}")
