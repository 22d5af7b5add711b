"""Verdicts of a request that nobody answered."""

from __future__ import annotations

from dataclasses import replace

from demur.monitor.client.failure import Failure, Failures
from demur.monitor.client.policies import Policies
from demur.monitor.observation import Observation
from demur.monitor.verdicts import Verdicts, act, unavailable


class Unanswered:
    """Every unit ABSTAIN(UNAVAILABLE, cause), counted, with the action the operator chose."""

    def __init__(self, policies: Policies, failures: Failures, on_failure: str) -> None:
        if on_failure not in ("block", "pass"):
            raise ValueError(f"on_failure: expected block or pass, got {on_failure!r}")
        self._policies, self._failures, self._on_failure = policies, failures, on_failure

    def verdicts(self, monitor: str, observation: Observation, failed: Failure) -> Verdicts:
        self._failures.add(failed.code)
        policy, mode = self._policies.last(monitor)
        names = observation.grouping.names if observation.grouping is not None else None
        verdicts = unavailable(policy, observation.rows, f"{failed.code}: {failed.cause}", names)
        groups = verdicts.groups and replace(
            verdicts.groups, actions=act(verdicts.groups.reason_bits, mode, self._on_failure), mode=mode
        )
        return replace(verdicts, actions=act(verdicts.reason_bits, mode, self._on_failure), mode=mode, groups=groups)
