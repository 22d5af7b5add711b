"""The report's table of promises: promised against realised."""

from __future__ import annotations

import math

from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.kept import KeptPromise
from demur.monitor.evaluate.report.markup import Cell, Html, heads, section, span, table

STATES = {"kept": "good", "within chance": "warn", "contradicted": "bad", "not checked": "mute"}


def promises(evaluation: Evaluation) -> Html:
    """Promised against realised, each with a ruler."""
    named = [Cell("rule"), Cell("what"), *heads("promised", "realised", ""), Cell(""), Cell("")]
    rows = [
        (
            Cell(p.rule, "name"),
            Cell(p.about, "mute"),
            Cell("–" if p.promised is None else f"≤ {p.promised:{'g' if p.graded else '.1%'}}", "n"),
            Cell(f"{p.realised:{_spec(p)}}", "n", f"{p.part:,} of {p.units:,}"),
            Cell(span(p.realised, _spec(p)), "n mute"),
            Cell(_ruler(p)),
            Cell(p.state + (f": {p.note}" if p.note else ""), STATES[p.state]),
        )
        for p in evaluation.promises
    ]
    lead = (
        "On the in-distribution test set, without INVALID and UNAVAILABLE units. Contradicted means that the exact one-sided "
        "99 % lower bound lies above what was promised; a promise on average over calibration draws may be exceeded by one bundle."
    )
    if any(p.graded for p in evaluation.promises):
        lead += " Mean losses, between 0 and 1, are no shares; their bounds are betting bounds, which hold for any number of units."
    return section("promises", "Promised and realised", lead, table(named, rows))


def _spec(promise: KeptPromise) -> str:
    return ".4f" if promise.graded else ".1%"


def _ruler(promise: KeptPromise) -> Html:
    """What happened as a dot with its interval, what was promised as a line."""
    value, promised = promise.realised.value, promise.promised
    if promised is None or math.isnan(value):
        return Html("")
    low, high = promise.realised.low, promise.realised.high
    most = 1.25 * max(promised, value, high or 0.0)
    x = {
        n: f"{4 + 172 * v / most:.1f}"
        for n, v in (("p", promised), ("v", value), ("l", low or value), ("h", high or value))
    }
    kind = STATES[promise.state]
    return Html(
        f'<svg class="ruler" viewBox="0 0 180 20" role="img"><line class="axis" x1="4" x2="176" y1="10" y2="10"/>'
        f'<line class="interval {kind}" x1="{x["l"]}" x2="{x["h"]}" y1="10" y2="10"/>'
        f'<circle class="{kind}" cx="{x["v"]}" cy="10" r="4"/><line class="promise" x1="{x["p"]}" x2="{x["p"]}" y1="2" y2="18"/></svg>'
    )
