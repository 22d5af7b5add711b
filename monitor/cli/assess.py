"""`demur assess`: a signals table in, a verdict table out, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.monitor.cli.console import grid, out, say
from demur.monitor.cli.options import FORMATS, BundleFile, Show
from demur.monitor.outputs import check_outputs


def assess(
    bundle: BundleFile,
    table: Annotated[Path, typer.Argument(help=f"Signals: {FORMATS}.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write every verdict: .parquet, .arrow or .jsonl.")
    ] = None,
    show: Show = 10,
) -> None:
    """Assess a table of signals offline.

    Example: [bold]demur assess digits.demur test.npz -o verdicts.parquet[/]
    """
    from demur.monitor.fit.contract import check_origin
    from demur.monitor.fit.offline import assess_table
    from demur.monitor.fit.table import load_table
    from demur.monitor.fit.verdict_table import terminal_rows, write_verdicts
    from demur.monitor.monitor import Monitor

    check_outputs([output], [bundle, table])
    monitor = Monitor.load(bundle)
    rows = load_table(table, monitor.engine.loaded.widths)
    check_origin(rows, monitor.bundle.manifest)
    verdicts = assess_table(monitor, rows)
    ids = None if rows.id is None else rows.id.tolist()
    if output is not None:
        write_verdicts(output, verdicts, ids)
    shown = grid("row", "verdict", "why")
    for name, verdict, why in terminal_rows(verdicts, ids, limit=show):
        shown.add_row(name, f"[{'green' if verdict == 'ACCEPT' else 'yellow'}]{verdict}[/]", why)
    out().print(shown, soft_wrap=False)
    accepted = int(verdicts.accept.sum())
    where = f", every verdict in {output}" if output else ""
    say(f"\n[bold]{accepted}[/] of {len(verdicts)} accepted ({accepted / len(verdicts):.1%}){where}")
