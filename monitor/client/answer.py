"""An answer to verdicts: the same class as in process, and nothing accepted that is not consistent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.observation import Observation
from demur.monitor.verdicts import PolicyView, RuleView, Verdicts
from demur.proto.v1 import monitor_pb2 as pb

EMPTY_GROUP = "the group has no rows"
FLOAT = np.dtype("<f4")


class BadAnswer(ValueError):
    """An answer that does not fit its request, or contradicts itself."""


def decode(response: pb.AssessResponse, observation: Observation, policy: PolicyView) -> Verdicts:
    """The verdicts of an answer. Raises: BadAnswer."""
    verdicts = replace(
        _columns(response.rows, policy, observation.rows),
        cause=response.cause,
        sequence=response.sequence,
        audited=response.audited,
        mode=response.mode,
    )
    if not response.HasField("groups"):
        return verdicts
    names = observation.grouping.names if observation.grouping is not None else np.zeros(0, np.int64)
    if list(response.group_ids) != names.tolist():
        raise BadAnswer(f"the answer is about {len(response.group_ids)} groups, the request about {len(names)}")
    groups = _columns(response.groups, policy, len(names))
    return replace(
        verdicts,
        groups=replace(groups, cause=response.cause or EMPTY_GROUP, mode=response.mode),
        group_ids=names,
    )


def _columns(message: pb.Verdicts, policy: PolicyView, count: int) -> Verdicts:
    if message.count != count or len(message.accept) != count:
        raise BadAnswer(f"expected verdicts of {count} units, got {message.count}")
    accept = np.frombuffer(message.accept, np.uint8)
    reasons = _integers(message.reasons, count, "reasons")
    if ((accept == 1) != (reasons == 0)).any() or (accept > 1).any():
        raise BadAnswer("a unit is accepted with a reason against it, or refused without one")
    shape = (count, len(message.columns))
    return Verdicts(
        policy,
        accept.view(np.bool_),
        reasons,
        _integers(message.rule_hits, count, "rule_hits"),
        _integers(message.pooled, count, "pooled"),
        _floats(message.scores, shape, "scores"),
        _floats(message.p_values, shape, "p_values"),
        tuple(message.columns),
        actions=_actions(message.actions, count),
    )


def _integers(values: object, count: int, name: str) -> NDArray[np.int64]:
    found = np.array(values, np.int64)
    if len(found) not in (0, count):
        raise BadAnswer(f"{name}: expected {count} numbers, got {len(found)}")
    if name == "reasons" and len(found) != count:
        raise BadAnswer(f"reasons: expected {count} numbers, got none")
    return found if len(found) else np.zeros(count, np.int64)


def _floats(raw: bytes, shape: tuple[int, int], name: str) -> NDArray[np.float32]:
    if len(raw) != shape[0] * shape[1] * FLOAT.itemsize:
        raise BadAnswer(f"{name}: expected {shape[0]} x {shape[1]} float32, got {len(raw)} bytes")
    return np.frombuffer(raw, FLOAT).reshape(shape)


def _actions(raw: bytes, count: int) -> NDArray[np.uint8] | None:
    if len(raw) not in (0, count):
        raise BadAnswer(f"actions: expected {count} bytes, got {len(raw)}")
    return np.frombuffer(raw, np.uint8) if raw else None


def minimal(response: pb.AssessResponse) -> PolicyView:
    """What an answer alone says about its policy: no rules, so sentences name reason kinds only."""
    return PolicyView(
        response.monitor, response.bundle, 0, tuple(response.rows.columns), tuple(response.groups.columns), ()
    )


def view(info: pb.MonitorInfo) -> PolicyView:
    """The policy as its server describes it."""
    rules = tuple(
        RuleView(
            rule.name,
            rule.column,
            Reason(rule.reason),
            rule.unit,
            np.array(rule.thresholds, np.float32),
            rule.promise,
            rule.level if rule.HasField("level") else None,
            by_p=rule.HasField("level"),
        )
        for rule in info.rules
    )
    return PolicyView(info.monitor, info.bundle, info.version, tuple(info.columns), tuple(info.group_columns), rules)
