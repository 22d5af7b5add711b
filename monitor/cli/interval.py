"""`demur interval`: calibrated intervals of a regression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.monitor.cli.console import out, say
from demur.monitor.outputs import check_outputs

CONFIDENCE = 0.95


def interval(
    bundle: Annotated[Path, typer.Argument(help="A bundle with an interval_width score.")],
    table: Annotated[
        Path, typer.Argument(help="Signals `estimate` and `spread`, or `low` and `high`; `target` where it is known.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write interval_low and interval_high of every row: .npz, .parquet."),
    ] = None,
    score: Annotated[str, typer.Option(help="Which interval_width score, when the bundle has several.")] = "",
) -> None:
    """The calibrated interval of every row of a regression, and what it promises.

    Example: [bold]demur interval prices.demur test.npz -o intervals.npz[/]
    """
    from demur.detectors.promises.binomial import interval as clopper_pearson
    from demur.monitor.bundle import Bundle
    from demur.monitor.fit.intervals import intervals
    from demur.monitor.fit.table import load_table
    from demur.monitor.fit.writing import write_columns

    check_outputs([output], [bundle, table])
    rows = load_table(table)
    found = intervals(Bundle.load(bundle), rows.signals, score=score)
    if output is not None:
        ids = {} if rows.id is None else {"id": rows.id}
        write_columns(output, {"interval_low": found.low, "interval_high": found.high, **ids})
    say(found.statement)
    if rows.target is not None:
        held, usable = found.held(rows.target)
        low, high = clopper_pearson(held, usable, CONFIDENCE) if usable else (0.0, 1.0)
        say(
            f"In this table {held} of {usable} targets are inside: {held / max(usable, 1):.1%} [{low:.1%}, {high:.1%}]."
        )
    where = f", in {output}" if output else ""
    out().print(f"[bold]{len(rows)}[/] intervals{where}")
