"""The GPU table of docs/performance.md from a committed results file: `python -m tests.gpu.page docs/results/FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import pages

HEADS = (
    "score",
    "N = 1: device, CPU",
    "N = 4,096: device, from host",
    "x floor, bound",
    "CPU 1 thread, 16 threads",
    "N = 65,536: device",
    "x floor",
)


def rows(found: list[dict[str, Any]]) -> list[list[str]]:
    by: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in found:
        by.setdefault(cell["score"], {})[cell["rows"]] = cell
    return [_row(name, cells) for name, cells in by.items() if 4096 in cells]


def _row(name: str, cells: dict[int, dict[str, Any]]) -> list[str]:
    one, many, most = cells[1], cells[4096], cells.get(65536)
    return [
        f"`{name}`",
        f"{one['device_us']:.0f}, {one['cpu_1_thread_us']:.0f}",
        f"{many['device_us']:,.0f}, {many['from_host_us']:,.0f}",
        f"{many['times_floor']:,.1f}, {many['bound']}",
        f"{many['cpu_1_thread_us']:,.0f}, {many['cpu_all_threads_us']:,.0f}",
        f"{most['device_us']:,.0f}" if most else "",
        f"{most['times_floor']:.1f}" if most else "",
    ]


def text(results: dict[str, Any]) -> str:
    parity = results["parity"]
    said = (
        f"{results['date']}, {results['device']}, ONNX Runtime {results['environment']['onnxruntime']}. "
        f"Measured ceilings: {results['bytes_per_second'] / 1e12:.2f} TB/s, "
        f"{2 * results['multiply_adds_per_second'] / 1e12:.0f} TFLOP/s in float32.\n\n"
        f"Parity: {parity['passed']} of {parity['run']} checks passed. Largest difference from the CPU, in parts of the "
        f"tolerance: {parity['contract']['worst']:.2f} (`{parity['contract']['score']}`) over {parity['contract']['scores']} "
        f"scores on small rows, {parity['large']['worst']:.2f} (`{parity['large']['score']}`) over "
        f"{parity['large']['scores']} at full size. "
        f"Of {parity['monitor']['rows']:,} verdicts {parity['monitor']['verdicts_differ']} differ; "
        f"{parity['monitor']['marginal']} rows are marginal. Times in µs:\n\n"
    )
    return said + pages.table(HEADS, rows(results["measured"]))


def main() -> None:
    pages.write("performance.md", "gpu", text(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
