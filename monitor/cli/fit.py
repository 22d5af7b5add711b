"""`demur fit` and `demur calibrate`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from demur.monitor.cli.console import bars, grid, out, say
from demur.monitor.errors import ConfigurationError
from demur.monitor.outputs import check_outputs

if TYPE_CHECKING:
    from demur.monitor.bundle import Bundle, Manifest

Where = Literal["local", "ray"]
Table = "a signals table: .npz, a folder of .npy or of .parquet, .safetensors, .parquet or .arrow"


Policy = Annotated[Path, typer.Argument(help="The policy, a monitor.yaml.")]
ReferenceTable = Annotated[Path, typer.Option(help=f"What the scores are fitted on: {Table}.")]
CalibrationTable = Annotated[Path, typer.Option(help=f"What the thresholds come from, other rows: {Table}.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where the bundle goes.")]
Auto = Annotated[bool, typer.Option("--auto", help="Choose scores and their fusion on the selection set.")]
Selection = Annotated[Path | None, typer.Option(help="In-distribution rows for --auto, in neither of the other sets.")]
Outliers = Annotated[
    Path | None,
    typer.Option(help="Rows known to be foreign: scores learn from them, and by: neyman_pearson chooses by them."),
]
Wild = Annotated[Path | None, typer.Option(help="Unlabelled traffic, for scores that learn from it.")]
Elsewhere = Annotated[
    Where, typer.Option(help="Where passes over the reference set run: in this process, or on a Ray cluster.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes of a Ray cluster started here.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster to join.")]
Sign = Annotated[Path | None, typer.Option(help="Sign with this private key, made by `demur bundle keygen`.")]


def fit(
    config: Policy,
    reference: ReferenceTable,
    calibration: CalibrationTable,
    output: Output,
    auto: Auto = False,
    selection: Selection = None,
    outliers: Outliers = None,
    wild: Wild = None,
    engine: Elsewhere = "local",
    workers: Workers = None,
    ray_address: Address = None,
    sign: Sign = None,
) -> None:
    """Fit scores, calibrate promises, write one bundle.

    Example: [bold]demur fit monitor.yaml --reference ref.npz --calibration cal.npz -o digits.demur[/]
    """
    from demur.monitor.fit.pipeline import fit as run

    if auto != (selection is not None):
        raise ConfigurationError("--auto and --selection ROWS belong together; give both, or neither")
    check_outputs([output], [config, reference, calibration, selection, outliers, wild, sign])
    elsewhere = None
    if engine == "ray":
        from demur.monitor.fit.ray_engine import RayEngine

        elsewhere = RayEngine(address=ray_address, workers=workers)
    with bars() as tick:
        bundle = run(
            config,
            reference=reference,
            calibration=calibration,
            selection=selection,
            outliers=outliers,
            wild=wild,
            engine=elsewhere,
            tick=tick,
        )
    _finish(bundle, output, sign)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose fitted scores are kept.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the new bundle goes.")],
    config: Annotated[
        Path | None, typer.Option(help="A monitor.yaml with new promises, same signals and scores.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help=f"New calibration data: {Table}.")] = None,
    sign: Annotated[Path | None, typer.Option(help="Sign with this private key.")] = None,
) -> None:
    """Make new promises, or use new calibration data, without fitting again.

    Example: [bold]demur calibrate digits.demur --config stricter.yaml -o digits-2.demur[/]
    """
    from demur.monitor.bundle import Bundle
    from demur.monitor.fit.pipeline import calibrate as run

    check_outputs([output], [bundle, config, calibration, sign])
    with out().status("calibrating"):
        made = run(Bundle.load(bundle), config=config, calibration=calibration)
    _finish(made, output, sign)


def chosen(bundle: Bundle) -> None:
    """What --auto chose and how the candidates did, best first."""
    from demur.monitor.auto.selection import MEMBER

    if MEMBER not in bundle.members:
        return
    document = json.loads(bundle.members[MEMBER])
    kinds = list(dict.fromkeys(document["kinds"][a] for a in document["axes"]))
    members = {m: c for c, found in document["chosen"].items() for m in found["members"]}
    table = grid("candidate", *kinds, "chosen for")
    for name, values in sorted(_by_kind(document).items(), key=lambda item: -sum(item[1].values())):
        cells = (f"{values[k]:.3f}" for k in kinds)
        table.add_row(name, *cells, members.get(name, ""), style="bold" if name in members else "dim")
    out().print(table, soft_wrap=False)
    for text in document["not_informed"]:
        say(text, "[yellow]not informed[/]  ")
    out().print()


def _by_kind(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean AUROC of each candidate over the axes of each kind."""
    axes: dict[str, list[str]] = {}
    for axis in document["axes"]:
        axes.setdefault(document["kinds"][axis], []).append(axis)
    return {
        c["name"]: {k: sum(c["values"][n] for n in names) / len(names) for k, names in axes.items()}
        for c in document["candidates"]
    }


def _finish(bundle: Bundle, output: Path, sign: Path | None) -> None:
    if sign is not None:
        from demur.monitor.bundle.signature import load_private

        bundle = bundle.sign(load_private(sign))
    bundle.save(output)
    chosen(bundle)
    from demur.monitor.cli.inspect import notes, promises

    notes(bundle)
    promises(bundle)
    say(
        f"\n[bold]{output}[/]  {output.stat().st_size:,} bytes  sha256:{bundle.digest[:16]}…  version {bundle.manifest.version}"
    )
    out().print(f"\n{_next(output, bundle.manifest)}", markup=False)


def _next(bundle: Path, manifest: Manifest) -> str:
    place = shlex.quote(str(bundle))
    steps = [
        f"demur evaluate {place} TEST  # rows that are in neither table",
        f"demur serve --bundle {place}",
    ]
    decoded = manifest.origin is not None and manifest.origin.decoding
    if manifest.kind == "rows" and not decoded:
        steps.append(f"demur fuse MODEL.onnx {place} -o guarded.onnx")
    return "\n  ".join(["next:", *steps])
