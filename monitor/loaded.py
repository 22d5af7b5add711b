"""A bundle ready to serve: graph checked, session open, self-test passed. Requests hold on to the one they began with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.bundle import Bundle, Manifest, graph, selftest
from demur.monitor.bundle.manifest import RuleEntry
from demur.monitor.config.decoding import Decoding
from demur.monitor.errors import BundleError
from demur.monitor.session import CPU, Session
from demur.monitor.unrolled import Unrolled, unrolled
from demur.monitor.verdicts import PolicyView, RuleView

GROUPS = "calibration/group.npy"
PLUMBING = frozenset({"group_id", "group_count", "state"})  # inputs of a graph that are no signals


@dataclass(frozen=True, eq=False)
class Loaded:
    """What the engine needs of a bundle, computed once."""

    bundle: Bundle
    session: Session
    policy: PolicyView
    widths: dict[str, int]
    marginal: int

    @staticmethod
    def open(bundle: Bundle, *, name: str = "", providers: Sequence[str] = CPU, threads: int = 1) -> Loaded:
        """Check the graph, open a session, run the self-test.

        Raises: BundleError, SelfTestFailed.
        """
        graph.check(bundle.graph)
        session = Session(bundle.graph, providers=providers, threads=threads)
        _check_contract(bundle.manifest, session)
        marginal = selftest.run(bundle, session)
        manifest = bundle.manifest
        return Loaded(
            bundle,
            session,
            _view(bundle, name or manifest.monitor),
            {s.name: s.width for s in manifest.signals},
            marginal,
        )

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self.bundle.manifest

    @cached_property
    def positions(self) -> dict[str, int]:
        """Where each output stands in `Session.run_columns`."""
        return {name: i for i, name in enumerate(self.session.outputs)}

    @cached_property
    def grouped(self) -> bool:
        """Whether the policy judges groups, and requests need a group id for each row."""
        return "group_id" in self.session.inputs

    @cached_property
    def unread(self) -> tuple[str, ...]:
        """Signals of the contract that no score reads: they may be sent or left out."""
        return tuple(n for n in self.widths if n not in self.session.inputs)

    @cached_property
    def unrolled(self) -> Unrolled | None:
        """Many steps of a stream's graph in one run; None where it cannot be had."""
        return unrolled(self.bundle.graph, self.session, self.widths, self.manifest.state_size)

    @cached_property
    def decoding(self) -> str:
        """Digest of how the signals of the bundle's tables were decoded, "" when nobody knows."""
        return "" if self.manifest.origin is None else self.manifest.origin.decoding_digest

    def conflict(self, decoding: Decoding) -> str:
        """Why signals that were decoded like this cannot be judged by this bundle, or ""."""
        said = decoding.read_by(self.widths).conflict(self.manifest.decoding)
        if not said:
            return ""
        return (
            f"contract: signals are decoded otherwise than those this bundle was made from: {said}; "
            "correct the signal map, or collect and fit again with it"
        )

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Per signal, the range over the calibration rows."""
        return {s.name: (s.low, s.high) for s in self.manifest.signals if s.low is not None and s.high is not None}


def _check_contract(manifest: Manifest, session: Session) -> None:
    """Raises: BundleError when the graph reads other signals than the manifest declares, or a rule looks at no column."""
    widths = {s.name: s.width for s in manifest.signals}
    for name in session.inputs:
        if name not in PLUMBING and session.width(name) != widths.get(name):
            raise BundleError(
                f"the graph reads {name} of width {session.width(name)}, the manifest declares {widths.get(name, 'none')}; "
                "build the bundle again"
            )
    units = {c.name: c.unit for c in manifest.columns}
    for rule in manifest.rules:
        if units.get(rule.column) != rule.unit:
            raise BundleError(
                f"rule {rule.name}: expected a {rule.unit} column named {rule.column}, got {units.get(rule.column)}; build the bundle again"
            )


def _view(bundle: Bundle, name: str) -> PolicyView:
    manifest = bundle.manifest
    rules = tuple(
        RuleView(
            r.name,
            r.column,
            Reason(r.reason),
            r.unit,
            _thresholds(r.thresholds),
            r.statement,
            r.level,
            _by_p(bundle, r),
        )
        for r in manifest.rules
    )
    rows = tuple(c.name for c in manifest.columns if c.unit != "group")
    groups = tuple(c.name for c in manifest.columns if c.unit == "group")
    return PolicyView(name, bundle.digest, manifest.version, rows, groups, rules)


def _by_p(bundle: Bundle, rule: RuleEntry) -> bool:
    """Whether exceeding the threshold and p <= level are the same event: not for a tolerance limit (`confidence`), nor
    where the rows of a group share one weight.
    """
    weighed = rule.unit == "row" and GROUPS in bundle.members
    return rule.level is not None and "confidence" not in rule.promise and not weighed


def _thresholds(values: list[float | None]) -> NDArray[np.float32]:
    return np.array([np.inf if v is None else v for v in values], np.float32)
