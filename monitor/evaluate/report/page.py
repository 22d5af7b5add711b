"""The report: one HTML page that needs no other file and asks no network."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.report import appendix, graded, promises, sections
from demur.monitor.evaluate.report.markup import Html, element, section

HERE = Path(__file__).parent
SVG_CHARACTERS = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}  # none of them may end a script element


def page(evaluation: Evaluation) -> str:
    """The whole page. Every name and note is escaped, the data are JSON that no parser takes for markup."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    subject = evaluation.subject
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(script)}">'
        + element("title", f"{subject.monitor}: evaluation")
        + f"<style>{style}</style>"
    )
    parts = [
        header(evaluation),
        sections.tiles(evaluation),
        notes(evaluation),
        sections.policy(evaluation),
        promises.promises(evaluation),
        graded.losses(evaluation),
        sections.truths(evaluation),
        plots(evaluation),
        sections.causes(evaluation),
        HISTOGRAMS,
        appendix.calibration(evaluation),
        appendix.severity(evaluation),
        appendix.selection(evaluation),
        appendix.metrics(evaluation),
        footer(evaluation),
    ]
    body = element("main", *parts)
    data = f'<script type="application/json" id="data">{embedded(evaluation)}</script><script>{script}</script>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}{data}</body></html>\n'


def policy(script: str) -> str:
    """A content policy under which only our own script runs, and nothing is ever fetched."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def embedded(evaluation: Evaluation) -> str:
    """What the script draws, as JSON in which <, > and & are escaped."""
    document = evaluation.document()
    data: dict[str, Any] = {name: document[name] for name in ("scores", "plots", "histograms", "operating")}
    data |= {} if evaluation.graded is None else {"graded": True}
    data["sets"] = [{"name": s.set, "kind": s.kind} for s in evaluation.sets]
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(SVG_CHARACTERS)


def header(evaluation: Evaluation) -> Html:
    """What was evaluated."""
    subject = evaluation.subject
    units = {"row": "rows", "group": "groups", "stream": "streams"}[subject.unit]
    sizes = ", ".join(f"{s.set} {s.units:,}" for s in evaluation.sets)
    return element(
        "header",
        element("p", "demur evaluation", kind="brand"),
        element("h1", subject.monitor, element("small", f" version {subject.version}")),
        element("p", f"{units}: {sizes}", kind="facts"),
        element("p", "bundle ", element("code", f"sha256:{subject.bundle}"), kind="facts"),
    )


def notes(evaluation: Evaluation) -> Html:
    """What a reader must know first."""
    lines = [element("li", note) for note in evaluation.notes]
    return element("ul", *lines, kind="notes") if lines else Html("")


def footer(evaluation: Evaluation) -> Html:
    """How the figures came about."""
    asked = evaluation.settings
    intervals = (
        f"Intervals: {asked.confidence:.0%}; percentile bootstrap, {asked.bootstrap:,} resamples of each set by itself, seed "
        f"{asked.seed}; Clopper-Pearson for shares of independent units."
        if asked.bootstrap
        else "No bootstrap was asked for; shares of independent units have Clopper-Pearson intervals."
    )
    if evaluation.graded is not None:
        intervals += " Betting bounds (Waudby-Smith and Ramdas 2024) for means of graded losses."
    tables = [
        element("li", f"{name} ", element("code", f"sha256:{digest}")) for name, digest in evaluation.digests.items()
    ]
    fold = element("details", element("summary", "Data evaluated"), element("ul", *tables))
    return element("footer", element("p", f"{intervals} Made by demur {evaluation.subject.demur}."), fold)


def _figure(name: str, caption: str) -> Html:
    return element("figure", element("div", kind="canvas", id=name), element("figcaption", caption))


_NEEDS_SCRIPT = Html("<noscript><p>Plots need JavaScript; every table is complete without it.</p></noscript>")
_CHOICE = Html(
    '<div class="controls"><label>truth <select id="question"></select></label><div class="chips" id="scores"></div></div>'
)


def plots(evaluation: Evaluation) -> Html:
    """The frames that curves are drawn in; nothing without curves."""
    if not evaluation.plots:
        return Html("")
    risk = "error rate among" if evaluation.graded is None else "mean loss of"
    frames = element(
        "div",
        _figure("roc", "ROC: bad units refused against good units refused. Up and left is better."),
        _figure("risk", f"Risk and coverage: {risk} the accepted, from 2 % coverage on. Lower is better."),
        kind="pair",
    )
    lead = "Choose a truth; switch scores on and off; hover for values. The diamond is the policy, where it really operates."
    return section("curves", "Curves", lead, _CHOICE, frames, _NEEDS_SCRIPT)


HISTOGRAMS = section(
    "histograms",
    "Scores and p-values",
    "Share of each set's units in each bin; the outermost bins of a score are open. In-distribution p-values should be flat.",
    Html(
        '<div class="controls"><label>score <select id="column"></select></label><div class="chips" id="sets"></div></div>'
    ),
    element(
        "div",
        _figure("score", "Score: higher is less trustworthy."),
        _figure("p_value", "P-value; the dashed line is uniform."),
        kind="pair",
    ),
)
