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
    from demur.monitor.fit.offline import assess_table
    from demur.monitor.fit.table import load_table
    from demur.monitor.fit.verdict_table import verdict_rows, write_verdicts
    from demur.monitor.monitor import Monitor

    monitor = Monitor.load(bundle)
    rows = load_table(table, monitor.engine.loaded.widths)
    verdicts = assess_table(monitor, rows)
    if output is not None:
        write_verdicts(output, verdicts, rows.id)
    _print(verdict_rows(verdicts, rows.id, limit=show), verdicts.policy.columns)
    accepted = int(verdicts.accept.sum())
    out().print(
        f"\n[bold]{accepted}[/] of {len(verdicts)} accepted ({accepted / len(verdicts):.1%})"
        + (f", written to {output}" if output else "")
    )


def _print(rows: list[dict[str, object]], columns: tuple[str, ...]) -> None:
    from rich.table import Table

    table = Table(
        "row", "verdict", "reasons", *(f"p {c}" for c in columns), box=None, pad_edge=False, header_style="bold"
    )
    for row in rows:
        colour = "green" if row["accept"] else "yellow"
        verdict = "ACCEPT" if row["accept"] else "ABSTAIN"
        table.add_row(
            str(row["row"]), f"[{colour}]{verdict}[/]", str(row["reasons"]), *(f"{row[f'p_{c}']:.3g}" for c in columns)
        )
    out().print(table, soft_wrap=False)
