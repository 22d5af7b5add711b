"""`demur curate`: what is doubtful in a table. Everything is reported; nothing is removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.monitor.cli.console import grid, out, say
from demur.monitor.cli.options import FORMATS, Show
from demur.monitor.outputs import check_outputs

if TYPE_CHECKING:
    from demur.monitor.curate.report import Report
    from demur.monitor.fit.table import SignalsTable

app = typer.Typer(no_args_is_help=True, help="Find what is doubtful in a table; a person removes rows, demur does not.")

TABLE = f"A signals table: {FORMATS}."
TableArgument = Annotated[Path, typer.Argument(help=TABLE)]
Signal = Annotated[str, typer.Option(help="The signal that describes a row.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Write the report: .json, .npz, .parquet, .arrow; a folder without suffix."),
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]


@app.command()
def labels(table: TableArgument, features: Signal = "features", output: Output = None, show: Show = 10) -> None:
    """Labels that disagree with their surroundings; the table needs `label` and `logits` beside the features.

    Example: [bold]demur curate labels reference.npz -o doubtful.json[/]
    """  # fmt: skip
    from demur.monitor.curate import label_noise
    from demur.monitor.curate.report import report

    rows = _load(table, output)
    found = label_noise(_signal(rows, features), _softmax(_signal(rows, "logits")), _column(rows, "label"))
    beside = {"label": rows.label, "prediction": rows.prediction}
    _say(report(rows, found.score, found.suspect, beside), "labels that disagree with their surroundings", output, show)


@app.command()
def contamination(
    table: TableArgument,
    features: Signal = "features",
    p_high: Annotated[
        float, typer.Option(help="Prior probability that the share is --high or more; it decides much.")
    ] = 0.01,
    high: Annotated[float, typer.Option(help="A share of anomalies that would be high.")] = 0.15,
    seed: Seed = 0,
    output: Output = None,
    show: Show = 10,
) -> None:
    """The share of anomalies in unlabelled rows: a posterior from three detectors, and the rows most in doubt.

    Example: [bold]demur curate contamination traffic.npz --p-high 0.05[/]
    """  # fmt: skip
    import numpy as np

    from demur.monitor.curate import contamination as posterior
    from demur.monitor.curate import detector_scores
    from demur.monitor.curate.report import report

    rows = _load(table, output)
    scores = detector_scores(_signal(rows, features), seed=seed)
    found = posterior(scores, p_high=p_high, high=high, seed=seed)
    rank = np.argsort(np.argsort(scores, axis=0), axis=0).mean(axis=1) / len(rows)
    flagged = np.zeros(len(rows), bool)
    flagged[np.argsort(-rank, kind="stable")[: round(found.mean * len(rows))]] = True
    say(
        f"share of anomalies  [bold]{found.mean:.1%}[/], between {found.low:.1%} and {found.high:.1%} with probability 90 %"
    )
    say(f"under the prior that {high:g} or more has probability {p_high:g}; another prior gives another share")
    _say(report(rows, rank, flagged), "rows in that share, by mean rank of the detectors", output, show)


@app.command()
def responses(
    table: TableArgument,
    response: Annotated[str, typer.Option(help="The signal (N, 1) that holds the measured numbers.")],
    features: Signal = "features",
    seed: Seed = 0,
    output: Output = None,
    show: Show = 10,
) -> None:
    """Numbers that a regression cannot explain, measured by how well each could be known (veracity).

    Example: [bold]demur curate responses doses.parquet --response dose[/]
    """  # fmt: skip
    from demur.monitor.curate import veracity
    from demur.monitor.curate.report import report

    rows = _load(table, output)
    measured = _signal(rows, response)
    found = veracity(_signal(rows, features), measured, seed=seed)
    beside = {"response": measured[:, 0], "expected": measured[:, 0] - found.residual}
    _say(report(rows, found.risk, found.suspect, beside), "doubtful responses", output, show)


@app.command()
def anomalies(
    table: TableArgument,
    normals: Annotated[Path, typer.Option(help=f"Normal rows. {TABLE}")],
    known: Annotated[Path, typer.Option(help=f"A few real anomalies. {TABLE}")],
    features: Signal = "features",
    subsets: Annotated[int, typer.Option(help="Over how many random subsets to average.")] = 100,
    seed: Seed = 0,
    output: Output = None,
    show: Show = 10,
) -> None:
    """Auxiliary anomalies by how realistic and distinguishable they are (EAP); flagged are those that teach nothing.

    Example: [bold]demur curate anomalies made.npz --normals reference.npz --known incidents.npz[/]
    """  # fmt: skip
    from demur.monitor.curate import expected_anomaly_posterior
    from demur.monitor.curate.report import report

    check_outputs([output], [table, normals, known])
    rows, normal, real = (_load(path) for path in (table, normals, known))
    material = [_signal(each, features) for each in (rows, normal, real)]
    quality = expected_anomaly_posterior(*material, subsets=subsets, seed=seed)
    prior = len(real) / (len(normal) + len(real))
    beside = {"posterior": quality}
    title = f"no better than the prior, {prior:.3g}: far from everything, or like normal rows"
    _say(report(rows, 1 - quality, quality <= prior * (1 + 1e-9), beside), title, output, show)


@app.command()
def outliers(
    table: TableArgument,
    size: Annotated[int, typer.Option(help="How many rows to choose.")],
    clusters: Annotated[int, typer.Option(help="How many kinds to spread them over.")] = 64,
    risk: Annotated[
        str | None, typer.Option(help="A signal (N, 1), higher for stranger rows. Default: the energy of `logits`.")
    ] = None,
    features: Signal = "features",
    seed: Seed = 0,
    output: Output = None,
    show: Show = 10,
) -> None:
    """Diverse auxiliary outliers that look most like known data, to train or test with (DOS).

    Example: [bold]demur curate outliers photos.npz --size 2000 --clusters 100 -o chosen.npz[/]
    """  # fmt: skip
    import numpy as np

    from demur.monitor.curate import choose_outliers
    from demur.monitor.curate.report import report

    rows = _load(table, output)
    danger = _energy(_signal(rows, "logits")) if risk is None else _signal(rows, risk)[:, 0]
    chosen = choose_outliers(_signal(rows, features), danger, size, clusters=clusters, seed=seed)
    _say(report(rows, danger, np.isin(np.arange(len(rows)), chosen)), "rows chosen", output, show)


@app.command()
def bank(
    table: TableArgument,
    size: Annotated[int, typer.Option(help="How many rows to keep.")],
    method: Annotated[str, typer.Option(help="random, k_centre, balanced (needs labels) or distilled.")] = "k_centre",
    features: Signal = "features",
    seed: Seed = 0,
    output: Output = None,
    show: Show = 10,
) -> None:
    """Rows that stand for the others in a bank; the score is the distance to the nearest of them.

    Example: [bold]demur curate bank reference.npz --size 1000 --method distilled -o bank.npz[/]
    """  # fmt: skip
    import numpy as np

    from demur.detectors.selection import select_bank
    from demur.monitor.curate.report import nearest, report

    rows = _load(table, output)
    described = np.asarray(_signal(rows, features), np.float64)
    chosen = select_bank(described, size, method, seed, rows.label)
    apart = nearest(described, described[chosen])
    say(f"farthest row from the bank: {apart.max():.4g}; on average {apart.mean():.4g}")
    _say(report(rows, apart, np.isin(np.arange(len(rows)), chosen)), "rows chosen", output, show)


@app.command()
def columns(
    table: TableArgument,
    target: Annotated[str, typer.Option(help="What to explain: loss, label, slice, ... or a signal (N, 1).")] = "loss",
    seed: Seed = 0,
) -> None:
    """Which columns go with errors, corrected for what a column of so many values shows by chance.

    Example: [bold]demur curate columns audited.parquet --target loss[/]
    """  # fmt: skip
    from demur.monitor.curate import rank_columns
    from demur.monitor.curate.report import explaining

    rows = _load(table)
    shown = grid("column", "gain in nats", "information", "p")
    for ranked in rank_columns(*explaining(rows, target), seed=seed):
        shown.add_row(ranked.name, f"{ranked.gain:.4f}", f"{ranked.information:.4f}", f"{ranked.p:.3g}")
    out().print(shown, soft_wrap=False)


def _load(path: Path, output: Path | None = None) -> SignalsTable:
    from demur.monitor.fit.table import load_table

    check_outputs([output], [path])
    return load_table(path)


def _signal(rows: SignalsTable, name: str) -> Any:
    from demur.monitor.curate.report import signal

    return signal(rows, name)


def _column(rows: SignalsTable, name: str) -> Any:
    from demur.monitor.curate.report import column

    return column(rows, name)


def _softmax(logits: Any) -> Any:
    from demur.monitor.curate.report import softmax

    return softmax(logits)


def _energy(logits: Any) -> Any:
    from scipy.special import logsumexp

    return -logsumexp(logits, axis=1)


def _say(made: Report, title: str, output: Path | None, show: int) -> None:
    flagged = int(made.flagged.sum())
    say(f"[bold]{flagged}[/] of {len(made.flagged)} rows: {title}")
    heads = [name for name in made.columns if name != "flagged"]
    shown = grid(*heads)
    for record in made.worst(show):
        shown.add_row(
            *(f"{record[name]:.4g}" if isinstance(record[name], float) else str(record[name]) for name in heads)
        )
    out().print(shown, soft_wrap=False)
    if output is not None:
        made.write(output)
        say(f"every row in {output}; nothing was removed from the table")
