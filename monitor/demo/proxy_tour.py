"""The proxy's tour: a real inference server, demur beside it, and a client program that knows nothing of demur."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from demur.monitor.audit.verify import verify_log
from demur.monitor.demo.beside import Address, Beside, client, demur_beside, inference_server
from demur.monitor.demo.model import load_digits, train
from demur.monitor.demo.proxy_board import Line, ProxyBoard
from demur.monitor.demo.tour import fitted
from demur.monitor.demo.traffic import Traffic, streams
from demur.monitor.session import Session

if TYPE_CHECKING:
    from rich.console import Console

ROWS = 4  # in one request
SHOWN = ("known digits 0-7", "unseen digits 8, 9", "photograph patches")
SINGLE = 40  # inputs of each kind sent one by one in enforce mode
JUDGED_SECONDS = 0.3  # observed answers go out first


def tour(programs: Path, folder: Path, seed: int, console: Console) -> bool:
    """Run it with the inference server and the client of the environment whose executables are in `programs`.

    True when every prediction is the same with and without demur, every row has its verdict and both logs verify.
    """
    began = time.perf_counter()
    if not (programs / "mlserver").exists():
        raise OSError(f"{programs}: expected the programs of an environment with mlserver and tritonclient[grpc,http]")
    folder.mkdir(parents=True, exist_ok=True)
    console.rule("[bold]demur[/]  beside an inference server, the client unchanged")
    digits = load_digits(seed)
    with console.status("training a classifier of the digits 0-7, fitting its monitor"):
        model = train(*digits.train, seed)
        _save_weights(model, folder / "weights.npz")
        fitted(Session(model), digits, folder)
    console.print(f"[green]✓[/] a classifier of the digits 0-7 and its monitor, {folder / 'digits.demur'}")
    shown = [s for s in streams(digits, seed) if s.name in SHOWN]
    with inference_server(programs, folder, folder / "weights.npz") as server:
        console.print(f"[green]✓[/] MLServer on {server.grpc} (gRPC) and {server.http} (REST)")
        with demur_beside(folder, server, folder / "digits.demur", "observe") as beside:
            console.print(f"[green]✓[/] demur on    {beside.address.grpc} (gRPC) and {beside.address.http} (REST)")
            good = _observed(programs, folder, shown, server, beside, console)
        with demur_beside(folder, server, folder / "digits.demur", "enforce") as enforcing:
            _enforced(programs, folder, shown, enforcing.address, console)
    verified = _verified((beside.audit, enforcing.audit), console)
    _next(beside.audit, folder, console, time.perf_counter() - began)
    return good and verified


def _observed(
    programs: Path, folder: Path, shown: list[Traffic], server: Address, beside: Beside, console: Console
) -> bool:
    console.print("\n[bold]observe[/]: one client program, first at MLServer, then at demur")
    console.print("  [dim]it asks for `predict` alone; same: predictions that are the same both ways[/]\n")
    board = ProxyBoard([Line(s.name, len(s.images)) for s in shown])
    with board.live(console):
        for stream, line in zip(shown, board.lines, strict=True):
            _compared(programs, _saved(folder, stream), line, server, beside, board)
    images = _saved(folder, shown[0])
    direct, through = (client(programs, "http", a, images, ROWS) for a in (server, beside.address))
    same = direct.lines == through.lines
    console.print(
        f"\n{_mark(same)} over REST too: {_agreeing(direct.lines, through.lines)} of {len(direct.lines)} the same; "
        f"{direct.milliseconds:.1f} ms a request, {through.milliseconds:.1f} through demur"
    )
    return board.good and same


def _compared(programs: Path, images: Path, line: Line, server: Address, beside: Beside, board: ProxyBoard) -> None:
    direct = client(programs, "grpc", server, images, ROWS)
    before = beside.counts()

    def look() -> None:
        line.counts = {reason: n - before.get(reason, 0) for reason, n in beside.counts().items()}
        board.look()

    through = client(programs, "grpc", beside.address, images, ROWS, look=look)
    time.sleep(JUDGED_SECONDS)
    look()
    line.same = _agreeing(direct.lines, through.lines)
    line.direct_ms, line.demur_ms = direct.milliseconds, through.milliseconds
    board.look()


def _enforced(programs: Path, folder: Path, shown: list[Traffic], address: Address, console: Console) -> None:
    console.print(f"\n[bold]enforce[/]: the same client, {SINGLE} inputs of each kind, one in a request\n")
    for stream in shown:
        printed = client(programs, "grpc", address, _saved(folder, stream, SINGLE), 1)
        errors = [line for line in printed.lines if line.startswith("error")]
        console.print(
            f"  {stream.name:<19} {len(printed.lines) - len(errors):>3} answered, {len(errors):>3} refused", end=""
        )
        console.print(f"  [dim]{_short(errors[0], console.width - 51)}[/]" if errors else "", highlight=False)
    console.print("\n  [dim]a refusal is a status that no client retries by itself (412 over REST);[/]")
    console.print("  [dim]on_abstain: replace, or fallback to another model, answers instead[/]")


def _verified(audits: tuple[Path, ...], console: Console) -> bool:
    reports = [verify_log(audit) for audit in audits]
    good = all(r.ok for r in reports)
    covered, size = sum(r.covered for r in reports), sum(r.size for r in reports)
    console.print(f"\n{_mark(good)} audit trail: checkpoints cover {covered} of {size} records, every digest matches")
    return good


def _next(audit: Path, folder: Path, console: Console, seconds: float) -> None:
    console.print(f"\nNext, look at what was refused and how demur was told ({seconds:.0f} s so far):")
    command = "demur" if which("demur") else sys.argv[0]  # `make demo-proxy` does not put it on the path
    console.print(f"  [bold]{command} audit ls {audit} \\\n    --abstained[/]", soft_wrap=True)
    console.print(f"  [bold]cat {folder / 'demur-observe.yaml'}[/]", soft_wrap=True)


def _save_weights(model: bytes, path: Path) -> None:
    graph = onnx.load_model_from_string(model).graph
    weights: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    np.savez(path, **weights)


def _saved(folder: Path, stream: Traffic, count: int | None = None) -> Path:
    path = folder / "stream.npy"
    np.save(path, stream.images[:count])
    return path


def _agreeing(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Lines that are the same in both; none when they are not equally many."""
    return sum(a == b for a, b in zip(first, second, strict=True)) if len(first) == len(second) else 0


def _mark(good: bool) -> str:
    return "[green]✓[/]" if good else "[red]✗[/]"


def _short(text: str, width: int) -> str:
    said = text.partition("row 0: ")[2] or text
    return said if len(said) <= width else f"{said[: max(width - 1, 0)]}…"
