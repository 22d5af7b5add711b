"""The chart's side of `demur.yaml` against the service's own model. Runs in the main environment, without Helm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
SCHEMA = HERE.parents[1] / "helm" / "demur" / "values.schema.json"
GOLDEN = sorted((HERE / "golden").glob("*.yaml"))
PAIRS = {
    ("monitor",): "ServedMonitorConfig",
    ("monitor", "audit"): "MonitorAuditConfig",
    ("config", "telemetry"): "TelemetryConfig",
    ("config", "limits"): "LimitsConfig",
    ("config", "proxy"): "ProxyConfig",
    ("config", "proxy", "rest"): "RestProxyConfig",
    ("config", "ext_proc"): "ExtProcConfig",
    ("proxiedModel",): "ProxiedModelConfig",
    ("proxiedModel", "fallback"): "FallbackConfig",
    ("completionModel",): "CompletionModelConfig",
}
PROXIES = (("config", "proxy"), ("config", "ext_proc"), ("proxiedModel",), ("completionModel",))
CHOSEN = {"listen", "upstream_tls_ca"}  # by the chart


def section(*path: str) -> dict[str, Any]:
    schema = json.loads(SCHEMA.read_text())
    place = schema["definitions"][path[0]] if path[0] in schema["definitions"] else schema["properties"][path[0]]
    for key in path[1:]:
        place = place["properties"][key]
    return place["properties"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_the_service_reads_what_the_chart_writes(path):
    from demur.monitor.config.document import load
    from demur.monitor.config.server import ServerConfig

    environment = {"DEMUR_AUDIT__ORIGIN": "prod/demo/7d1", "DEMUR_AUDIT__DIRECTORY": "/var/lib/demur/demo-1"}
    config = load(ServerConfig, path, environment)
    assert config.model_dump(mode="json", exclude_unset=True) == yaml.safe_load(path.read_text()) | {
        "audit": {
            **yaml.safe_load(path.read_text())["audit"],
            "origin": "prod/demo/7d1",
            "directory": "/var/lib/demur/demo-1",
        }
    }


@pytest.mark.parametrize(("path", "model"), PAIRS.items(), ids=lambda p: str(p))
def test_the_chart_offers_only_keys_that_the_service_knows(path, model):
    from demur.monitor.config import ext_proc, proxied, server

    (found,) = {getattr(m, model) for m in (server, ext_proc, proxied) if hasattr(m, model)}
    known = found.model_json_schema()["properties"]
    offered = section(*path)
    assert offered.keys() <= known.keys()
    assert not offered.keys() & CHOSEN
    if path[:2] in PROXIES:
        assert offered.keys() == known.keys() - CHOSEN  # the chart keeps nothing back
    for key, there in offered.items():
        if "enum" in there:
            assert there["enum"] == next(s["enum"] for s in [known[key], *known[key].get("anyOf", [])] if "enum" in s)


def test_there_is_a_golden_file_for_every_example():
    examples = (SCHEMA.parent / "examples").glob("*.yaml")
    assert [p.stem for p in GOLDEN] == sorted(p.stem for p in examples)
