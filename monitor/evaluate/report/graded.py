"""The report's section on graded losses: what they are on average, and how every score ranks them."""

from __future__ import annotations

from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.graded import Graded
from demur.monitor.evaluate.loss_ranking import LOSS_MEANING, LossRanking
from demur.monitor.evaluate.metric_names import LOSS_METRICS
from demur.monitor.evaluate.report.markup import Cell, Html, element, heads, number, section, span, table, text


def losses(evaluation: Evaluation) -> Html:
    """Means of losses by set, then AURC, E-AURC and AUGRC by score; nothing without graded losses."""
    found = evaluation.graded
    if found is None:
        return Html("")
    lead = (
        "Losses are numbers from 0 to 1 here, not only right and wrong. Means over all units: what is refused loses nothing, so accepted "
        "(residual hazard) and refused (safety gain) add up to all. Metrics that need right and wrong answers are left out: nobody said "
        "from which loss an answer is wrong."
    )
    content = [_means(found)]
    for truth, meaning in LOSS_MEANING.items():
        ranked = _rankings([r for r in found.rankings if r.truth == truth])
        if ranked:
            content += [element("h3", "Scores against ", element("code", truth), f": {meaning}"), ranked]
    means = [element("li", element("b", m.short), f": {m.meaning}") for m in LOSS_METRICS.values()]
    return section("losses", "Graded losses", lead, *content, element("ul", *means))


def _means(found: Graded) -> Html:
    rows = []
    for one in found.sets:
        shown = (one.mean_loss, one.residual_hazard, one.safety_gain)
        cells = (cell for e in shown for cell in (number(e, ".4f"), Cell(span(e, ".4f"), "n mute")))
        rows.append((Cell(one.set, "name"), Cell(f"{one.units:,}", "n"), *cells))
    return table([Cell("set"), *heads("units", "mean loss", "", "accepted", "", "refused", "")], rows)


def _rankings(found: list[LossRanking]) -> Html:
    asked: dict[str, dict[str, LossRanking]] = {}
    for ranking in found:
        asked.setdefault(ranking.against, {})[ranking.score] = ranking
    named = [
        Cell(Html(f"{text(m.short)}<br>{text(against)}"), "n", m.meaning)
        for against in asked
        for m in LOSS_METRICS.values()
    ]
    scores = dict.fromkeys(ranking.score for ranking in found)
    rows = [
        (Cell(score, "name"), *(number(of[score].metrics[m], ".4f") for of in asked.values() for m in LOSS_METRICS))
        for score in scores
    ]
    return table([Cell("score"), *named], rows)
