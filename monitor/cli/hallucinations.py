"""`demur hallucinations`: what a detector invents on images without known objects, before and after a filter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.monitor.cli.console import grid, note, out, say
from demur.monitor.cli.options import BundleFile, Figures, ResampleSeed
from demur.monitor.outputs import check_outputs

if TYPE_CHECKING:
    from rich.table import Table

    from demur.monitor.evaluate.estimate import Estimate
    from demur.monitor.evaluate.hallucination import Hallucinations


Known = Annotated[Path, typer.Argument(help="Boxes on images with known objects: `group_id`, and `loss` or `label`.")]
Unknown = Annotated[Path, typer.Argument(help="Boxes on images that should hold no known object, with `group_id`.")]
Confirmed = Annotated[
    Path | None, typer.Option(help="Images (group ids, one a line) in which a person saw a known object.")
]
Review = Annotated[
    Path | None, typer.Option(help="Write the images with detections, one a line, for a person to look at.")
]
Keep = Annotated[float, typer.Option(help="Share of true detections that a threshold keeps.")]
Bootstrap = Annotated[int, typer.Option(help="Resamples of images for intervals; 0 for none.")]


def hallucinations(
    bundle: BundleFile,
    known: Known,
    unknown: Unknown,
    confirmed: Confirmed = None,
    review: Review = None,
    keep: Keep = 0.95,
    json: Figures = None,
    bootstrap: Bootstrap = 1000,
    seed: ResampleSeed = 0,
) -> None:
    """Count a detector's hallucinations before and after each score of a bundle, at a share of true detections kept.

    Example: [bold]demur hallucinations boxes.demur known.npz unknown.npz --confirmed seen.txt[/]
    """
    from demur.monitor.evaluate.hallucination import hallucinations as count
    from demur.monitor.evaluate.hallucination import images_to_review
    from demur.monitor.monitor import Monitor

    check_outputs([review, json], [bundle, known, unknown, confirmed])
    lines = () if confirmed is None else confirmed.read_text(encoding="utf-8").splitlines()
    words = [line.strip() for line in lines if line.strip()]
    if review is not None:
        names = images_to_review(unknown, Monitor.load(bundle))
        review.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    found = count(bundle, known, unknown, confirmed=words, keep=keep, bootstrap=bootstrap, seed=seed)
    say(
        f"[bold]{found.before.value:.0f}[/] hallucinations on unknown images; {found.images_removed} of "
        f"{found.images_given} images with detections removed, with {found.boxes_removed} boxes: known objects in "
        f"{found.removed_by_label} by label, {found.removed_by_person} by a person"
        + (f"; on {found.images_empty} further images nothing was detected" if found.images_empty else "")
    )
    out().print(_filters(found), soft_wrap=False)
    for text in found.notes:
        note(text)
    if json is not None:
        found.save(json)
        out().print(f"\n[bold]{json}[/]  {json.stat().st_size:,} bytes")


def _filters(found: Hallucinations) -> Table:
    heads = ("filter", "threshold", "true\nkept", "", "halluci-\nnations", "", "reduc-\ntion", "")
    shown = grid(*heads, padding=(0, 2, 0, 0))
    for one in found.filters:
        limit = "-" if one.threshold is None else f"{one.threshold:.4g}"
        cells = (f"{one.kept_true:.1%}", f"{one.after:.0f}", f"{one.reduction:.1%}")
        spans = (_span(one.kept_true, ".1%"), _span(one.after, ".0f"), _span(one.reduction, ".1%"))
        shown.add_row(one.name, limit, *(x for pair in zip(cells, spans, strict=True) for x in pair))
    return shown


def _span(estimate: Estimate, spec: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = f"{estimate.low:{spec}}".rstrip("%"), f"{estimate.high:{spec}}".rstrip("%")
    return f"{low}..{high}"
