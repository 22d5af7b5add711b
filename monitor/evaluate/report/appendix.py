"""The report's later tables: calibration, severity, selection, every metric, and what each means."""

from __future__ import annotations

from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.metric_names import METRICS
from demur.monitor.evaluate.ranking import Ranking
from demur.monitor.evaluate.report.markup import Cell, Html, element, heat, number, section, span, table


def calibration(evaluation: Evaluation) -> Html:
    """Whether p-values are uniform on the test set."""
    heads = [Cell("column"), *_heads("units", "calibration units", "KS", "p of KS", "p ≤ 0.01", "p ≤ 0.05", "p ≤ 0.1")]
    rows = [
        (
            Cell(name, "name"),
            Cell(f"{u.units:,}", "n"),
            Cell(f"{u.calibration_units:,}", "n"),
            Cell(f"{u.ks:.3f}", "n", f"largest at p = {u.at:.3g}; too many small p-values by {u.anticonservative:.3f}"),
            Cell(f"{u.ks_p:.2g}", "n bad" if u.ks_p < 0.01 else "n"),
            *(Cell(f"{share:.1%}", "n") for _, share in u.below),
        )
        for name, u in evaluation.calibration.items()
    ]
    lead = (
        "P-values of in-distribution inputs should be uniform. KS is the largest distance from that, in [0, 1]; its p accounts "
        "for the size of the calibration set too."
    )
    return section("calibration", "Calibration of p-values", lead, table(heads, rows))


def severity(evaluation: Evaluation) -> Html:
    """Whether scores rise with severity."""
    rows = [
        (
            Cell(s.score, "name"),
            number(s.kendall_tau_b),
            Cell(span(s.kendall_tau_b), "n mute"),
            number(s.c_index),
            Cell(span(s.c_index), "n mute"),
        )
        for s in evaluation.severity
    ]
    levels = ", ".join(f"{v:g}" for v in evaluation.severity[0].levels[:12]) if evaluation.severity else ""
    lead = f"Whether a score rises with the severity of what was done to the inputs (levels {levels})."
    heads = [Cell("score"), *_heads("Kendall τ-b", "", "C-index", "")]
    return section("severity", "Severity", lead, table(heads, rows))


def selection(evaluation: Evaluation) -> Html:
    """Candidates that were chosen among, and their regret."""
    found = evaluation.selection
    if found is None:
        return Html("")
    axes = [[v for c in found.candidates if (v := c.values[i]) is not None] for i in range(len(found.axes))]
    rows = []
    for one in found.candidates:
        cells = [
            Cell("–", "n") if v is None else heat(Estimate(v), min(axis) - 1e-9, max(axis) + 1e-9)
            for v, axis in zip(one.values, axes, strict=True)
        ]
        regret = Cell("–" if one.regret is None else f"{one.regret:.3f}", "n")
        name = Cell(one.name + (" (chosen)" if one.chosen else ""), "name strong" if one.chosen else "name")
        rows.append((name, *cells, regret))
    lead = "What the automatic choice saw; regret is the largest shortfall behind the best candidate over the axes."
    heads = [Cell("candidate"), *_heads(*found.axes, "regret")]
    return section("selection", "Selection", lead, table(heads, rows, "grid"))


def metrics(evaluation: Evaluation) -> Html:
    """Every metric of every question, folded away, and the definitions."""
    asked: dict[tuple[str, str], list[Ranking]] = {}
    for ranking in evaluation.rankings:
        asked.setdefault((ranking.truth, ranking.against), []).append(ranking)
    folds = [_fold(f"{truth}: {against}", found) for (truth, against), found in asked.items()]
    names = dict.fromkeys(name for r in evaluation.rankings for name in r.metrics)
    rows = [(Cell(name, "name"), METRICS[name].meaning, METRICS[name].better) for name in names]
    words = element(
        "details", element("summary", "What the columns mean"), table(["metric", "meaning", "better"], rows)
    )
    lead = "Hover a value for its interval. Metrics chosen on these very data (best F1, least SCOD risk) are ceilings."
    return section("metrics", "Every metric", lead, *folds, words) if folds else Html("")


def _fold(title: str, found: list[Ranking]) -> Html:
    names = list(found[0].metrics)
    heads = [Cell("score"), *(Cell(METRICS[n].short, "n", METRICS[n].meaning) for n in names), Cell("best F1", "n")]
    rows = [
        (
            Cell(r.score, "name"),
            *(number(r.metrics[n]) for n in names),
            Cell(f"{r.f1_optimal.f1:.3f}", "n", f"at {r.f1_optimal.threshold:.4g}"),
        )
        for r in found
    ]
    size = f" ({found[0].bad:,} bad, {found[0].good:,} good)"
    return element("details", element("summary", title, element("small", size)), table(heads, rows))


def _heads(*names: str) -> list[Cell]:
    return [Cell(name, "n") for name in names]
