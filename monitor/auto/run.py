"""`demur fit --auto`: from a policy without scores to one with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.score import Reference
from demur.monitor.auto.selection import ERRORS, NOVELTY, Selection, filled, select
from demur.monitor.config.document import parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.assemble import shaping
from demur.monitor.fit.checks import ContractViolation, check_apart, check_tables, inspect_table
from demur.monitor.fit.contract import joint_origin
from demur.monitor.fit.progress import Tick, silent
from demur.monitor.fit.sources import Config, Source, as_document, as_reference, as_table
from demur.monitor.fit.table import SignalsTable

PENDING = [{"name": n, "type": n} for n in (NOVELTY, ERRORS)]


def choose(
    config: Config, reference: Source, selection: Source, calibration: Source, tick: Tick = silent
) -> tuple[PolicyConfig, Selection, SignalsTable]:
    """The policy with the chosen scores, the choice, and the table it was made on.

    Rules name the columns `novelty` and `errors`. The three sets must not share rows.
    Raises: ConfigurationError when the policy names scores of its own, or `errors` where labels cannot tell;
    ContractViolation for shared rows, or a reference or selection set that breaks the contract; ValueError when there is nothing to choose from.
    """
    document = as_document(config)
    if document.get("scores", "auto") != "auto":
        raise ConfigurationError(
            "--auto chooses the scores, but the policy names its own; write `scores: auto` or leave them out, "
            "or fit without --auto and --selection"
        )
    pending = parse(PolicyConfig, filled(document, PENDING), "the policy")
    if pending.tables:
        raise ConfigurationError(
            f"--auto cannot choose on missing cells yet ({', '.join(sorted(pending.tables))} are tables); name the scores"
        )
    ref, sel, cal = (as_table(s, pending) for s in (reference, selection, calibration))
    joint_origin({"reference": ref.origin, "selection": sel.origin, "calibration": cal.origin}, pending.signals)
    check_apart(sel, ref, "selection", "reference")
    check_apart(sel, cal, "selection")
    kinds = {n: pending.kind(n) for n in pending.signals}
    check_tables(ref, None, kinds)
    broken = [f for f in inspect_table(sel, "selection", kinds) if f.level == "error"]
    if broken:
        raise ContractViolation(broken)
    fitted_on, judged_on = (_shaped(as_reference(t), pending) for t in (ref, sel))
    chosen = select(fitted_on, judged_on, seed=pending.seed, tick=tick)
    _check_rules(pending, chosen)
    return parse(PolicyConfig, filled(document, chosen.scores()), "the policy"), chosen, sel


def _shaped(reference: Reference, policy: PolicyConfig) -> Reference:
    """With signals as scores see them; choosing holds them in memory anyway."""
    signals = dict(reference.signals)
    for transform in shaping(policy):
        if set(transform.inputs) <= set(signals):
            rows = {n: np.asarray(signals[n], np.float32) for n in transform.inputs}
            signals |= transform(NumpyOps(), rows)
    return replace(reference, signals=signals)


def _check_rules(policy: PolicyConfig, chosen: Selection) -> None:
    asked: list[Any] = [r.name for r in policy.rules if ERRORS in r.scores]
    if asked and chosen.errors is None:
        raise ConfigurationError(
            f"rule {asked[0]} looks at `errors`, but the selection set cannot tell which score sees errors: it needs "
            "labels and at least 20 wrong answers; add rows, or let the rule look at `novelty`"
        )
