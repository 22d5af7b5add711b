"""Values that must render to something Kubernetes accepts: every switch of the chart, thrown at least once."""

from __future__ import annotations

from typing import Any

import yaml

from .chart import EXAMPLES, MINIMAL, merged

CLAIM = {"emptyDir": {"enabled": False}, "persistentVolumeClaim": {"enabled": True}}
SHARED = merged(CLAIM, {"persistentVolumeClaim": {"accessMode": "ReadWriteMany"}})
TLS = {"enabled": True, "secret": "demur-tls"}
MONITOR = MINIMAL["config"]["monitors"][0]
PEER = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
EXAMPLE = {"enabled": True, "modelServer": {"image": "registry.example/server:1"}}

MAPPED = {"digits": {"monitor": "digits", "signals": {"logits": "scores"}}}
PROXY = {"upstream": "triton.models:8001", "models": MAPPED}
EXT_PROC = {"infer": MAPPED}
REACHES = {"enabled": True, "egress": [{"ports": [{"port": 8001, "protocol": "TCP"}]}]}

CHANGES: dict[str, dict[str, Any]] = {
    "minimal": {},
    "digest": {"image": {"repository": "registry.example:5000/ml/demur", "digest": "sha256:" + "0a" * 32}},
    "tag": {"image": {"tag": "1.10", "pullPolicy": "Always"}, "imagePullSecrets": [{"name": "registry"}]},
    "names": {"nameOverride": "guard", "fullnameOverride": "digits-guard"},
    "several monitors": {"config": {"monitors": [MONITOR, {"name": "b", "bundle": "/elsewhere/b.demur"}]}},
    "full monitor": {
        "config": {
            "monitors": [
                {
                    **MONITOR,
                    "mode": "enforce",
                    "on_failure": "pass",
                    "budget_ms": 0.5,
                    "audit": {"ack": "queued", "on_failure": "serve_and_count"},
                    "require_signature": True,
                    "public_keys": ["release.pub", "/keys/old.pub"],
                    "threads": 2,
                    "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
                }
            ]
        },
        "publicKeys": {"secret": "keys"},
    },
    "text from --set": {"config": {"monitors": [{**MONITOR, "budget_ms": "0.5"}], "telemetry": {"trace_ratio": "0.25"}}},
    "tiny fraction": {"config": {"telemetry": {"trace_ratio": 0.00001, "resource": {"service.namespace": "vision"}}}},
    "large limits": {"config": {"limits": {"message_bytes": 2147483647, "tensor_bytes": 1 << 40, "threads": 8}}},
    "no drain": {"config": {"drain_seconds": 0}, "preStopSleepSeconds": 0},
    "bundles in a secret": {"bundles": {"configMap": "", "secret": "bundles"}},
    "bundles on a claim": {"bundles": {"configMap": "", "persistentVolumeClaim": "bundles"}},
    "spill": {"config": {"monitors": [{**MONITOR, "audit": {"on_failure": "spill"}}]}},
    "no audit": {"audit": {"enabled": False}},
    "audit claim": {"audit": CLAIM},
    "existing claim": {"audit": merged(CLAIM, {"persistentVolumeClaim": {"existingClaim": "evidence"}})},
    "storage class": {"audit": merged(CLAIM, {"persistentVolumeClaim": {"storageClassName": "fast", "size": "1Ti"}})},
    "shared claim, replicas": {"audit": SHARED, "replicaCount": 3},
    "shared claim, one replica": {"audit": SHARED},
    "signing key": {"audit": {"signingKey": {"secret": "audit-key", "key": "ed25519.pem"}, "witness_url": "https://w.example"}},
    "replicas": {"replicaCount": 5, "podDisruptionBudget": {"enabled": True, "maxUnavailable": "20%"}},
    "zero replicas": {"replicaCount": 0},
    "min available": {"replicaCount": 3, "podDisruptionBudget": {"enabled": True, "minAvailable": 2, "maxUnavailable": ""}},
    "zero disruption": {"podDisruptionBudget": {"enabled": True, "maxUnavailable": 0}},
    "tls": {"tls": TLS},
    "mtls": {"tls": {**TLS, "mutual": {"enabled": True, "secret": "clients", "clientCA": "clients.pem"}}},
    "token": {"token": {"secret": "demur-token", "key": "bearer"}, "tls": TLS},
    "no health port": {"healthPort": {"enabled": False}},
    "no metrics": {"metrics": {"enabled": False}},
    "no scrape": {"metrics": {"scrapeAnnotations": False}},
    "ipv6": {"bindAddress": "[::]", "ports": {"grpc": 10443, "metrics": 10464, "health": 10444}},
    "platform user": {"runAsUser": None, "runAsGroup": None},
    "resources": {"resources": {"limits": {"cpu": 0.5, "memory": 1073741824, "nvidia.com/gpu": 1}}},
    "no limits": {"resources": {"limits": {"memory": None}}},
    "environment": {"extraEnv": {"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "MALLOC_TRIM_THRESHOLD_": "131072"}},
    "placement": {
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}},
        "priorityClassName": "high",
    },
    "annotations": {"podAnnotations": {"a": "true", "prometheus.io/scrape": "false"}, "podLabels": {"team": "vision"}},
    "hostile labels": {"podLabels": {"app.kubernetes.io/name": "other", "app.kubernetes.io/component": "x"}},
    "node port": {"service": {"type": "NodePort", "annotations": {"a": "b"}}},
    "headless": {"service": {"headless": True}},
    "account": {"serviceAccount": {"name": "guard", "annotations": {"iam.example/role": "reader"}}},
    "foreign account": {"serviceAccount": {"create": False, "name": "existing"}},
    "default account": {"serviceAccount": {"create": False}},
    "network policy": {"networkPolicy": {"enabled": True, "clients": [PEER], "scrapers": []}},
    "closed network": {"networkPolicy": {"enabled": True, "clients": [], "scrapers": []}, "healthPort": {"enabled": False}},
    "sidecar only": {"standalone": {"enabled": False}, "sidecar": {"enabled": True}},
    "sidecar example": {"standalone": {"enabled": False}, "sidecarExample": EXAMPLE},
    "sidecar over localhost": {
        "standalone": {"enabled": False}, "sidecar": {"transport": "localhost"}, "sidecarExample": EXAMPLE,
    },
    "sidecar, shared claim": {"standalone": {"enabled": False}, "sidecarExample": EXAMPLE, "audit": SHARED},
    "sidecar, no audit": {"standalone": {"enabled": False}, "sidecarExample": EXAMPLE, "audit": {"enabled": False}},
    "sidecar ignores tls": {"standalone": {"enabled": False}, "sidecarExample": EXAMPLE, "tls": TLS, "token": {"secret": "t"}},
    "proxy": {"config": {"proxy": PROXY}},
    "rest proxy, tls": {
        "config": {"proxy": {"rest": {"upstream": "https://triton.models", "connect_seconds": 2}, "models": MAPPED}},
        "upstreamCA": {"secret": "authority", "key": "root.pem"},
    },
    "both proxies, tls": {
        "config": {"proxy": {**PROXY, "rest": {"upstream": "http://triton.models:8000"}}}, "upstreamCA": {"secret": "authority"}, "tls": TLS,
    },
    "full proxy": {"config": {"proxy": {
        **PROXY, "annotate": "outputs", "unmapped": "block", "streams": 8, "upstream_timeout_seconds": 5,
        "models": {"m": {"monitor": "digits", "map": "/maps/m.yaml", "default_outputs": ["y"], "on_abstain": "fallback",
                         "fallback": {"model": "n"}},
                   'odd "name"': {"monitor": "digits", "on_abstain": "replace", "replace": {"a": -1, "b": 0.5, "c": "x", "d": False}}}}}},
    "proxy behind a network policy": {"config": {"proxy": PROXY}, "networkPolicy": {**REACHES, "proxyClients": [PEER], "clients": []}},
    "ext_proc": {"config": {"ext_proc": EXT_PROC}},
    "full ext_proc": {"config": {"ext_proc": {
        **EXT_PROC, "completions": {"*": {"monitor": "digits", "request_logprobs": True}}, "unmapped": "block", "annotate": True,
        "blocked_status": 451, "budget_ms": "0.5", "mode_override": True, "body_bytes": 1 << 30, "buffer_bytes": 1 << 40, "streams": 4096,
        "client_seconds": 5, "idle_seconds": 600}}, "networkPolicy": {"enabled": True, "envoys": [PEER], "scrapers": []}},
    "nobody's envoys": {"config": {"ext_proc": EXT_PROC}, "networkPolicy": {"enabled": True, "envoys": []}},
    "proxy and ext_proc": {"config": {"proxy": PROXY, "ext_proc": EXT_PROC}, "service": {"headless": True}},
    "proxy sidecar": {
        "standalone": {"enabled": False}, "sidecarExample": EXAMPLE, "upstreamCA": {"secret": "authority"},
        "config": {"proxy": {"upstream": "127.0.0.1:8001", "rest": {"upstream": "http://localhost:8000"}, "models": MAPPED}},
    },
    "proxy sidecar only": {
        "standalone": {"enabled": False}, "sidecar": {"enabled": True}, "config": {"proxy": {**PROXY, "upstream": "unix:/run/demur/model.sock"}},
    },
    "ext_proc sidecar": {"standalone": {"enabled": False}, "sidecarExample": EXAMPLE, "config": {"ext_proc": EXT_PROC}},
    "both": {"sidecarExample": EXAMPLE, "replicaCount": 2},
}  # fmt: skip

VALUES: dict[str, dict[str, Any]] = {name: merged(MINIMAL, change) for name, change in CHANGES.items()} | {
    f"example {name}": yaml.safe_load(path.read_text()) for name, path in EXAMPLES.items()
}
