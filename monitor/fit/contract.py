"""Whether tables that meet in one bundle were collected in one way."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from demur.monitor.bundle.manifest import Manifest
from demur.monitor.config.decoding import Decoding
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.fit.finding import ContractViolation, Finding, error
from demur.monitor.fit.origin import Origin
from demur.monitor.fit.table import SignalsTable

BUNDLE, CALIBRATION = "the bundle", "calibration"


def joint_origin(origins: Mapping[str, Origin | None], signals: Collection[str]) -> tuple[Origin, list[str]]:
    """Where these signals of all of them come from, by the name of each, and what is to say about it. What is not known of
    one is not compared.

    The calibration set's model is recorded: promises are about its answers.
    Raises: ContractViolation when two were decoded otherwise, naming the keys that differ.
    """
    known = {name: origin for name, origin in origins.items() if origin is not None}
    read = {name: origin.decoding.read_by(signals) for name, origin in known.items()}
    decoded = {name: decoding for name, decoding in read.items() if decoding}
    first = next(iter(decoded), "")
    if findings := [
        _other(name, d, first, decoded[first]) for name, d in decoded.items() if d.conflict(decoded[first])
    ]:
        raise ContractViolation(findings)
    models = {name: origin.model for name, origin in known.items() if origin.model}
    model = models.get(CALIBRATION) or next(iter(models.values()), "")
    others = [f"{name} from {m[:16]}..." for name, m in models.items() if m != model]
    notes = [
        f"{CALIBRATION} was collected from model {model[:16]}..., {', '.join(others)}: collect both from one model"
    ]
    return Origin(decoded[first] if first else Decoding({}), model), notes if others else []


def origin_of(manifest: Manifest) -> Origin:
    """What a bundle says of the tables it was made from."""
    return Origin(manifest.decoding, "" if manifest.origin is None else manifest.origin.model)


def check_origin(table: SignalsTable, manifest: Manifest) -> None:
    """Further rows that a bundle judges must be decoded as its own were.

    Raises: ContractViolation naming the keys that differ.
    """
    signals = [signal.name for signal in manifest.signals]
    joint_origin({BUNDLE: origin_of(manifest), table.source: table.origin}, signals)


def empty_groups_said(policy: PolicyConfig, empty: int) -> list[str]:
    """What groups without rows in the calibration set mean for the promises about groups; nothing when there are none."""
    if not empty or all(rule.unit != "group" for rule in policy.rules):
        return []
    if policy.empty_group == "accept":
        what = (
            "accepted in service without a score (`empty_group: accept`): a refusal promise holds for all groups as it does for "
            "the others, because a group without rows is never refused; a promise of errors says nothing about them"
        )
    else:
        what = "they abstain in service (UNAVAILABLE, no rows), which counts towards no promise"
    return [f"{CALIBRATION}: {empty:,} groups have no rows; promises about groups count the others only; {what}"]


def _other(name: str, decoding: Decoding, first: str, expected: Decoding) -> Finding:
    return error(
        "decoding",
        f"{name}: signals were decoded otherwise than those of {first}: {decoding.conflict(expected)}; "
        "collect both with one signal map",
    )
