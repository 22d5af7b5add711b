"""Our own accumulators: the engine adds one event a batch, exporters read families when they need them.

One `Histogram.record` of the OpenTelemetry SDK costs 7-11 µs; a whole event here costs about as much as one of them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from threading import Lock

from demur.monitor.event import BundleEvent, DecisionEvent, RefusalEvent
from demur.monitor.telemetry import names
from demur.monitor.telemetry.families import Buckets, Family, Point
from demur.monitor.telemetry.names import DURATION_BOUNDS, OTHER, Metric
from demur.monitor.telemetry.shares import RollingShare
from demur.monitor.telemetry.units import ACTIONS, UnitCounts, UnitPlan
from demur.monitor.verdicts import PolicyView

MONITOR_LIMIT = 64
_POLICY_LIMIT = 256
_BOUNDS = list(DURATION_BOUNDS)


class DurationCounts:
    """A histogram of seconds; callers hold the lock of its monitor."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def buckets(self, *labels: str) -> Buckets:
        return Buckets(labels, tuple(self.counts), self.total)


class MonitorCounts:
    """Everything counted for one monitor."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.units: dict[str, UnitCounts] = {}
        self.shares: dict[str, RollingShare] = {}
        self.requests = dict.fromkeys((*names.PROTOCOLS, OTHER), 0)
        self.stages = {stage: DurationCounts() for stage in (*names.STAGES, OTHER)}
        self.duration = DurationCounts()
        self.rows = 0
        self.out_of_range = 0
        self.bundle: tuple[str, str] | None = None
        self.changes = {"activated": 0, "refused": 0}

    def unit(self, name: str) -> UnitCounts:
        with self.lock:
            self.shares.setdefault(name, RollingShare())
            return self.units.setdefault(name, UnitCounts())

    def add(self, event: DecisionEvent, rows: int) -> None:
        with self.lock:
            self.requests[event.protocol if event.protocol in self.requests else OTHER] += 1
            self.rows += rows
            self.out_of_range += event.out_of_range
            # written out here: a method call for each stage would be a fifth of the whole event at N = 1
            duration, stages = self.duration, self.stages
            duration.counts[bisect_left(_BOUNDS, event.seconds)] += 1
            duration.total += event.seconds
            for stage, seconds in event.stages.items():
                counts = stages.get(stage) or stages[OTHER]
                counts.counts[bisect_left(_BOUNDS, seconds)] += 1
                counts.total += seconds


class PolicyPlan:
    """Where events of one policy are counted. Keeps the policy, so that its id() is not reused."""

    def __init__(self, monitor: MonitorCounts, policy: PolicyView) -> None:
        unit = "stream" if any(rule.unit == "stream" for rule in policy.rules) else "row"
        self.policy = policy
        self.monitor = monitor
        self.rows = UnitPlan(monitor.unit(unit), policy, policy.columns, unit)
        self.groups = (
            UnitPlan(monitor.unit("group"), policy, policy.group_columns, "group") if policy.group_columns else None
        )


class Accumulators:
    """Counts for all monitors of this process, with bounded labels. Safe for threads: one short lock a monitor."""

    def __init__(self, monitor_limit: int = MONITOR_LIMIT) -> None:
        self.started_ns = time.time_ns()
        self._lock = Lock()
        self._limit = monitor_limit
        self._monitors: dict[str, MonitorCounts] = {}
        self._plans: dict[int, PolicyPlan] = {}
        self._refusals: dict[tuple[str, str, str], int] = {}

    def on_decision(self, event: DecisionEvent) -> None:
        verdicts = event.verdicts
        plan = self._plans.get(id(verdicts.policy)) or self._plan(event.monitor, verdicts.policy)
        plan.rows.add(verdicts)
        if verdicts.groups is not None and plan.groups is not None:
            plan.groups.add(verdicts.groups)
        plan.monitor.add(event, len(verdicts))

    def on_refusal(self, event: RefusalEvent) -> None:
        # INVARIANT: a caller's words never make a label; only decisions and bundles name new monitors.
        monitor = event.monitor if event.monitor in self._monitors else OTHER
        kind = event.kind if event.kind in names.REFUSAL_KINDS else OTHER
        key = (monitor, kind, event.protocol if event.protocol in names.PROTOCOLS else OTHER)
        with self._lock:
            self._refusals[key] = self._refusals.get(key, 0) + 1

    def on_bundle(self, event: BundleEvent) -> None:
        monitor = self._monitor(event.monitor)
        with monitor.lock:
            monitor.changes["activated" if event.accepted else "refused"] += 1
            if event.accepted:
                monitor.bundle = event.bundle[:12], str(event.version)

    def collect(self) -> Iterator[Family]:
        """All families at this moment, monitor by monitor consistent."""
        with self._lock:
            monitors, refusals = tuple(self._monitors.items()), dict(self._refusals)
        points: dict[Metric, list[Point]] = {}
        buckets: dict[Metric, list[Buckets]] = {}
        for name, monitor in monitors:
            with monitor.lock:
                _read_monitor(name, monitor, points, buckets)
                units = tuple(monitor.units.items())
            for unit, counts in units:
                with counts.lock:
                    _read_unit(name, unit, counts, points, buckets)
                    self._read_share(name, unit, monitor, points)
        points[names.REFUSALS] = [Point(key, count) for key, count in refusals.items()]
        for metric in names.METRICS:
            if metric in points or metric in buckets:
                yield Family(metric, tuple(points.get(metric, ())), tuple(buckets.get(metric, ())))

    def _plan(self, name: str, policy: PolicyView) -> PolicyPlan:
        plan = PolicyPlan(self._monitor(name), policy)
        with self._lock:
            if len(self._plans) >= _POLICY_LIMIT:
                self._plans.clear()
            return self._plans.setdefault(id(policy), plan)

    def _monitor(self, name: str) -> MonitorCounts:
        with self._lock:
            known = name in self._monitors or len(self._monitors) < self._limit
            return self._monitors.setdefault(name if known else OTHER, MonitorCounts())

    def _read_share(self, name: str, unit: str, monitor: MonitorCounts, points: dict[Metric, list[Point]]) -> None:
        counts = monitor.units[unit]
        share = monitor.shares[unit].read(time.monotonic(), counts.refused, counts.judged())
        if counts.promised:
            points.setdefault(names.REFUSED_PROMISED, []).append(Point((name, unit), counts.promised))
            if share is not None:
                points.setdefault(names.REFUSED_SHARE, []).append(Point((name, unit), share))


def _read_monitor(
    name: str, monitor: MonitorCounts, points: dict[Metric, list[Point]], buckets: dict[Metric, list[Buckets]]
) -> None:
    def put(metric: Metric, value: float, *labels: str) -> None:
        points.setdefault(metric, []).append(Point((name, *labels), value))

    for protocol, count in monitor.requests.items():
        if count:
            put(names.REQUESTS, count, protocol)
    put(names.ROWS, monitor.rows)
    put(names.OUT_OF_RANGE, monitor.out_of_range)
    for outcome, count in monitor.changes.items():
        put(names.BUNDLE_CHANGES, count, outcome)
    if monitor.bundle is not None:
        put(names.BUNDLE_INFO, 1, *monitor.bundle)
    buckets.setdefault(names.DURATION, []).append(monitor.duration.buckets(name))
    stages = [counts.buckets(name, stage) for stage, counts in monitor.stages.items() if any(counts.counts)]
    buckets.setdefault(names.STAGE_DURATION, []).extend(stages)


def _read_unit(
    name: str, unit: str, counts: UnitCounts, points: dict[Metric, list[Point]], buckets: dict[Metric, list[Buckets]]
) -> None:
    def put(metric: Metric, value: float, *labels: str) -> None:
        points.setdefault(metric, []).append(Point((name, *labels), value))

    for decision, reason, count in counts.verdicts():
        put(names.VERDICTS, count, unit, decision, reason)
    for reason, count in counts.reasons():
        put(names.REASONS, count, unit, reason)
    for action, count in zip((*ACTIONS, OTHER), counts.actions, strict=True):
        if count:
            put(names.ACTIONS, count, unit, action)
    put(names.MARGINAL, counts.marginal, unit)
    for column, cell in counts.columns.items():
        put(names.NON_FINITE, cell.scores[-1], unit, column)
        buckets.setdefault(names.SCORES, []).append(Buckets((name, unit, column), tuple(cell.scores[:-1]), 0.0))
        buckets.setdefault(names.P_VALUES, []).append(
            Buckets((name, unit, column), tuple(cell.p_values[:-1]), cell.p_total)
        )
