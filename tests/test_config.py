"""Configuration: one file, overrides, and errors that say where."""

from __future__ import annotations

import json

import pytest

from demur.monitor.config.document import load, parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.config.server import ServerConfig
from demur.monitor.errors import ConfigurationError

SERVER = {"monitors": [{"name": "a", "bundle": "a.demur"}]}


def written(tmp_path, text):
    path = tmp_path / "demur.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, "monitors: [{name: a, bundle: a.demur}]\n")


def test_the_environment_overrides_the_file(path):
    config = load(ServerConfig, path, {"DEMUR_LIMITS__ROWS": "5", "DEMUR_LISTEN": "['unix:/x']", "OTHER": "1"})
    assert config.limits.rows == 5
    assert config.listen == ["unix:/x"]


def test_what_kubernetes_sets_beside_a_service_named_demur_is_not_ours(path):
    links = {
        "DEMUR_SERVICE_HOST": "10.0.0.1",
        "DEMUR_SERVICE_PORT": "9443",
        "DEMUR_SERVICE_PORT_GRPC": "9443",
        "DEMUR_PORT": "tcp://10.0.0.1:9443",
        "DEMUR_PORT_9443_TCP_ADDR": "10.0.0.1",
        "DEMUR_METRICS_SERVICE_HOST": "10.0.0.2",
    }
    assert load(ServerConfig, path, links) == load(ServerConfig, path, {})


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"DEMUR_LIMITS__ROWS": "many"}, "limits.rows"),
        ({"DEMUR_LIMTS__ROWS": "5"}, "limts"),
        ({"DEMUR_LISTEN": "[1"}, "DEMUR_LISTEN"),
        ({"DEMUR_LISTEN__X": "1"}, "not a section"),
    ],
)
def test_a_wrong_override_is_named(path, environment, says):
    base = {"DEMUR_LISTEN": "['127.0.0.1:1']"} if "LISTEN__X" in str(environment) else {}
    with pytest.raises(ConfigurationError, match=says):
        load(ServerConfig, path, {**base, **environment})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['x']", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: 2026-13-01", "not valid YAML"),
        ("monitors: []", "monitors"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path, text, says):
    with pytest.raises(ConfigurationError, match=says):
        load(ServerConfig, written(tmp_path, text), {})


def test_a_file_that_is_missing_or_huge(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(ServerConfig, tmp_path / "none.yaml", {})
    with pytest.raises(ConfigurationError, match="larger than"):
        load(ServerConfig, written(tmp_path, "#" * (5 << 20)), {})


BAD_SERVERS = {
    "unknown at the top": ({**SERVER, "lisen": []}, "lisen"),
    "unknown below": ({**SERVER, "limits": {"row": 1}}, "limits.row"),
    "unknown in a list": ({"monitors": [{"name": "a", "bundle": "x", "modee": "observe"}]}, "monitors.0.modee"),
    "two of a name": ({"monitors": [SERVER["monitors"][0]] * 2}, "share a name"),
    "block without a log": (
        {"monitors": [{**SERVER["monitors"][0], "audit": {"on_failure": "block"}}]},
        "needs an audit section",
    ),
    "signature without keys": ({"monitors": [{**SERVER["monitors"][0], "require_signature": True}]}, "public_keys"),
    "proxy to nobody": (
        {
            **SERVER,
            "proxy": {"listen": "127.0.0.1:0", "upstream": "u:1", "models": {"m": {"monitor": "b", "signals": {}}}},
        },
        "no monitor is named 'b'",
    ),
    "address": ({**SERVER, "listen": ["nowhere"]}, "listen.0"),
}


@pytest.mark.parametrize("case", BAD_SERVERS)
def test_a_wrong_server_configuration_says_where(case):
    document, says = BAD_SERVERS[case]
    with pytest.raises(ConfigurationError, match=says):
        parse(ServerConfig, document, "demur.yaml")


def test_the_value_of_an_unknown_key_is_not_repeated():
    with pytest.raises(ConfigurationError) as caught:
        parse(ServerConfig, {**SERVER, "token": "hunter2"}, "demur.yaml")
    assert "token" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("model", [PolicyConfig, ServerConfig])
def test_the_schema_comes_from_the_same_model(model):
    schema = model.model_json_schema()
    assert set(schema["properties"]) == set(model.model_fields)
    assert schema["additionalProperties"] is False
    assert all(
        d.get("additionalProperties", False) is False or d.get("type") != "object" for d in schema["$defs"].values()
    )
    json.dumps(schema)


BAD_SCORES = [
    ("scores", [{"mahalanobis": "ledoit_wolf"}], "mapping of hyper-parameters"),
    ("scores", [3], "scores"),
    ("scores", [{"f": {"type": "fused", "of": "msp"}}, "msp"], "`of` must list"),
    ("scores", ["msp", "msp"], "used twice"),
]


@pytest.mark.parametrize(("key", "value", "says"), BAD_SCORES)
def test_wrong_scores_are_refused_in_words(policy, key, value, says):
    with pytest.raises(ConfigurationError, match=says):
        parse(
            PolicyConfig,
            {**policy, key: value, "rules": [{"a": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}]},
            "monitor.yaml",
        )
