"""The JSON Schema takes what the models take."""

from __future__ import annotations

import json
import re

import pytest

from demur.monitor.config.document import parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.config.server import ServerConfig
from demur.monitor.errors import ConfigurationError

SERVER = {"monitors": [{"name": "a", "bundle": "a.demur"}]}


@pytest.mark.parametrize("model", [PolicyConfig, ServerConfig])
def test_the_schema_comes_from_the_same_model(model):
    schema = model.model_json_schema()
    assert set(schema["properties"]) == set(model.model_fields)
    assert schema["additionalProperties"] is False
    assert all(
        d.get("additionalProperties", False) is False or d.get("type") != "object" for d in schema["$defs"].values()
    )
    json.dumps(schema)


BASE = {
    "monitor": "m",
    "signals": {"logits": 4},
    "scores": ["msp"],
    "rules": [{"a": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}],
}


def reads(schema, value, whole):
    """Whether a JSON Schema of the kind pydantic writes takes the value."""
    if "$ref" in schema:
        return reads(whole["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, whole)
    if "anyOf" in schema and not any(reads(s, value, whole) for s in schema["anyOf"]):
        return False
    if not suits(schema, value):
        return False
    if isinstance(value, dict):
        return reads_object(schema, value, whole)
    if isinstance(value, list):
        size = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)
        return size and all(reads(schema.get("items", {}), v, whole) for v in value)
    return True


KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def suits(schema, value):
    """Type, listed values, pattern and bounds."""
    kind = schema.get("type")
    if kind and (not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    if isinstance(value, str):
        return "pattern" not in schema or re.search(schema["pattern"], value) is not None
    return not isinstance(value, (int, float)) or (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and schema.get("exclusiveMinimum", value - 1) < value < schema.get("exclusiveMaximum", value + 1)
    )


def reads_object(schema, value, whole):
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not set(schema.get("required", ())) <= set(value):
        return False
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", 10**9):
        return False
    patterns = schema.get("patternProperties", {})
    for key, item in value.items():
        names = schema.get("propertyNames", {})
        if names and not reads(names, key, whole):
            return False
        found = properties.get(key) or next((s for p, s in patterns.items() if re.search(p, key)), extra)
        if found is False or (isinstance(found, dict) and not reads(found, item, whole)):
            return False
    return True


SAME = {
    "short forms": (PolicyConfig, BASE, True),
    "long forms": (
        PolicyConfig,
        {
            **BASE,
            "signals": {"logits": {"width": 4, "kind": "logits"}},
            "scores": [{"name": "msp", "type": "msp"}],
            "rules": [{"name": "a", "when": "msp", "promise": {"refuse_good_at_most": 0.1}}],
        },
        True,
    ),
    "hyper-parameters": (PolicyConfig, {**BASE, "scores": ["msp", {"knn": {"k": 5}}]}, True),
    "unknown key": (PolicyConfig, {**BASE, "rule": []}, False),
    "unknown key of a rule": (PolicyConfig, {**BASE, "rules": [{"a": {**BASE["rules"][0]["a"], "whn": 1}}]}, False),
    "share above one": (
        PolicyConfig,
        {**BASE, "rules": [{"a": {"when": "msp", "promise": {"refuse_good_at_most": 5}}}]},
        False,
    ),
    "width of nothing": (PolicyConfig, {**BASE, "signals": {"logits": 0}}, False),
    "no monitor": (PolicyConfig, {k: v for k, v in BASE.items() if k != "monitor"}, False),
    "a name with spaces": (PolicyConfig, {**BASE, "monitor": "a b"}, False),
    "a server": (ServerConfig, SERVER, True),
    "a server with a typo": (ServerConfig, {**SERVER, "limits": {"row": 1}}, False),
    "a server without monitors": (ServerConfig, {"monitors": []}, False),
    "another mode": (ServerConfig, {"monitors": [{"name": "a", "bundle": "b", "mode": "off"}]}, False),
    "a ratio": (ServerConfig, {**SERVER, "telemetry": {"trace_ratio": 1.5}}, False),
}


@pytest.mark.parametrize("case", SAME)
def test_the_schema_takes_what_the_model_takes(case):
    model, document, good = SAME[case]
    schema = model.model_json_schema()
    assert reads(schema, document, schema) == good
    try:
        parse(model, document, "here")
    except ConfigurationError:
        assert not good
    else:
        assert good
