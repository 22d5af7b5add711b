"""`demur evaluate`: judge a bundle on labelled, novel and shifted data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from demur.monitor.cli.console import bars, out
from demur.monitor.cli.options import BundleFile, Figures, ResampleSeed
from demur.monitor.outputs import check_outputs

Table = "NAME=TABLE, may be repeated"

TestTable = Annotated[
    Path,
    typer.Argument(help="In-distribution rows that neither fit nor calibrate saw, with `label` or `loss`."),
]
Ood = Annotated[list[str] | None, typer.Option(help=f"A novelty set, every row of it out of scope: {Table}.")]
Shifted = Annotated[list[str] | None, typer.Option(help=f"A covariate-shifted set with labels: {Table}.")]
Severity = Annotated[list[str] | None, typer.Option(help="How badly a set was spoilt: NAME=NUMBER, may be repeated.")]
Html = Annotated[Path | None, typer.Option(help="Write the report, one self-contained page.")]
Bootstrap = Annotated[int, typer.Option(help="Resamples for intervals; 0 for none.")]
Unit = Annotated[
    Literal["row", "group", "stream"] | None,
    typer.Option(help="What is counted; by default what the bundle's rules judge."),
]


def evaluate(
    bundle: BundleFile,
    test: TestTable,
    ood: Ood = None,
    shifted: Shifted = None,
    severity: Severity = None,
    html: Html = None,
    json: Figures = None,
    bootstrap: Bootstrap = 1000,
    seed: ResampleSeed = 0,
    unit: Unit = None,
) -> None:
    """Judge a bundle: does it refuse what is foreign, does it refuse what the model gets wrong, does it keep its promises?

    Example: [bold]demur evaluate digits.demur test.npz --ood novel=novel.npz --html report.html[/]
    """
    from demur.monitor.evaluate.run import evaluate as run
    from demur.monitor.evaluate.summary import summary

    for target, suffix in ((html, ".html"), (json, ".json")):
        if target is not None and target.suffix.lower() != suffix:
            raise ValueError(f"{target}: expected a name that ends in {suffix}")
    novel, moved = _tables(ood or (), "--ood"), _tables(shifted or (), "--shifted")
    check_outputs([html, json], [bundle, test, *novel.values(), *moved.values()])
    with bars() as tick:
        found = run(
            bundle,
            test,
            ood=novel,
            shifted=moved,
            severity={name: _number(name, value) for name, value in _named(severity or (), "--severity")},
            unit=unit,
            bootstrap=bootstrap,
            seed=seed,
            tick=tick,
        )
    out().print(summary(found), soft_wrap=False)
    for target in (html, json):
        if target is not None:
            found.save(target)
            out().print(f"[bold]{target}[/]  {target.stat().st_size:,} bytes")


def _tables(words: Iterable[str], option: str) -> dict[str, Path]:
    return {name: Path(path) for name, path in _named(words, option)}


def _named(words: Iterable[str], option: str) -> list[tuple[str, str]]:
    """Raises: ValueError for a word without a name, or a name given twice."""
    pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
    names = [name for name, _ in pairs]
    for name, value in pairs:
        if not name or not value:
            raise ValueError(f"{option}: expected NAME=VALUE, got {name or '='}{value}; for example near=near.npz")
        if names.count(name) > 1:
            raise ValueError(f"{option}: {name} is given twice; give every set a name of its own")
    return pairs


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"--severity {name}: expected a number, got {value!r}") from None
