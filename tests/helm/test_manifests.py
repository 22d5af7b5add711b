"""Everything the chart renders: accepted by Kubernetes' own schemas, and right where those schemas look away."""

from __future__ import annotations

import itertools
import re
from pathlib import PurePosixPath
from typing import Any

import pytest

from .chart import Release, containers, merged, minimal
from .valuesets import VALUES

pytestmark = pytest.mark.helm

OLDEST = "1.29"
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$")
LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
SERVICE_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
PORT_NAME = re.compile(r"^(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$")


@pytest.fixture(params=VALUES)
def release(request, released) -> Release:
    return released(request.param)


def test_schemas_of_the_oldest_and_newest_kubernetes(release, validate):
    import kubernetes_validate

    newest = kubernetes_validate.latest_version()
    assert tuple(map(int, newest.split(".")[:2])) >= (1, 37)
    for document, version in itertools.product(release.objects, (OLDEST, newest)):
        assert version.startswith(validate(document, version))


@pytest.mark.parametrize("damage", [{"kind": "Deploymint"}, {"spec": {"replicass": 1}}, {"spec": {"replicas": "one"}}])
def test_the_validator_sees_damage(validate, damage):
    import kubernetes_validate

    refused = (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)
    with pytest.raises(refused):
        validate(merged(minimal().one("Deployment"), damage), OLDEST)


def test_names_are_valid_and_unique(release):
    keys = [(o["kind"], o["metadata"]["name"]) for o in release.objects]
    assert len(keys) == len(set(keys))
    for kind, name in keys:
        assert len(name) <= (63 if kind == "Service" else 253)
        assert (SERVICE_NAME if kind == "Service" else NAME).match(name), name
    assert all(o["metadata"]["namespace"] == "prod" for o in release.objects)


def test_labels_are_valid(release):
    labelled = [o["metadata"] for o in release.objects] + [p["metadata"] for p in release.pods()]
    for metadata in labelled:
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance"} <= metadata["labels"].keys()
        for value in metadata["labels"].values():
            assert isinstance(value, str)
            assert len(value) <= 63
            assert LABEL_VALUE.match(value), value
        assert all(isinstance(v, str) for v in metadata.get("annotations", {}).values())


def test_selectors_find_their_own_pods_and_no_others(release):
    pods = {d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"] for d in release.of("Deployment")}

    def found(selector: dict[str, str]) -> list[str]:
        return [name for name, labels in pods.items() if selector.items() <= labels.items()]

    for deployment in release.of("Deployment"):
        assert found(deployment["spec"]["selector"]["matchLabels"]) == [deployment["metadata"]["name"]]
    selectors = [s["spec"]["selector"] for s in release.of("Service")]
    selectors += [p["spec"]["selector"]["matchLabels"] for p in release.of("PodDisruptionBudget")]
    selectors += [p["spec"]["podSelector"]["matchLabels"] for p in release.of("NetworkPolicy")]
    standalone = [n for n in pods if not n.endswith("-example")]
    assert all(found(selector) == standalone and standalone for selector in selectors)


def test_service_ports_reach_a_container_port(release):
    for service in release.of("Service"):
        selector = service["spec"]["selector"].items()
        (pod,) = [p for p in release.pods() if selector <= p["metadata"]["labels"].items()]
        named = {p["name"]: p["containerPort"] for c in containers(pod) for p in c["ports"]}
        for port in service["spec"]["ports"]:
            assert named[port["targetPort"]] == port["port"]


def test_addresses_of_proxies_are_container_ports(release):
    """A sidecar's external processor alone is for the pod's own localhost."""
    for pod, container in ((p, c) for p in release.pods() for c in containers(p) if c["name"] == "demur"):
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "demur-config"]
        config = configuration(release, volume["configMap"]["name"])
        proxy = config.get("proxy", {})
        listens = {"demur-proxy": proxy.get("listen"), "demur-rest": proxy.get("rest", {}).get("listen")}
        listens["demur-ext-proc"] = config.get("ext_proc", {}).get("listen")
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        for name, address in listens.items():
            host, _, port = (address or ":").rpartition(":")
            if host == "127.0.0.1":
                assert (name, "restartPolicy" in container) == ("demur-ext-proc", True)
                address = None
            assert ports.get(name) == (int(port) if address else None)


def test_a_network_policy_admits_somebody_to_every_port_of_the_service(release):
    """Or nobody, where its list of peers is empty; to none but those and the kubelet's."""
    for policy in release.of("NetworkPolicy"):
        rules = policy["spec"]["ingress"]
        ports = [p["port"] for rule in rules for p in rule["ports"]]
        assert len(ports) == len(set(ports))
        (pod,) = release.pods()
        assert set(ports) <= {p["containerPort"] for c in containers(pod) for p in c["ports"]}
        assert [rule["ports"][0]["port"] for rule in rules if "from" not in rule] in ([], [9444])


def test_containers_and_volumes_of_a_pod_fit_together(release):
    for pod in release.pods():
        names = [c["name"] for c in containers(pod)]
        assert len(names) == len(set(names))
        volumes = [v["name"] for v in pod["spec"]["volumes"]]
        assert len(volumes) == len(set(volumes))
        mounts = [m for c in containers(pod) for m in c.get("volumeMounts", [])]
        assert {m["name"] for m in mounts} == set(volumes), "a mount without a volume, or a volume nobody mounts"
        assert all(len(v) == 2 for v in pod["spec"]["volumes"]), "a volume has one source"


def test_no_mount_lies_under_another(release):
    for container in (c for pod in release.pods() for c in containers(pod)):
        paths = [PurePosixPath(m["mountPath"]) for m in container.get("volumeMounts", [])]
        assert len(paths) == len(set(paths))
        assert not [(a, b) for a, b in itertools.permutations(paths, 2) if a in b.parents]


def test_ports_are_unique_in_a_pod(release):
    for pod in release.pods():
        ports = [p for c in containers(pod) for p in c["ports"]]
        assert all(PORT_NAME.match(p["name"]) for p in ports)
        assert len({p["name"] for p in ports}) == len({p["containerPort"] for p in ports}) == len(ports)


def test_environment_names_are_unique_and_references_resolve(release):
    for container in (c for pod in release.pods() for c in containers(pod)):
        names = [e["name"] for e in container["env"]]
        assert len(names) == len(set(names))
        for place, entry in enumerate(container["env"]):
            assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= set(names[:place])


def test_restart_policies(release):
    for pod in release.pods():
        assert pod["spec"].get("restartPolicy", "Always") == "Always"
        assert [c["restartPolicy"] for c in pod["spec"].get("initContainers", [])] in ([], ["Always"])
        assert not [c for c in pod["spec"]["containers"] if "restartPolicy" in c]


def test_probes_ask_over_a_plain_port_that_is_listened_on(release):
    for pod, container in ((p, c) for p in release.pods() for c in containers(p) if c["name"] == "demur"):
        ports = {p["containerPort"] for p in container["ports"]}
        probes = {k: container[f"{k}Probe"]["grpc"] for k in ("startup", "readiness", "liveness")}
        assert {k: p["service"] for k, p in probes.items()} == {
            "startup": "readiness", "readiness": "readiness", "liveness": "liveness",
        }  # fmt: skip
        assert {p["port"] for p in probes.values()} <= ports
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "demur-config"]
        config = configuration(release, volume["configMap"]["name"])
        plain = config.get("health_listen") or config["listen"][0]
        assert "tls" not in config or "health_listen" in config
        assert plain.endswith(f":{probes['liveness']['port']}")
        assert not plain.startswith(("unix:", "127."))


def configuration(release: Release, name: str) -> dict[str, Any]:
    import yaml

    (found,) = [c for c in release.of("ConfigMap") if c["metadata"]["name"] == name]
    return yaml.safe_load(found["data"]["demur.yaml"])


def test_files_named_by_the_configuration_are_mounted(release):
    for pod, container in ((p, c) for p in release.pods() for c in containers(p) if c["name"] == "demur"):
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        config = configuration(release, volumes["demur-config"]["configMap"]["name"])
        proxy = config.get("proxy", {})
        files = [*config.get("tls", {}).values(), config.get("token_file"), config.get("audit", {}).get("key_file")]
        files += [proxy.get("upstream_tls_ca"), proxy.get("rest", {}).get("upstream_tls_ca")]
        for path in map(PurePosixPath, filter(None, files)):
            secret = volumes[mounts[str(path.parent)]["name"]]["secret"]
            assert path.name in [item["path"] for item in secret["items"]]
        read = [f for m in config["monitors"] for f in (m["bundle"], *m.get("public_keys", []))]
        models = [*proxy.get("models", {}).values(), *config.get("ext_proc", {}).get("infer", {}).values()]
        read += [m["map"] for m in models if "map" in m]
        for path in map(PurePosixPath, read):
            assert str(path.parent) in mounts or str(path.parent) in ("/elsewhere", "/keys", "/maps")
        for directory in (config.get("audit", {}).get(k) for k in ("directory", "spill_directory")):
            if directory:
                above = [m for p, m in mounts.items() if PurePosixPath(directory).is_relative_to(p)]
                assert [m.get("readOnly", False) for m in above] == [False]


def test_containers_are_hardened(release):
    for pod in release.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not [v for v in spec["volumes"] if "hostPath" in v]
        for context in [spec["securityContext"], *(c["securityContext"] for c in containers(pod))]:
            assert context["runAsNonRoot"] is True
            assert context.get("runAsUser", 1) > 0
        for context in (c["securityContext"] for c in containers(pod)):
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["privileged"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(a["automountServiceAccountToken"] is False for a in release.of("ServiceAccount"))


def test_quantities_are_valid(release):
    for container in (c for pod in release.pods() for c in containers(pod)):
        for amounts in container["resources"].values():
            assert all(isinstance(a, str) and QUANTITY.match(a) for a in amounts.values()), amounts


def test_grace_period_covers_the_drain(release):
    for pod in release.pods():
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "demur-config"]
        drain = configuration(release, volume["configMap"]["name"])["drain_seconds"]
        (demur,) = [c for c in containers(pod) if c["name"] == "demur"]
        sleep = int(demur.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])[1])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + sleep + 5
