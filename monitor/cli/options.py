"""Arguments and options that several commands have, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FORMATS = ".npz, a folder of .npy, .safetensors, .parquet or .arrow"

BundleFile = Annotated[Path, typer.Argument(help="A bundle file.")]
Figures = Annotated[Path | None, typer.Option(help="Write every figure as JSON.")]
ForPrograms = Annotated[bool, typer.Option("--json", help="For programs.")]
ResampleSeed = Annotated[int, typer.Option(help="Of the resamples.")]
Shapes = Annotated[
    list[str] | None, typer.Option(help="INPUT=1,3,224,224: an input's shape, when it cannot be guessed.")
]
Show = Annotated[int, typer.Option(help="How many rows to print.")]
