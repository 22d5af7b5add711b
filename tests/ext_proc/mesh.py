"""A real Envoy as a process: one listener for each configuration of the filter."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import yaml

BINARY = Path(__file__).parents[2] / ".venv-envoy/bin/envoy"
TYPE = "type.googleapis.com/envoy."
LOG = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n"


def binary() -> str:
    """DEMUR_ENVOY, or the one that `make test-envoy` installs."""
    found = os.environ.get("DEMUR_ENVOY") or (str(BINARY) if BINARY.exists() else shutil.which("envoy"))
    assert found, "no Envoy is installed; run make test-envoy"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def filter_of_the_page() -> dict[str, Any]:
    """The filter as docs/ext-proc.md has it, with more time for a busy machine."""
    page = (Path(__file__).parents[2] / "docs/ext-proc.md").read_text()
    found: dict[str, Any] = yaml.safe_load(page.partition("# envoy.yaml")[2].partition("\n")[2].partition("```")[0])
    assert found["typed_config"]["message_timeout"] == "0.2s"
    found["typed_config"]["message_timeout"] = "2s"
    return found


def filter_for_istio() -> dict[str, Any]:
    """The filter that docs/kubernetes.md has Istio put before the router, with more time for a busy machine."""
    page = (Path(__file__).parents[2] / "docs/kubernetes.md").read_text()
    document = yaml.safe_load(page.partition("# istio.yaml\n")[2].partition("```")[0])
    found: dict[str, Any] = document["spec"]["configPatches"][0]["patch"]["value"]
    found["typed_config"]["message_timeout"] = "2s"
    found["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "demur"
    return found


class RealEnvoy:
    """`filters` by listener name: the ext_proc filter's configuration as in docs/ext-proc.md."""

    def __init__(self, folder: Path, filters: dict[str, dict[str, Any]], *, demur: str, upstream: int) -> None:
        self.ports = {name: free_port() for name in filters}
        self.admin, self.log = free_port(), folder / "access.log"
        self._output = (folder / "envoy.log").open("w")
        document = {
            "admin": {"address": address(f"127.0.0.1:{self.admin}")},
            "static_resources": {
                "listeners": [self._listener(name, config) for name, config in filters.items()],
                "clusters": [cluster("models", f"127.0.0.1:{upstream}"), cluster("demur", demur, http2=True)],
            },
        }
        path = folder / "envoy.yaml"
        path.write_text(yaml.safe_dump(document))
        self._command = [binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=self._output, stderr=self._output)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                with urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=1) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError(Path(self._output.name).read_text())

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        self._output.close()

    def healthy(self, cluster: str, *, wanted: bool) -> None:
        """Until Envoy's own health check of a cluster says so."""
        until = time.monotonic() + 15
        while time.monotonic() < until:
            with urlopen(f"http://127.0.0.1:{self.admin}/clusters?format=json", timeout=5) as answer:
                found = {c["name"]: c for c in json.load(answer)["cluster_statuses"]}[cluster]["host_statuses"][0]
            if ("failed_active_health_check" in found["health_status"]) != wanted:
                return
            time.sleep(0.1)
        raise AssertionError(f"Envoy does not see the health of {cluster} as {wanted}")

    def stat(self, listener: str, name: str) -> int:
        """One of the filter's counters."""
        with urlopen(f"http://127.0.0.1:{self.admin}/stats?format=json&filter=ext_proc", timeout=5) as answer:
            found = json.load(answer)["stats"]
        return next((s["value"] for s in found if s.get("name") == f"http.{listener}.ext_proc.{name}"), 0)

    def details(self, path: str) -> list[str]:
        """What the access log says about requests of this path, once it was written."""
        with urlopen(f"http://127.0.0.1:{self.admin}/reopen_logs", data=b"", timeout=5):
            pass
        time.sleep(0.2)
        lines = [line.split(" ", 2) for line in self.log.read_text().splitlines()]
        return [f"{status} {details}" for found, status, details in lines if found == path]

    def _listener(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        router = {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"}
        manager = {
            "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "access_log": [
                {
                    "name": "file",
                    "typed_config": {
                        "@type": f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog",
                        "path": str(self.log),
                        "log_format": {"text_format_source": {"inline_string": LOG}},
                    },
                }
            ],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "models"}}],
                    }
                ]
            },
            "http_filters": [config, {"name": "envoy.filters.http.router", "typed_config": router}],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        found = {"name": name, "address": address(f"127.0.0.1:{self.ports[name]}"), "filter_chains": [chain]}
        return found | ({"per_connection_buffer_limit_bytes": 4096} if name == "partial" else {})


def address(place: str) -> dict[str, Any]:
    if place.startswith("unix:"):
        return {"pipe": {"path": place.removeprefix("unix:")}}
    host, _, port = place.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def cluster(name: str, place: str, *, http2: bool = False) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": address(place)}}
    found: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if http2:
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
        found["health_checks"] = [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
            }
        ]
    return found
