"""docs/telemetry.md, printed from the table of names: `python -m demur.monitor.telemetry.page > docs/telemetry.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from demur.monitor.telemetry.names import ATTRIBUTES, GEN_AI_CONVENTIONS, METRICS, NAMES, Metric, Name

INTRODUCTION = f"""# Telemetry

Printed from `monitor/telemetry/names.py`; change the table, then run
`python -m demur.monitor.telemetry.page > docs/telemetry.md`.

The same numbers leave as OTLP metrics (`otlp_endpoint`) and on the Prometheus endpoint (`metrics_listen`). Label values are
bounded: ids never become labels, a server shows at most 64 monitors and 64 score columns a monitor, and the rest is `other`.
Traces follow the caller's W3C `traceparent`; without one, one request in a hundred is traced (`trace_ratio`).
Telemetry never changes a verdict: what fails is counted in `demur_telemetry_errors_total`.
Names under `gen_ai.` follow drafts of the [generative-AI conventions]({GEN_AI_CONVENTIONS}) and may change with them.
"""


def render() -> str:
    """The whole page, Markdown."""
    metrics = _table(("OpenTelemetry", "Prometheus", "kind", "unit", "labels", "meaning"), map(_metric, METRICS))
    names = _table(("name", "meaning"), map(_name, NAMES))
    attributes = _table(("attribute", "meaning"), map(_name, ATTRIBUTES))
    buckets = "\n".join(f"- `{m.name}`: {', '.join(f'{b:g}' for b in m.bounds)}" for m in METRICS if m.bounds)
    return "\n".join(
        (
            INTRODUCTION,
            "## Metrics\n",
            metrics,
            "\nBuckets (upper bounds, inclusive):\n",
            buckets,
            "\n## Spans and log events\n",
            names,
            "\n## Attributes of spans and log events\n",
            attributes + "\n",
        )
    )


def _metric(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(f"`{a}`" for a in metric.attributes)
    return f"`{metric.name}`", f"`{metric.prometheus}`", metric.kind, metric.unit, labels, metric.description


def _name(name: Name) -> tuple[str, ...]:
    return f"`{name.name}`", name.description


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(render())
