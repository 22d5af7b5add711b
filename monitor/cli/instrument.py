"""`demur instrument`: a model that shows what a monitor needs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from demur.monitor.cli.console import grid, note, out, say
from demur.monitor.cli.options import Shapes
from demur.monitor.errors import ConfigurationError
from demur.monitor.outputs import check_outputs

if TYPE_CHECKING:
    from demur.adapters.models.instrument import Instrumented

TABLE_AXES = 2

Model = Annotated[Path, typer.Argument(help="The model, an .onnx file; external data beside it.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="The instrumented model. Default: MODEL.instrumented.onnx beside the model."),
]
Features = Annotated[str | None, typer.Option(help="The tensor that is the features, when it is not found.")]
Logits = Annotated[str | None, typer.Option(help="The tensor that is the logits, when it is not found.")]
Layers = Annotated[
    list[str] | None,
    typer.Option(help="Earlier layers too: how many, evenly spaced, or a tensor; may be given more than once."),
]
Attention = Annotated[bool, typer.Option("--attention", help="Attention probabilities too.")]
Pool = Annotated[
    Literal["mean", "max", "cls", "last"] | None,
    typer.Option(
        help="How pictures and tokens become rows. Default: features as the model feeds its head, layers by mean."
    ),
]
Maps = Annotated[
    list[str] | None,
    typer.Option(help="A detector's feature map, when it is not found: a tensor; may be given more than once."),
]
Tolerance = Annotated[
    float, typer.Option(min=0, help="By how much the model's own outputs may move. 0: not by one bit.")
]
List = Annotated[bool, typer.Option("--list", help="Only list the tensors that could be signals.")]


def instrument(
    model: Model,
    output: Output = None,
    features: Features = None,
    logits: Logits = None,
    layers: Layers = None,
    attention: Attention = False,
    pool: Pool = None,
    maps: Maps = None,
    shape: Shapes = None,
    tolerance: Tolerance = 0.0,
    show: List = False,
) -> None:
    """Find a model's classifier head, and make its features and logits outputs; the model's answers stay as they are.

    Example: [bold]demur instrument model.onnx -o model.instrumented.onnx --layers 2[/]
    """
    from demur.adapters.models import instrument as instruments

    shapes = dict(map(shape_of, shape or []))
    if show:
        _listed(instruments.candidates(model, shapes=shapes))
        return
    place = output or model.with_name(f"{model.name.removesuffix('.onnx')}.instrumented.onnx")
    check_outputs([place], [model])
    with out().status("looking for the head, and trying the model"):
        made = instruments.instrument(
            model,
            features=features,
            logits=logits,
            layers=layers or (),
            attention=attention,
            pool=pool,
            maps=maps or (),
            shapes=shapes,
            tolerance=tolerance,
        )
    written = made.save(place)
    _told(made)
    out().print("\n" + "\n".join(f"[bold]{path}[/]  {path.stat().st_size:,} bytes" for path in written))
    out().print("\n" + _next(made, *written[:2]), markup=False)


def _next(made: Instrumented, model: Path, signals: Path) -> str:
    """What to run now, in lines of a terminal."""
    place, chart = shlex.quote(str(model)), shlex.quote(str(signals))
    if any(found.mapped and len(found.shape) > TABLE_AXES for found in made.found):
        return (
            "next: make rows of these signals, by the same command with\n"
            "  --pool mean      for one row an input (cls or last: of tokens)\n"
            "  --maps TENSOR    for the boxes of a detector (docs/detection.md)\n"
            "or write a map for the frames of a segmentation model (docs/segmentation.md)"
        )
    into = "boxes.npz" if made.maps else "--split 0.6/0.4 reference.npz calibration.npz"
    first = f"next: complete `detection:` (docs/detection.md) in\n  {chart}\n" if made.maps else "next:\n"
    inputs = "  # DATASET: a table of arrays, a folder of images, a .csv"
    return f"{first}{inputs}\n  demur collect {place} DATASET \\\n    --map {chart} {into}"


def shape_of(text: str) -> tuple[str, tuple[int, ...]]:
    """INPUT=1,3,224,224 taken apart. Raises: ConfigurationError."""
    name, _, sizes = text.rpartition("=")
    if not name or not all(s.strip().isdigit() and int(s) > 0 for s in sizes.split(",")):
        raise ConfigurationError(f"--shape {text}: expected INPUT=1,3,224,224, every size at least 1")
    return name, tuple(int(s) for s in sizes.split(","))


def _listed(rows: list[tuple[str, str, str, str]]) -> None:
    table = grid("tensor", "operator", "shape", "dtype")
    for row in rows:
        name, operator, size, dtype = row
        table.add_row(_plain(name), operator, size, dtype)
    out().print(table, soft_wrap=False)


def _told(made: Instrumented) -> None:
    table = grid("signal", "output", "shape", "dtype", "what it is")
    for found in made.found:
        size = "x".join(map(str, found.shape))
        table.add_row(found.signal, _plain(found.output), size, found.dtype, _plain(found.why))
    out().print(table, soft_wrap=False)
    if made.head_weight is not None:
        classes, width = made.head_weight.shape
        out().print(f"\nhead  {classes} x {width}, gives the logits to {made.head_error:.1g}")
    for text in made.notes:
        note(text)
    kept = "equal to the last bit" if made.moved == 0 else f"[yellow]moved by up to {made.moved:.2g}[/]"
    say(f"the model's own outputs on {made.tried} made-up batches: {kept}")


def _plain(text: str) -> str:
    """Tensor names may hold what rich reads as markup."""
    from rich.markup import escape

    return escape(text)
