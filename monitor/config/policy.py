"""`monitor.yaml`: which signals, scores and rules, and what each rule promises."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from demur.monitor.config.catalogue import check_types
from demur.monitor.config.document import Section
from demur.monitor.config.model import ModelConfig
from demur.monitor.config.promise import PromiseConfig, Share

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


# What stands beside signals in a table, in a graph, or among the arguments of `Monitor.assess`.
RESERVED = frozenset(
    """group_id group_count groups state model deadline label prediction loss slice weight target id head_weight head_bias empty_groups""".split()
)


BY_CLASS = "predicted_class"


class SignalConfig(Section):
    """One named tensor of the model: its width and what its numbers are."""

    width: int = Field(ge=1, le=1 << 20, description="values in one row")
    kind: Literal["logits", "probabilities", "log_probabilities", "features", "mask", "table"] | None = Field(
        None,
        description="default: logits for a signal named logits, mask for one named *_mask, features otherwise; of a table, NaN cells are missing values; "
        "scores of logits see the logarithms of probabilities, and a row that is no distribution is INVALID",
    )
    output: str | None = Field(
        None, min_length=1, description="the model's output tensor that it is, for proxies; default: the signal's name"
    )


class ScoreConfig(Section):
    """One score: the column's name, its type in the catalogue, its hyper-parameters."""

    name: Name = Field(description="the column's name")
    type: str = Field(description="its type in the catalogue, scores.md")
    hyper: dict[str, Any] = Field(default_factory=dict, description="its hyper-parameters")


class RuleBody(Section):
    """What stands under a rule's name."""

    when: str | Annotated[list[str], Field(min_length=2, max_length=64)] = Field(
        description="the score whose column this rule looks at; of a list, by neyman_pearson, the one that refuses most outliers"
    )
    promise: PromiseConfig
    unit: Literal["row", "group", "stream"] = Field("row", description="what is judged and calibrated")
    aggregate: Literal["max", "mean"] | None = Field(
        None, description="how a group's rows become one number (default max)"
    )
    slice: Name | None = Field(
        None,
        description="promise for each slice apart: `predicted_class`, or a signal of width 1 that carries whole-number codes",
    )
    reason: Literal["novel", "ambiguous", "out_of_scope", "refusal", "deception", "unhealthy"] | None = Field(
        None, description="reason kind; default: the rule's name when it is one, else by what is promised"
    )


class RuleConfig(RuleBody):
    """One rule: the score it looks at, its promise, its unit."""

    name: Name = Field(description="the name that verdicts give")

    @property
    def scores(self) -> list[str]:
        """The scores it looks at, or that it is to choose from."""
        return [self.when] if isinstance(self.when, str) else self.when


# What may be written, for the JSON Schema; the functions below turn it into the sections above.
Width = Annotated[int, Field(ge=1, le=1 << 20)]
WrittenSignals = Annotated[dict[Name, Width | SignalConfig], Field(min_length=1)]
NamedScore = Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1, max_length=1)]
WrittenScores = Annotated[list[ScoreConfig | Name | NamedScore], Field(min_length=1)] | Literal["auto"]
NamedRule = Annotated[dict[Name, RuleBody], Field(min_length=1, max_length=1)]
WrittenRules = Annotated[list[RuleConfig | NamedRule], Field(min_length=1, max_length=62)]


def _signals(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: {"width": v} if isinstance(v, int) else v for k, v in value.items()}


def _scores(value: Any) -> Any:
    if value == "auto":
        raise ValueError("`auto` chooses on a selection set of its own; run demur fit --auto --selection ROWS")
    return [_score(v) for v in value] if isinstance(value, list) else value


def _score(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry, "type": entry}
    if isinstance(entry, dict) and len(entry) == 1:
        name, hyper = next(iter(entry.items()))
        if not isinstance(hyper, dict | None):
            raise ValueError(
                f"score {name}: expected a mapping of hyper-parameters, got {hyper!r}; write {{type: ...}}"
            )
        hyper = dict(hyper or {})
        return {"name": name, "type": hyper.pop("type", name), "hyper": hyper}
    return entry


def _rules(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [
        {"name": next(iter(v)), **next(iter(v.values()))}
        if isinstance(v, dict)
        and len(v) == 1
        and isinstance(body := next(iter(v.values())), dict)
        and "name" not in body
        else v
        for v in value
    ]


def _check_rule(rule: RuleConfig, scores: set[str], signals: dict[str, SignalConfig]) -> None:
    """Raises: ValueError for scores and slices that the policy does not have, or keys that do not go together."""
    for when in rule.scores:
        if when not in scores:
            raise ValueError(f"rule {rule.name}: no score is named {when!r}; scores are {', '.join(sorted(scores))}")
    if rule.aggregate and rule.unit != "group":
        raise ValueError(f"rule {rule.name}: aggregate belongs to unit: group")
    if not isinstance(rule.when, str):
        _check_choice(rule)
    if rule.slice == BY_CLASS and BY_CLASS in signals:
        raise ValueError(
            f"rule {rule.name}: slice: {BY_CLASS} is the argmax of logits, and a signal has that name; rename it"
        )
    if rule.slice not in (None, BY_CLASS):
        held = signals.get(str(rule.slice))
        if held is None or held.width != 1 or held.kind == "table":
            raise ValueError(
                f"rule {rule.name}: slice: expected {BY_CLASS} or a signal of width 1 that carries codes, got {rule.slice}"
                + (f"; add `{rule.slice}: 1` under signals" if held is None else ", which is none")
            )


def _check_choice(rule: RuleConfig) -> None:
    """Raises: ValueError for a list of scores where nothing chooses among them."""
    if len(set(rule.scores)) < len(rule.scores):
        raise ValueError(f"rule {rule.name}: `when` lists a score twice")
    if rule.promise.by != "neyman_pearson":
        raise ValueError(
            f"rule {rule.name}: `when` lists several scores, of which only by: neyman_pearson chooses one; "
            "name one score, or fuse them"
        )
    if rule.unit == "stream" or rule.slice:
        raise ValueError(f"rule {rule.name}: a choice among scores is for all rows or groups; name one score")


class PolicyConfig(Section):
    """The whole of `monitor.yaml`."""

    monitor: Name = Field(description="the monitor's name")
    version: int = Field(1, ge=1, description="raise it with every release; servers refuse a lower one")
    model: ModelConfig = ModelConfig()
    signals: Annotated[
        dict[Name, SignalConfig],
        Field(min_length=1, description="what the model exposes, by name"),
        BeforeValidator(_signals, json_schema_input_type=WrittenSignals),
    ]
    scores: Annotated[
        list[ScoreConfig],
        Field(min_length=1, description="what is computed from signals"),
        BeforeValidator(_scores, json_schema_input_type=WrittenScores),
    ]
    rules: Annotated[
        list[RuleConfig],
        Field(min_length=1, max_length=62, description="the policy, in order"),
        BeforeValidator(_rules, json_schema_input_type=WrittenRules),
    ]
    refuse_good_at_most: Share | None = Field(None, description="one level that all refusal rules share")
    on_failure: Literal["block", "pass"] = Field(
        "block", description="action for INVALID and UNAVAILABLE in enforce; never the verdict"
    )
    small_slices: Literal["pool", "refuse"] = Field(
        "pool",
        description="with too few rows of a slice: the pooled table, or no calibration; of an unknown code: the pooled table, or UNAVAILABLE",
    )
    tolerance: Annotated[float, Field(gt=0, lt=float("inf"))] | None = Field(
        None,
        description="of a regression, in its unit: an answer is wrong when the signal `estimate` is off the table's `target` by more",
    )
    empty_group: Literal["abstain", "accept"] = Field("abstain", description="verdict of a group without rows")
    seed: int = Field(0, description="of samples and folds")

    @model_validator(mode="after")
    def _signals_are_free(self) -> PolicyConfig:
        taken = sorted(RESERVED & set(self.signals))
        if taken:
            raise ValueError(f"signals: {', '.join(taken)} means something else beside signals; choose another name")
        return self

    @model_validator(mode="after")
    def _logits_are_whole(self) -> PolicyConfig:
        if "logits" in self.tables:
            raise ValueError(
                "signals: `logits` is no table, NaN in it is never a missing value; name the table otherwise"
            )
        return self

    @model_validator(mode="after")
    def _tolerance_has_numbers(self) -> PolicyConfig:
        held = self.signals.get("estimate")
        if self.tolerance is not None and (held is None or held.width != 1):
            raise ValueError("`tolerance` compares the signal `estimate` with targets; add `estimate: 1` under signals")
        return self

    @model_validator(mode="after")
    def _names_meet(self) -> PolicyConfig:
        for what, names in (("score", [s.name for s in self.scores]), ("rule", [r.name for r in self.rules])):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise ValueError(f"{what} name used twice: {', '.join(sorted(twice))}")
        known = {s.name for s in self.scores}
        for score in self.scores:
            members, others = score.hyper.get("of", []), known - {score.name}
            if isinstance(members, list) and not all(isinstance(m, str) and m in others for m in members):
                raise ValueError(f"score {score.name}: `of` must list other scores of this policy, got {members!r}")
        for rule in self.rules:
            if not known.issuperset(rule.scores):
                check_types({s.name: s.type for s in self.scores})
            _check_rule(rule, known, self.signals)
        return self

    def kind(self, signal: str) -> str:
        """What the numbers of this signal are."""
        given = self.signals[signal].kind
        if given is not None:
            return given
        return "logits" if signal == "logits" else "mask" if signal.endswith("_mask") else "features"

    @property
    def tables(self) -> frozenset[str]:
        """Signals whose NaN cells are missing values."""
        return frozenset(name for name in self.signals if self.kind(name) == "table")
