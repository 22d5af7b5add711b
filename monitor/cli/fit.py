"""`demur fit` and `demur calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from demur.monitor.cli.console import bars, out

if TYPE_CHECKING:
    from demur.monitor.bundle import Bundle

Where = Literal["local", "ray"]
Table = "a signals table: .npz, a folder of .npy or of .parquet, .safetensors, .parquet or .arrow"


def fit(
    config: Annotated[Path, typer.Argument(help="The policy, a monitor.yaml.")],
    reference: Annotated[Path, typer.Option(help=f"What the scores are fitted on: {Table}.")],
    calibration: Annotated[Path, typer.Option(help=f"What the thresholds come from, other rows: {Table}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the bundle goes.")],
    outliers: Annotated[
        Path | None, typer.Option(help="Rows known to be foreign, for scores that learn from them.")
    ] = None,
    wild: Annotated[Path | None, typer.Option(help="Unlabelled traffic, for scores that learn from it.")] = None,
    engine: Annotated[
        Where, typer.Option(help="Where passes over the reference set run: in this process, or on a Ray cluster.")
    ] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of a Ray cluster started here.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster to join.")] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Sign with this private key, made by `demur bundle keygen`.")
    ] = None,
) -> None:
    """Fit scores, calibrate promises, write one bundle.

    Example: [bold]demur fit monitor.yaml --reference ref.npz --calibration cal.npz -o digits.demur[/]
    """
    from demur.monitor.fit.pipeline import fit as run

    elsewhere = None
    if engine == "ray":
        from demur.monitor.fit.ray_engine import RayEngine

        elsewhere = RayEngine(address=ray_address, workers=workers)
    with bars() as tick:
        bundle = run(
            config,
            reference=reference,
            calibration=calibration,
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

    with out().status("calibrating"):
        made = run(Bundle.load(bundle), config=config, calibration=calibration)
    _finish(made, output, sign)


def _finish(bundle: Bundle, output: Path, sign: Path | None) -> None:
    if sign is not None:
        from demur.monitor.bundle.signature import load_private

        bundle = bundle.sign(load_private(sign))
    bundle.save(output)
    from demur.monitor.cli.inspect import promises

    for finding in bundle.manifest.findings:
        out().print(f"[yellow]note[/]  {finding}", markup=True)
    promises(bundle)
    out().print(
        f"\n[bold]{output}[/]  {output.stat().st_size:,} bytes  sha256:{bundle.digest[:16]}…  version {bundle.manifest.version}"
    )
