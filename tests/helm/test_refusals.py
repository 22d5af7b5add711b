"""What the chart refuses: values of the wrong kind by schema, impossible combinations by name."""

from __future__ import annotations

from typing import Any

import pytest

from .chart import CHART, MINIMAL, merged, render
from .valuesets import CLAIM, EXAMPLE, EXT_PROC, MAPPED, MONITOR, PROXY, SHARED, VALUES

pytestmark = pytest.mark.helm


def monitor(**over: Any) -> dict[str, Any]:
    return {"config": {"monitors": [{**MONITOR, **over}]}}


def proxy(**over: Any) -> dict[str, Any]:
    return {"config": {"proxy": {**PROXY, **over}}}


def proxied(**over: Any) -> dict[str, Any]:
    return proxy(models={"digits": {**MAPPED["digits"], **over}})


def ext_proc(**over: Any) -> dict[str, Any]:
    return {"config": {"ext_proc": {**EXT_PROC, **over}}}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"replicas": 2}, "replicas"),
    "misspelt section": ({"netwrokPolicy": {"enabled": True}}, "netwrokPolicy"),
    "unknown nested key": ({"image": {"sha": "x"}}, "sha"),
    "unknown service key": ({"config": {"drainSeconds": 3}}, "drainSeconds"),
    "unknown monitor key": (monitor(bundel="x"), "bundel"),
    "unknown limit": ({"config": {"limits": {"row": 3}}}, "row"),
    "key chosen by the chart": ({"config": {"listen": ["0.0.0.0:1"]}}, "listen"),
    "monitor without a bundle": ({"config": {"monitors": [{"name": "a"}]}}, "bundle"),
    "monitor without a name": ({"config": {"monitors": [{"bundle": "a"}]}}, "name"),
    "monitor name with a space": (monitor(name="a b"), "name"),
    "bundle outside its folder": (monitor(bundle="../a.demur"), "bundle"),
    "unknown mode": (monitor(mode="strict"), "mode"),
    "unknown action": (monitor(on_failure="accept"), "on_failure"),
    "unknown acknowledgement": (monitor(audit={"ack": "never"}), "ack"),
    "unknown audit failure": (monitor(audit={"on_failure": "ignore"}), "on_failure"),
    "budget of zero": (monitor(budget_ms=0), "budget_ms"),
    "budget of zero as text": (monitor(budget_ms="0.000"), "budget_ms"),
    "budget with a unit": (monitor(budget_ms="5ms"), "budget_ms"),
    "flag as text": (monitor(require_signature="false"), "require_signature"),
    "ratio above one": ({"config": {"telemetry": {"trace_ratio": 1.5}}}, "trace_ratio"),
    "ratio above one as text": ({"config": {"telemetry": {"trace_ratio": "1.5"}}}, "trace_ratio"),
    "ratio below zero": ({"config": {"telemetry": {"trace_ratio": -0.1}}}, "trace_ratio"),
    "ratio that is no number": ({"config": {"telemetry": {"trace_ratio": "low"}}}, "trace_ratio"),
    "message of more than an int": ({"config": {"limits": {"message_bytes": 1 << 31}}}, "message_bytes"),
    "rows of zero": ({"config": {"limits": {"rows": 0}}}, "rows"),
    "rows as text": ({"config": {"limits": {"rows": "many"}}}, "rows"),
    "half a replica": ({"replicaCount": 1.5}, "replicaCount"),
    "negative replicas": ({"replicaCount": -1}, "replicaCount"),
    "privileged port": ({"ports": {"grpc": 443}}, "grpc"),
    "port too large": ({"ports": {"metrics": 65536}}, "metrics"),
    "port as text": ({"ports": {"health": "9444"}}, "health"),
    "other address": ({"bindAddress": "10.0.0.1"}, "bindAddress"),
    "short digest": ({"image": {"digest": "sha256:abc"}}, "digest"),
    "tag that is a number": ({"image": {"tag": 1.1}}, "tag"),
    "pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    "repository with a tag and space": ({"image": {"repository": "demur :1"}}, "repository"),
    "root user": ({"runAsUser": 0}, "runAsUser"),
    "user as text": ({"runAsUser": "demur"}, "runAsUser"),
    "quantity": ({"resources": {"limits": {"memory": "512 MB"}}}, "memory"),
    "zero quantity": ({"resources": {"limits": {"cpu": 0}}}, "cpu"),
    "kind of resource": ({"resources": {"claims": {}}}, "claims"),
    "glibc suffix": ({"malloc": {"mmapThresholdBytes": "1G"}}, "mmapThresholdBytes"),
    "annotation that is a flag": ({"podAnnotations": {"a": True}}, "podAnnotations"),
    "node selector that is a flag": ({"nodeSelector": {"gpu": True}}, "nodeSelector"),
    "environment that is a number": ({"extraEnv": {"A": 1}}, "extraEnv"),
    "environment name": ({"extraEnv": {"a-b": "1"}}, "a-b"),
    "environment of the chart": ({"extraEnv": {"POD_UID": "1"}}, "POD_UID"),
    "name in capitals": ({"fullnameOverride": "Demur"}, "fullnameOverride"),
    "configmap name": ({"bundles": {"configMap": "a_b"}}, "configMap"),
    "secret key with a folder": ({"token": {"secret": "t", "key": "../token"}}, "key"),
    "access mode": ({"audit": {"persistentVolumeClaim": {"accessMode": "RWO"}}}, "accessMode"),
    "origin that expands": ({"audit": {"origin": "$(SECRET)"}}, "origin"),
    "witness": ({"audit": {"witness_url": "ftp://w"}}, "witness_url"),
    "service type": ({"service": {"type": "ExternalName"}}, "type"),
    "probe of zero": ({"probes": {"startup": {"failureThreshold": 0}}}, "failureThreshold"),
    "disruption share": ({"podDisruptionBudget": {"maxUnavailable": "120%"}}, "maxUnavailable"),
    "peer of nothing": ({"networkPolicy": {"clients": [{}]}}, "clients"),
    "peer misspelt": ({"networkPolicy": {"clients": [{"podSelectors": {}}]}}, "podSelectors"),
    "toleration misspelt": ({"tolerations": [{"keys": "a"}]}, "keys"),
    "transport": ({"sidecar": {"transport": "tcp"}}, "transport"),
    "proxy address of one's own": (proxy(listen="0.0.0.0:1"), "listen"),
    "proxy authority of one's own": (proxy(upstream_tls_ca="/ca"), "upstream_tls_ca"),
    "upstream with a scheme": (proxy(upstream="grpc://triton:8001"), "upstream"),
    "upstream without a port": (proxy(upstream="triton"), "upstream"),
    "rest upstream with a path": (proxy(rest={"upstream": "http://triton/v2"}), "upstream"),
    "rest upstream with a password": (proxy(rest={"upstream": "http://a:b@triton"}), "upstream"),
    "rest without upstream": (proxy(rest={}), "upstream"),
    "proxy without models": (proxy(models={}), "models"),
    "model without a monitor": (proxy(models={"m": {}}), "monitor"),
    "model key": (proxied(signal={"a": "b"}), "signal"),
    "signal that is a number": (proxied(signals={"logits": 3}), "logits"),
    "map outside its folder": (proxied(map="../m.yaml"), "map"),
    "remedy": (proxied(on_abstain="ignore"), "on_abstain"),
    "replacement by a list": (proxied(replace={"label": [1]}), "label"),
    "annotations": (proxy(annotate="headers"), "annotate"),
    "time of zero": (proxy(upstream_timeout_seconds=0), "upstream_timeout_seconds"),
    "streams": (proxy(streams=1025), "streams"),
    "processor address of one's own": (ext_proc(listen="0.0.0.0:1"), "listen"),
    "processor budget": (ext_proc(budget_ms=0), "budget_ms"),
    "blocked with success": (ext_proc(blocked_status=200), "blocked_status"),
    "completion key": (ext_proc(completions={"*": {"monitor": "digits", "signals": {}}}), "signals"),
    "authority key with a folder": ({"upstreamCA": {"key": "../ca"}}, "key"),
    "envoys of nothing": ({"networkPolicy": {"envoys": [{}]}}, "envoys"),
    "proxy clients misspelt": ({"networkPolicy": {"proxyClients": [{"podSelectors": {}}]}}, "podSelectors"),
    "weakened hardening": ({"securityContext": {"privileged": True}}, "securityContext"),
}

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "no monitors": ({"config": {"monitors": []}}, "config.monitors is empty"),
    "one name twice": ({"config": {"monitors": [MONITOR, MONITOR]}}, 'two monitors are named "digits"'),
    "no bundles": ({"bundles": {"configMap": ""}}, "names no ConfigMap, Secret or PersistentVolumeClaim"),
    "two bundle sources": ({"bundles": {"secret": "b"}}, "bundles takes one of"),
    "two key sources": ({"publicKeys": {"secret": "a", "configMap": "b"}}, "publicKeys takes one of"),
    "signature without keys": (monitor(require_signature=True), "require_signature needs public_keys"),
    "keys from nowhere": (monitor(public_keys=["a.pub"]), "is a file of `publicKeys`"),
    "audit section without audit": ({**monitor(audit={"ack": "queued"}), "audit": {"enabled": False}}, "audit.enabled is false"),
    "claim and emptyDir": ({"audit": {"persistentVolumeClaim": {"enabled": True}}}, "not both"),
    "no audit volume": ({"audit": {"emptyDir": {"enabled": False}}}, "needs a volume"),
    "one claim, two replicas": ({"audit": CLAIM, "replicaCount": 2}, "cannot share one ReadWriteOnce audit claim"),
    "one claim, service and sidecar": ({"audit": CLAIM, "sidecar": {"enabled": True}}, "service and the sidecars cannot share"),
    "mtls without tls": ({"tls": {"mutual": {"enabled": True}}}, "tls.mutual.enabled needs tls.enabled"),
    "tls without a secret": ({"tls": {"enabled": True}}, "needs tls.secret"),
    "tls without a plain port": (
        {"tls": {"enabled": True, "secret": "t"}, "healthPort": {"enabled": False}}, "probes speak no TLS",
    ),
    "sidecar without a plain port": ({"sidecar": {"enabled": True}, "healthPort": {"enabled": False}}, "cannot probe a Unix socket"),
    "example without an image": ({"sidecarExample": {"enabled": True}}, "modelServer.image"),
    "equal ports": ({"ports": {"health": 9443}}, "must differ"),
    "equal proxy ports": ({"ports": {"proxyRest": 8101}}, "must differ"),
    "proxy before nothing": ({"config": {"proxy": {"models": MAPPED}}}, "needs upstream (gRPC), rest.upstream, or both"),
    "proxy without any model": ({"config": {"proxy": {"upstream": "a:1"}}}, "config.proxy.models names no model"),
    "proxy of an unknown monitor": (proxied(monitor="letters"), 'model "digits": no monitor is named "letters"'),
    "map from nowhere": (
        {**proxied(map="m.yaml"), "bundles": {"configMap": ""}, "config": {**proxied(map="m.yaml")["config"],
         "monitors": [{**MONITOR, "bundle": "/elsewhere/d.demur"}]}}, 'map "m.yaml" is a file of `bundles`',
    ),
    "proxy before itself": (proxy(upstream="127.0.0.1:8001"), "is the standalone pod itself"),
    "rest proxy before itself": (proxy(rest={"upstream": "http://localhost:8000"}), "is the standalone pod itself"),
    "one proxy, two places": ({**proxy(), "sidecar": {"enabled": True}}, "use two releases"),
    "upstream walled in": ({**proxy(), "networkPolicy": {"enabled": True}}, "nothing would reach config.proxy's upstream"),
    "authority without a proxy": ({"upstreamCA": {"secret": "a"}}, "config.proxy, which is empty"),
    "authority for plain text": (
        {"config": {"proxy": {"rest": {"upstream": "http://a"}, "models": MAPPED}}, "upstreamCA": {"secret": "a"}}, "write https",
    ),
    "processor of nothing": ({"config": {"ext_proc": {"annotate": True}}}, "config.ext_proc names no model"),
    "processor of an unknown monitor": (ext_proc(completions={"*": {"monitor": "t"}}), 'no monitor is named "t"'),
    "fallback behind Envoy": (
        ext_proc(infer={"m": {"monitor": "digits", "on_abstain": "fallback", "fallback": {"model": "n"}}}), "cannot ask again",
    ),
    "headless node port": ({"service": {"headless": True, "type": "NodePort"}}, "needs service.type ClusterIP"),
    "two budgets": ({"podDisruptionBudget": {"enabled": True, "minAvailable": 1}}, "exactly one of"),
    "no budget": ({"podDisruptionBudget": {"enabled": True, "maxUnavailable": ""}}, "exactly one of"),
    "telemetry walled in": (
        {"networkPolicy": {"enabled": True}, "config": {"telemetry": {"otlp_endpoint": "http://c:4317"}}}, "networkPolicy.egress is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_schema_refuses(name):
    import helm_python as helm

    values, culprit = BAD[name]
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError) as refused:
        chart.validate_schema(merged(MINIMAL, values))
    assert culprit in str(refused.value)
    with pytest.raises(helm.HelmError):
        render(merged(MINIMAL, values))


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_combinations_fail_by_name(name):
    import helm_python as helm

    values, words = IMPOSSIBLE[name]
    with pytest.raises(helm.HelmRenderError) as refused:
        render(merged(MINIMAL, values))
    assert words in str(refused.value)


def test_a_release_name_that_cannot_name_a_service_is_refused():
    import helm_python as helm

    with pytest.raises(helm.HelmRenderError, match="cannot name a Service"):
        render(MINIMAL, name="1st")


def test_neighbours_of_the_impossible_are_possible():
    assert render(merged(MINIMAL, {"audit": SHARED, "replicaCount": 2})).objects
    assert render(merged(MINIMAL, {"audit": SHARED, "sidecarExample": EXAMPLE})).objects
    assert render(
        merged(MINIMAL, {"audit": CLAIM, "standalone": {"enabled": False}, "sidecar": {"enabled": True}})
    ).objects


@pytest.mark.parametrize("name", VALUES)
def test_the_schema_accepts_what_is_rendered(name):
    import helm_python as helm

    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(VALUES[name])
