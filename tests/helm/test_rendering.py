"""What particular values do to what is rendered."""

from __future__ import annotations

import re

import pytest
import yaml

from .chart import MINIMAL, ROOT, environment, merged, minimal, render
from .valuesets import CLAIM, MONITOR, SHARED, VALUES

pytestmark = pytest.mark.helm


def test_minimal_release_is_a_service_and_what_it_needs(released):
    assert sorted(o["kind"] for o in released("minimal").objects) == [
        "ConfigMap",
        "Deployment",
        "Service",
        "ServiceAccount",
    ]
    assert released("minimal").demur()["args"] == ["serve", "--config", "/etc/demur/demur.yaml"]
    assert released("minimal").config() == {
        "listen": ["0.0.0.0:9443"],
        "health_listen": "0.0.0.0:9444",
        "metrics_listen": "0.0.0.0:9464",
        "monitors": [{"name": "digits", "bundle": "/bundles/digits.demur"}],
        "audit": {"directory": "/var/lib/demur/audit", "origin": "prod/demo-demur", "checkpoint_stdout": True},
        "drain_seconds": 10,
    }


def test_default_image_is_the_version_of_the_package(released):
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert released("minimal").demur()["image"] == f"demur:{version}"


def test_digest_wins_over_tag():
    digest = "sha256:" + "ab" * 32
    assert minimal(image={"tag": "9", "digest": digest}).demur()["image"] == f"demur@{digest}"


@pytest.mark.parametrize("name", ["full monitor", "text from --set"])
def test_fractions_arrive_as_numbers(released, name):
    assert released(name).config()["monitors"][0]["budget_ms"] == 0.5


def test_a_tiny_fraction_stays_a_number(released):
    assert released("tiny fraction").config()["telemetry"]["trace_ratio"] == 1e-5


@pytest.mark.parametrize(("given", "said"), [("0.25", 0.25), ("1", 1), ("0", 0)])
def test_fractions_given_by_helm_set(given, said):
    import helm_python as helm

    values = helm.parse_set_string(f"config.telemetry.trace_ratio={given}")
    assert render(merged(MINIMAL, values)).config()["telemetry"]["trace_ratio"] == said


def test_large_integers_keep_every_digit(released):
    limits = released("large limits").config()["limits"]
    assert limits == {"message_bytes": 2147483647, "tensor_bytes": 1 << 40, "threads": 8}


def test_false_and_zero_are_not_dropped():
    monitor = {**MONITOR, "require_signature": False}
    config = minimal(config={"monitors": [monitor], "limits": {"queue": 0}, "drain_seconds": 0}).config()
    assert config["monitors"][0]["require_signature"] is False
    assert config["limits"] == {"queue": 0}
    assert config["drain_seconds"] == 0


def test_malloc_thresholds_are_plain_digits(released):
    env = environment(released("minimal").demur())
    assert env["MALLOC_MMAP_THRESHOLD_"] == env["MALLOC_TRIM_THRESHOLD_"] == "1073741824"


def test_own_environment_wins(released):
    env = environment(released("environment").demur())
    assert env["MALLOC_TRIM_THRESHOLD_"] == "131072"
    assert env["OTEL_EXPORTER_OTLP_HEADERS"] == "a=b"


def test_a_changed_configuration_restarts_the_pods():
    def checksum(**over) -> str:
        return minimal(**over).pods()[0]["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum(replicaCount=2) != checksum(config={"drain_seconds": 11})


def test_annotations_of_the_user_win_but_not_over_the_checksum():
    given = {"prometheus.io/scrape": "false", "checksum/config": "mine"}
    annotations = minimal(podAnnotations=given).pods()[0]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "false"
    assert annotations["prometheus.io/port"] == "9464"
    assert len(annotations["checksum/config"]) == 64


def test_no_metrics_means_no_port_and_no_annotations(released):
    release = released("no metrics")
    assert "metrics_listen" not in release.config()
    assert [p["name"] for p in release.one("Service")["spec"]["ports"]] == ["grpc"]
    assert list(release.pods()[0]["metadata"]["annotations"]) == ["checksum/config"]


@pytest.mark.parametrize(
    ("audit", "replicas", "strategy", "env"),
    [
        ({}, 1, "RollingUpdate", {"DEMUR_AUDIT__ORIGIN": "prod/demo-demur/$(POD_UID)"}),
        (CLAIM, 1, "Recreate", {}),
        (SHARED, 1, "Recreate", {}),
        (
            SHARED,
            2,
            "RollingUpdate",
            {
                "DEMUR_AUDIT__ORIGIN": "prod/demo-demur/$(POD_NAME)",
                "DEMUR_AUDIT__DIRECTORY": "/var/lib/demur/$(POD_NAME)",
            },
        ),
        ({"enabled": False}, 2, "RollingUpdate", {}),
    ],
)
def test_a_log_has_one_writer_and_an_origin_of_its_own(audit, replicas, strategy, env):
    release = minimal(audit=audit, replicaCount=replicas)
    assert release.one("Deployment")["spec"]["strategy"]["type"] == strategy
    assert {k: v for k, v in environment(release.demur()).items() if k.startswith("DEMUR_")} == env


def test_a_claim_outlives_the_release(released):
    assert (
        released("audit claim").one("PersistentVolumeClaim")["metadata"]["annotations"]["helm.sh/resource-policy"]
        == "keep"
    )
    assert not released("existing claim").of("PersistentVolumeClaim")


def test_spilling_gets_a_directory(released):
    assert released("spill").config()["audit"]["spill_directory"] == "/var/spool/demur"
    assert "spill_directory" not in released("minimal").config()["audit"]


def test_platform_may_choose_the_user(released):
    pod = released("platform user").pods()[0]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["spec"]["securityContext"].keys()


def test_an_empty_peer_list_admits_nobody(released):
    spec = released("closed network").one("NetworkPolicy")["spec"]
    assert spec["ingress"] == []
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    (dns,) = spec["egress"]
    assert {p["port"] for p in dns["ports"]} == {53}


def test_network_policy_keeps_clients_to_their_port(released):
    ingress = released("example mtls").one("NetworkPolicy")["spec"]["ingress"]
    assert [(bool(rule.get("from")), rule["ports"][0]["port"]) for rule in ingress] == [
        (True, 9443),
        (True, 9464),
        (False, 9444),
    ]


def test_long_release_names_are_cut(released):
    release = render(VALUES["minimal"], name="a" * 53)
    assert all(len(o["metadata"]["name"]) <= 63 for o in release.objects)


def test_a_release_named_for_the_chart_is_not_named_twice():
    assert render(MINIMAL, name="demur-eu").one("Service")["metadata"]["name"] == "demur-eu"


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (
            {},
            [
                "emptyDir and dies",
                "checkpoint key lies beside",
                "image.digest is empty",
                "anyone who reaches",
                "observes",
            ],
        ),
        ({"audit": {"enabled": False}}, ["no decision is recorded"]),
        ({"token": {"secret": "t"}}, ["bearer token crosses"]),
        ({"resources": {"limits": {"memory": None}}}, ["limits.memory is not set"]),
        ({"config": {"monitors": [{**MONITOR, "on_failure": "pass"}]}}, ["on_failure: pass"]),
        ({"podDisruptionBudget": {"enabled": True, "minAvailable": 1, "maxUnavailable": ""}}, ["keeps its node"]),
    ],
)
def test_notes_warn(over, words):
    notes = minimal(**over).notes
    assert not [w for w in words if w not in notes], notes


def test_notes_of_a_careful_release_do_not_warn():
    careful = {
        "image": {"digest": "sha256:" + "0" * 64},
        "audit": {**CLAIM, "signingKey": {"secret": "key"}},
        "tls": {"enabled": True, "secret": "tls"},
        "token": {"secret": "token"},
    }
    assert "WARNING" not in minimal(**careful).notes


def test_the_service_has_the_proxies_ports(released):
    def ports(name):
        return {p["name"]: p["port"] for p in released(name).one("Service")["spec"]["ports"]} | {
            "metrics": 0,
            "grpc": 0,
        }

    plain = {"metrics": 0, "grpc": 0}
    assert ports("minimal") == plain
    assert ports("proxy") == plain | {"proxy": 8101}
    assert ports("rest proxy, tls") == plain | {"rest": 8100}
    assert ports("proxy and ext_proc") == plain | {"proxy": 8101, "ext-proc": 9445}


def test_upstreams_authority_is_named_where_tls_is_spoken(released):
    authority = "/run/secrets/demur/upstream-ca/ca.crt"
    rest = released("rest proxy, tls").config()["proxy"]
    assert rest["rest"]["upstream_tls_ca"] == "/run/secrets/demur/upstream-ca/root.pem"
    assert not {"listen", "upstream_tls_ca"} & rest.keys()
    both = released("both proxies, tls").config()["proxy"]
    assert both["upstream_tls_ca"] == authority
    assert "upstream_tls_ca" not in both["rest"]


def test_a_sidecar_stands_before_the_models_own_container(released):
    release = released("proxy sidecar")
    config = release.config()
    assert config["listen"] == ["unix:/run/demur/demur.sock"]
    proxy = config["proxy"]
    assert (proxy["listen"], proxy["upstream"]) == ("0.0.0.0:8101", "127.0.0.1:8001")
    assert (proxy["rest"]["listen"], proxy["rest"]["upstream"]) == ("0.0.0.0:8100", "http://localhost:8000")
    assert "8101 (gRPC) 8100 (REST)" in release.notes
    assert released("ext_proc sidecar").config()["ext_proc"]["listen"] == "127.0.0.1:9445"


def test_values_go_through_as_they_are(released):
    models = released("full proxy").config()["proxy"]["models"]
    assert models["m"] == {
        "monitor": "digits", "map": "/maps/m.yaml", "default_outputs": ["y"], "on_abstain": "fallback", "fallback": {"model": "n"},
    }  # fmt: skip
    assert models['odd "name"']["replace"] == {"a": -1, "b": 0.5, "c": "x", "d": False}
    processor = released("full ext_proc").config()["ext_proc"]
    assert processor["buffer_bytes"] == 1 << 40
    assert processor["budget_ms"] == 0.5
    assert processor["completions"] == {"*": {"monitor": "digits", "request_logprobs": True}}


def test_network_policy_keeps_envoys_and_clients_apart(released):
    def admitted(name):
        return [
            (rule.get("from"), [p["port"] for p in rule["ports"]])
            for rule in released(name).one("NetworkPolicy")["spec"]["ingress"]
        ]

    peer = [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]
    anyone = [{"podSelector": {}}]
    assert admitted("full ext_proc") == [(anyone, [9443]), (peer, [9445]), (None, [9444])]
    assert admitted("proxy behind a network policy") == [(peer, [8101]), (anyone, [9464]), (None, [9444])]
    assert [9445] not in [ports for _, ports in admitted("nobody's envoys")]


def test_notes_name_the_proxies_and_warn_of_the_open_ones(released):
    assert "The proxy before triton.models:8001 (gRPC) answers at port 8101." in released("proxy").notes
    assert "no token guards them" in released("proxy").notes
    assert "no token guards them" not in released("proxy behind a network policy").notes
    assert "Envoys find the external processor at port 9445." in released("ext_proc").notes


PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"^```text\n# values\.yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS, ids=["sidecar", "proxy", "ext_proc"])
def test_what_the_page_shows_renders_and_is_valid(text, validate):
    release = render(yaml.safe_load(text))
    assert {"proxy", "ext_proc"} & release.config().keys()
    for document in release.objects:
        assert validate(document, "1.29") == "1.29"


def test_the_page_names_the_ports_of_the_chart():
    service = render(yaml.safe_load(BLOCKS[2]), name="demur").one("Service")
    (port,) = [p["port"] for p in service["spec"]["ports"] if p["name"] == "ext-proc"]
    policy, mesh = (
        yaml.safe_load(PAGE.partition(f"# {name}.yaml\n")[2].partition("```")[0]) for name in ("envoy-gateway", "istio")
    )
    assert policy["spec"]["extProc"][0]["backendRefs"] == [{"name": service["metadata"]["name"], "port": port}]
    (patch,) = mesh["spec"]["configPatches"]
    cluster = patch["patch"]["value"]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    assert cluster == f"outbound|{port}||{service['metadata']['name']}.models.svc.cluster.local"
    assert "demur-proxy` (8101, gRPC) and `demur-rest` (8100)" in " ".join(PAGE.split())
