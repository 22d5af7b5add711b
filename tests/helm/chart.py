"""The chart under test: rendering, and reading what came out. Helm is imported late, so that this module loads without it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "demur"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
MINIMAL: dict[str, Any] = {
    "config": {"monitors": [{"name": "digits", "bundle": "digits.demur"}]},
    "bundles": {"configMap": "digits-bundles"},
}


class StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, which YAML readers settle silently."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"duplicate keys in {keys} at {node.start_mark}"
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else copy.deepcopy(value)
    return out


@dataclass(frozen=True)
class Release:
    """What one set of values rendered to."""

    notes: str
    objects: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [o for o in self.objects if o["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = self.of(kind)
        return found

    def config(self) -> dict[str, Any]:
        return yaml.load(self.one("ConfigMap")["data"]["demur.yaml"], StrictLoader)  # noqa: S506 - a SafeLoader

    def pods(self) -> list[dict[str, Any]]:
        return [d["spec"]["template"] for d in self.of("Deployment")]

    def demur(self) -> dict[str, Any]:
        (found,) = [c for pod in self.pods() for c in containers(pod) if c["name"] == "demur"]
        return found


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def render(values: dict[str, Any], name: str = "demo", chart: Path = CHART) -> Release:
    import helm_python as helm

    with helm.Chart.load(chart) as loaded:
        texts = loaded.render(values, name=name, namespace="prod")
    notes = "".join(text for path, text in texts.items() if path.endswith("NOTES.txt"))
    objects = [
        found
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for found in yaml.load_all(text, StrictLoader)
        if found is not None
    ]
    return Release(notes, objects)


def minimal(**over: Any) -> Release:
    return render(merged(MINIMAL, over))
