"""Cost of fitting and scoring over the number of rows, at D = 768, from mapped files: `make scale`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tests.benchmarks import pages

WIDTH, CLASSES, BLOCK = 768, 10, 20_000
ROWS = (10_000, 100_000, 1_000_000)
KINDS = {
    "mahalanobis": {},
    "vim": {},
    "react_energy": {},
    "knn": {"k": 10, "bank": 2000},
}


def write_rows(folder: Path, rows: int) -> None:
    """features, logits, label and the head as .npy, block by block."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)
    np.save(folder / "head_weight.npy", weight)
    np.save(folder / "head_bias.npy", np.zeros(CLASSES, np.float32))
    maps = {
        n: np.lib.format.open_memmap(folder / f"{n}.npy", "w+", dtype, shape)
        for n, dtype, shape in (
            ("features", np.float32, (rows, WIDTH)),
            ("logits", np.float32, (rows, CLASSES)),
            ("label", np.int64, (rows,)),
        )
    }
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        label = rng.integers(0, CLASSES, count)
        features = rng.standard_normal((count, WIDTH), dtype=np.float32) + 8 * weight[label]
        part = slice(start, start + count)
        maps["features"][part], maps["logits"][part], maps["label"][part] = features, features @ weight.T, label


class Memory(threading.Thread):
    """The most memory of its own (not of mapped files) that this process held."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most_bytes, self._done = 0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            text = Path("/proc/self/status").read_text(encoding="ascii")
            held = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon:"))
            self.most_bytes = max(self.most_bytes, held)

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.most_bytes


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each fit, of scoring everything and of hashing it, and the most bytes held; in this process."""
    from demur.detectors.build import build_score
    from demur.detectors.compile import compile_scores, serialize
    from demur.monitor.fit.scoring import score_rows
    from demur.monitor.fit.sources import as_reference
    from demur.monitor.fit.table import load_table
    from demur.monitor.session import Session

    memory = Memory()
    memory.start()
    table = load_table(folder, {"features": WIDTH, "logits": CLASSES})
    reference, scores, seconds = as_reference(table), {}, {}
    for kind, hyper in KINDS.items():
        began = time.perf_counter()
        scores[kind] = build_score(kind, hyper, reference)
        seconds[f"fit {kind}"] = time.perf_counter() - began
    session = Session(serialize(compile_scores(scores, table.widths)))
    began = time.perf_counter()
    score_rows(session, table)
    seconds["score all four"] = time.perf_counter() - began
    return {**seconds, "megabytes": memory.stop() / 1e6}


def main() -> None:
    found = {}
    for rows in ROWS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
            write_rows(Path(name), rows)
            sys.stderr.write(
                f"{rows:,} rows written, {sum(f.stat().st_size for f in Path(name).iterdir()) / 1e9:.2f} GB\n"
            )
            command = [sys.executable, "-m", "tests.benchmarks.scale", name]
            found[rows] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            sys.stderr.write(f"{found[rows]}\n")
    heads = ("rows", *(f"{n}, µs a row" for n in found[ROWS[0]] if n != "megabytes"), "memory held, MB")
    body = [
        (f"{rows:,}", *(f"{1e6 * s / rows:.1f}" for n, s in row.items() if n != "megabytes"), f"{row['megabytes']:.0f}")
        for rows, row in found.items()
    ]
    pages.write("scale.md", "scale", pages.table(heads, body))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
    else:
        main()
