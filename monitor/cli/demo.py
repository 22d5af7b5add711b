"""`demur demo`: the guided tour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.monitor.cli.console import FOUND, out


def demo(
    folder: Annotated[Path, typer.Option(help="Where the tour's files go; they stay for you to look at.")] = Path(
        "out/demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed, another split of the digits.")] = 0,
    proxy: Annotated[
        Path | None,
        typer.Option(help="Tour the proxy instead: the bin folder of an environment with mlserver and tritonclient."),
    ] = None,
) -> None:
    """Train a digit classifier, fit and calibrate a monitor, serve it, and watch four streams being judged.

    Example: [bold]demur demo[/]
    """
    if proxy is not None:
        from demur.monitor.demo import proxy_tour

        if not proxy_tour.tour(proxy, folder, seed, out()):
            raise typer.Exit(FOUND)
        return
    from demur.monitor.demo.tour import tour

    if not tour(folder, seed, out()):
        raise typer.Exit(FOUND)
