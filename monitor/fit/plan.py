"""From a policy in words to the columns and rule specifications that the compiler and the promises work on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from demur.detectors.policy import Aggregate, Unit
from demur.detectors.promises.promise import (
    ErrorWhenAcceptedAtMost,
    Promise,
    RefuseGoodAtMost,
    RuleSpec,
    StableAtContamination,
    WrongAndAcceptedAtMost,
)
from demur.detectors.reason import Reason
from demur.detectors.scores import FUSIONS, STREAM_SCORES
from demur.monitor.config.policy import BY_CLASS, PolicyConfig, RuleConfig, ScoreConfig
from demur.monitor.config.promise import PromiseConfig
from demur.monitor.errors import ConfigurationError


@dataclass(frozen=True)
class PlannedColumn:
    """A column before calibration. `fold` A columns only feed fusions; everything else is calibrated on fold B."""

    name: str
    score: str
    unit: Unit = "row"
    aggregate: Aggregate | None = None
    sliced: bool | str = False
    fold: Literal["a", "b"] = "b"


@dataclass(frozen=True)
class Plan:
    """Columns in the order of the graph's outputs, rules in policy order, and the scores that fusions read."""

    columns: tuple[PlannedColumn, ...]
    specs: tuple[RuleSpec, ...]
    members: frozenset[str]

    @property
    def stream(self) -> bool:
        """Whether this monitor judges token streams."""
        return any(c.unit == "stream" for c in self.columns)

    @property
    def slicing(self) -> frozenset[str]:
        """Signals whose codes slice some column."""
        return frozenset(c.sliced for c in self.columns if isinstance(c.sliced, str))

    @property
    def folded(self) -> bool:
        """Whether fusions need a calibration fold of their own."""
        return bool(self.members)


def plan(config: PolicyConfig) -> Plan:
    """The columns of every score, one more for each rule that slices or aggregates, and a rule specification each.

    Raises: ConfigurationError for units that one monitor cannot mix, and fusions of fusions.
    """
    members = frozenset(m for s in config.scores for m in _members(s))
    _check(config, members)
    stream = any(r.unit == "stream" for r in config.rules)
    unit: Unit = "stream" if stream else "row"
    columns = {
        s.name: PlannedColumn(s.name, s.name, unit, fold="a" if s.name in members else "b") for s in config.scores
    }
    for rule in config.rules:
        for when in rule.scores:
            wanted = _column(rule, when, members)
            columns.setdefault(wanted.name, wanted)
    stopped = frozenset(s.name for s in config.scores if stops(s))
    return Plan(tuple(columns.values()), tuple(_spec(r, members, stopped) for r in config.rules), members)


def stops(score: ScoreConfig) -> bool:
    """Whether a score chooses among others on the calibration rows."""
    return score.type == "early_stopped"


def _members(score: ScoreConfig) -> list[str]:
    """The scores that a fusion reads. Raises: ConfigurationError when it lists none; other scores may use `of` as they like."""
    if score.type not in FUSIONS:
        return []
    members = score.hyper.get("of")
    if not isinstance(members, list) or not members:
        raise ConfigurationError(f"score {score.name}: `of` must list other scores of this policy, got {members!r}")
    return members


def _check(config: PolicyConfig, members: frozenset[str]) -> None:
    for score in config.scores:
        if score.name in members and score.type in FUSIONS:
            raise ConfigurationError(f"score {score.name}: a fusion cannot feed another; list its members instead")
    _check_stopped(config, members)
    steps = {s.name for s in config.scores if s.type in STREAM_SCORES}
    if steps and len(steps) < len(config.scores):
        raise ConfigurationError(
            f"{', '.join(sorted(steps))} judge token streams and cannot share a monitor with scores of rows; use two monitors"
        )
    for rule in config.rules:
        for when in rule.scores:
            if (rule.unit == "stream") != (when in steps):
                wanted = "stream" if when in steps else "row or group"
                raise ConfigurationError(
                    f"rule {rule.name}: expected unit: {wanted} for {when}, got {rule.unit}; change the unit or the score"
                )
        if rule.slice and rule.unit != "row":
            raise ConfigurationError(
                f"rule {rule.name}: slices are of rows, but the unit is {rule.unit}; leave one out"
            )


def _check_stopped(config: PolicyConfig, members: frozenset[str]) -> None:
    """Raises: ConfigurationError for what conformalised early stopping does not carry."""
    types = {s.name: s.type for s in config.scores}
    stopped = {s.name: s for s in config.scores if stops(s)}
    for name, score in stopped.items():
        of = score.hyper.get("of")
        if not isinstance(of, list) or len(of) < 2:
            raise ConfigurationError(f"score {name}: `of` must list at least 2 other scores, got {of!r}")
        known = [m for m in of if types[m] in FUSIONS or m in stopped or types[m] in STREAM_SCORES]
        if known or name in members:
            what = f"chooses among scores of rows, and {known[0]} is none" if known else "can feed no fusion"
            raise ConfigurationError(
                f"score {name}: early_stopped {what}; list scores that read signals, and let a rule look at it"
            )
    for rule in config.rules:
        chosen = next((w for w in rule.scores if w in stopped), None)
        if chosen is None:
            continue
        said = rule.promise
        if said.kind != "refuse_good_at_most" or said.by not in (None, "split") or said.confidence or said.good != "id":
            raise ConfigurationError(
                f"rule {rule.name}: {chosen} is chosen on the calibration rows, which carries refuse_good_at_most on average and "
                "nothing else; leave out confidence, by and good, or name one of the scores it chooses among"
            )
        if rule.unit != "row" or rule.slice:
            raise ConfigurationError(f"rule {rule.name}: {chosen} is chosen for all rows alike; remove unit or slice")


def _column(rule: RuleConfig, when: str, members: frozenset[str]) -> PlannedColumn:
    if rule.unit == "group":
        aggregate = rule.aggregate or "max"
        return PlannedColumn(f"{when}@{aggregate}", when, "group", aggregate)
    if rule.slice:
        by = _sliced(rule)
        return PlannedColumn(f"{when}@class" if by is True else f"{when}@by.{by}", when, "row", sliced=by)
    if when in members:  # its own column feeds the fusion from fold A; the rule needs one of fold B
        return PlannedColumn(f"{when}@rule", when, rule.unit)
    return PlannedColumn(when, when, rule.unit)


def _sliced(rule: RuleConfig) -> bool | str:
    """By what a rule is sliced: True is the predicted class, else the signal."""
    return rule.slice == BY_CLASS or rule.slice or False


def _spec(rule: RuleConfig, members: frozenset[str], stopped: frozenset[str]) -> RuleSpec:
    columns = tuple(_column(rule, when, members).name for when in rule.scores)
    candidates = columns if len(columns) > 1 else ()
    sliced = _sliced(rule)
    promised = promise(rule.promise)
    if stopped & set(rule.scores):
        promised = replace(promised, by="early_stopping")  # type: ignore[arg-type]  # _check_stopped
    return RuleSpec(rule.name, columns[0], reason(rule), promised, rule.unit, sliced=sliced, candidates=candidates)


def promise(config: PromiseConfig) -> Promise:
    """The promise that the configuration words; keys left out take the promise's own defaults."""
    given = {k: v for k in ("confidence", "by", "starts", "tail_nats") if (v := getattr(config, k)) is not None}
    level = getattr(config, config.kind)
    if config.kind == "error_when_accepted_at_most":
        return ErrorWhenAcceptedAtMost(level, **given)
    if config.kind == "wrong_and_accepted_at_most":
        return WrongAndAcceptedAtMost(level, **given)
    if config.kind == "stable_at_contamination":
        return StableAtContamination(level, **given)
    return RefuseGoodAtMost(level if isinstance(level, float) else None, good=config.good, **given)


def reason(rule: RuleConfig) -> Reason:
    """The reason kind: as configured, else the rule's name when it is one, else by what is promised."""
    for name in (rule.reason, rule.name):
        if name and name.upper() in Reason.__members__ and Reason[name.upper()] < Reason.INVALID:
            return Reason[name.upper()]
    labelled = rule.promise.kind in ("error_when_accepted_at_most", "wrong_and_accepted_at_most")
    return Reason.AMBIGUOUS if labelled else Reason.NOVEL
