"""Which tables a policy takes, before hours go into fitting, and what is to say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from demur.monitor.bundle import Bundle
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.assemble import ROWS
from demur.monitor.fit.checks import (
    CODES,
    ContractViolation,
    check_apart,
    check_tables,
    inspect_table,
    kept_for_evaluation,
)
from demur.monitor.fit.contract import CALIBRATION
from demur.monitor.fit.finding import Finding
from demur.monitor.fit.gathering import codes
from demur.monitor.fit.known_rows import Known
from demur.monitor.fit.likeness import UNLIKE, UNLIKE_BEFORE
from demur.monitor.fit.plan import Plan
from demur.monitor.fit.shared import copies, shared_rows
from demur.monitor.fit.stopping import check_alone
from demur.monitor.fit.table import SignalsTable

REFERENCE, OUTLIERS = "reference", "outliers"


def check_fit(
    policy: PolicyConfig,
    planned: Plan,
    ref: SignalsTable,
    cal: SignalsTable,
    sides: Mapping[str, SignalsTable],
) -> list[Finding]:
    """What is to say about the tables of a fit. Raises: ContractViolation, ConfigurationError."""
    _check_groups(policy, cal)
    findings = check_tables(ref, cal, kinds(policy, planned))
    check_alone(policy, cal)
    for signal in sorted(planned.slicing):
        codes(cal, signal)
    for name, side in sides.items():
        findings += check_apart(side, cal, name)
        if name == OUTLIERS:  # wild traffic may well hold what the model was trained on
            findings += check_apart(side, ref, name, REFERENCE)
    return findings


def check_calibration(bundle: Bundle, policy: PolicyConfig, planned: Plan, table: SignalsTable) -> list[str]:
    """What is to say about a new calibration set, by itself and beside the bundle's reference set.

    Raises: ContractViolation for tables that break the contract or share rows with that set; ConfigurationError without
    the groups that rules judge.
    """
    _check_groups(policy, table)
    known = Known.stored(bundle.arrays(ROWS), REFERENCE)
    findings = kept_for_evaluation(table, CALIBRATION) + inspect_table(table, CALIBRATION, kinds(policy, planned))
    findings += shared_rows(table, known, CALIBRATION, REFERENCE) + copies(table, known, CALIBRATION)
    if any(f.level == "error" for f in findings):
        raise ContractViolation(findings)
    return [f.message for f in findings]


def kinds(policy: PolicyConfig, planned: Plan) -> dict[str, str]:
    """What the numbers of each signal are, `codes` of one that slices."""
    return {n: CODES if n in planned.slicing else policy.kind(n) for n in policy.signals}


def of_other_rows(findings: Sequence[str], said: Sequence[str]) -> set[str]:
    """What was said of the calibration set before. What was said of its model holds on where nothing new is `said` of that,
    and that it was unlike the reference set where the new one is not unlike it.
    """
    models, mine = f"{CALIBRATION} was ", f"{CALIBRATION}: "
    instead = {models: models, UNLIKE: UNLIKE_BEFORE}
    lasting = tuple(old for old, new in instead.items() if not any(text.startswith(new) for text in said))
    return {f for f in findings if f.startswith((mine, models)) and not f.startswith(lasting)}


def _check_groups(policy: PolicyConfig, cal: SignalsTable) -> None:
    rule = next((r.name for r in policy.rules if r.unit == "group"), None)
    if rule is not None and cal.group_id is None:
        raise ConfigurationError(
            f"calibration: expected group_id because rule {rule} judges groups, got none; add that column to {cal.source}"
        )
