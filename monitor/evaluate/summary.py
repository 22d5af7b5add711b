"""An evaluation on a terminal, within 100 columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.evaluation import Evaluation
from demur.monitor.evaluate.scope import POLICY

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

MOST_SETS, MOST_CAUSES = 2, 8
NAME_WIDTH = 16
STATES = {"kept": "green", "within chance": "yellow", "contradicted": "bold red", "not checked": "dim"}
WANTED = {"ID+": True, "C+": True, "ID-": False, "C-": False, "S": False}  # should it be accepted?


def summary(evaluation: Evaluation) -> Group:
    """What the policy did, what was promised, graded losses, how scores rank under each truth, what they accept by cause, notes."""
    from rich.console import Group

    tables = [show(evaluation) for show in (policy, promises, losses, loss_ranks, pools, ranks, scope, severity)]
    spaced: list[Any] = [part for table in tables if table is not None for part in (*_titled(table), "")]
    return Group(*spaced, *notes(evaluation))


def policy(evaluation: Evaluation) -> Table:
    """What the policy did with each set."""
    lossy = evaluation.graded is not None
    risks = "mean loss of\naccepted" if lossy else "wrong among\naccepted"
    table = _table("What the policy did", ("set", *_numbers("units", "accepted", "", risks, "")), "why")
    for one in evaluation.sets:
        every = one.wrong is not None and one.wrong == one.units
        risk = "all" if every and one.accepted and not lossy else f"{one.selective_risk:{'.3f' if lossy else '.1%'}}"
        table.add_row(
            _name(one.set),
            f"{one.units:,}",
            f"{one.accepted_share:.1%}",
            _span(one.accepted_share, "dim"),
            risk,
            _plain("") if every else _span(one.selective_risk, "dim", share=not lossy),
            _plain(", ".join(f"{kind} {count:,}" for kind, count in one.reasons.items()), "dim"),
        )
    return table


def promises(evaluation: Evaluation) -> Table | None:
    """Promised against realised, on the in-distribution test set."""
    if not evaluation.promises:
        return None
    table = _table("Promised and realised", ("rule", "what", *_numbers("promised", "realised", "")), "")
    for one in evaluation.promises:
        promised = "-" if one.promised is None else f"<= {one.promised:g}" if one.graded else f"<= {one.promised:.1%}"
        state = _plain(f"{one.state}{': ' if one.note else ''}{one.note}", STATES[one.state])
        table.add_row(
            _name(one.rule),
            _plain(one.about),
            promised,
            f"{one.realised:{'.4f' if one.graded else '.1%'}}",
            _span(one.realised, "dim", share=not one.graded),
            state,
        )
    return table


def losses(evaluation: Evaluation) -> Table | None:
    """Graded losses of each set: all of them, what was accepted, what was refused."""
    if evaluation.graded is None:
        return None
    table = _table("Graded losses, mean over all units", ("set", *_numbers("loss", "", "accepted", "", "refused", "")))
    for one in evaluation.graded.sets:
        pairs = (
            (f"{e:.4f}", _span(e, "dim", share=False)) for e in (one.mean_loss, one.residual_hazard, one.safety_gain)
        )
        table.add_row(_name(one.set), *(cell for pair in pairs for cell in pair))
    return table


def loss_ranks(evaluation: Evaluation) -> Table | None:
    """AURC, E-AURC and AUGRC of every score against graded losses, on the test set and on everything."""
    found = () if evaluation.graded is None else evaluation.graded.rankings
    asked = list(dict.fromkeys((r.truth, r.against) for r in found))
    shown = [q for q in asked if q == ("loss", "id")] + [q for q in asked if q[0] == "loss_oms"][-1:]
    if not shown:
        return None
    metrics = {"AURC": "aurc", "E-AURC": "e_aurc", "AUGRC": "augrc"}
    heads = [f"{short}\n{truth}" for truth, _ in shown for short in metrics]
    title = "Ranking graded losses, lower is better" + "".join(
        f"; loss_oms: with {name}, where novel inputs lose 1" for truth, name in shown if truth == "loss_oms"
    )
    table = _table(title, ("score", *_numbers(*heads)))
    value = {(r.truth, r.against, r.score): r.metrics for r in found}
    for score in evaluation.scores:
        table.add_row(_name(score), *(f"{value[*q, score][m]:.4f}" for q in shown for m in metrics.values()))
    return table


def pools(evaluation: Evaluation) -> Table | None:
    """Safety gained, hazard left and availability spent, beside a perfect OOD detector."""
    shown = [p for p in evaluation.pools if p.against != "id"][-2:] or list(evaluation.pools)
    if not shown:
        return None
    names = {
        "safety\ngain": "safety_gain",
        "residual\nhazard": "residual_hazard",
        "availability\ncost": "availability_cost",
    }
    names |= {"precision": "precision", "recall": "recall", "MCC": "mcc"}
    pool = "the test set" if shown[0].against == "id" else f"the test set and {shown[0].against}"
    table = _table(f"Refusing the model's mistakes, on {pool}", ("decider", *_numbers(*names)))
    for one in shown:
        style = "dim" if one.decider != "policy" else ""
        cells = (_plain(f"{one.metrics[key]:.3f}", style) for key in names.values())
        table.add_row(_plain(one.decider, style), *cells)
    return table


def ranks(evaluation: Evaluation) -> Table | None:
    """AUROC of every score under every truth; the best of a column is bold, below chance is red."""
    asked = chosen(evaluation)
    if not asked:
        return None
    heads = [f"{truth}\n{against}" for truth, against in asked]
    found = {(r.truth, r.against, r.score): r.metrics["auroc"] for r in evaluation.rankings}
    best = {q: max(found[*q, s].value for s in evaluation.scores) for q in asked}
    table = _table("AUROC by truth; oms: wrong, or novel", ("score", *_numbers(*heads)))
    for score in evaluation.scores:
        cells = (_graded(found[*q, score], best[q]) for q in asked)
        table.add_row(_name(score), *cells)
    return table


def chosen(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The questions that fit: errors on the test set, a few sets under OOD and OMS, novel ones first, and `all`."""
    asked = {(r.truth, r.against): None for r in evaluation.rankings}
    sets = [s.set for kind in ("novel", "shifted") for s in evaluation.sets if s.kind == kind]
    wanted = [("errors", "id"), *(("ood", name) for name in sets[:MOST_SETS]), ("ood", "all")]
    wanted += [*(("oms", name) for name in sets[:MOST_SETS]), ("oms", "all")]
    return [question for question in wanted if question in asked]


def scope(evaluation: Evaluation) -> Table | None:
    """Share accepted by cause, at the threshold that accepts 95 % of ID+; + should be accepted, - and S refused."""
    causes = list(dict.fromkeys((c.cause, c.set) for s in evaluation.scope for c in s.causes))[:MOST_CAUSES]
    if not causes:
        return None
    heads = [f"{cause}\n{'' if name == 'id' else name}" for cause, name in causes]
    kept = "ID" if evaluation.sets[0].wrong is None else "ID+"
    table = _table(f"Accepted by cause, scores at 95 % of {kept}", ("", *_numbers(*heads)))
    for one in evaluation.scope:
        share = {(c.cause, c.set): c.share for c in one.causes}
        cells = (_accepted(share.get(key), WANTED.get(key[0])) for key in causes)
        table.add_row(_plain(POLICY, "bold") if one.threshold is None else _name(one.acceptor), *cells)
    return table


def severity(evaluation: Evaluation) -> Table | None:
    """Whether scores rise with severity."""
    if not evaluation.severity:
        return None
    table = _table("Severity", ("score", *_numbers("Kendall tau-b", "", "C-index", "")))
    for one in evaluation.severity:
        pairs = ((f"{e:.3f}", _span(e, "dim", share=False)) for e in (one.kendall_tau_b, one.c_index))
        table.add_row(_name(one.score), *(cell for pair in pairs for cell in pair))
    return table


def notes(evaluation: Evaluation) -> Iterable[Text]:
    """What a reader must know, p-values that are off included."""
    for name, found in evaluation.calibration.items():
        if found.ks_p < 0.01:
            below = ", ".join(f"{share:.1%} at or below {level:g}" for level, share in found.below)
            yield _plain(
                f"note  {name}: p-values of the test set are not uniform (KS {found.ks:.3f}, p = {found.ks_p:.1g}): {below}",
                "yellow",
            )
    for text in evaluation.notes:
        yield _plain(f"note  {text}", "yellow")


def _titled(table: Table) -> tuple[Any, Table]:
    """The title as a line of its own: a table folds its title to its own width."""
    title, table.title = table.title, None
    return title, table


def _table(title: str, heads: Sequence[Any], last: str | None = None) -> Table:
    from rich.table import Table

    table = Table(
        title=_plain(title, "bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False
    )
    for number, head in enumerate((*heads, *(() if last is None else (last,)))):
        name, justify = head if isinstance(head, tuple) else (head, "left")
        table.add_column(_plain(name, "dim"), justify=justify, no_wrap=justify == "right" or not number, vertical="top")
    return table


def _numbers(*heads: str) -> list[tuple[str, str]]:
    return [(head, "right") for head in heads]


def _plain(text: str, style: str = "") -> Text:
    """Never markup: names are the user's."""
    from rich.text import Text

    return Text(text, style=style)


def _name(text: str) -> Text:
    return _plain(text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 1]}…")


def _span(estimate: Estimate, style: str, *, share: bool = True) -> Text:
    if estimate.low is None or estimate.high is None:
        return _plain("")
    low, high = (f"{100 * v:.1f}" if share else f"{v:.3f}" for v in (estimate.low, estimate.high))
    return _plain(f"{low}..{high}", style)


def _graded(estimate: Estimate, best: float) -> Text:
    if math.isnan(estimate.value):
        return _plain("-", "dim")
    below = estimate.value < 0.5
    return _plain(f"{estimate:.3f}", "red" if below else "bold green" if estimate.value >= best - 5e-4 else "")


def _accepted(estimate: Estimate | None, wanted: bool | None) -> Text:
    if estimate is None or math.isnan(estimate.value):
        return _plain("-", "dim")
    wrong = wanted is not None and abs(estimate.value - wanted) > 0.5
    return _plain(f"{estimate:.1%}", "red" if wrong else "")
