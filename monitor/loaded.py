"""A bundle ready to serve: graph checked, session open, self-test passed. Requests hold on to the one they began with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.bundle import Bundle, Manifest, graph, selftest
from demur.monitor.session import CPU, Session
from demur.monitor.verdicts import PolicyView, RuleView


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
        return self.bundle.manifest

    @cached_property
    def positions(self) -> dict[str, int]:
        """Where each output stands in `Session.run_columns`."""
        return {name: i for i, name in enumerate(self.session.outputs)}

    @cached_property
    def grouped(self) -> bool:
        return "group_id" in self.session.inputs

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Per signal, the range over the calibration rows."""
        return {s.name: (s.low, s.high) for s in self.manifest.signals if s.low is not None and s.high is not None}


def _view(bundle: Bundle, name: str) -> PolicyView:
    manifest = bundle.manifest
    rules = tuple(
        RuleView(r.name, r.column, Reason(r.reason), r.unit, _thresholds(r.thresholds), r.statement, r.level)
        for r in manifest.rules
    )
    rows = tuple(c.name for c in manifest.columns if c.unit != "group")
    groups = tuple(c.name for c in manifest.columns if c.unit == "group")
    return PolicyView(name, bundle.digest, manifest.version, rows, groups, rules)


def _thresholds(values: list[float | None]) -> NDArray[np.float32]:
    return np.array([np.inf if v is None else v for v in values], np.float32)
