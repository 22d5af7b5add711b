"""Every ranking metric by its name in the JSON: how a table heads it, what it means, which way is better."""

from __future__ import annotations

from typing import NamedTuple


class MetricName(NamedTuple):
    """short: a column's head. meaning: one sentence. better: `higher` or `lower`."""

    short: str
    meaning: str
    better: str


LOSS_METRICS = {
    "aurc": MetricName("AURC", "mean loss of the accepted, over all coverages", "lower"),
    "e_aurc": MetricName("E-AURC", "AURC minus that of the best order, by the loss itself", "lower"),
    "augrc": MetricName("AUGRC", "area of the loss of the accepted, mean over all units, over coverage", "lower"),
}
METRICS = {
    "auroc": MetricName("AUROC", "P(a bad unit scores above a good one) + P(equal) / 2", "higher"),
    "aupr_bad": MetricName("AUPR bad", "average precision in step form, bad units as positives", "higher"),
    "aupr_good": MetricName("AUPR good", "average precision in step form, good units as positives", "higher"),
    "ood_accepted_at_id_tpr95": MetricName(
        "OOD acc. @ ID 95", "share of OOD accepted where 95 % of ID is accepted", "lower"
    ),
    "id_rejected_at_ood_tpr95": MetricName(
        "ID rej. @ OOD 95", "share of ID rejected where 95 % of OOD is rejected", "lower"
    ),
    "bad_accepted_at_good_tpr95": MetricName(
        "bad acc. @ good 95", "share of bad units accepted where 95 % of the good are accepted", "lower"
    ),
    "good_rejected_at_bad_tpr95": MetricName(
        "good rej. @ bad 95", "share of good units rejected where 95 % of the bad are rejected", "lower"
    ),
    "aurc": MetricName("AURC", "mean error rate among the accepted, over all coverages", "lower"),
    "e_aurc": MetricName("E-AURC", "AURC minus that of a perfect ranking of as many errors", "lower"),
    "augrc": MetricName("AUGRC", "area under P(wrong and accepted) over coverage", "lower"),
    "oscr": MetricName("OSCR", "area of P(known: right and accepted) over P(novel: accepted)", "higher"),
    "ccr_at_fpr01": MetricName(
        "CCR @ 1 %", "P(known: right and accepted) where at most 1 % of novel is accepted", "higher"
    ),
    "ccr_at_fpr05": MetricName(
        "CCR @ 5 %", "P(known: right and accepted) where at most 5 % of novel is accepted", "higher"
    ),
    "ccr_at_fpr10": MetricName(
        "CCR @ 10 %", "P(known: right and accepted) where at most 10 % of novel is accepted", "higher"
    ),
    "scod_aurc": MetricName(
        "SCOD AURC", "mean over coverages of the share of the accepted that is wrong or novel", "lower"
    ),
    "scod_least_risk": MetricName("SCOD risk", "the least joint cost over all thresholds", "lower"),
}
