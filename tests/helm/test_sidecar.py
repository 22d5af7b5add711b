"""The native sidecar: in the example, and from a parent chart that includes it in a pod of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from .chart import CHART, MINIMAL, Release, containers, environment, merged, render

pytestmark = pytest.mark.helm

PARENT = """
apiVersion: v1
kind: Pod
metadata:
  name: model
  namespace: {{ .Release.Namespace }}
  annotations:
    checksum/config: {{ include "demur.sidecar.checksum" .Subcharts.demur }}
spec:
  initContainers:
    - {name: fetch, image: fetch:1}
    {{- include "demur.sidecar" .Subcharts.demur | nindent 4 }}
  containers:
    - name: server
      image: server:1
      env: [{name: MONITOR, value: {{ include "demur.sidecar.address" .Subcharts.demur | quote }}}]
      volumeMounts:
        {{- include "demur.sidecar.clientMounts" .Subcharts.demur | nindent 8 }}
  volumes:
    {{- include "demur.sidecar.volumes" .Subcharts.demur | nindent 4 }}
"""


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A chart that depends on ours."""
    chart = tmp_path / "model"
    shutil.copytree(CHART, chart / "charts" / "demur")
    (chart / "templates").mkdir()
    (chart / "templates" / "pod.yaml").write_text(PARENT)
    chart.joinpath("Chart.yaml").write_text("apiVersion: v2\nname: model\nversion: 1.0.0\n")
    chart.joinpath("values.yaml").write_text(
        yaml.safe_dump({"demur": merged(MINIMAL, {"standalone": {"enabled": False}, "sidecar": {"enabled": True}})})
    )
    return chart


def test_example_starts_the_monitor_before_the_model(released):
    spec = released("sidecar example").pods()[0]["spec"]
    (sidecar,) = spec["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["grpc"] == {"port": 9444, "service": "readiness"}
    assert "lifecycle" not in sidecar
    assert [c["name"] for c in spec["containers"]] == ["model-server"]
    assert spec["terminationGracePeriodSeconds"] == 30 + 10 + 5


@pytest.mark.parametrize(
    ("name", "address", "shared"),
    [("sidecar example", "unix:/run/demur/demur.sock", 2), ("sidecar over localhost", "127.0.0.1:9443", 0)],
)
def test_both_ends_name_one_address(released, name, address, shared):
    release = released(name)
    (pod,) = release.pods()
    (server,) = pod["spec"]["containers"]
    assert release.config()["listen"] == [address]
    assert environment(server)["MONITOR_ADDRESS"] == address
    mounts = [m for c in containers(pod) for m in c.get("volumeMounts", []) if m["mountPath"] == "/run/demur"]
    assert len(mounts) == shared
    assert not [m for m in mounts if m.get("readOnly")]


def test_each_pod_names_its_own_log(released):
    assert environment(released("sidecar example").demur())["DEMUR_AUDIT__ORIGIN"] == "prod/demo-demur/$(POD_UID)"
    shared = environment(released("sidecar, shared claim").demur())
    assert shared["DEMUR_AUDIT__DIRECTORY"] == "/var/lib/demur/$(POD_NAME)"


def test_tls_and_token_stay_with_the_service(released):
    release = released("sidecar ignores tls")
    assert not {"tls", "token_file"} & release.config().keys()
    assert not [m for m in release.demur()["volumeMounts"] if "secrets" in m["mountPath"]]


def test_sidecar_alone_renders_only_its_configuration(released):
    assert [o["metadata"]["name"] for o in released("sidecar only").objects] == ["demo-demur-sidecar"]


def test_a_parent_chart_includes_the_sidecar(parent, validate):
    release = render({}, name="m", chart=parent)
    pod = release.one("Pod")
    assert validate(pod, "1.29") == "1.29"
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["fetch", "demur"]
    mounted = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", [])}
    assert mounted == {v["name"] for v in pod["spec"]["volumes"]}
    (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "demur-config"]
    assert volume["configMap"]["name"] == release.one("ConfigMap")["metadata"]["name"]


def test_the_checksum_follows_the_configuration(parent):
    def checksum(values: dict) -> str:
        release: Release = render(values, chart=parent)
        return release.one("Pod")["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) == checksum({"global": {"any": 1}}) != checksum({"demur": {"config": {"drain_seconds": 3}}})


def test_checks_hold_inside_a_parent_chart(parent):
    import helm_python as helm

    with pytest.raises(helm.HelmError, match=r"config\.monitors is empty"):
        render({"demur": {"config": {"monitors": []}}}, chart=parent)
