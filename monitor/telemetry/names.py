"""Every name that leaves this process as telemetry, in one table; docs/telemetry.md is printed from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The generative-AI conventions have no released package yet: they live in their own repository, status Development.
GEN_AI_CONVENTIONS = "https://github.com/open-telemetry/semantic-conventions-genai"
SCOPE = "demur"
OTHER = "other"

Kind = Literal["counter", "gauge", "histogram"]
SUFFIXES = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}

DURATION_BOUNDS = (*(float(f"{f}e{e}") for e in range(-5, 1) for f in ("1", "2.5", "5")), 10.0)
_DECADES = (*(float(f"{f}e{e}") for e in range(-2, 3) for f in "125"), 1000.0)
SCORE_BOUNDS = (*(-b for b in reversed(_DECADES)), 0.0, *_DECADES)
P_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `signed` histograms may hold negative values and therefore carry no sum (an OpenMetrics rule).

    `supplied` metrics are read from callables that other parts of the server hand in.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    signed: bool = False
    supplied: bool = False

    @property
    def prometheus(self) -> str:
        """The name a scrape shows, without the suffixes of its samples."""
        total = "_total" if self.kind == "counter" else ""
        unit = SUFFIXES.get(self.unit, "")
        return self.name.replace(".", "_") + unit + total


@dataclass(frozen=True, slots=True)
class Name:
    """A span, an event or an attribute."""

    name: str
    description: str


VERDICTS = Metric(
    "demur.verdicts",
    "counter",
    "{verdict}",
    "Verdicts. `reason` is the gravest kind against the unit (UNAVAILABLE, INVALID, then the lowest bit), or none.",
    ("monitor", "unit", "decision", "reason"),
)
REASONS = Metric(
    "demur.reasons",
    "counter",
    "{reason}",
    "Reasons against units; a unit with two kinds of reason counts once under each.",
    ("monitor", "unit", "reason"),
)
ACTIONS = Metric(
    "demur.actions",
    "counter",
    "{verdict}",
    "What was done about verdicts; none in observe mode.",
    ("monitor", "unit", "action"),
)
REQUESTS = Metric("demur.requests", "counter", "{request}", "Requests answered with verdicts.", ("monitor", "protocol"))
ROWS = Metric("demur.rows", "counter", "{row}", "Rows (or steps of streams) assessed.", ("monitor",))
REFUSALS = Metric(
    "demur.refusals",
    "counter",
    "{request}",
    "Requests that got no verdicts. A monitor this server does not serve counts as other.",
    ("monitor", "kind", "protocol"),
)
OUT_OF_RANGE = Metric(
    "demur.out_of_range", "counter", "{row}", "Rows with a signal outside its calibration range.", ("monitor",)
)
MARGINAL = Metric(
    "demur.marginal",
    "counter",
    "{verdict}",
    "Units with a score within 1e-5 (relative) of the threshold of an unsliced rule: another machine may judge them otherwise.",
    ("monitor", "unit"),
)
NON_FINITE = Metric(
    "demur.non_finite",
    "counter",
    "{score}",
    "Scores that were NaN or infinite, those of UNAVAILABLE units included; they are in no histogram.",
    ("monitor", "unit", "column"),
)
SCORES = Metric(
    "demur.score",
    "histogram",
    "{score}",
    "Finite scores; higher is less trustworthy. Carries no sum: scores may be negative.",
    ("monitor", "unit", "column"),
    SCORE_BOUNDS,
    signed=True,
)
P_VALUES = Metric(
    "demur.p_value",
    "histogram",
    "{p_value}",
    "Calibrated p-values; uniform or larger while traffic looks like the calibration data.",
    ("monitor", "unit", "column"),
    P_BOUNDS,
)
DURATION = Metric(
    "demur.assess.duration", "histogram", "s", "Time to assess one request.", ("monitor",), DURATION_BOUNDS
)
STAGE_DURATION = Metric(
    "demur.stage.duration",
    "histogram",
    "s",
    "Time in one stage of a request: decode, score, audit, encode.",
    ("monitor", "stage"),
    DURATION_BOUNDS,
)
REFUSED_SHARE = Metric(
    "demur.refused.share",
    "gauge",
    "1",
    "Share of the last ten minutes' units, INVALID and UNAVAILABLE left out, that rules with a refusal promise refused.",
    ("monitor", "unit"),
)
REFUSED_PROMISED = Metric(
    "demur.refused.promised",
    "gauge",
    "1",
    "Share of good inputs that the refusal promises allow together; a lasting higher demur.refused.share is novelty or drift.",
    ("monitor", "unit"),
)
BUNDLE_INFO = Metric("demur.bundle.info", "gauge", "", "1 for the bundle in use.", ("monitor", "bundle", "version"))
BUNDLE_CHANGES = Metric(
    "demur.bundle.changes",
    "counter",
    "{bundle}",
    "Bundles activated, and newer files refused in favour of the last good one.",
    ("monitor", "outcome"),
)
TELEMETRY_ERRORS = Metric(
    "demur.telemetry.errors",
    "counter",
    "{error}",
    "Telemetry that failed; verdicts are never affected. signal: events, gauges, metrics, traces, logs.",
    ("signal",),
)
READY = Metric("demur.ready", "gauge", "", "1 when requests are admitted.", ("monitor",), supplied=True)
AUDIT_LAG = Metric(
    "demur.audit.lag", "gauge", "{record}", "Records on disk that no checkpoint covers yet.", supplied=True
)
AUDIT_QUEUED = Metric("demur.audit.queued", "gauge", "{record}", "Records waiting for the disk.", supplied=True)
AUDIT_DROPS = Metric("demur.audit.drops", "counter", "{record}", "Records the audit log could not take.", supplied=True)
QUEUE_DEPTH = Metric("demur.queue.depth", "gauge", "{request}", "Requests waiting for a scoring thread.", supplied=True)
STREAMS_LIVE = Metric("demur.streams.live", "gauge", "{stream}", "Streams alive.", ("monitor",), supplied=True)

METRICS = (
    VERDICTS,
    REASONS,
    ACTIONS,
    REQUESTS,
    ROWS,
    REFUSALS,
    OUT_OF_RANGE,
    MARGINAL,
    NON_FINITE,
    SCORES,
    P_VALUES,
    DURATION,
    STAGE_DURATION,
    REFUSED_SHARE,
    REFUSED_PROMISED,
    BUNDLE_INFO,
    BUNDLE_CHANGES,
    TELEMETRY_ERRORS,
    READY,
    AUDIT_LAG,
    AUDIT_QUEUED,
    AUDIT_DROPS,
    QUEUE_DEPTH,
    STREAMS_LIVE,
)
SUPPLIED = {metric.name: metric for metric in METRICS if metric.supplied}

PROTOCOLS = ("python", "grpc", "oip", "oip-rest", "ext_proc")
STAGES = ("decode", "score", "audit", "encode")
REFUSAL_KINDS = (
    "invalid", "unknown", "unmapped", "unauthenticated", "bundle", "overloaded", "draining", "deadline", "audit", "upstream", "internal",
)  # fmt: skip

SPAN = "demur.assess"
EVALUATION = "gen_ai.evaluation.result"
CHECKPOINT = "demur.audit.checkpoint"

NAMES = (
    Name(SPAN, "span: one assessed request"),
    *(Name(f"{SPAN}.{stage}", f"child span: the {stage} stage") for stage in STAGES),
    Name(EVALUATION, "log event: one verdict about a stream, and one for each of its scores"),
    Name(CHECKPOINT, "log event: a copy of a signed checkpoint of the audit log; the body is the note"),
)
ATTRIBUTES = (
    Name("demur.monitor", "monitor name"),
    Name("demur.bundle", "SHA-256 of the bundle's manifest"),
    Name("demur.bundle.version", "bundle version"),
    Name("demur.protocol", "python, grpc, oip, oip-rest or ext_proc"),
    Name("demur.mode", "observe or enforce"),
    Name("demur.rows", "rows in the request"),
    Name("demur.abstained", "rows (and groups) abstained from"),
    Name("demur.reasons", "reason kinds that stood against any row or group"),
    Name("demur.cause", "why the request could not be assessed"),
    Name("demur.audit.sequence", "number of the audit record"),
    Name("demur.audit.origin", "name of the audit log, from the checkpoint"),
    Name("demur.audit.size", "records covered by the checkpoint"),
    Name("demur.audit.root", "Merkle root of the checkpoint, base64"),
    Name("demur.p_value", "p-value of an evaluated score"),
    Name("gen_ai.security.verdict.type", "allow or deny: what was judged (draft convention)"),
    Name("gen_ai.security.action.type", "allow, block or escalate: what was done about it (draft convention)"),
    Name("gen_ai.evaluation.name", "score name, or demur.verdict"),
    Name("gen_ai.evaluation.score.value", "the score; higher is less trustworthy"),
    Name("gen_ai.evaluation.score.label", "accept, abstain or not_assessable"),
    Name("gen_ai.evaluation.explanation", "reason kinds; never text of the user or the model"),
    Name("gen_ai.response.id", "the completion judged, when known"),
    Name("error.type", "invalid or unavailable, on evaluations that could not be made"),
)
