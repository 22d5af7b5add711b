"""The catalogue on real signals, into docs/benchmarks.md and out/benchmarks.json: `python -m tests.benchmarks.catalogue`.

Names of parts (vision, options, anomalies, auto) run those alone; `pages` writes what was measured before.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import anomaly, auto, options, pages, peers, vision
from tests.benchmarks.sources import FOLDER

PAGE = "benchmarks.md"
OUT = Path(__file__).resolve().parents[2] / "out" / "benchmarks.json"


def write_vision(found: Mapping[str, Any]) -> None:
    theirs, rows = found["pytorch_ood"], []
    best = {a: max(r[a] for r in found["scores"] if not r["taught"]) for a in vision.AXES}
    for row in sorted(found["scores"], key=lambda r: (r["taught"], -r["OMS"])):
        areas = [_marked(row[a], 2.0 if row["taught"] else best[a]) for a in vision.AXES]
        name = f"*{row['name']}*" if row["taught"] else row["name"]
        costs = (_bytes(row["state_bytes"]), f"{row['multiply_adds']:,}", f"{row['fit_seconds']:.2f}")
        rows.append((name, *areas, *costs, _short(row["us_1"]), _short(row["us_256"])))
    for name, areas in found["fused"].items():
        rows.append((name, *(f"{areas[a]:.3f}" for a in vision.AXES), *["–"] * 5))
    heads = ("score", *vision.AXES, "state", "multiply-adds", "fit, s", "µs, N = 1", "µs, N = 256")
    pages.write(PAGE, "vision", pages.table(heads, rows))
    ours = {r["name"]: r for r in found["scores"]}
    beside = [
        (n, t["peer"], *(f"{ours[n][a]:.3f} / {t[a]:.3f}" for a in vision.AXES)) for n, t in theirs.items() if n in ours
    ]
    pages.write(PAGE, "pytorch-ood", _beside(("score", "pytorch-ood's", *vision.AXES), beside, "pytorch-ood"))


def write_options(found: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(n for r in found for n in r["scores"]))
    rows: list[tuple[Any, ...]] = [("accuracy of the model", *(f"{r['accuracy']:.3f}" for r in found))]
    for name in names:
        rows.append((name, *(_marked(r["scores"].get(name), max(r["scores"].values())) for r in found)))
    text = pages.table(("score", *(r["model"] for r in found)), rows)
    refused = dict.fromkeys(why for r in found for why in r["refused"].values())
    pages.write(PAGE, "options", "\n\n".join([text, *(f"Refused to fit: {why}." for why in refused)]))


def write_anomalies(found: Mapping[str, Any]) -> None:
    sets = found["sets"]
    rows = [
        (name, f"{mean:.3f}", f"{worst:.3f}", f"{rank:.1f}", f"{low:g}", below, count)
        for name, mean, worst, rank, low, below, count in anomaly.ranking(sets)
    ]
    heads = ("score", "mean AUROC", "worst", "mean rank", "worst rank", "sets below chance", "sets")
    pages.write(PAGE, "anomalies", pages.table(heads, rows))
    ours = [n.split(": ", 1)[1] for n in next(iter(sets.values())) if n.startswith(anomaly.OURS)]
    lines = []
    for name, values in sets.items():
        shape, best = found["shapes"][name], max(values, key=values.__getitem__)
        own = {n: values.get(f"{anomaly.OURS}: {n}") for n in ours}
        top = max(v for v in own.values() if v is not None)
        size = f"{shape['fitted']:,} x {shape['width']}, {shape['anomalies']:,} anomalies"
        lines.append((name, size, f"{best} {values[best]:.3f}", *(_marked(v, top) for v in own.values())))
    pages.write(PAGE, "anomaly sets", pages.table(("set", "fitted on", "best of all", *ours), lines))


def write_auto(found: Mapping[str, Any]) -> None:
    judged = [auto.Judgement(**{**j, "members": tuple(j["members"])}) for j in found["judgements"]]
    pages.write(
        PAGE, "auto summary", f"{auto.targets(judged)}\n\n{pages.table(auto.SUMMARY_HEADS, auto.summary(judged))}"
    )
    pages.write(PAGE, "auto families", pages.table(auto.FAMILY_HEADS, auto.families(judged)))
    pages.write(PAGE, "auto", pages.table(auto.DETAIL_HEADS, auto.detail(judged)))


def run_auto() -> dict[str, Any]:
    return {"judgements": [asdict(j) for j in auto.run()]}


PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "vision": (vision.run, write_vision),
    "options": (options.run, write_options),
    "anomalies": (anomaly.run, write_anomalies),
    "auto": (run_auto, write_auto),
}


def main() -> None:
    if not FOLDER.is_dir():
        sys.exit(f"no data in {FOLDER}; name the folder in DEMUR_BENCHMARK_DATA")
    document = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    asked = sys.argv[1:] or list(PARTS)
    for part in asked if asked != ["pages"] else ():
        measure(document, part)
    for part, (_, write) in PARTS.items():
        if part in document:
            write(document[part])
    measured = ", ".join(f"{n} {v}" for n, v in document["with"].items())
    took = ", ".join(f"{n} {s:.0f} s" for n, s in document["seconds"].items())
    pages.write(PAGE, "when", f"{document['date']}, {document['machine']}; {measured}. It took: {took}.")


def measure(document: dict[str, Any], part: str) -> None:
    """Run a part and keep it in the document and its file."""
    began = time.perf_counter()
    document[part] = json.loads(json.dumps(PARTS[part][0](), default=_plain))
    document.setdefault("seconds", {})[part] = round(time.perf_counter() - began, 1)
    document["date"], document["with"] = time.strftime("%Y-%m-%d", time.gmtime()), peers.versions()
    document["machine"] = f"{platform.machine()}, {os.cpu_count()} CPUs"
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


def _beside(heads: Sequence[str], rows: Sequence[Sequence[object]], package: str) -> str:
    return pages.table(heads, rows) if rows else f"{package} was not installed in this run."


def _marked(value: float | None, best: float) -> str:
    """Bold within a rounding of the best; with a mark below chance."""
    if value is None:
        return "–"
    text = f"{value:.3f}" + (" ↓" if value < 0.5 else "")
    return f"**{text}**" if value >= best - 0.0005 else text


def _bytes(count: int) -> str:
    return f"{count:,} B" if count < 10_000 else f"{count / 1000:,.0f} kB"


def _short(microseconds: float) -> str:
    return f"{microseconds:.2f}" if microseconds < 10 else f"{microseconds:,.0f}"


if __name__ == "__main__":
    main()
