"""`demur collect`: from a model and a dataset to signals tables."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from demur.monitor.cli.console import bars, grid, note, out, say
from demur.monitor.errors import ConfigurationError, DemurError

if TYPE_CHECKING:
    from demur.adapters.models.collect.calls import Patience
    from demur.adapters.models.collect.model import Access
    from demur.adapters.models.collect.pixels import Pixels
    from demur.adapters.models.collect.summary import Collected, TableSummary


Source = Annotated[str, typer.Argument(help="An ONNX file, or a server: grpc://host:port, http://host:port.")]
Dataset = Annotated[
    Path, typer.Argument(help="Inputs: a table of arrays as fit reads them, a folder of images, a .csv.")
]
Outputs = Annotated[
    list[Path],
    typer.Argument(help="Where the tables go: .npz, .parquet, a folder without suffix; one for each share of --split."),
]
Map = Annotated[
    Path | None, typer.Option("--map", help="The signal map. Default: outputs that are named like signals.")
]
Split = Annotated[
    str | None, typer.Option(help="Shares of the tables, such as 0.7/0.3, drawn at random; groups are never cut.")
]
Name = Annotated[str, typer.Option("--model", help="The model's name at the server.")]
Version = Annotated[str, typer.Option("--version", help="Its version; default: the server's choice.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="INPUT=COLUMN: what feeds a model input. Default: the same name."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="COLUMN=NAME: label, group_id, slice, id, ... under another name."),
]
Batch = Annotated[int | None, typer.Option(min=1, help="Inputs in a call. Default: the model's, else 32.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first inputs only.")]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="Take the inputs in random order.")]
Seed = Annotated[int, typer.Option(help="Of --shuffle and --split.")]
Size = Annotated[str | None, typer.Option(help="HxW of images, where the model takes any.")]
Fitting = Annotated[
    Literal["stretch", "crop", "pad"],
    typer.Option("--resize", help="How images of another shape come to that size."),
]
Colour = Annotated[Literal["rgb", "bgr", "grey"] | None, typer.Option(help="Channels. Default: rgb for 3, grey for 1.")]
Layout = Annotated[
    Literal["nchw", "nhwc"] | None, typer.Option(help="Where channels stand. Default: as the model's input says.")
]
Scale = Annotated[float | None, typer.Option(help="Pixels are divided by this. Default for image files: 255.")]
Mean = Annotated[str, typer.Option(help="Then subtracted: one number, or R,G,B.")]
Std = Annotated[str, typer.Option(help="Then divided by: one number, or R,G,B.")]
Threads = Annotated[int, typer.Option(min=1, help="Of ONNX Runtime.")]
Providers = Annotated[
    list[str] | None, typer.Option("--provider", help="An execution provider of ONNX Runtime. Default: CPU.")
]
Headers = Annotated[list[str] | None, typer.Option("--header", help="NAME=VALUE, sent with every call to a server.")]
Authority = Annotated[Path | None, typer.Option(help="Certificates of the authority that signed the server's.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="For one call to a server.")]
Retries = Annotated[int, typer.Option(min=0, help="Of a call that failed for a passing reason.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again, instead of continuing a stopped run.")]


def collect(
    model: Source,
    dataset: Dataset,
    outputs: Outputs,
    signal_map: Map = None,
    split: Split = None,
    name: Name = "",
    version: Version = "",
    inputs: Inputs = None,
    columns: Columns = None,
    batch: Batch = None,
    limit: Limit = None,
    shuffle: Shuffle = False,
    seed: Seed = 0,
    size: Size = None,
    fitting: Fitting = "stretch",
    colour: Colour = None,
    layout: Layout = None,
    scale: Scale = None,
    mean: Mean = "",
    std: Std = "",
    threads: Threads = 1,
    providers: Providers = None,
    headers: Headers = None,
    tls_ca: Authority = None,
    timeout_seconds: Timeout = 60.0,
    retries: Retries = 5,
    restart: Restart = False,
) -> None:
    """Run a model over a dataset and write its signals, for fit and calibrate.

    A run that was stopped goes on with the same command. A value that is not finite is written as it is, and counted.

    Example: [bold]demur collect model.onnx digits.npz --map model.signals.yaml --split 0.7/0.3 reference.npz calibration.npz[/]
    """  # fmt: skip
    from demur.adapters.models.collect import collect as run

    pixels = _pixels(size, fitting, colour, layout, scale, mean, std)
    access = _access(name, version, threads, providers, timeout_seconds, headers, tls_ca)
    rows = partial(run, split=split, batch=batch, limit=limit, shuffle=shuffle, seed=seed, restart=restart)
    read = partial(rows, map=signal_map, inputs=_pairs("--input", inputs), columns=_pairs("--column", columns))
    with bars("inputs") as tick, _going_on():
        made = read(model, dataset, outputs, pixels=pixels, access=access, patience=_patience(retries), tick=tick)
    _tell(made)


def _pixels(size: Size, fitting: Fitting, colour: Colour, layout: Layout, scale: Scale, mean: Mean, std: Std) -> Pixels:
    from demur.adapters.models.collect.pixels import Pixels

    return Pixels(_size(size), fitting, colour, layout, scale, _numbers("--mean", mean), _numbers("--std", std))


def _access(
    name: Name,
    version: Version,
    threads: Threads,
    providers: Providers,
    seconds: Timeout,
    headers: Headers,
    ca: Authority,
) -> Access:
    from demur.adapters.models.collect.model import Access
    from demur.monitor.session import CPU

    return Access(name, version, threads, tuple(providers or CPU), seconds, _pairs("--header", headers), ca)


def _patience(retries: Retries) -> Patience:
    from demur.adapters.models.collect.calls import Patience

    return Patience(retries)


@contextmanager
def _going_on() -> Iterator[None]:
    """Whoever interrupts a run is told that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise


def _tell(made: Collected) -> None:
    speed = (made.inputs - made.resumed) / max(made.seconds, 1e-9)
    before = f", {made.resumed:,} of them before" if made.resumed else ""
    out().print(f"{made.inputs:,} inputs{before}, {speed:,.0f} a second\n")
    widths = "{...}"
    for number, table in enumerate(made.tables):
        try:
            summary = made.summary(number)
        except DemurError as error:  # more rows than memory: they are written all the same
            note(f"not read back: {error}")
            continue
        say(f"[bold]{table.path}[/]  {table.rows:,} rows of {table.inputs:,} inputs{_accuracy(summary)}")
        _signals(summary)
        widths = f"{{{', '.join(f'{s.name}: {s.width}' for s in summary.signals)}}}"
        for text in [*_left_out(table), *(f.message for f in summary.findings)]:
            note(text)
        out().print()
    out().print(f"next:\n  {_next([table.path for table in made.tables], widths)}", markup=False)


def _accuracy(summary: TableSummary) -> str:
    return "" if summary.accuracy is None else f", accuracy {summary.accuracy:.1%}"


def _signals(summary: TableSummary) -> None:
    shown = grid("signal", "width", "smallest", "largest", "rows not finite")
    for s in summary.signals:
        shown.add_row(s.name, str(s.width), f"{s.minimum:.4g}", f"{s.maximum:.4g}", f"{s.not_finite:,}")
    out().print(shown, soft_wrap=False)


def _left_out(table: Any) -> Iterator[str]:
    if table.empty:
        yield f"{table.empty:,} of {table.inputs:,} inputs have no rows; their numbers are in empty_groups"
    if table.without_head:
        yield "Parquet cannot hold the model's head; fit recovers it from features and logits, or write .npz"
    if table.without_labels:
        yield "labels belong to inputs, whose rows are many: left out"


def _next(paths: Sequence[Path], widths: str) -> str:
    first, *further = (shlex.quote(str(path)) for path in paths)
    if further:
        return (
            f"# monitor.yaml (docs/configuration.md): scores, rules, and signals:\n  # {widths}\n"
            f"  demur fit monitor.yaml --reference {first} \\\n    --calibration {further[0]} -o monitor.demur"
        )
    other = "# for a fit, --split 0.6/0.4 writes a reference and a calibration table"
    return f"demur evaluate monitor.demur {first}\n  {other}"


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            given = "" if option == "--header" else f" {text}"  # which may hold a password
            raise ConfigurationError(f"{option}{given}: expected NAME=VALUE")
        found[key.strip()] = value.strip()
    return found


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ConfigurationError(f"{option} {text}: expected numbers such as 0.485,0.456,0.406") from error


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigurationError(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 224x224")
    return int(height), int(width)
