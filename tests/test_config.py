"""Configuration: one file, overrides, and errors that say where."""

from __future__ import annotations

import pytest

from demur.monitor.config.document import load, parse, read_yaml
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.config.server import ServerConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.plan import plan

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


BAD_SCORES = [
    ("scores", [{"mahalanobis": "ledoit_wolf"}], "mapping of hyper-parameters"),
    ("scores", [3], "scores"),
    ("scores", [{"f": {"type": "fused", "of": ["ghost"]}}, "msp"], "`of` must list"),
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


WRONG_RULES = {
    "a percentage for a share": (
        {"when": "msp", "promise": {"refuse_good_at_most": 5}},
        "rules.novel.promise.refuse_good_at_most: Input should be less than 1, got 5; 5 % is written 0.05",
    ),
    "a percentage as text": (
        {"when": "msp", "promise": {"refuse_good_at_most": "2.5 %"}},
        "rules.novel.promise.refuse_good_at_most: Input should be a valid number, unable to parse string as a number, got '2.5 %'; 2.5 % is written 0.025",
    ),
    "a confidence in percent": (
        {"when": "msp", "promise": {"refuse_good_at_most": 0.05, "confidence": 95}},
        "rules.novel.promise.confidence: Input should be less than 1, got 95; 95 % is written 0.95",
    ),
    "a misspelt promise": (
        {"when": "msp", "promise": {"refuse_good_at_mots": 0.05}},
        "rules.novel.promise.refuse_good_at_mots: there is no such key; did you mean refuse_good_at_most?",
    ),
    "a misspelt key": (
        {"whne": "msp", "promise": {"refuse_good_at_most": 0.05}},
        "rules.novel.when: this key is needed\n  rules.novel.whne: there is no such key; did you mean when?",
    ),
    "a number for a promise": (
        {"when": "msp", "promise": 0.05},
        "rules.novel.promise: expected a mapping of keys, got 0.05",
    ),
    "a number far from any share": (
        {"when": "msp", "promise": {"refuse_good_at_most": 400}},
        "rules.novel.promise.refuse_good_at_most: Input should be less than 1, got 400",
    ),
}


@pytest.mark.parametrize("case", WRONG_RULES)
def test_a_wrong_rule_is_named_once_with_what_may_be_meant(policy, case):
    body, says = WRONG_RULES[case]
    with pytest.raises(ConfigurationError) as caught:
        parse(PolicyConfig, {**policy, "scores": ["msp"], "rules": [{"novel": body}]}, "monitor.yaml")
    assert str(caught.value) == f"monitor.yaml cannot be used:\n  {says}"


def test_a_misspelt_score_is_to_blame_and_not_the_rule_that_misses_it(policy):
    rules = [{"novel": {"when": "msp", "promise": {"refuse_good_at_most": 0.05}}}]
    with pytest.raises(ConfigurationError, match=r"score mspp: 'mspp' is not in the catalogue.* did you mean msp\?"):
        parse(PolicyConfig, {**policy, "scores": ["mspp"], "rules": rules}, "monitor.yaml")
    with pytest.raises(ConfigurationError, match="rule novel: no score is named 'msp'; scores are energy"):
        parse(PolicyConfig, {**policy, "scores": ["energy"], "rules": rules}, "monitor.yaml")


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="given twice: monitors"):
        load(
            ServerConfig, written(tmp_path, "monitors: [{name: a, bundle: a}]\nmonitors: [{name: b, bundle: b}]\n"), {}
        )


def test_a_merged_mapping_may_be_overridden(tmp_path):
    text = "monitors:\n- &a {name: a, bundle: a}\n- {<<: *a, name: b}\n"
    config = load(ServerConfig, written(tmp_path, text), {})
    assert [(m.name, str(m.bundle)) for m in config.monitors] == [("a", "a"), ("b", "a")]


def test_an_empty_section_can_be_overridden(tmp_path):
    file = written(tmp_path, "monitors: [{name: a, bundle: a}]\nlimits:\n")
    assert load(ServerConfig, file, {"DEMUR_LIMITS__ROWS": "5"}).limits.rows == 5


def test_a_long_value_is_shortened():
    with pytest.raises(ConfigurationError) as caught:
        parse(ServerConfig, {**SERVER, "drain_seconds": "x " * 5000}, "demur.yaml")
    assert len(str(caught.value)) < 600


BASE = {
    "monitor": "m",
    "signals": {"logits": 4},
    "scores": ["msp"],
    "rules": [{"a": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}],
}


REFUSED = {
    "a signal named as an argument": ({"signals": {"group_id": 4}}, "group_id means something else"),
    "required without anything to compare": ({"model": {"required": True}}, "needs a version or a digest"),
    "a fusion of itself": ({"scores": ["msp", {"f": {"type": "fused", "of": ["f"]}}]}, "`of` must list"),
    "a fusion of mappings": ({"scores": ["msp", {"f": {"type": "fused", "of": [{"msp": 1}]}}]}, "`of` must list"),
    "a rule named twice": ({"rules": [{"a": {**BASE["rules"][0]["a"], "name": "b"}}]}, r"rules\.0"),
    "both promises": (
        {
            "rules": [
                {"a": {"when": "msp", "promise": {"refuse_good_at_most": 0.1, "error_when_accepted_at_most": 0.1}}}
            ]
        },
        "exactly one",
    ),
    "an aggregate of rows": ({"rules": [{"a": {**BASE["rules"][0]["a"], "aggregate": "max"}}]}, "unit: group"),
    "no rules": ({"rules": []}, "rules"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_policy_that_cannot_mean_anything_is_refused(case):
    change, says = REFUSED[case]
    with pytest.raises(ConfigurationError, match=says):
        parse(PolicyConfig, {**BASE, **change}, "monitor.yaml")


UNMIXABLE = {
    "streams of a row score": ({"rules": [{"a": {**BASE["rules"][0]["a"], "unit": "stream"}}]}, "unit: row or group"),
    "rows of a stream score": (
        {"scores": ["mean_nll"], "rules": [{"a": {"when": "mean_nll", "promise": {"refuse_good_at_most": 0.1}}}]},
        "unit: stream",
    ),
    "both kinds": ({"scores": ["msp", "mean_nll"]}, "two monitors"),
    "a sliced group": (
        {"rules": [{"a": {**BASE["rules"][0]["a"], "unit": "group", "slice": "predicted_class"}}]},
        "slices are of rows",
    ),
    "a fusion of a fusion": (
        {
            "scores": [
                "msp",
                "energy",
                {"f": {"type": "fused", "of": ["msp", "energy"]}},
                {"g": {"type": "fused", "of": ["f", "energy"]}},
            ]
        },
        "cannot feed another",
    ),
    "a fusion without a list": ({"scores": ["msp", {"f": {"type": "fused", "of": "msp"}}]}, "must list other scores"),
}


@pytest.mark.parametrize("case", UNMIXABLE)
def test_units_that_one_monitor_cannot_mix_are_refused(case):
    change, says = UNMIXABLE[case]
    with pytest.raises(ConfigurationError, match=says):
        plan(parse(PolicyConfig, {**BASE, **change}, "monitor.yaml"))


def test_on_is_a_key_and_not_true(tmp_path):
    """`on:` points a score at another signal; YAML 1.1 reads the word as a boolean. As a value, it stays one."""
    path = tmp_path / "monitor.yaml"
    path.write_text("scores: [{knn: {on: layer3, off: on, yes: no}}]")
    assert read_yaml(path) == {"scores": [{"knn": {"on": "layer3", "off": True, "yes": False}}]}
