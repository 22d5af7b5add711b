"""What a served monitor says about itself."""

from __future__ import annotations

from demur.monitor.loaded import Loaded
from demur.monitor.service.registry import Served
from demur.monitor.verdicts import RuleView
from demur.proto.v1 import monitor_pb2 as pb


def describe(served: Served) -> pb.MonitorInfo:
    """Identity, contract, rules with their promises, and why the newest bundle file was not taken, if it was not."""
    info = pb.MonitorInfo(monitor=served.name, mode=served.config.mode, last_error=served.error)
    if served.engine is not None:
        info.ready = True
        info.on_failure = served.config.on_failure or served.engine.loaded.manifest.on_failure
        _describe_bundle(info, served.engine.loaded)
    return info


def _describe_bundle(info: pb.MonitorInfo, loaded: Loaded) -> None:
    manifest, policy = loaded.manifest, loaded.policy
    info.bundle, info.version, info.kind = policy.bundle, policy.version, manifest.kind
    info.columns.extend(policy.columns)
    info.group_columns.extend(policy.group_columns)
    info.signals.extend(
        pb.SignalInfo(name=s.name, width=s.width, datatype=s.dtype, kind=s.kind) for s in manifest.signals
    )
    info.rules.extend(_rule(rule) for rule in policy.rules)
    known = {k: str(manifest.model.get(k) or "") for k in ("name", "version", "digest")}
    info.model.CopyFrom(pb.ModelIdentity(**known, decoding=loaded.decoding))


def _rule(rule: RuleView) -> pb.RuleInfo:
    return pb.RuleInfo(
        name=rule.name,
        column=rule.column,
        unit=rule.unit,
        reason=pb.Reason.Name(int(rule.reason)),
        promise=rule.promise,
        thresholds=rule.threshold.tolist(),
        level=rule.level if rule.by_p else None,
    )
