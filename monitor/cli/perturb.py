"""`demur perturb`: a stress set from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.monitor.cli.console import note, out, say
from demur.monitor.cli.options import FORMATS
from demur.monitor.outputs import check_outputs

TableFile = Annotated[Path, typer.Argument(help=f"Rows: {FORMATS}.")]
As = Annotated[str, typer.Option("--as", help="What the rows are: images, features, text or series.")]
How = Annotated[str, typer.Option(help="A perturbation of that kind, as docs/stress.md lists them.")]
Output = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="Where the stress set goes: .npz, .safetensors, .parquet, .arrow; a folder without suffix.",
    ),
]
Severity = Annotated[
    list[int] | None, typer.Option(help="0 to 5; give it again for more, one copy of the rows each. Default: 3.")
]
Column = Annotated[str | None, typer.Option(help="The column to perturb. Default: the name of the kind.")]
Seed = Annotated[int, typer.Option(help="Of the randomness, together with each row's id.")]


def perturb(
    table: TableFile,
    kind: As,
    how: How,
    output: Output,
    severity: Severity = None,
    column: Column = None,
    seed: Seed = 0,
) -> None:
    """Perturb the rows of a table, for evaluation only.

    Labels, groups, slices, weights and ids stay; what a model said of the rows as they were is left out. Every row of the
    result is marked `eval_only`, which `fit` and `calibrate` refuse.

    Example: [bold]demur perturb digits.npz --as images --how motion_blur --severity 1 --severity 5 -o blurred.npz[/]
    """  # fmt: skip
    from demur.monitor.fit.memory import Budget
    from demur.monitor.fit.readers import open_columns, reading
    from demur.monitor.fit.writing import write_columns
    from demur.monitor.perturb import find
    from demur.monitor.perturb.stress import stress_set

    check_outputs([output], [table])
    entry, levels = find(kind, how), severity or [3]
    opened, columns = open_columns(table, Budget(None)), {}
    for name in opened.names:
        with reading(f"{table}: {name}"):
            columns[name] = opened.read(name)
    made = stress_set(columns, entry, levels, column=column, seed=seed)
    write_columns(output, made.columns)
    for level in levels:
        value = f"{entry.values[level - 1]:g}" if level else "as it was"
        out().print(f"severity {level}  {entry.parameter}: {value}", markup=False)
    if made.left_out:
        note(f"left out, being of the rows as they were: {', '.join(made.left_out)}")
    if made.unchanged:
        note(f"{made.unchanged} rows are not finite and stay as they were, at severity 0")
    rows = len(made.columns["severity"])
    say(f"[bold]{output}[/]  {rows} rows with {', '.join(made.columns)}; every row is eval_only")
