"""The report's sections that need no script: bars and tables."""

from __future__ import annotations

import math

from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.outcome import SetOutcome
from demur.monitor.evaluate.questions import MEANING
from demur.monitor.evaluate.report.markup import Cell, Html, element, heat, number, section, span, table, text

WANTED = {"ID+": True, "C+": True, "ID-": False, "C-": False, "S": False}
OUTCOMES = {
    "right-accepted": "right, accepted",
    "wrong-accepted": "wrong, accepted: residual hazard",
    "wrong-refused": "wrong, refused: safety gain",
    "right-refused": "right, refused: availability cost",
    "accepted": "accepted",
    "refused": "refused",
}


def tiles(evaluation: Evaluation) -> Html:
    """The four numbers to look at first."""
    test = evaluation.sets[0]
    found = [_tile(f"{test.accepted_share:.1%}", "of the test set accepted", span(test.accepted_share, ".1%"))]
    if test.wrong is not None:
        found.append(_tile(f"{test.selective_risk:.1%}", "wrong among accepted", span(test.selective_risk, ".1%")))
    elif not math.isnan(test.selective_risk.value):
        found.append(_tile(f"{test.selective_risk:.3f}", "mean loss of accepted", span(test.selective_risk)))
    checked = [p for p in evaluation.promises if p.state != "not checked"]
    if checked:
        broken = sum(p.state == "contradicted" for p in checked)
        words = "promises contradicted" if broken else "promises not contradicted"
        count = f"{broken or len(checked)} of {len(checked)}"
        found.append(_tile(count, words, "on the test set", "bad" if broken else "good"))
    pool = next((p for p in evaluation.pools[::-1] if p.decider == "policy"), None)
    if pool is not None:
        where = {"id": "the test set", "all": "all sets together"}.get(pool.against, f"the test set and {pool.against}")
        found.append(_tile(f"{pool.metrics['recall']:.1%}", "of the model's mistakes refused", f"on {where}"))
    return element("div", *found, kind="tiles")


def _tile(value: str, words: str, small: str, kind: str = "") -> Html:
    return element("div", element("b", value, kind=kind), element("span", words), element("small", small), kind="tile")


def policy(evaluation: Evaluation) -> Html:
    """What the policy did with each set: bars, then numbers."""
    known = {s.wrong is not None for s in evaluation.sets}
    keys = list(OUTCOMES)[: 4 if True in known else 0] + list(OUTCOMES)[4 if False in known else 6 :]
    spec, risk = (".1%", "wrong among accepted") if evaluation.graded is None else (".3f", "mean loss of accepted")
    legend = element("p", *(element("span", element("i", kind=f"key {k}"), OUTCOMES[k]) for k in keys), kind="legend")
    bars = element("div", *(_bar(one) for one in evaluation.sets), kind="bars")
    heads = [Cell("set"), *_heads("units", "accepted", "", risk, "", "broken"), Cell("refused for")]
    rows = [
        (
            Cell(s.set, "name"),
            Cell(f"{s.units:,}", "n"),
            Cell(f"{s.accepted_share:.1%}", "n"),
            Cell(span(s.accepted_share, ".1%"), "n mute"),
            Cell(f"{s.selective_risk:{spec}}", "n"),
            Cell(span(s.selective_risk, spec) if s.wrong != s.units else "", "n mute"),
            Cell(f"{s.broken:,}", "n"),
            Cell(", ".join(f"{kind} {count:,}" for kind, count in s.reasons.items()), "mute"),
        )
        for s in evaluation.sets
    ]
    lead = "Every unit by whether the model was right and whether the policy accepted it. Novel inputs have no right answer."
    if evaluation.graded is not None:
        lead += " Their loss is 1; where losses are graded, units are only accepted or refused."
    return section("policy", "What the policy did", lead, bars, legend, table(heads, rows))


def _bar(one: SetOutcome) -> Html:
    if one.wrong is None or one.wrong_accepted is None:
        cells = {"accepted": one.accepted, "refused": one.units - one.accepted}
    else:
        right = one.units - one.wrong
        cells = {
            "right-accepted": one.accepted - one.wrong_accepted,
            "wrong-accepted": one.wrong_accepted,
            "wrong-refused": one.wrong - one.wrong_accepted,
            "right-refused": right - (one.accepted - one.wrong_accepted),
        }
    parts = [
        element(
            "span",
            f"{count / one.units:.0%}" if count / one.units >= 0.06 else "",
            kind=key,
            style=f"width:{100 * count / one.units:.3f}%",
            title=f"{OUTCOMES[key]}: {count:,} of {one.units:,} ({count / one.units:.1%})",
        )
        for key, count in cells.items()
        if count
    ]
    label = element("div", element("b", one.set), element("small", f"{_kind(one)}, {one.units:,}"), kind="label")
    return element("div", label, element("div", *parts, kind="bar"), kind="row")


def _kind(one: SetOutcome) -> str:
    kind = {"id": "in-distribution", "novel": "novel", "shifted": "shifted"}[one.kind]
    return kind if one.severity is None else f"{kind}, severity {one.severity:g}"


def truths(evaluation: Evaluation) -> Html:
    """AUROC of every score under every truth, and the OOD oracle."""
    asked = list(dict.fromkeys((r.truth, r.against) for r in evaluation.rankings))
    asked.sort(key=lambda q: (q not in _headline(evaluation), list(MEANING).index(q[0])))
    split = [q for q in asked if "_vs_" in q[0]]
    lead = (
        "AUROC: the probability that a bad unit scores above a good one; 0.5 is chance. The best score of a column is framed. A "
        "score that leads under ood and falls behind under oms finds strange inputs, not the model's mistakes."
    )
    content = [_grid(evaluation, [q for q in asked if q not in split]), _words(asked, ("errors", "ood", "oms"))]
    if split:
        note = element(
            "p", "Do strange inputs score high, or only high enough to stand out from right answers?", kind="lead"
        )
        content += [element("h3", "Novel, against right and against wrong"), note, _grid(evaluation, split)]
        content.append(_words(asked, ("right_vs_ood", "wrong_vs_ood")))
    return section("truths", "Ground truths side by side", lead, *content, _oracle(evaluation))


def _headline(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The columns to look at first: errors on the test set, then OOD and OMS over everything."""
    whole = evaluation.sets[-1].set if len(evaluation.sets) == 2 else "all"
    return [("errors", "id"), ("ood", whole), ("oms", whole)]


def _words(asked: list[tuple[str, str]], names: tuple[str, ...]) -> Html:
    known = {truth for truth, _ in asked}
    lines = [element("li", element("code", n), " ", MEANING[n]) for n in names if n in known]
    return element("ul", *lines) if lines else Html("")


def _grid(evaluation: Evaluation, asked: list[tuple[str, str]]) -> Html:
    if not asked:
        return Html("")
    heads = [Cell("score"), *(Cell(Html(f"{text(t)}<br>{text(a)}"), "n", MEANING[t]) for t, a in asked)]
    found = {(r.truth, r.against, r.score): r.metrics["auroc"] for r in evaluation.rankings}
    best = {q: max(found[*q, s].value for s in evaluation.scores) for q in asked}
    rows = []
    for score in evaluation.scores:
        cells = [heat(found[*q, score], 0.5, 1.0) for q in asked]
        framed = (found[*q, score].value == best[q] for q in asked)
        top = (c._replace(kind=c.kind + " top") if best_one else c for c, best_one in zip(cells, framed, strict=True))
        rows.append((Cell(score, "name"), *top))
    return table(heads, rows, "grid")


def _oracle(evaluation: Evaluation) -> Html:
    keys = {
        "safety gain": "safety_gain",
        "residual hazard": "residual_hazard",
        "availability cost": "availability_cost",
        "precision": "precision",
        "recall": "recall",
        "F1": "f1",
        "MCC": "mcc",
    }
    rows = [
        (
            Cell(p.decider, "name strong" if p.decider == "policy" else "name mute"),
            Cell(p.against, "" if p.decider == "policy" else "mute"),
            Cell(f"{p.units:,}", "n mute"),
            *(number(p.metrics[k], ".3f", "" if p.decider == "policy" else "mute") for k in keys.values()),
        )
        for p in evaluation.pools
    ]
    note = element(
        "p",
        "The policy against the model's mistakes, on the test set with each other set; the OOD oracle refuses exactly what "
        "is not in-distribution, the most that a perfect OOD detector can do. Gain and hazard depend on the mix of the sets.",
        kind="lead",
    )
    found = table([Cell("decider"), Cell("with"), *_heads("units", *keys)], rows)
    return Html(element("h3", "The policy, and the ceiling of the OOD framing") + note + found) if found else Html("")


def causes(evaluation: Evaluation) -> Html:
    """Acceptance by cause."""
    keys = list(dict.fromkeys((c.cause, c.set) for s in evaluation.scope for c in s.causes))
    heads = [
        Cell("accepted by"),
        *(Cell(Html(f"{text(c)}<br>{text(s)}"), "n") for c, s in keys),
        *_heads("MCC", "threshold"),
    ]
    rows = []
    for one in evaluation.scope:
        share = {(c.cause, c.set): c for c in one.causes}
        cells: list[str | Cell] = []
        for key in keys:
            wanted = WANTED.get(key[0])
            low, high = (0.0, 1.0) if wanted in (True, None) else (1.0, 0.0)
            found = share.get(key)
            cells.append(Cell("–", "n") if found is None else heat(found.share, low, high, ".1%"))
        mcc = Cell("–", "n") if math.isnan(one.mcc) else Cell(f"{one.mcc:.3f}", "n")
        limit = Cell("its rules" if one.threshold is None else f"{one.threshold:.4g}", "n mute")
        rows.append((Cell(one.acceptor, "name strong" if one.threshold is None else "name"), *cells, mcc, limit))
    lead = (
        "Each score accepts 95 % of ID+ (in-distribution and right). ID+ and C+ (shifted, still right) should be accepted; ID−, "
        "C− (wrong) and S (novel) should be refused. Deeper colour is better."
    )
    if evaluation.sets[0].wrong is None:
        lead = (
            "Each score accepts 95 % of ID (in-distribution; nobody knows what is right). S (novel) should be refused."
        )
    return section("causes", "Accepted, by cause", lead, table(heads, rows, "grid"))


def _heads(*names: str) -> list[Cell]:
    return [Cell(name, "n") for name in names]
