"""`demur fuse`: model and monitor in one graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.monitor.cli.console import grid, note, out, say
from demur.monitor.cli.options import Shapes
from demur.monitor.errors import ConfigurationError
from demur.monitor.outputs import check_outputs

if TYPE_CHECKING:
    from demur.adapters.models.fuse import Fused


Model = Annotated[Path, typer.Argument(help="The instrumented model, an .onnx file; external data beside it.")]
BundleFile = Annotated[Path, typer.Argument(help="The bundle of its monitor.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where the fused model goes.")]
Signal = Annotated[
    list[str] | None, typer.Option(help="SIGNAL=OUTPUT: which output is a signal; may be given more than once.")
]
Map = Annotated[
    Path | None, typer.Option("--map", help="The signal map. Default: MODEL.signals.yaml beside the model.")
]
Prefix = Annotated[str, typer.Option(help="What the names of the monitor's outputs begin with.")]
Key = Annotated[
    list[Path] | None, typer.Option(help="Trusted public key: the bundle must be signed with one of those given.")
]
Triton = Annotated[
    Path | None, typer.Option(help="Also write a Triton model repository: the fused model, and an ensemble.")
]
Name = Annotated[str | None, typer.Option(help="The model's name in Triton. Default: the file's.")]
Batch = Annotated[int, typer.Option(min=0, help="Triton's; 0 leaves batching to clients.")]


def fuse(
    model: Model,
    bundle: BundleFile,
    output: Output = None,
    signal: Signal = None,
    signals: Map = None,
    prefix: Prefix = "demur",
    key: Key = None,
    triton: Triton = None,
    name: Name = None,
    max_batch_size: Batch = 0,
    shape: Shapes = None,
) -> None:
    """Append a monitor to a model: one graph that returns the model's outputs, and whether to rely on them.

    Example: [bold]demur fuse model.instrumented.onnx digits.demur -o guarded.onnx[/]
    """
    from demur.adapters.models.fuse import fuse as run
    from demur.monitor.bundle import Bundle
    from demur.monitor.bundle.signature import load_public
    from demur.monitor.cli.instrument import shape_of

    if output is None and triton is None:
        raise ConfigurationError("nothing to write: give -o FILE, or --triton FOLDER")
    placed = name or model.name.removesuffix(".onnx").removesuffix(".instrumented")
    check_outputs([output, *_models(triton, placed)], [model, bundle, signals, *(key or [])])
    given = dict(map(_pair, signal or []))
    with out().status("fusing, and comparing with model and monitor apart"):
        held = Bundle.load(bundle, trusted=[load_public(k) for k in key] if key else None)
        made = run(model, held, signals=given, map=signals, prefix=prefix, shapes=dict(map(shape_of, shape or [])))
    if output is not None:
        made.save(output)
    _told(made)
    if output is not None:
        out().print(f"\n[bold]{output}[/]  {output.stat().st_size:,} bytes")
    if triton is not None:
        _repository(made, triton, placed, max_batch_size)


def _pair(text: str) -> tuple[str, str]:
    signal, _, tensor = text.partition("=")
    if not signal or not tensor:
        raise ConfigurationError(f"--signal {text}: expected SIGNAL=OUTPUT, as in logits=output")
    return signal, tensor


def _told(made: Fused) -> None:
    from rich.markup import escape

    table = grid("signal", "output", "width")
    for wire in made.wires:
        table.add_row(wire.signal, escape(wire.tensor), str(wire.width))
    out().print(table, soft_wrap=False)
    shown = [o.name for o in made.model.graph.output if o.name.startswith(f"{made.prefix}.")]
    out().print()
    say(escape(", ".join(shown)), "added  ")
    if made.levelled:
        note(made.levelled)
    manifest = made.bundle.manifest
    if not manifest.model.get("digest") and (manifest.origin is None or not manifest.origin.model):
        note(
            "nothing says which model this bundle was fitted on, only widths were compared: tables of `demur collect` say it, or "
            "`model: {digest: ...}` in the policy"
        )
    say(f"as model and monitor apart, to the last bit, on {made.tried} made-up batches; the self-test passed")


def _models(folder: Path | None, name: str) -> list[Path]:
    from demur.adapters.models.triton import model_paths

    return [] if folder is None else model_paths(folder, name)


def _repository(made: Fused, folder: Path, name: str, max_batch_size: int) -> None:
    from demur.adapters.models.triton import write_repository

    names = write_repository(made, folder, name, max_batch_size=max_batch_size)
    say(", ".join(names), f"[bold]{folder}[/]  ")
