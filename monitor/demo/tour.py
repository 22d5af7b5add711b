"""The tour itself: train, fit, serve, send four streams, watch, verify."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from demur.monitor.audit.verify import verify_log
from demur.monitor.cli.console import say
from demur.monitor.client.client import Client
from demur.monitor.demo.board import Board
from demur.monitor.demo.model import KNOWN, load_digits, train
from demur.monitor.demo.traffic import Traffic, streams
from demur.monitor.fit.pipeline import fit
from demur.monitor.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from demur.monitor.bundle import Bundle

DONE, FAILED = "[green]✓[/] ", "[red]✗[/] "
BATCH = 4
MONITOR = "digits"
POLICY: dict[str, Any] = {
    "monitor": MONITOR,
    "model": {"name": "digits-mlp", "version": "1"},
    "signals": {"logits": KNOWN, "features": 64},
    "scores": [
        "msp",
        "energy",
        {"mahalanobis": {"shrinkage": "ledoit_wolf"}},
        {"knn": {"k": 5, "bank": 400}},
        {"fused": {"of": ["energy", "mahalanobis", "knn"], "by": "fisher"}},
    ],
    "rules": [
        {"novel": {"when": "fused", "promise": {"refuse_good_at_most": 0.05}}},
        {"ambiguous": {"when": "msp", "promise": {"error_when_accepted_at_most": 0.03, "confidence": 0.95}}},
    ],
}


def tour(folder: Path, seed: int, console: Console) -> bool:
    """Run it; True when the promise held, every verdict is in the log and the log verifies."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    console.rule("[bold]demur[/]  accept or abstain, with a promise")
    digits = load_digits(seed)
    with console.status("training a classifier of the digits 0-7"):
        model = Session(train(*digits.train, seed))
    wrong = float((_signals(model, digits.test[0])["logits"].argmax(axis=1) != digits.test[1]).mean())
    say(
        f"trained on {len(digits.train[0])} scans of digits 0-7; {wrong:.1%} of the held-out ones are answered wrongly",
        DONE,
    )
    bundle = fitted(model, digits, folder)
    say(f"fitted and calibrated on {len(digits.calibration[0])} other scans: {folder / 'digits.demur'}\n", DONE)
    for rule in bundle.manifest.rules:
        console.print(f"  [bold]{rule.name}[/]")
        say(rule.statement, "    ")
    console.print()
    board = Board(streams(digits, seed), POLICY["rules"][1]["ambiguous"]["promise"]["error_when_accepted_at_most"])
    with _serving(folder) as address:
        say(f"demur serve on {address}; sending four streams through gRPC", DONE)
        say("[dim]wrong: error rate among the accepted; an unseen digit or a photograph has no right answer[/]\n", "  ")
        with board.live(console), Client(address, timeout_seconds=5) as client:
            for number, stream in enumerate(board.streams):
                _send(client, model, stream, number, board)
    return _close(folder, board, console, time.perf_counter() - began)


def fitted(model: Session, digits: Any, folder: Path) -> Bundle:
    """The tour's monitor, saved as `digits.demur` in `folder` beside the tables and the policy it was fitted with."""
    tables = [{**_signals(model, images), "label": labels} for images, labels in (digits.train, digits.calibration)]
    for name, table in zip(("reference", "calibration"), tables, strict=True):
        np.savez(folder / f"{name}.npz", **table)
    (folder / "monitor.yaml").write_text(yaml.safe_dump(POLICY, sort_keys=False))
    bundle = fit(POLICY, reference=tables[0], calibration=tables[1])
    bundle.save(folder / "digits.demur")
    return bundle


def _signals(model: Session, images: Any) -> dict[str, Any]:
    found = model.run({"image": images})
    return {name: found[name] for name in ("logits", "features")}


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """A sidecar in a process of its own; its audit log starts anew with every tour."""
    audit = folder / f"audit-{time.strftime('%Y%m%d-%H%M%S')}"
    document = {
        "listen": ["127.0.0.1:0"],
        "metrics_listen": "127.0.0.1:0",
        "monitors": [{"name": MONITOR, "bundle": str(folder / "digits.demur"), "audit": {"ack": "after_sync"}}],
        "audit": {"directory": str(audit), "origin": "demur-demo"},
    }
    (folder / "demur.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "demur.monitor.cli.main",
        "serve",
        "--config",
        str(folder / "demur.yaml"),
        "--announce",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own interpreter
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise OSError(f"the sidecar did not start; run `demur serve --config {folder / 'demur.yaml'}` to see why")
        yield json.loads(line)["listen"][0]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _send(client: Client, model: Session, stream: Traffic, number: int, board: Board) -> None:
    for start in range(0, len(stream.images), BATCH):
        part = slice(start, start + BATCH)
        signals = _signals(model, stream.images[part])
        began = time.perf_counter()
        verdicts = client.assess(monitor=MONITOR, model={"version": "1"}, request_id=f"{number}-{start}", **signals)
        board.add(
            number, verdicts, signals["logits"].argmax(axis=1) == stream.labels[part], time.perf_counter() - began
        )


def _close(folder: Path, board: Board, console: Console, seconds: float) -> bool:
    audit = yaml.safe_load((folder / "demur.yaml").read_text())["audit"]["directory"]
    report = verify_log(Path(audit))
    console.print()
    trail = (
        f"audit trail: {report.covered} of {report.size} records are covered by its checkpoint, every digest matches"
    )
    say(trail, DONE if report.ok else FAILED)
    say(board.sentence, DONE if board.kept else FAILED)
    console.print(f"\nNext, look at what was refused and why ({seconds:.0f} s so far):")
    command = "demur" if which("demur") else sys.argv[0]  # `make demo` does not put it on the path
    console.print(f"  [bold]{command} audit ls {audit} --abstained[/]")
    console.print(f"  [bold]{command} inspect {folder / 'digits.demur'}[/]")
    return bool(report.ok) and board.kept and board.unanswered == 0
