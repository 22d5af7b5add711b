"""The `promise:` block of a rule: what is promised, by which theorem."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from demur.monitor.config.document import Section

Share = Annotated[float, Field(gt=0, lt=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]

KINDS = (
    "refuse_good_at_most",
    "error_when_accepted_at_most",
    "wrong_and_accepted_at_most",
    "stable_at_contamination",
)
WAYS = {
    "refuse_good_at_most": ("split", "simes", "asymptotic", "neyman_pearson"),
    "error_when_accepted_at_most": ("sgr", "fixed_sequence", "learn_then_test"),
    "wrong_and_accepted_at_most": ("binomial", "betting"),
    "stable_at_contamination": (),
}
# Keys that belong to one kind, or to one way of it.
OWN = {
    "good": ("refuse_good_at_most", None),
    "starts": ("error_when_accepted_at_most", "fixed_sequence"),
    "tail_nats": ("stable_at_contamination", None),
}


class PromiseConfig(Section):
    """What a rule promises; exactly one of the four kinds."""

    refuse_good_at_most: Share | Literal["share"] | None = Field(
        None, description="share of good inputs refused; `share` takes a part of the policy's own refuse_good_at_most"
    )
    error_when_accepted_at_most: Share | None = Field(
        None, description="error rate among what the whole policy accepts"
    )
    wrong_and_accepted_at_most: Share | None = Field(
        None, description="share of all inputs that are wrong and accepted by the whole policy"
    )
    stable_at_contamination: Annotated[float, Field(gt=0, lt=0.5)] | None = Field(
        None,
        description="share of the unlabelled calibration data taken as anomalous; accepts only scores that other draws agree to call normal",
    )
    confidence: Confidence | None = Field(
        None,
        description="over the calibration draw; refusal and wrong-and-accepted promises without it hold on average (default 0.95 for errors)",
    )
    by: (
        Literal[
            "split",
            "simes",
            "asymptotic",
            "neyman_pearson",
            "sgr",
            "fixed_sequence",
            "learn_then_test",
            "binomial",
            "betting",
        ]
        | None
    ) = Field(
        None, description="the theorem, see promises.md; the first of its kind is the default: split, sgr, binomial"
    )
    starts: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="from how many places a fixed sequence walks (default 3)"
    )
    tail_nats: Annotated[float, Field(ge=1, le=700)] | None = Field(
        None, description="T: a stable call flips with estimated probability below e^-T (default 32)"
    )
    good: Literal["id", "correct"] = Field(
        "id", description="good inputs: all calibration units, or those the model answered correctly (needs labels)"
    )

    @property
    def kind(self) -> str:
        """The one key that says what is promised."""
        return next(k for k in KINDS if getattr(self, k) is not None)

    @model_validator(mode="after")
    def _one_kind(self) -> PromiseConfig:
        if sum(getattr(self, k) is not None for k in KINDS) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS[:-1])} and {KINDS[-1]}")
        for key, (kind, way) in OWN.items():
            default = "id" if key == "good" else None
            if getattr(self, key) != default and (self.kind != kind or way not in (None, self.by)):
                raise ValueError(f"`{key}` belongs to {kind}{f' by {way}' if way else ''}")
        if self.by is not None and self.by not in WAYS[self.kind]:
            known = f"expected {', '.join(WAYS[self.kind])}" if WAYS[self.kind] else "it has one way only, remove `by`"
            raise ValueError(f"by: {self.by} is no way of {self.kind}; {known}")
        if self.confidence is None and self.by in ("simes", "asymptotic", "neyman_pearson", "betting"):
            raise ValueError(f"by: {self.by} is a promise for one calibration draw; add a confidence, for example 0.9")
        if self.confidence is not None and self.kind == "stable_at_contamination":
            raise ValueError("`confidence` does not belong to stable_at_contamination; see tail_nats")
        return self
